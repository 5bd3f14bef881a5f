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
    field, said, got = ".".join(map(str, problem["loc"])) or "it", problem["msg"], shown(problem["input"])
    if said == "Field required":
        return f"{field} is missing"
    if not said.startswith("Input should be "):
        return f"{field} is refused ({said.partition(' for <class')[0].lower()}), got {got}"
    return f"{field} must be {said.removeprefix('Input should be ').partition(' or instance of ')[0]}, got {got}"
