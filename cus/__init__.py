"""CloseUpShot: close-up novel views and a 3D Gaussian scene from a few photographs (arXiv 2511.13121).

`estimate_scene`, `fused_warp`, `CloseUpShotPipeline`, `close_up` and `fit_gaussians` can be imported from here; each
is loaded on first use. `close_up` (cus/closeup.py) is the whole method on one page.
"""

from typing import TYPE_CHECKING

from cus.lazy import lazy_names

if TYPE_CHECKING:
    from cus.closeup import close_up
    from cus.conditioning import fused_warp
    from cus.diffusion import CloseUpShotPipeline
    from cus.estimators import estimate_scene
    from cus.splats import fit_gaussians

__version__ = "0.1.0"
__all__ = ["CloseUpShotPipeline", "close_up", "estimate_scene", "fit_gaussians", "fused_warp"]

_HOMES = {
    "CloseUpShotPipeline": "cus.diffusion",
    "close_up": "cus.closeup",
    "estimate_scene": "cus.estimators",
    "fit_gaussians": "cus.splats",
    "fused_warp": "cus.conditioning",
}


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
