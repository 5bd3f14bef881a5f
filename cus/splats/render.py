"""Renders of a Gaussian scene for viewing."""

from collections.abc import Callable

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.splats.gaussians import Gaussians
from cus.splats.rasterization import Backend, rasterization


@torch.no_grad()
def render(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Tensor | None = None,
    *,
    antialiased: bool = True,
    near_plane: float = 0.01,
    backend: Backend = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Render Gaussians into N cameras one by one, so that memory does not grow with N.

    Args:
        gaussians: The scene; `cameras` must be on its device.
        cameras: N views.
        background: RGB in [0, 1] [3]; default black.
        antialiased: How the scene was fitted (`FitConfig.antialiased`).
        near_plane: Gaussians nearer than this are culled, in scene units.
        backend: Backend of `rasterization`.
        on_progress: Called with (cameras done, all cameras).

    Returns:
        Pictures [N, 3, H, W] in [0, 1].
    """
    pictures = []
    for i in range(len(cameras)):
        camera = cameras[i]
        renders, _, _ = rasterization(
            gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities_in(camera), gaussians.sh,
            camera.viewmats, camera.Ks, camera.width, camera.height,
            near_plane=near_plane, sh_degree=gaussians.sh_degree, tile_size=8 if backend != "gsplat" else 16,
            rasterize_mode="antialiased" if antialiased else "classic",
            backgrounds=None if background is None else background.to(gaussians.means)[None], backend=backend,
        )  # fmt: skip
        pictures.append(renders[0].permute(2, 0, 1).clamp(0, 1))
        if on_progress:
            on_progress(i + 1, len(cameras))
    return torch.stack(pictures) if pictures else torch.empty(0, 3, cameras.height, cameras.width)
