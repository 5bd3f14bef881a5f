"""Settings of a `cus-infer` run."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from cus.choices import AttentionBackend, Memory, Precision
from cus.errors import InputError
from cus.limits import check_options, limited
from cus.options import Flag, fractions, option, parsed

if TYPE_CHECKING:
    import torch

Trajectory = Literal["zoom", "dolly", "interpolate", "orbit"]
DEFAULT_ZOOM = {"zoom": 4.0, "dolly": 2.2, "interpolate": 1.0, "orbit": 1.0}


@dataclass(frozen=True)
class PhotoSettings:
    """The photographs, and the estimator of their cameras and depth.

    Attributes:
        views: photographs; the path starts at the first, and one is enough for networks that estimate depth from one. A
            folder, a quoted pattern like 'shots/*.jpg' or a video stands for its sharpest pictures, spread over names
            or time; frames of videos are saved in FOLDER/photos
        max_views: maximum number of photographs (default: 8 for folders, patterns and videos, else all named files)
        cameras: known cameras of the views: a transforms.json, a COLMAP model, or the folder of a scene; their world
            and scale are kept (default: estimate them)
        focal_35mm: focal length as 35 mm equivalent, in mm (default: EXIF, else a guess that the report names)
        fov: horizontal field of view of the photographs, in degrees, instead of --focal-35mm
        photo_size: longest side at which the photographs are used, in pixels
        estimator: what estimates cameras and depth: stereo, da3 (Depth Anything 3), vggt, dust3r, map-anything, or
            auto: vggt where it is installed and its weights are on this machine, else da3 where its weights are, else
            stereo; da3:base is larger than da3; vggt:WEIGHTS or da3:WEIGHTS names other weights, a Hub id such as
            facebook/VGGT-1B-Commercial, a folder or a file. For one photograph: da3, depth-pro, depth-anything-2,
            mono (small and rough), or auto: the first of these whose weights are here
        all_views: refuse photographs if one cannot be placed; otherwise such a photograph is left out with a note, as
            long as two remain
    """

    views: Annotated[tuple[Path, ...], option("PHOTO [PHOTO ...]")]
    max_views: Annotated[int | None, option("N")] = limited(None, low=1, high=1000)
    cameras: Annotated[Path | None, option("FILE")] = None
    focal_35mm: Annotated[float | None, option("MM")] = limited(None, low=4, high=2000)
    fov: Annotated[float | None, option("DEGREES")] = limited(None, low=1, high=170)
    photo_size: Annotated[int, option("PIXELS")] = limited(1024, low=128, high=8192)
    estimator: Annotated[str, option("NAME")] = "auto"
    all_views: Flag = False


@dataclass(frozen=True)
class PathSettings:
    """The camera path.

    Attributes:
        trajectory: zoom, dolly, interpolate, orbit, or a JSON file with cameras (transforms.json or a nerfstudio camera
            path)
        zoom: magnification at the end of the path (default: zoom 4, dolly 2.2, interpolate and orbit 1)
        target: point to approach, in fractions of the first photograph's width and height; 0,0 is its top-left
            corner (default: 0.5,0.5)
        frames: number of frames (default: the model's, 16 for mini; for a file: all)
    """

    trajectory: Annotated[str, option("PATH")] = "zoom"
    zoom: Annotated[float | None, option("FACTOR")] = None
    target: Annotated[tuple[float, float] | None, parsed("U,V", fractions), option()] = None
    frames: Annotated[int | None, option("N")] = limited(None, low=1, high=1000)


@dataclass(frozen=True)
class ModelSettings:
    """The model and its computation.

    Attributes:
        model: mini (ships with the package), a checkpoint folder, or a Hub id: org/name, org/name@revision
        lora: a LoRA for the model: the folder of one exported by train/unet.py, its file, or a Hub id: org/name,
            org/name@revision
        variant: weights of the checkpoint in another precision, such as fp16 (default: the standard ones)
        size: longest side of the frames, in pixels (default: the model's, 512 for mini)
        steps: sampling steps per pass (default: the model's)
        guidance: classifier-free guidance scale; 1 turns it off and is twice as fast (default: the model's)
        structure: a second pass, guided by the global point cloud of the first, Section III-D (default: the model's,
            off for mini)
        conditioning: conditioning images: hierarchical (Section III-B), points (ViewCrafter's own renders), fused
            (from every photograph at full resolution), or auto: the model's best
        suppress_background: remove background points that leak through sparse foregrounds of hierarchical
            conditioning, Section III-C
        seed: seed of every random draw
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision of the network; auto is bfloat16 if the device supports it natively
        memory: how the network uses memory: auto (the fastest plan that fits), low (one frame and one branch of the
            guidance at a time, unused networks in main memory) or high (all at once); the need is checked before
            anything starts
        compile: compile the U-Net with torch.compile: worthwhile for many steps
        attention: sdpa (PyTorch's own) or xformers, if installed
    """

    model: Annotated[str, option("MODEL")] = "mini"
    lora: Annotated[str | None, option("LORA")] = None
    variant: Annotated[str | None, option("NAME")] = None
    size: Annotated[int | None, option("PIXELS")] = limited(None, low=64, high=4096)
    steps: Annotated[int | None, option("N")] = limited(None, low=1, high=1000)
    guidance: Annotated[float | None, option("SCALE")] = limited(None, low=0, high=100)
    structure: Annotated[bool | None, option()] = None
    conditioning: Annotated[str, option("KIND")] = "auto"
    suppress_background: Annotated[bool, option(name="suppression")] = True
    seed: Annotated[int, option("N")] = limited(0, low=0, high=2**63 - 1)
    device: Annotated[str, option("DEVICE")] = "auto"
    dtype: Annotated[Precision, option()] = "auto"
    memory: Annotated[Memory, option()] = "auto"
    compile: Flag = False
    attention: Annotated[AttentionBackend, option()] = "sdpa"


@dataclass(frozen=True)
class OutputSettings:
    """The outputs and their folder.

    Attributes:
        out: output folder of the run
        conditioning_only: stop after depth and conditioning images
        splat: fit a Gaussian scene, which takes most of the time on a CPU; cus-fit FOLDER can add it later
        splat_iterations: optimisation steps of the Gaussian scene (default: by backend)
        fps: frames per second of the videos
        force: exit with status 0 even if the geometry was not found, instead of 3 and a warning; the report notes it
    """

    out: Annotated[Path, option("FOLDER")] = Path("out")
    conditioning_only: Flag = False
    splat: Annotated[bool, option()] = True
    splat_iterations: Annotated[int | None, option("N")] = limited(None, low=1, high=1_000_000)
    fps: Annotated[int, option("N")] = limited(8, low=1, high=120)
    force: Flag = False


@dataclass(frozen=True)
class InferSettings(OutputSettings, ModelSettings, PathSettings, PhotoSettings):
    """One run, from photographs to a Gaussian scene."""

    def check(self) -> None:
        """Refuse invalid settings before anything slow starts. Raises InputError."""
        from cus.cameras import trajectories
        from cus.cameras.path_files import read_camera_path
        from cus.conditioning.kinds import KINDS
        from cus.models.xformers_attention import check_installed

        if self.trajectory not in get_args(Trajectory) and not Path(self.trajectory).is_file():
            known = ", ".join(get_args(Trajectory))
            raise InputError(f"no such trajectory: {self.trajectory!r}; expected {known}, or the path of a JSON file")
        if self.trajectory not in get_args(Trajectory):
            if self.zoom is not None or self.target is not None:
                raise InputError(
                    f"--zoom and --target are for paths that are made here; {self.trajectory} says where every camera "
                    "stands: leave them out"
                )
            # It is read again once the frame size is known; an unreadable file is refused now.
            read_camera_path(self.trajectory, 64, 64, self.frames)
        trajectories.check_arguments(self.end_zoom(), self.target, 1 if self.frames is None else self.frames)
        check_options(self)
        if self.focal_35mm is not None and self.fov is not None:
            raise InputError("give --focal-35mm or --fov, not both")
        if self.cameras is not None and not self.cameras.exists():
            raise InputError(f"no such cameras file: {self.cameras}")
        if self.conditioning not in ("auto", *KINDS):
            known = ", ".join(KINDS)
            raise InputError(f"--conditioning must be one of auto, {known}, got {self.conditioning!r}")
        self.torch_device()
        for name, value, known in (
            ("--dtype", self.dtype, get_args(Precision)),
            ("--memory", self.memory, get_args(Memory)),
            ("--attention", self.attention, get_args(AttentionBackend)),
        ):
            if value not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if self.attention == "xformers":
            check_installed()
            if self.torch_device().type != "cuda":
                raise InputError("xformers computes on CUDA devices only: leave --attention at sdpa, or name a GPU")

    def torch_device(self) -> "torch.device":
        """The device to run on. Raises InputError if it does not exist."""
        return torch_device(self.device)

    def torch_dtype(self) -> "torch.dtype":
        """The network's precision."""
        return torch_dtype(self.dtype, self.torch_device())

    def end_zoom(self) -> float:
        """The magnification at the end of the path."""
        return self.zoom if self.zoom is not None else DEFAULT_ZOOM.get(self.trajectory, 1.0)


def torch_device(name: str) -> "torch.device":
    """The device with this name, "auto" for the best available. Raises InputError if it does not exist."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used here ({reason}); try --device cpu") from error
    return device


def torch_dtype(name: str, device: "torch.device") -> "torch.dtype":
    """The precision with this name; "auto" is bfloat16 if the device computes in it natively, else a suitable one."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


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
