"""splats."""
