"""A stand-in with the interface of DUSt3R, whose point maps are the truth of the planes' scene."""
