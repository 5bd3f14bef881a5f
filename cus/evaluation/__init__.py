"""Evaluation: metrics, the close-up benchmark and its tables."""
