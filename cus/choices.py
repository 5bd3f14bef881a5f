"""Values of settings shared by command lines and by packages that must not import each other."""

from typing import Literal

AttentionBackend = Literal["sdpa", "xformers"]
Memory = Literal["auto", "low", "high"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
StrategyName = Literal["fixed", "default", "mcmc"]
