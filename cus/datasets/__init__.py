"""Posed scenes in every layout, and training clips: made, stored and read."""
