"""A stand-in with the interface of VGGT, whose answers are the truth of the planes' scene."""
