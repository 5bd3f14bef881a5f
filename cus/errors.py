"""The one exception that speaks to the person at the keyboard."""


class InputError(Exception):
    """Something the user gave cannot be used; the message says what, what was expected, and what to do.

    Command-line programs print the message without a traceback and exit with status 2.
    """
