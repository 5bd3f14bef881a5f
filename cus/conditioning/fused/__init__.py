"""Fused conditioning: every photograph sampled backwards through one depth map of the target."""
