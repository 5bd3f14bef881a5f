"""Re-exports the names of `cus.lvdm`."""

from cus.lvdm import *  # noqa: F403
from cus.lvdm import __all__ as __all__
