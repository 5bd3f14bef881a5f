"""Examines the run's close-up: measures for the verdict, and the photograph's plain crop of it."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.estimators import SceneEstimate
from cus.inference.folder import State
from cus.inference.measures import Measures, measure, plain_crop
from cus.inference.photographs import Batch, Inputs, size_inside
from cus.inference.photographs import photographs as read
from cus.inference.recorded import conditioning_from
from cus.inference.verdict import Verdict, judge

_MEASURES, _CROP = "measures", "plain_crop"


def look(
    scene: SceneEstimate,
    cameras: Cameras,
    warped: State,
    inputs: Inputs,
    batch: Batch,
    photographs: Sequence[Tensor] | None,
) -> State:
    """Add to a recorded conditioning the measures of its run, and the plain crop of the best photograph.

    Args:
        scene: scene estimate for the V photographs.
        cameras: T cameras of the frames.
        warped: conditioning as recorded by `state_of`.
        inputs: V photographs.
        batch: decoded photographs at the working size.
        photographs: photographs at full resolution, if the conditioning uses them; None: the batch.
    """
    height, width = scene.images.shape[-2:]
    finer = [1.0] * len(scene)
    if photographs is not None:
        finer = [math.sqrt(p.shape[-1] * p.shape[-2] / (width * height)) for p in photographs]
    valid = batch.set.valid.to(scene.images.device)
    inside = float(size_inside(batch, inputs.photos[0])[0])
    measures, seen = measure(scene, cameras, conditioning_from(warped), valid, finer, inside)
    if not judge(measures).trusted and bool(seen.masks[0].any()):
        # The best view depends on the geometry; paths start at the first view.
        measures = replace(measures, view=0)
    best = read(inputs, batch, [measures.view])[0] if photographs is None else photographs[measures.view]
    crop = plain_crop(best, seen, measures.view, (width, height))
    found = {_MEASURES: measures.to_tensor()}
    if crop is not None:
        found[_CROP] = torch.from_numpy(crop)
    return State(warped.tensors | found, warped.notes)


def seen_in(state: State) -> tuple[Verdict | None, np.ndarray | None]:
    """Verdict and plain crop [H, W, 3] uint8 of a recorded conditioning; None if it was recorded without them."""
    if _MEASURES not in state.tensors:
        return None, None
    crop = state.tensors.get(_CROP)
    return judge(Measures.from_tensor(state.tensors[_MEASURES])), None if crop is None else crop.cpu().numpy()
