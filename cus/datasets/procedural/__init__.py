"""Procedural scenes: textured solids with detail at every octave, ray traced with exact depth and known cameras."""

from cus.datasets.procedural.layouts import random_scene
from cus.datasets.procedural.render import develop, render
from cus.datasets.procedural.scene import Light, Scene, Sky, Solid
from cus.datasets.procedural.views import keep_clear, look_at, sample_reference_cameras

__all__ = [
    "Light",
    "Scene",
    "Sky",
    "Solid",
    "develop",
    "keep_clear",
    "look_at",
    "random_scene",
    "render",
    "sample_reference_cameras",
]
