"""Words that a setting may be where packages that know nothing of each other, and command lines, must agree."""

from typing import Literal

AttentionBackend = Literal["sdpa", "xformers"]
Memory = Literal["auto", "low", "high"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
StrategyName = Literal["fixed", "default", "mcmc"]
