"""Attention through xformers, if installed; the only file that imports it."""

from importlib.util import find_spec

from torch import Tensor

from cus.errors import InputError


def check_installed() -> None:
    """Raise InputError if xformers is not installed."""
    if find_spec("xformers") is None:
        raise InputError('xformers is not installed: pip install -e ".[gpu]", or leave the attention at "sdpa"')


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of q [N, H, L, d] to k and v [N, H, M, d]; the result has the shape of q."""
    from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]

    # xformers' axes are [N, L, H, d], the memory order of the tokens: the transposed views cost nothing.
    q, k, v = (a.transpose(1, 2) for a in (q, k, v))
    return memory_efficient_attention(q, k, v).transpose(1, 2)
