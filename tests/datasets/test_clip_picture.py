"""The sheet of clips shows what is in them."""

import torch

from cus.datasets.clip_picture import clip_picture
from cus.datasets.clips import Clip, Warp


def flat(level: float, frames: int = 3) -> torch.Tensor:
    return torch.full((frames, 3, 8, 12), level)


def test_a_row_holds_references_first_and_last_frames_and_other_warps():
    masks = torch.ones(3, 8, 12, dtype=torch.bool)
    targets = flat(0.4)
    targets[-1] = 0.6
    clip = Clip(flat(0.1, 2), targets, flat(0.8), masks, others={"low": Warp(flat(1.0), masks)})
    single = Clip(flat(0.1, 1), flat(0.4, 1), flat(0.8, 1), masks[:1])
    sheet = clip_picture([("a", clip), ("b", single)], 24)
    step = sheet.height // 2
    assert sheet.width == 7 * 28
    levels = [[sheet.getpixel((column * 28 + 12, row * step + 24)) for column in range(7)] for row in (0, 1)]
    # References, target and conditioning of the first and of the last frame, the other warp.
    assert [level[0] for level in levels[0]] == [26, 26, 102, 204, 153, 204, 255]  # pyright: ignore[reportIndexIssue]
    assert [level[0] for level in levels[1]][:3] == [26, 102, 204]  # pyright: ignore[reportIndexIssue]
