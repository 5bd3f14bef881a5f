"""Facts about the machine that a run records."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import psutil

import cus

PACKAGES = ("torch", "torchvision", "diffusers", "numpy", "pycolmap", "opencv-python-headless", "numba", "gsplat")


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    """Versions of Python, the platform, CloseUpShot and the packages that results depend on."""
    found = {"closeupshot": cus.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
