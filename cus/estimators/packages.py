"""Packages of other projects' networks: installed, importable, or not."""

from collections.abc import Callable
from importlib.util import find_spec


def package_trouble(package: str, title: str, load: Callable[[], object]) -> str:
    """Why a network's package cannot be used; nothing where it can.

    Args:
        package: name that it is imported by.
        title: name that people know it by.
        load: imports what is needed of it.
    """
    if find_spec(package) is None:
        return f"{title} is not installed"
    try:
        load()
    except Exception as error:  # whatever another project's code raises, "auto" must go on without it
        return f"{title} cannot be imported: {error}"
    return ""
