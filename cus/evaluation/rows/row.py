"""The base of all rows of a table."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from cus.choices import StrategyName
from cus.errors import InputError
from cus.evaluation.work import CaseWork
from cus.limits import check_limits

# Ranges shared by several kinds of rows: pixels of photographs' longest side, steps and strategies of a fit.
PHOTO_SIZE: dict[str, Any] = {"low": 64, "high": 16384}
ITERATIONS: dict[str, Any] = {"low": 1, "high": 1_000_000}
STRATEGIES = get_args(StrategyName)


@dataclass(frozen=True, kw_only=True)
class Row(ABC):
    """One method in a table. Additional fields of a subclass are its options.

    Attributes:
        kind: name of the kind in settings; the same for all rows of a class.
        name: name in records and file names; by default the kind.
        label: name in tables; by default that of the kind.
        blur: whether to add a second row with its best Gaussian blur, chosen with the truth.
    """

    kind: str = ""
    name: str = ""
    label: str = ""
    blur: bool = False

    def __post_init__(self) -> None:
        """Fill in name and label; refuse invalid options. Raises InputError."""
        if self.kind != type(self).kind:
            raise InputError(f"a row of class {type(self).__name__} is of kind {type(self).kind}, got {self.kind!r}")
        object.__setattr__(self, "name", self.name or self.kind)
        object.__setattr__(self, "label", self.label or type(self).label)
        if not re.fullmatch(r"[A-Za-z0-9_.+-]+", self.name):
            raise InputError(f"the row name {self.name!r} must do as a file name: letters, digits, . _ + -")
        if self.name in ("target", "truth"):
            raise InputError(f"the row name {self.name!r} is the truth's; choose another")
        check_limits(self, f"row {self.name}: ")

    @property
    def names(self) -> dict[str, str]:
        """Names and labels: those of the row, then those of its blurred twin."""
        blurred = {f"{self.name}+blur": f"{self.label}, best blur"} if self.blur else {}
        return {self.name: self.label, **blurred}

    @abstractmethod
    def picture(self, case: CaseWork) -> Tensor:
        """The method's picture of a case: [3, h, w] in [0, 1]. Raises InputError if it has none."""
