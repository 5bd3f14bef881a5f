"""The expensive parts of the fused warp, as tensor operations and as kernels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from cus.conditioning.cpu.back_projection import back_projected_cpu
from cus.conditioning.cpu.blend import fuse_depths_cpu, look_up_cpu
from cus.conditioning.cpu.mesh import rasterise_cpu
from cus.conditioning.cpu.planes import regressed_cpu
from cus.conditioning.cpu.sampling import blur_cpu, inverse_depth_at_cpu
from cus.conditioning.fused import sampling
from cus.conditioning.fused.blend import Layer, look_up
from cus.conditioning.fused.depth import fuse_depths
from cus.conditioning.fused.mesh import Surface, rasterise
from cus.conditioning.fused.planes import regressed
from cus.conditioning.fused.sharpening import back_projected


@dataclass(frozen=True)
class Operations:
    """One implementation of the expensive parts.

    Attributes:
        rasterise: draws a depth map into a target (`fused.mesh.rasterise`).
        fuse_depths: fuses the references' surfaces into one 1 / z (`fused.depth.fuse_depths`).
        look_up: samples a reference at the target's surface (`fused.blend.look_up`).
        back_projected: sharpens the picture by back-projection (`fused.sharpening.back_projected`).
        blur: Gaussian blur (`fused.sampling.blur`).
        inverse_depth_at: samples a reference's own depth (`fused.sampling.inverse_depth_at`).
        regressed: fits planes to a depth map (`fused.planes.regressed`).
    """

    rasterise: Callable[..., Surface]
    fuse_depths: Callable[[list[Surface]], Tensor]
    look_up: Callable[..., Layer]
    back_projected: Callable[..., Tensor]
    blur: Callable[[Tensor, float], Tensor]
    inverse_depth_at: Callable[[Tensor, Tensor, Tensor], Tensor]
    regressed: Callable[[Tensor, Tensor, Tensor], Tensor]


TORCH = Operations(rasterise, fuse_depths, look_up, back_projected, sampling.blur, sampling.inverse_depth_at, regressed)
# One thread for each target; all threads for the agreement, which has none.
KERNELS = Operations(
    rasterise_cpu, fuse_depths_cpu, look_up_cpu, back_projected_cpu, blur_cpu, inverse_depth_at_cpu, regressed_cpu
)
KERNELS_ON_THREADS = replace(KERNELS, look_up=partial(look_up_cpu, on_threads=True))
