"""User-visible names of a run's stages."""

STAGES = {
    "scene": "Cameras and depth",
    "conditioning": "Conditioning images",
    "coarse": "Frames, first pass",
    "structure": "Global structure",
    "frames": "Frames, final pass",
    "cloud": "Point cloud",
    "splat": "Gaussian scene",
    "enlarged": "Super-resolution",
    "report": "Report",
}
