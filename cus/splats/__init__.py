"""3D Gaussians: data, rasterization, the confidence-weighted fit, PLY files."""

from cus.splats.files import load_splats, read_splats, save_splats
from cus.splats.fit import FitRecord, FitResult, FitStatus, fit_gaussians, fit_views
from cus.splats.fit_config import FitConfig
from cus.splats.fit_views import Views
from cus.splats.gaussians import Gaussians
from cus.splats.initialise import downsample_points
from cus.splats.losses import image_confidence, ssim
from cus.splats.ply import save_ply, save_point_cloud
from cus.splats.rasterization import rasterization, render

__all__ = [
    "FitConfig",
    "FitRecord",
    "FitResult",
    "FitStatus",
    "Gaussians",
    "Views",
    "downsample_points",
    "fit_gaussians",
    "fit_views",
    "image_confidence",
    "load_splats",
    "rasterization",
    "read_splats",
    "render",
    "save_ply",
    "save_point_cloud",
    "save_splats",
    "ssim",
]
