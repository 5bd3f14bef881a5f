"""What the numbers and words of settings may be, stated where a setting is declared."""

import math
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

from cus.errors import InputError

_KEY = "limits"


@dataclass(frozen=True)
class Limits:
    """What a setting may be; for lists, each of their values.

    Attributes:
        low: the least number.
        high: the largest.
        above: the number must be larger than this one.
        choices: the words there are; empty takes any.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    choices: tuple[str, ...] = ()

    def refusal(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        if self.choices:
            return None if value in self.choices else f"must be one of {', '.join(self.choices)}, got {value!r}"
        if not isinstance(value, int | float) or isinstance(value, bool):
            return f"must be a number, got {value!r:.60}"
        finite = isinstance(value, int) or math.isfinite(value)
        if self.low <= value <= self.high and value > self.above and finite:
            return None
        if self.above > -math.inf:
            most = "" if self.high == math.inf else f" and at most {self.high:g}"
            return f"must be above {self.above:g}{most}, got {value!r:.60}"
        most = " or more" if self.high == math.inf else f" to {self.high:g}"
        return f"must be {self.low:g}{most}, got {value!r:.60}"


def limited(
    default: Any = MISSING,
    *,
    default_factory: Callable[[], Any] | None = None,
    choices: tuple[str, ...] = (),
    **numbers: float,
) -> Any:
    """A field of a dataclass with `Limits`, which `check_limits` holds it to."""
    metadata = {_KEY: Limits(**numbers, choices=choices)}
    if default_factory is not None:
        return field(default_factory=default_factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def check_limits(settings: Any, prefix: str = "") -> None:
    """Hold a dataclass and those inside it to their limits. Raises InputError, which names the setting."""
    for name, refusal in _refusals(settings, prefix):
        raise InputError(f"{name} {refusal}")


def check_options(settings: Any) -> None:
    """The same for what a command line says: `--photo-size` rather than `model.photo_size` is named."""
    for name, refusal in _refusals(settings):
        raise InputError(f"--{name.rpartition('.')[2].replace('_', '-')} {refusal}")


def _refusals(settings: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for item in fields(settings):
        value, name = getattr(settings, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from _refusals(value, f"{name}.")
        limits = item.metadata.get(_KEY)
        if limits is None or (value is None and item.default is None):
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            if (refusal := limits.refusal(one)) is not None:
                yield name, refusal
