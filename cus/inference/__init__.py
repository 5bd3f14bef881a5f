"""A whole run from photographs to a Gaussian scene; `cus-infer` is its command."""

from cus.inference.results import STAGES, Results
from cus.inference.run import Progress, Run
from cus.inference.settings import InferSettings

__all__ = ["STAGES", "InferSettings", "Progress", "Results", "Run"]
