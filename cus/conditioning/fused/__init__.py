"""Fused conditioning: every photograph sampled backwards through one depth of the target."""
