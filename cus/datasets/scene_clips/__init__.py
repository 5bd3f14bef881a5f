"""Clips of posed photographs: pseudo and photographic ground truth, filters, and conditioning with real errors."""
