"""Declares how settings appear on command lines, for `cus.cli.reading` with tyro.

One field is one option with the same name, type and default; its entry under `Attributes` is the help. The help
explains a default of None, as in "(default: the model's)"; any other default is shown automatically.
"""

from collections.abc import Callable
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, arg
from tyro.constructors import PrimitiveConstructorSpec

_SWITCHES = {"True": "on", "False": "off"}


def _default(value: str) -> str:
    if value in ("", "''", "None"):
        return ""
    return f"(default: {_SWITCHES.get(value, value)})"


def option(metavar: str | None = None, *, name: str | None = None) -> Any:
    """Option metadata for `Annotated`.

    Args:
        metavar: name of the value in the help, such as its unit; None takes the type's name.
        name: name of the option, if it differs from the field's.
    """
    return arg(metavar=metavar, name=name, help_behavior_hint=_default)


# --name, or --no-name if the default is true.
Flag = Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")]


def parsed(metavar: str, parse: Callable[[str], Any], write: Callable[[Any], str] = str) -> Any:
    """Parser metadata for `Annotated`, before `option`, for a one-word value that is not a number, name or path.

    Args:
        metavar: name of the value in the help.
        parse: converts the word; raises ValueError that says what was expected.
        write: converts a default to a word.
    """
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: parse(words[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [write(value)],
    )


def fractions(text: str) -> tuple[float, float]:
    """`"0.5,0.4"` -> (0.5, 0.4): a point of a picture. Raises ValueError."""
    u, v = numbers(text, 2, "0.5,0.4")
    return u, v


def numbers(text: str, count: int, example: str) -> tuple[float, ...]:
    """`"0.5,0.4"` -> (0.5, 0.4). Raises ValueError unless there are `count` of them, as in the example."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != count:
        raise ValueError(f"expected {count} numbers like {example}, got {text!r:.60}")
    return found
