"""`.splat` files: 32 bytes per Gaussian and nothing else, read by many browser viewers (antimatter15/splat).

Each row: position and scale (3 float32 each), then red green blue opacity and rotation w x y z as bytes. Rows are
sorted by volume times opacity, largest first, so that a viewer that is still loading already shows the scene. The axes
are those of PLY files. Colours do not depend on direction: harmonics above degree 0 are lost, and colours are clamped
to [0, 1]. Largest errors: 1/510 in colour and opacity (1/255 next to 0 and 1), 1/128 in each component of the unit
quaternion; the rest is exact.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from cus.errors import InputError
from cus.splats.gaussians import Gaussians
from cus.splats.sh import SH_C0
from cus.splats.stored_values import StoredSplats, read_bytes, usable_gaussians, write_whole

_ROW = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])


def save_dot_splat(path: str | Path, gaussians: Gaussians) -> None:
    """Write Gaussians atomically: an existing file is complete.

    Of several levels of detail only the finest is written (`Gaussians.baked`).

    Raises:
        InputError: There is nothing to write, or the path is not writable.
    """
    gaussians = gaussians.baked()
    if len(gaussians) == 0:
        raise InputError(f"no Gaussians to write to {path}")
    g = gaussians.to("cpu")
    order = (g.scales.double().prod(dim=1) * g.opacities).argsort(descending=True, stable=True)
    g = g.select(order)
    colors = torch.cat([g.sh[:, 0] * SH_C0 + 0.5, g.opacities[:, None]], dim=1)
    rows = np.empty(len(g), _ROW)
    rows["means"], rows["scales"] = g.means.detach().numpy(), g.scales.detach().numpy()
    rgba = (colors.detach() * 255).round().clamp(0, 255)
    # Never 0 or 255: other programs turn them into infinite logits, which no program can read.
    rgba[:, 3].clamp_(1, 254)
    rows["rgba"] = rgba.to(torch.uint8).numpy()
    rows["quats"] = (normalize(g.quats.detach(), dim=1) * 128 + 128).round().clamp(0, 255).to(torch.uint8).numpy()
    write_whole(path, lambda stream: stream.write(rows.tobytes()))


def read_dot_splat(path: str | Path) -> StoredSplats:
    """Read Gaussians; opacities of 0 and 1 become the nearest values inside the open range.

    Gaussians with a NaN or infinite value, a scale of zero or below or no orientation are left out; a note counts them.

    Raises:
        InputError: no points, a truncated file, or none that can be rendered.
    """
    content = read_bytes(path)
    if not content or len(content) % _ROW.itemsize:
        raise InputError(
            f"{path} is no whole .splat file: it has {len(content)} bytes; expected a multiple of {_ROW.itemsize}, "
            "one row a Gaussian"
        )
    rows = np.frombuffer(content, _ROW)
    rgba = torch.from_numpy(rows["rgba"] / np.float32(255))
    try:
        gaussians, notes = usable_gaussians(
            path,
            means=torch.from_numpy(rows["means"].astype(np.float32)),
            quats=torch.from_numpy((rows["quats"].astype(np.float32) - 128) / 128),
            scales=torch.from_numpy(rows["scales"].astype(np.float32)),
            opacities=rgba[:, 3],
            sh=((rgba[:, :3] - 0.5) / SH_C0)[:, None],
        )
    except InputError as error:
        raise InputError(f"{error}; is it a .splat file?") from error
    return StoredSplats(gaussians, notes=notes)
