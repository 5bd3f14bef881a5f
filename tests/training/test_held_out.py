"""Scores of held-out clips."""

import pytest
import torch

from cus.datasets.clips import Clip
from cus.evaluation.metrics import gmsd
from cus.training.held_out import clip_scores, guided_scores


def test_scores_of_training_are_those_of_the_evaluation() -> None:
    targets, conditioning, frames = torch.rand(3, 2, 3, 17, 24, generator=torch.Generator().manual_seed(0))
    clip = Clip(targets[:1], targets, conditioning, torch.ones(2, 17, 24, dtype=torch.bool))
    scores = clip_scores(clip, frames * 1.2 - 0.1)
    expected = [gmsd(frame, target) for frame, target in zip((frames * 1.2 - 0.1).clamp(0, 1), targets, strict=True)]
    assert scores["gmsd"] == pytest.approx(sum(expected) / 2, abs=1e-12)
    assert scores["gmsd_conditioning"] > 0.05 and clip_scores(clip, targets)["gmsd"] == 0
    assert guided_scores(clip, frames, None)["gmsd_guided"] == clip_scores(clip, frames)["gmsd"]
