"""The exception for errors of the user's, and helpers for its messages."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(Exception):
    """Unusable input from the user; the message says what was given, what was expected, and what to do.

    Command-line programs print the message without a traceback and exit with status 2.
    """


def shown(value: object, most: int = 60) -> str:
    """A value for a message: its repr, at most `most` characters, for any value."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or a number with thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= most else text[: most - 3] + "..."


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def first_problem(error: "ValidationError") -> str:
    """The first field that a pydantic model refuses, what it must be, and what it is."""
    problem = error.errors(include_url=False, include_context=False)[0]
    field, said, got = ".".join(map(str, problem["loc"])) or "it", problem["msg"], shown(problem["input"])
    if said == "Field required":
        return f"{field} is missing"
    if not said.startswith("Input should be "):
        return f"{field} is refused ({said.partition(' for <class')[0].lower()}), got {got}"
    return f"{field} must be {said.removeprefix('Input should be ').partition(' or instance of ')[0]}, got {got}"
