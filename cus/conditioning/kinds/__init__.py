"""Kinds of conditioning images. To add one, write a file next to this one and add its class to `KINDS`."""

from dataclasses import fields
from typing import Any

from cus.conditioning.kinds.fused import Fused
from cus.conditioning.kinds.hierarchical import Hierarchical
from cus.conditioning.kinds.kind import ConditioningKind
from cus.conditioning.kinds.points import Points
from cus.errors import InputError, shown

KINDS: dict[str, type[ConditioningKind]] = {kind.name: kind for kind in (Hierarchical, Points, Fused)}
"""Kinds of conditioning images by name."""


def conditioning_kind(name: str, **options: Any) -> ConditioningKind:
    """The conditioning kind with this name.

    Args:
        name: a key of `KINDS`.
        **options: fields of any kind; those that this kind does not have are ignored.

    Raises:
        InputError: unknown kind.
    """
    if name not in KINDS:
        raise InputError(f"there is no conditioning kind {shown(name)}; expected one of {', '.join(KINDS)}")
    kind = KINDS[name]
    known = {field.name for field in fields(kind)}
    return kind(**{option: value for option, value in options.items() if option in known})
