"""The 3D Gaussian scene as a value."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.splats.levels import opacities_at, shares


@dataclass(frozen=True)
class Gaussians:
    """A set of N 3D Gaussians in world coordinates, with activated (not logarithmic) parameters.

    Attributes:
        means: Centres [N, 3], scene units.
        quats: Orientations [N, 4], wxyz, of any length but zero; normalised where they are used.
        scales: Standard deviations along the three local axes [N, 3], scene units, > 0.
        opacities: Opacities [N], in (0, 1).
        sh: Spherical harmonics coefficients of the colour [N, K, 3], K = (degree + 1)^2 in {1, 4, 9, 16}.
        rates: Levels of detail (`cus.splats.levels`): lowest and highest sampling rate [N, 2] at which each Gaussian is
            fully shown, in pixels per scene unit (focal length over depth), 0 = no limit. None: no levels.

    Raises:
        ValueError: Inconsistent shapes, dtypes or devices (a programming error of the caller).
        InputError: A value is NaN, infinite or out of its range (a bad file, or a fit gone wrong).
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor
    rates: Tensor | None = None

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
        return replace(self, **{name: value.to(device) for name, value in self.tensors().items()})

    def select(self, index: Tensor) -> "Gaussians":
        """The Gaussians that an index or boolean mask [N] picks, in its order."""
        return replace(self, **{name: value[index] for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by field; `rates` only if there are levels of detail."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def joined(self, other: "Gaussians") -> "Gaussians":
        """These Gaussians, then the others, of the same degree; with levels of detail if either has some."""
        mine, others = self.tensors(), other.tensors()
        if "rates" in mine or "rates" in others:
            mine, others = ({"rates": g.means.new_zeros(len(g), 2)} | g.tensors() for g in (self, other))
        return Gaussians(**{name: torch.cat([mine[name], others[name]]) for name in mine})

    def opacities_in(self, camera: Cameras) -> Tensor:
        """Opacities [N] as one camera sees them: those of another level of detail are lower."""
        if self.rates is None:
            return self.opacities
        return opacities_at(self.opacities, shares(self.rates, self.means, camera))

    def baked(self) -> "Gaussians":
        """Only the finest level of detail everywhere, without the record of levels."""
        if self.rates is None:
            return self
        return replace(self.select(self.rates[:, 1] == 0), rates=None)

    def with_degree(self, degree: int) -> "Gaussians":
        """Change the degree of the harmonics to 0 to 3: higher bands are dropped, missing ones are 0."""
        wanted, given = (degree + 1) ** 2, self.sh.shape[1]
        if given >= wanted:
            return replace(self, sh=self.sh[:, :wanted])
        return replace(self, sh=torch.cat([self.sh, self.sh.new_zeros(len(self), wanted - given, 3)], dim=1))

    def shortened(self, ratio: float = 2.0) -> "Gaussians":
        """With no half axis longer than `ratio` >= 1 times the second longest: needles become discs, discs stay.

        A fit that continues from a scene begins with this.
        """
        second = self.scales.sort(dim=1).values[:, 1:2]
        return replace(self, scales=torch.minimum(self.scales, ratio * second))

    def thickened(self, ratio: float) -> "Gaussians":
        """With no half axis shorter than the longest one over `ratio` >= 1."""
        return replace(self, scales=torch.maximum(self.scales, self.scales.amax(dim=1, keepdim=True) / ratio))


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
    tensors = gaussians.tensors().values()
    if gaussians.rates is not None and tuple(gaussians.rates.shape) != (n, 2):
        raise ValueError(f"rates must have shape {[n, 2]}, got {list(gaussians.rates.shape)}")
    if len({(t.device, t.dtype) for t in tensors}) > 1 or not gaussians.means.is_floating_point():
        raise ValueError("all fields of Gaussians must be of one floating-point dtype, on one device")


def _check_values(gaussians: Gaussians) -> None:
    for name, value in gaussians.tensors().items():
        finite = torch.isfinite(value)
        if not bool(finite.all()):
            bad = int((~finite.reshape(len(gaussians), -1).all(dim=1)).sum())
            raise InputError(f"{bad} of {len(gaussians)} Gaussians have a {name} that is NaN or infinite")
    if bool((gaussians.scales <= 0).any()):
        raise InputError(f"scales must be > 0 (linear, not logarithmic), got a minimum of {gaussians.scales.min():.3g}")
    if bool(((gaussians.opacities <= 0) | (gaussians.opacities >= 1)).any()):
        low, high = float(gaussians.opacities.min()), float(gaussians.opacities.max())
        raise InputError(f"opacities must lie in (0, 1) (not logits), got {low:.3g} to {high:.3g}")
    if gaussians.rates is not None and bool((gaussians.rates < 0).any()):
        raise InputError(f"sampling rates must not be negative, got a minimum of {gaussians.rates.min():.3g}")
    if bool((gaussians.quats.square().sum(dim=1) == 0).any()):
        raise InputError("a quaternion is zero and stands for no orientation")
