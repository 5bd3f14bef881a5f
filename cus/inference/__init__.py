"""A whole run from photographs to a Gaussian scene; `cus-infer` is its command."""

from cus.inference.run import STAGES, Progress, Results, Run
from cus.inference.settings import InferSettings

__all__ = ["STAGES", "InferSettings", "Progress", "Results", "Run"]
