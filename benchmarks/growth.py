"""Growth of a cost with a size: the exponent of the best fitting power law."""

import math
from collections.abc import Sequence

# Tolerance above the expected exponent before it counts as worse: caches are small and machines busy.
TOLERANCE = 0.2


def exponent(amounts: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log(cost) over log(amount) by least squares; NaN with fewer than two costs above 0.

    1 is proportional, 2 quadratic, 0 constant. A fixed part of the cost pulls it towards 0.
    """
    known = [(math.log(a), math.log(c)) for a, c in zip(amounts, costs, strict=True) if c > 0]
    if len({a for a, _ in known}) < 2:
        return math.nan
    center, height = (sum(column) / len(known) for column in zip(*known, strict=True))
    spread = sum((a - center) ** 2 for a, _ in known)
    return sum((a - center) * (c - height) for a, c in known) / spread


def last_exponent(amounts: Sequence[float], costs: Sequence[float]) -> float:
    """The slope between the two largest sizes, where fixed costs matter least (and noise most)."""
    return exponent(amounts[-2:], costs[-2:])


def judged(found: float, expected: float) -> str:
    """Whether an exponent stays within what the method requires."""
    if math.isnan(found):
        return "not known"
    return "OK" if found <= expected + TOLERANCE else f"worse than {expected:g}"
