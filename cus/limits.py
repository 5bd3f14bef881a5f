"""What the numbers and words of settings may be, stated where a setting is declared."""

import math
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
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
            return None if value in self.choices else f"must be {self.told()}, got {value!r}"
        if not isinstance(value, int | float) or isinstance(value, bool):
            return f"must be a number, got {value!r:.60}"
        finite = isinstance(value, int) or math.isfinite(value)
        if self.low <= value <= self.high and value > self.above and finite:
            return None
        return f"must be {self.told()}, got {value!r:.60}"

    def told(self) -> str:
        """What it may be, in a few words: "1 to 64", "above 0", "one of a, b"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        least = f"above {self.above:g}" if self.above > -math.inf else f"{self.low:g}"
        if self.high == math.inf:
            return least if self.above > -math.inf else f"{least} or more"
        return f"{least} and at most {self.high:g}" if self.above > -math.inf else f"{least} to {self.high:g}"


def limits_of(item: Field[Any]) -> Limits | None:
    """The limits of a dataclass's field, if it has some."""
    return item.metadata.get(_KEY)


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
        limits = limits_of(item)
        if limits is None or (value is None and item.default is None):
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            if (refusal := limits.refusal(one)) is not None:
                yield name, refusal
