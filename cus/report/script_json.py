"""Data of a page for its scripts."""

import json
from typing import Any

from markupsafe import Markup


def script_json(value: Any) -> Markup:
    """JSON that is safe in a script element: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))
