"""A picture of a scene's cameras from above and from the side, coloured by how well they fit their photographs."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

SIDE, MARGIN = 600, 60  # of each of the two panels, in pixels
GOOD, BAD, UNKNOWN = (40, 150, 70), (200, 40, 40), (150, 150, 150)


def draw_cameras(viewmats: Tensor, errors: Sequence[float], largest_error: float) -> Image.Image:
    """Draw cameras as triangles that open in the viewing direction: green fits, red does not, grey is unknown.

    The left panel looks along the mean of the cameras' vertical axes, the right one horizontally, at the direction in
    which the cameras are spread most.

    Args:
        viewmats: [V, 4, 4] world-to-camera, OpenCV.
        errors: V errors in pixels, NaN where unknown.
        largest_error: error in pixels above which a camera is red.
    """
    rotations = viewmats[:, :3, :3].double()
    centers = -(rotations.transpose(1, 2) @ viewmats[:, :3, 3:].double())[..., 0]
    up = torch.nn.functional.normalize(-rotations[:, 1].mean(dim=0), dim=0)
    spread = centers - centers.mean(dim=0)
    flat = spread - (spread @ up)[:, None] * up
    along = torch.linalg.svd(flat).Vh[0] if bool(flat.abs().max() > 0) else rotations[0, 0]
    along = torch.nn.functional.normalize(along - (along @ up) * up, dim=0)
    across = torch.linalg.cross(up, along)
    picture = Image.new("RGB", (2 * SIDE, SIDE), "white")
    draw = ImageDraw.Draw(picture)
    forward = rotations[:, 2]
    reach = max(float(spread.norm(dim=1).max()), 1e-9)
    panels = ((along, across, "from above"), (along, up, "from the side"))
    for place, (right, upward, title) in enumerate(panels):
        axes = torch.stack([right, -upward], dim=1)
        places = (spread @ axes / reach).numpy()
        directions = (forward @ axes).numpy()
        for at, direction, error in zip(places, directions, errors, strict=True):
            _triangle(draw, _pixel(at, place), direction, _color(error, largest_error))
        draw.text((place * SIDE + 10, 10), f"{len(viewmats)} cameras {title}", fill="black")
    draw.text((10, SIDE - 22), f"green: up to {largest_error:g} pixels, red: more, grey: not matched", fill="black")
    return picture


def _color(error: float, largest: float) -> tuple[int, int, int]:
    if math.isnan(error):
        return UNKNOWN
    return BAD if error > largest else GOOD


def _pixel(place: np.ndarray, panel: int) -> np.ndarray:
    """Pixel of a position in [-1, 1] in one of the panels."""
    return (place + 1) / 2 * (SIDE - 2 * MARGIN) + MARGIN + np.array([panel * SIDE, 0])


def _triangle(draw: ImageDraw.ImageDraw, at: np.ndarray, direction: np.ndarray, color: tuple[int, int, int]) -> None:
    """Draw a camera: its centre and a wedge, shorter if it looks into or out of the picture."""
    ahead = direction * 30
    aside = np.array([-direction[1], direction[0]]) * 14
    corners = [at, at + ahead + aside, at + ahead - aside]
    draw.polygon([tuple(corner) for corner in corners], outline=color)
    draw.ellipse([*(at - 3), *(at + 3)], fill=color)
