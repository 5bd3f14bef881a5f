"""Holes of pictures: filled smoothly from their surroundings, or continued with their texture."""
