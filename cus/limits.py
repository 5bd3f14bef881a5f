"""Limits of settings, declared with the settings."""

import math
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any

from cus.errors import InputError

_KEY = "limits"


@dataclass(frozen=True)
class Limits:
    """Allowed values of a setting; for lists, of each item.

    Attributes:
        low: smallest allowed number.
        high: largest allowed number.
        above: numbers must be larger than this.
        choices: allowed words; empty allows any.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    choices: tuple[str, ...] = ()

    def refusal(self, value: Any) -> str | None:
        """The problem with a value, or None."""
        if self.choices:
            return None if value in self.choices else f"must be {self.told()}, got {value!r}"
        if not isinstance(value, int | float) or isinstance(value, bool):
            return f"must be a number, got {value!r:.60}"
        finite = isinstance(value, int) or math.isfinite(value)
        if self.low <= value <= self.high and value > self.above and finite:
            return None
        return f"must be {self.told()}, got {value!r:.60}"

    def told(self) -> str:
        """The limits in a few words: "1 to 64", "above 0", "one of a, b"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        least = f"above {self.above:g}" if self.above > -math.inf else f"{self.low:g}"
        if self.high == math.inf:
            return least if self.above > -math.inf else f"{least} or more"
        return f"{least} and at most {self.high:g}" if self.above > -math.inf else f"{least} to {self.high:g}"


def limits_of(item: Field[Any]) -> Limits | None:
    """The limits of a dataclass field, if any."""
    return item.metadata.get(_KEY)


def limited(
    default: Any = MISSING,
    *,
    default_factory: Callable[[], Any] | None = None,
    choices: tuple[str, ...] = (),
    **numbers: float,
) -> Any:
    """A dataclass field with `Limits`, checked by `check_limits`."""
    metadata = {_KEY: Limits(**numbers, choices=choices)}
    if default_factory is not None:
        return field(default_factory=default_factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def check_limits(settings: Any, prefix: str = "") -> None:
    """Check a dataclass and nested ones against their limits. Raises InputError that names the setting."""
    for name, refusal in _refusals(settings, prefix):
        raise InputError(f"{name} {refusal}")


def check_options(settings: Any) -> None:
    """Like `check_limits` for a command line: names `--photo-size` rather than `model.photo_size`."""
    for name, refusal in _refusals(settings):
        raise InputError(f"--{name.rpartition('.')[2].replace('_', '-')} {refusal}")


def _refusals(settings: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for item in fields(settings):
        value, name = getattr(settings, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from _refusals(value, f"{name}.")
        limits = limits_of(item)
        if limits is None or (value is None and item.default is None):
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            if (refusal := limits.refusal(one)) is not None:
                yield name, refusal
