"""A whole run from photographs to a Gaussian scene; `cus-infer` is its command."""

from typing import TYPE_CHECKING

from cus.lazy import lazy_names

if TYPE_CHECKING:
    from cus.inference.progress import STAGES, Progress
    from cus.inference.run import Run
    from cus.inference.settings import InferSettings
    from cus.inference.stages import Results
    from cus.inference.verdict import Verdict

__all__ = ["STAGES", "InferSettings", "Progress", "Results", "Run", "Verdict"]
# Commands that only inspect an output folder need not wait for the networks to be imported.
_HOMES = {
    "STAGES": "cus.inference.progress",
    "Results": "cus.inference.stages",
    "Progress": "cus.inference.progress",
    "Run": "cus.inference.run",
    "InferSettings": "cus.inference.settings",
    "Verdict": "cus.inference.verdict",
}
__getattr__ = lazy_names(__name__, _HOMES)
