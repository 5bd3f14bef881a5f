"""`rasterization`: one function with gsplat's signature and semantics, and a choice of backends."""

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.splats.cpu.compositing import composite_cpu
from cus.splats.cpu.projection import conics_from_forms, project_cpu
from cus.splats.cpu.tiles import TILE, Grid, build_lists, sort_splats
from cus.splats.gaussians import Gaussians
from cus.splats.projection import ProjectionOptions
from cus.splats.rasterize_torch import rasterize_torch
from cus.splats.sh import evaluate_sh
from cus.splats.tiles import TileLists

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
RasterizeMode = Literal["classic", "antialiased"]
Backend = Literal["auto", "cpu", "torch", "gsplat"]


def rasterization(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = False,
    tile_size: int = 16,
    backgrounds: Tensor | None = None,
    render_mode: RenderMode = "RGB",
    rasterize_mode: RasterizeMode = "classic",
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Render N Gaussians into C cameras; names, defaults and semantics match `gsplat.rasterization`.

    Differentiable in means, quats, scales, opacities, colors, viewmats, Ks and backgrounds (gsplat: not in Ks).
    A Gaussian contributes to a pixel if its alpha = min(0.999, opacity exp(-sigma)) is at least 1/255 there; a pixel
    stops before the Gaussian that would bring its transmittance to 1e-4 or less.

    Args:
        means: Centres [N, 3], world.
        quats: Orientations [N, 4], wxyz, any length but zero.
        scales: Standard deviations [N, 3], > 0.
        opacities: Opacities [N], in [0, 1].
        colors: Colours [N, D] or [C, N, D] with any number of channels D, or with `sh_degree` spherical harmonics
            coefficients [N, K, 3] or [C, N, K, 3].
        viewmats: World-to-camera, OpenCV [C, 4, 4].
        Ks: Intrinsics [C, 3, 3], pixels; the centre of the top-left pixel is (0.5, 0.5).
        width: Image width in pixels.
        height: Image height in pixels.
        near_plane: Gaussians whose centre is nearer (z-depth) are culled, > 0.
        far_plane: Gaussians whose centre is farther (z-depth) are culled.
        radius_clip: Gaussians whose box half size is at most this many pixels in both directions are culled.
        eps2d: Added to the diagonal of the 2D covariances, pixels^2, so that no Gaussian is thinner than a pixel.
        sh_degree: Degree of the harmonics to use (0 to 3); None: `colors` are colours.
        packed: Return the per-Gaussian entries of info only for visible pairs [nnz], with camera_ids and gaussian_ids.
        tile_size: Side of the tiles in pixels; affects the speed, not the picture. Backend "cpu" always uses 16.
        backgrounds: Background colours [C, D]; None is black. Depth channels never get one.
        render_mode: "RGB" colours; "D" z-depth, accumulated with the weights; "ED" the same divided by alpha, i.e.
            expected depth; "RGB+D" and "RGB+ED" both, depth last.
        rasterize_mode: "antialiased" scales opacities by sqrt(det(cov2d) / det(cov2d + eps2d I)) (Mip-Splatting).
        backend: "gsplat" on CUDA; "cpu": Numba kernels for float32 on the CPU (the first call on a machine compiles
            them for some seconds); "torch": any device, slow, the tests' reference. "auto": the first that fits.

    Returns:
        renders [C, height, width, D (+ 1 with a depth)], alphas [C, height, width, 1], and info: means2d [C, N, 2],
        radii [C, N, 2] (int32, 0 where culled), depths [C, N], conics [C, N, 3], opacities [C, N], width, height,
        tile_size, tile_width, tile_height, n_cameras, isect_offsets [C, tile_height, tile_width], flatten_ids.

    Raises:
        ValueError: Inconsistent shapes or invalid options.
        InputError: backend="gsplat" or "cpu" on an unsuitable device or dtype.
    """
    _check(means, quats, scales, opacities, colors, viewmats, Ks, sh_degree)
    _check_options(width, height, tile_size, render_mode, rasterize_mode, backend)
    if near_plane <= 0:
        raise ValueError(f"near_plane must be > 0, got {near_plane}")
    channels = 3 if sh_degree is not None else colors.shape[-1]
    if backgrounds is not None and tuple(backgrounds.shape) != (len(viewmats), channels):
        raise ValueError(f"backgrounds must be [{len(viewmats)}, {channels}], got {list(backgrounds.shape)}")
    chosen = resolve_backend(backend, means.device, means.dtype)
    if chosen == "gsplat":
        shared = dict(near_plane=near_plane, far_plane=far_plane, radius_clip=radius_clip, eps2d=eps2d)
        return rasterize_gsplat(
            means=means, quats=quats, scales=scales, opacities=opacities, colors=colors, viewmats=viewmats, Ks=Ks,
            width=width, height=height, sh_degree=sh_degree, packed=packed, tile_size=tile_size,
            backgrounds=backgrounds, render_mode=render_mode, rasterize_mode=rasterize_mode, **shared,
        )  # fmt: skip

    options = ProjectionOptions(
        width, height, near_plane, far_plane, radius_clip, eps2d, antialiased=rasterize_mode == "antialiased"
    )
    gaussians = means, quats, scales, opacities

    def features(depths: Tensor) -> Tensor:
        return _features(means, colors, viewmats, depths, sh_degree, render_mode)

    if chosen == "cpu":
        rendered, transmittances, entries, lists = rasterize_cpu(gaussians, viewmats, Ks, options, features)
    else:
        rendered, transmittances, entries, lists = rasterize_torch(
            gaussians, viewmats, Ks, options, features, tile_size
        )
    if backgrounds is not None and "RGB" in render_mode:
        behind = torch.nn.functional.pad(backgrounds, (0, rendered.shape[-1] - channels))
        rendered = rendered + transmittances * behind[:, None, None, :]
    alphas = 1 - transmittances
    if render_mode.endswith("ED"):
        expected = rendered[..., -1:] / alphas.clamp_min(1e-10)
        rendered = torch.cat([rendered[..., :-1], expected], dim=-1)
    return rendered, alphas, _info(entries, lists, width, height, packed)


def resolve_backend(
    backend: Backend, device: torch.device, dtype: torch.dtype = torch.float32
) -> Literal["cpu", "torch", "gsplat"]:
    """Resolve "auto" for a device; other backends are returned unchanged."""
    if backend != "auto":
        return backend
    if device.type == "cpu":
        return "cpu" if dtype == torch.float32 else "torch"
    if device.type == "cuda" and gsplat_available():
        return "gsplat"
    if device.type == "cuda":
        install = "pip install 'closeupshot[gpu]'"
        warnings.warn(f"gsplat is not installed ({install}): rasterizing slowly in torch", stacklevel=3)
    return "torch"


def _features(
    means: Tensor, colors: Tensor, viewmats: Tensor, depths: Tensor, sh_degree: int | None, render_mode: str
) -> Tensor:
    """The channels to composite for each camera and Gaussian [C, N, channels]."""
    if render_mode in ("D", "ED"):
        return depths[..., None]
    if sh_degree is None:
        seen = colors if colors.ndim == 3 else colors.expand(len(viewmats), -1, -1)
    else:
        centers = torch.linalg.inv(viewmats)[:, None, :3, 3]
        seen = evaluate_sh(sh_degree, means - centers, colors if colors.ndim == 4 else colors[None])
        seen = seen.expand(len(viewmats), -1, -1)
    return seen if render_mode == "RGB" else torch.cat([seen, depths[..., None]], dim=-1)


def _info(entries: dict[str, Tensor], lists: TileLists, width: int, height: int, packed: bool) -> dict[str, Any]:
    info: dict[str, Any] = dict(entries)
    if packed:
        camera_ids, gaussian_ids = (entries["radii"] > 0).all(dim=-1).nonzero(as_tuple=True)
        info = {name: value[camera_ids, gaussian_ids] for name, value in entries.items()}
        info |= {"camera_ids": camera_ids, "gaussian_ids": gaussian_ids}
    offsets = lists.offsets[:-1].unflatten(0, (lists.cameras, lists.rows, lists.columns))
    return info | {
        "width": width,
        "height": height,
        "tile_size": lists.tile_size,
        "tile_width": lists.columns,
        "tile_height": lists.rows,
        "n_cameras": lists.cameras,
        "isect_offsets": offsets,
        "flatten_ids": lists.ids,
    }


def _check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    sh_degree: int | None,
) -> None:
    n, c = means.shape[0], viewmats.shape[0]
    expected = [
        ("means", means, (n, 3)),
        ("quats", quats, (n, 4)),
        ("scales", scales, (n, 3)),
        ("opacities", opacities, (n,)),
        ("viewmats", viewmats, (c, 4, 4)),
        ("Ks", Ks, (c, 3, 3)),
    ]
    for name, tensor, shape in expected:
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {list(shape)}, got {list(tensor.shape)}")
    per_gaussian = colors.shape[:-1] if sh_degree is None else colors.shape[:-2]
    if tuple(per_gaussian) not in ((n,), (c, n)) or (sh_degree is not None and colors.shape[-1] != 3):
        wanted = "[N, D] or [C, N, D]" if sh_degree is None else "[N, K, 3] or [C, N, K, 3]"
        raise ValueError(f"colors must be {wanted} with N={n}, C={c}, got {list(colors.shape)}")


def _check_options(
    width: int, height: int, tile_size: int, render_mode: str, rasterize_mode: str, backend: str
) -> None:
    if width < 1 or height < 1 or tile_size < 1:
        raise ValueError(f"width, height and tile_size must be at least 1, got {width}, {height}, {tile_size}")
    choices = [
        ("render_mode", render_mode, RenderMode),
        ("rasterize_mode", rasterize_mode, RasterizeMode),
        ("backend", backend, Backend),
    ]
    for name, value, allowed in choices:
        if value not in get_args(allowed):
            raise ValueError(f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")


def gsplat_available() -> bool:
    """Whether gsplat is installed and a CUDA device is available."""
    return torch.cuda.is_available() and importlib.util.find_spec("gsplat") is not None


def rasterize_gsplat(**arguments: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Call `gsplat.rasterization` with the arguments of `cus.splats.rasterization`, which are the same.

    Raises:
        InputError: gsplat is missing or the tensors are not on a CUDA device.
    """
    device = arguments["means"].device
    if device.type != "cuda":
        raise InputError(f"backend 'gsplat' needs tensors on a CUDA device, got {device}; use backend='torch' there")
    try:
        import gsplat  # type: ignore[import-not-found]
    except ImportError as error:
        raise InputError("gsplat is not installed; pip install 'closeupshot[gpu]' or use backend='torch'") from error
    return gsplat.rasterization(**arguments)


def rasterize_cpu(
    gaussians: tuple[Tensor, Tensor, Tensor, Tensor],
    viewmats: Tensor,
    Ks: Tensor,
    options: ProjectionOptions,
    features: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, dict[str, Tensor], TileLists]:
    """As `rasterize_torch`, with Numba kernels and tiles of their own size.

    Raises:
        InputError: Tensors are not float32 on the CPU.
    """
    tensors = (*gaussians, viewmats, Ks)
    wrong = [t for t in tensors if t.dtype != torch.float32 or t.device.type != "cpu"]
    if wrong:
        kind = f"{wrong[0].dtype} on {wrong[0].device}".removeprefix("torch.")
        raise InputError(f"backend 'cpu' needs float32 tensors on the CPU, got {kind}; use backend='torch' there")
    means2d, forms, depths, opacities, radii = project_cpu(*gaussians, viewmats, Ks, options)
    colors = features(depths)
    flat = [tensor.flatten(0, 1) for tensor in (means2d, forms, colors, opacities)]
    grid = Grid.over(options.width, options.height, len(viewmats))
    boxes = radii.flatten(0, 1).numpy()
    table = [tensor.detach().numpy() for tensor in (flat[0], flat[1], flat[3], depths.flatten())]
    splats = sort_splats(table[0], table[1], table[2], boxes, table[3])
    lists = build_lists(splats, boxes, grid)
    images, transmittances = composite_cpu(flat[0], flat[1], flat[2], flat[3], splats, lists, grid)
    entries = {
        "means2d": means2d,
        "radii": radii,
        "depths": depths,
        "conics": conics_from_forms(forms.detach()),
        "opacities": opacities,
    }
    offsets, ids = torch.from_numpy(lists.offsets), torch.from_numpy(splats.order[lists.ids])
    return images, transmittances, entries, TileLists(ids, offsets, TILE, grid.columns, grid.rows, grid.cameras)


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
