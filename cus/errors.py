"""The one exception that speaks to the person at the keyboard."""


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
