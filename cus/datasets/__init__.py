"""Posed scenes in every layout, and training clips: building, storing and reading them."""
