"""CloseUpShot: close-up novel views and a 3D Gaussian scene from a few photographs (arXiv 2511.13121)."""

__version__ = "0.1.0"
