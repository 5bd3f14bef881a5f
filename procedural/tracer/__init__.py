"""Procedural scenes: textured solids with detail at every octave, ray traced with exact depth and known cameras."""

from procedural.tracer.layouts import random_scene
from procedural.tracer.render import develop, render
from procedural.tracer.scene import Light, Scene, Sky, Solid
from procedural.tracer.views import keep_clear, look_at, sample_reference_cameras

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
