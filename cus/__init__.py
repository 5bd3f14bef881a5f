"""CloseUpShot: close-up novel views and a 3D Gaussian scene from a few photographs (arXiv 2511.13121).

`estimate_scene`, `fused_warp`, `CloseUpShotPipeline` and `fit_gaussians` are importable from here, in the order in
which they are called; each is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING

from cus.lazy import lazy_names

if TYPE_CHECKING:
    from cus.conditioning import fused_warp
    from cus.diffusion import CloseUpShotPipeline
    from cus.estimators import estimate_scene
    from cus.splats import fit_gaussians

__version__ = "0.1.0"
__all__ = ["CloseUpShotPipeline", "estimate_scene", "fit_gaussians", "fused_warp"]

_HOMES = {
    "CloseUpShotPipeline": "cus.diffusion",
    "estimate_scene": "cus.estimators",
    "fit_gaussians": "cus.splats",
    "fused_warp": "cus.conditioning",
}


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
