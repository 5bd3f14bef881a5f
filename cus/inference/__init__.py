"""A whole run from photographs to a Gaussian scene; `cus-infer` is its command."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cus.inference.labels import STAGES
    from cus.inference.progress import Progress
    from cus.inference.results import Results
    from cus.inference.run import Run
    from cus.inference.settings import InferSettings
    from cus.inference.verdict import Verdict

__all__ = ["STAGES", "InferSettings", "Progress", "Results", "Run", "Verdict"]
_HOMES = {
    "STAGES": "labels",
    "Results": "results",
    "Progress": "progress",
    "Run": "run",
    "InferSettings": "settings",
    "Verdict": "verdict",
}


def __getattr__(name: str) -> Any:
    # What only looks into an output folder need not wait for the networks to be imported.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"cus.inference.{_HOMES[name]}"), name)
