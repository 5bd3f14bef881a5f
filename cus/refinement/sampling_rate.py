"""How finely photographs sample the surfaces that a camera sees."""

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.fused.operations import KERNELS, TORCH
from cus.conditioning.fused.surfaces import drawn_inverse_depth
from cus.conditioning.fused.views import placements, views_of
from cus.conditioning.options import Backend, resolved_backend
from cus.scene import SceneEstimate

# A photograph shows a point if its own depth agrees at least this well (`Layer.seen`).
SEEN = 0.5
# A photograph resolves a pixel if it has at least this many pixels along each side of it; half an octave is tolerated,
# since no photograph is sharp to its last pixel.
RESOLVED = 0.5**0.5


@torch.no_grad()
def sampling_rates(scene: SceneEstimate, cameras: Cameras, backend: Backend = "auto") -> Tensor:
    """The largest number of pixels that a photograph has along a side of each pixel of a camera.

    A photograph at depth d with focal length f has f / d pixels per unit of a surface that faces it; the rate is that
    of the photograph with the most, among those that see the surface, over that of the camera.

    Args:
        scene: V photographs with depths.
        cameras: T cameras of any size.
        backend: "auto", "cpu" or "torch", as for `cus.conditioning.fused_warp`.

    Returns:
        [T, H, W], 0 where no photograph sees a surface.
    """
    operations = KERNELS if resolved_backend(backend, (scene.images, scene.depths), "a scene") == "cpu" else TORCH
    views, rates = views_of(scene, None), []
    for index in range(len(cameras)):
        camera = cameras[index].to(scene.images.device)
        places = placements(views, camera)
        inverse = drawn_inverse_depth(views, places, (camera.height, camera.width), operations)
        layers = [operations.look_up(view, place, inverse) for view, place in zip(views, places, strict=True)]
        found = torch.stack([torch.where(layer.seen > SEEN, layer.footprint, 0.0) for layer in layers]).amax(dim=0)
        rates.append(torch.where(inverse > 0, found, 0.0).float())
    return torch.stack(rates)


def resolved(rates: Tensor, factor: float) -> Tensor:
    """Bool, where a photograph resolves a picture with `factor` times the pixels that the rates are for."""
    return rates >= RESOLVED * factor
