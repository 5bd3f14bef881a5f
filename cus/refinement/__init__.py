"""Improves a Gaussian scene for closer views: pseudo-labels of close-up views."""
