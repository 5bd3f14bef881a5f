"""Cameras, trajectories, and the files that hold them. Imports only third-party code and `cus.errors`."""

from cus.cameras import trajectories
from cus.cameras.cameras import Cameras
from cus.cameras.lenses import Lens
from cus.cameras.photos import Photo, PhotoSet, read_photos
from cus.cameras.posed import PosedPhotos
from cus.cameras.transforms_json import load_transforms, save_transforms

__all__ = [
    "Cameras",
    "Lens",
    "Photo",
    "PhotoSet",
    "PosedPhotos",
    "load_transforms",
    "read_photos",
    "save_transforms",
    "trajectories",
]
