"""The one exception that speaks to the person at the keyboard, and what its messages show."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(Exception):
    """Something the user gave cannot be used; the message says what, what was expected, and what to do.

    Command-line programs print the message without a traceback and exit with status 2.
    """


def shown(value: object, most: int = 60) -> str:
    """A value as a message shows it: its repr, of at most so many characters, whatever the value is."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or a number of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= most else text[: most - 3] + "..."


def first_problem(error: "ValidationError") -> str:
    """The first field that a model of pydantic refuses, what it must be, and what it is."""
    problem = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(map(str, problem["loc"])) or "it"
    said = problem["msg"].removeprefix("Input should be ")
    if said == "Field required":
        return f"{field} is missing"
    return f"{field} must be {said}, got {shown(problem['input'])}"
