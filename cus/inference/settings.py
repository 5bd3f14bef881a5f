"""What a run of `cus-infer` is asked to do."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from cus.cameras import trajectories
from cus.cameras.path_files import read_camera_path
from cus.conditioning.kinds import KINDS
from cus.diffusion.sampling import Memory
from cus.errors import InputError, shown
from cus.models.attention import AttentionBackend
from cus.models.xformers_attention import check_installed

Trajectory = Literal["zoom", "dolly", "interpolate", "orbit"]
DEFAULT_ZOOM = {"zoom": 4.0, "dolly": 2.2, "interpolate": 1.0, "orbit": 1.0}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class InferSettings:
    """One run, from photographs to a Gaussian scene.

    Attributes:
        views: the photographs, two or more; the path starts at the first. A folder, a pattern or a video stands for
            its sharpest pictures (`choose_views`).
        max_views: how many photographs at most; None: 8 of folders, patterns and videos, all files that are named.
        out: the folder that the run fills.
        model: "mini", a folder written by `save_pretrained`, or a Hub id, "org/name" or "org/name@revision".
        variant: of its weights, such as "fp16"; None takes the standard ones.
        trajectory: zoom, dolly, interpolate, orbit, or the path of a file with cameras (`read_camera_path`).
        zoom: magnification at the end of the path; None takes the trajectory's own default.
        target: (u, v), the point closed in on, in fractions of the first photograph; None is its middle.
        frames: number of frames; None takes the model's, or as many as a file with cameras has.
        size: longest side of the frames in pixels; None takes the model's.
        photo_size: longest side in pixels at which the photographs are used as sources.
        cameras: a file or folder with known cameras of the views, in a layout of `cus.datasets.scenes`, or None to
            estimate them.
        focal_35mm: focal length of the photographs as 35 mm equivalent in mm, over EXIF's; or None.
        fov: horizontal field of view of the photographs in degrees, over EXIF's; or None.
        estimator: "auto", or an estimator with or without its weights, see `estimate_scene`.
        all_views: refuse photographs of which one cannot be placed, instead of leaving it out with a note.
        conditioning: what conditioning images the network is shown, "hierarchical" (Section III-B), "points"
            (ViewCrafter's own point renders) or "fused" (every photograph at its own resolution); "auto": those that
            the model does best with.
        suppress_background: whether leaked background is removed from hierarchical conditioning (Section III-C).
        structure: whether a second pass is guided by the global point cloud (Section III-D); None takes the model's.
        steps: sampling steps; None takes the model's.
        guidance: classifier-free guidance scale; None takes the model's.
        seed: of every random draw.
        device: a torch device, or "auto".
        dtype: "auto", "float32", "bfloat16" or "float16": the precision of the network.
        memory: "auto" (the fastest that fits), "low" or "high": how the network trades memory for speed.
        compile: whether `torch.compile` works on the U-Net first.
        attention: "sdpa" (PyTorch's own) or "xformers".
        conditioning_only: stop after the conditioning images.
        splat: whether the Gaussian scene is fitted.
        splat_iterations: optimisation steps of the fit; None takes the backend's default.
        fps: frames per second of the videos.
        force: take what was made although the geometry was not found; the report notes it.
    """

    views: tuple[Path, ...]
    out: Path = Path("out")
    max_views: int | None = None
    model: str = "mini"
    variant: str | None = None
    trajectory: str = "zoom"
    zoom: float | None = None
    target: tuple[float, float] | None = None
    frames: int | None = None
    size: int | None = None
    photo_size: int = 1024
    cameras: Path | None = None
    focal_35mm: float | None = None
    fov: float | None = None
    estimator: str = "auto"
    all_views: bool = False
    conditioning: str = "auto"
    suppress_background: bool = True
    structure: bool | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    memory: Memory = "auto"
    compile: bool = False
    attention: AttentionBackend = "sdpa"
    conditioning_only: bool = False
    splat: bool = True
    splat_iterations: int | None = None
    fps: int = 8
    force: bool = False

    def check_numbers(self) -> None:
        """Hold the numbers to their ranges. Raises InputError, which names the option."""
        in_range("--frames", self.frames, 1, 1000)
        in_range("--max-views", self.max_views, 2, 1000)
        in_range("--size", self.size, 64, 4096)
        in_range("--photo-size", self.photo_size, 128, 8192)
        in_range("--steps", self.steps, 1, 1000)
        in_range("--guidance", self.guidance, 0, 100)
        in_range("--focal-35mm", self.focal_35mm, 4, 2000)
        in_range("--fov", self.fov, 1, 170)
        in_range("--splat-iterations", self.splat_iterations, 1, 1_000_000)
        in_range("--fps", self.fps, 1, 120)
        in_range("--seed", self.seed, 0, 2**63 - 1)

    def check(self) -> None:
        """Refuse what cannot be done, before anything slow starts. Raises InputError."""
        if self.trajectory not in get_args(Trajectory) and not Path(self.trajectory).is_file():
            known = ", ".join(get_args(Trajectory))
            raise InputError(f"no such trajectory: {self.trajectory!r}; expected {known}, or the path of a JSON file")
        if self.trajectory not in get_args(Trajectory):
            if self.zoom is not None or self.target is not None:
                raise InputError(
                    f"--zoom and --target are for paths that are made here; {self.trajectory} says where every camera "
                    "stands: leave them out"
                )
            # Read again at the size of the frames, when that is known; what cannot be read is refused now.
            read_camera_path(self.trajectory, 64, 64, self.frames)
        trajectories.check_arguments(self.end_zoom(), self.target, 1 if self.frames is None else self.frames)
        self.check_numbers()
        if self.focal_35mm is not None and self.fov is not None:
            raise InputError("give --focal-35mm or --fov, not both")
        if self.cameras is not None and not self.cameras.exists():
            raise InputError(f"no such cameras file: {self.cameras}")
        if self.conditioning not in ("auto", *KINDS):
            known = ", ".join(KINDS)
            raise InputError(f"--conditioning must be one of auto, {known}, got {self.conditioning!r}")
        self.torch_device()
        if self.dtype not in ("auto", *DTYPES):
            raise InputError(f"unknown dtype {self.dtype!r}; expected auto, {', '.join(DTYPES)}")
        for option, value, known in (
            ("--memory", self.memory, get_args(Memory)),
            ("--attention", self.attention, get_args(AttentionBackend)),
        ):
            if value not in known:
                raise InputError(f"{option} must be one of {', '.join(known)}, got {value!r}")
        if self.attention == "xformers":
            check_installed()
            if self.torch_device().type != "cuda":
                raise InputError("xformers computes on CUDA devices only: leave --attention at sdpa, or name a GPU")

    def torch_device(self) -> torch.device:
        """The device to run on. Raises InputError where it does not exist."""
        return torch_device(self.device)

    def torch_dtype(self) -> torch.dtype:
        """The network's precision."""
        return torch_dtype(self.dtype, self.torch_device())

    def end_zoom(self) -> float:
        """The magnification at the end of the path."""
        return self.zoom if self.zoom is not None else DEFAULT_ZOOM.get(self.trajectory, 1.0)


def torch_device(name: str) -> torch.device:
    """The device of a name, "auto" for the best there is. Raises InputError where it does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used here ({reason}); try --device cpu") from error
    return device


def torch_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision of a name; "auto" is bfloat16 where the device computes in it natively, else what it does well."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def in_range(option: str, value: float | None, low: float, high: float) -> None:
    """Refuse the value of an option that lies outside. Raises InputError."""
    if value is not None and not low <= value <= high:
        said = f"{value:g}" if abs(value) < 1e300 else shown(value)  # of an integer there may be no float
        raise InputError(f"{option} must be {low:g} to {high:g}, got {said}")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, or of every file below a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.name))
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def fingerprint(parts: Iterable[Any]) -> str:
    """A short digest of JSON-like values: equal inputs of a stage have equal fingerprints."""
    return hashlib.sha256(json.dumps(list(parts), default=str).encode()).hexdigest()[:16]
