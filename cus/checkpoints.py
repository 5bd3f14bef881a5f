"""The names of `cus.lvdm`, importable from here as well."""

from cus.lvdm import *  # noqa: F403
from cus.lvdm import __all__ as __all__
