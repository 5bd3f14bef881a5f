"""The 3D Gaussian scene as a value."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from cus.errors import InputError


@dataclass(frozen=True)
class Gaussians:
    """A set of N 3D Gaussians in world coordinates, with activated (not logarithmic) parameters.

    Attributes:
        means: Centres [N, 3], scene units.
        quats: Orientations [N, 4], wxyz, of any length but zero; normalised where they are used.
        scales: Standard deviations along the three local axes [N, 3], scene units, > 0.
        opacities: Opacities [N], in (0, 1).
        sh: Spherical harmonics coefficients of the colour [N, K, 3], K = (degree + 1)^2 in {1, 4, 9, 16}.

    Raises:
        ValueError: Inconsistent shapes, dtypes or devices (a programming error of the caller).
        InputError: A value is NaN, infinite or out of its range (a bad file, or a fit gone wrong).
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_values(self)

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return round(self.sh.shape[1] ** 0.5) - 1

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.means.device

    def to(self, device: torch.device | str) -> "Gaussians":
        """The same Gaussians on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def select(self, index: Tensor) -> "Gaussians":
        """The Gaussians that an index or boolean mask [N] picks, in its order."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def with_degree(self, degree: int) -> "Gaussians":
        """Change the degree of the harmonics to 0 to 3: higher bands are dropped, missing ones are 0."""
        wanted, given = (degree + 1) ** 2, self.sh.shape[1]
        if given >= wanted:
            return replace(self, sh=self.sh[:, :wanted])
        return replace(self, sh=torch.cat([self.sh, self.sh.new_zeros(len(self), wanted - given, 3)], dim=1))

    def shortened(self, ratio: float) -> "Gaussians":
        """With no half axis longer than `ratio` >= 1 times the second longest: needles become discs, discs stay."""
        second = self.scales.sort(dim=1).values[:, 1:2]
        return replace(self, scales=torch.minimum(self.scales, ratio * second))


def _check_shapes(gaussians: Gaussians) -> None:
    n = gaussians.means.shape[0] if gaussians.means.ndim else -1
    expected = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,)}
    for name, shape in expected.items():
        got = tuple(getattr(gaussians, name).shape)
        if got != shape:
            raise ValueError(f"{name} must have shape {list(shape)}, got {list(got)}")
    sh = tuple(gaussians.sh.shape)
    if len(sh) != 3 or sh[0] != n or sh[1] not in (1, 4, 9, 16) or sh[2] != 3:
        raise ValueError(f"sh must have shape [{n}, K, 3] with K in 1, 4, 9, 16, got {list(sh)}")
    tensors = [getattr(gaussians, f.name) for f in fields(gaussians)]
    if len({(t.device, t.dtype) for t in tensors}) > 1 or not tensors[0].is_floating_point():
        raise ValueError("all fields of Gaussians must be of one floating-point dtype, on one device")


def _check_values(gaussians: Gaussians) -> None:
    for field in fields(gaussians):
        finite = torch.isfinite(getattr(gaussians, field.name))
        if not bool(finite.all()):
            bad = int((~finite.reshape(len(gaussians), -1).all(dim=1)).sum())
            raise InputError(f"{bad} of {len(gaussians)} Gaussians have a {field.name} that is NaN or infinite")
    if bool((gaussians.scales <= 0).any()):
        raise InputError(f"scales must be > 0 (linear, not logarithmic), got a minimum of {gaussians.scales.min():.3g}")
    if bool(((gaussians.opacities <= 0) | (gaussians.opacities >= 1)).any()):
        low, high = float(gaussians.opacities.min()), float(gaussians.opacities.max())
        raise InputError(f"opacities must lie in (0, 1) (not logits), got {low:.3g} to {high:.3g}")
    if bool((gaussians.quats.square().sum(dim=1) == 0).any()):
        raise InputError("a quaternion is zero and stands for no orientation")
