"""The CPU backend: projection, tiles and compositing of `cus.splats.cpu` in sequence."""

from collections.abc import Callable

import torch
from torch import Tensor

from cus.errors import InputError
from cus.splats.cpu.compositing import composite_cpu
from cus.splats.cpu.projection import conics_from_forms, project_cpu
from cus.splats.cpu.tiles import TILE, Grid, build_lists, sort_splats
from cus.splats.projection import ProjectionOptions
from cus.splats.tiles import TileLists


def rasterize_cpu(
    gaussians: tuple[Tensor, Tensor, Tensor, Tensor],
    viewmats: Tensor,
    Ks: Tensor,
    options: ProjectionOptions,
    features: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, dict[str, Tensor], TileLists]:
    """Rasterize with Numba kernels; see `cus.splats.rasterization` for the semantics.

    Args:
        gaussians: means [N, 3], quats [N, 4], scales [N, 3], opacities [N].
        viewmats: World-to-camera [C, 4, 4].
        Ks: Intrinsics [C, 3, 3] in pixels.
        options: Image size and limits.
        features: Maps depths [C, N] to the channels to composite [C, N, D].

    Returns:
        Images [C, H, W, D], transmittances [C, H, W, 1], the per-Gaussian entries of info, and the lists.

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
