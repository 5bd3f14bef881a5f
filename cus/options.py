"""How the fields of settings look on a command line, where `cus.cli.reading` reads them with tyro.

One field is one option: its name, type and default are the option's, its entry under `Attributes` is the help. What a
default of None stands for is said there, as in "(default: the model's)"; any other default is shown by itself.
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
    """What stands in `Annotated` beside a field's type.

    Args:
        metavar: what the help calls the value, such as its unit; None takes the type's name.
        name: of the option, where it is not the field's.
    """
    return arg(metavar=metavar, name=name, help_behavior_hint=_default)


# --name, or --no-name where the default is true.
Flag = Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")]


def parsed(metavar: str, parse: Callable[[str], Any], write: Callable[[Any], str] = str) -> Any:
    """What stands in `Annotated`, before `option`, for a value that is one word but no number, name or path.

    Args:
        metavar: what the help calls it.
        parse: makes the value; raises ValueError, which says what was expected.
        write: the word of a default.
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
