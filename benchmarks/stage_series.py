"""The sizes and implementations for which each stage is measured, and how its cost may grow."""

import importlib.util
from dataclasses import dataclass, replace

from benchmarks.stage_works import Size
from cus.inference.settings import InferSettings
from cus.splats.rasterization import gsplat_available

# Reader-visible names of the implementations.
METHODS = {
    "cpu": "CPU kernels",
    "torch": "plain torch",
    "gsplat": "gsplat",
    "pytorch3d": "PyTorch3D",
    "given": "cameras given",
    "estimated": "cameras estimated",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "float32": "float32",
}


@dataclass(frozen=True)
class Series:
    """Sizes that differ in one dimension.

    Attributes:
        grows: Name of the dimension: a key of `AMOUNTS`.
        sizes: Sizes in ascending order.
        expected: Largest exponent of time that the method itself requires.
        why: Reason if the exponent is not 1.
    """

    grows: str
    sizes: tuple[Size, ...]
    expected: float = 1.0
    why: str = ""


@dataclass(frozen=True)
class Stage:
    """A stage between photographs and a Gaussian scene.

    Attributes:
        label: Heading of the stage.
        about: Description of the measurement.
        methods: Implementations that run here; the project's default first.
        baseline: Implementation that the others are compared with, or None.
        series: Series of sizes, one per dimension of its cost.
        smallest: Minimum width in pixels for this stage.
    """

    label: str
    about: str
    methods: tuple[str, ...]
    baseline: str | None
    series: tuple[Series, ...]
    smallest: int = 64


AMOUNTS = {
    "pixels": lambda size: size.width * size.height,
    "reference pixels": lambda size: size.width * size.height,
    "target pixels": lambda size: size.target_size[0] * size.target_size[1],
    "views": lambda size: size.views,
    "images": lambda size: size.views,
    "targets": lambda size: size.frames,
    "frames": lambda size: size.frames,
    "Gaussians": lambda size: size.count,
    "points": lambda size: size.count,
}


def stages(device: str) -> dict[str, Stage]:
    """All stages, with the implementations that run on a device."""
    dtype = str(InferSettings((), device=device).torch_dtype()).removeprefix("torch.")
    return _geometry(device) | _networks(tuple(dict.fromkeys((dtype, "float32")))) | _splats(device)


def absent(device: str) -> list[str]:
    """One line for each baseline that does not run here, with the reason."""
    lines = []
    if device == "cpu":
        lines.append("gsplat needs a CUDA device: not measured here.")
    elif not gsplat_available():
        lines.append("gsplat is not installed (`pip install 'closeupshot[gpu]'`): not measured here.")
    if not _has_pytorch3d():
        lines.append("PyTorch3D is not installed: its point rasterizer was not measured here.")
    return lines


def quick(stage: Stage) -> Stage:
    """The stage at two small sizes per series, to check that it runs."""

    def small(size: Size) -> Size:
        target = None if size.target_width is None else size.target_width // 2
        width = size.width // 2 if size.width // 2 >= stage.smallest else size.width
        return replace(size, width=width, target_width=target, count=size.count // 10)

    return replace(stage, series=tuple(replace(one, sizes=tuple(map(small, one.sizes[:2]))) for one in stage.series))


def _widths(base: Size, *widths: int) -> tuple[Size, ...]:
    return tuple(replace(base, width=width) for width in widths)


def _views(base: Size, *views: int) -> tuple[Size, ...]:
    return tuple(replace(base, views=count) for count in views)


def _frames(base: Size, *frames: int) -> tuple[Size, ...]:
    return tuple(replace(base, frames=count) for count in frames)


def _counts(base: Size, *counts: int) -> tuple[Size, ...]:
    return tuple(replace(base, count=count) for count in counts)


def _geometry(device: str) -> dict[str, Stage]:
    warps = ("cpu", "torch") if device == "cpu" else ("torch",)
    references, targets = Size(target_width=512), Size(frames=4)
    zooms = tuple(replace(targets, target_width=width) for width in (256, 512, 768, 1024))
    renders = ("torch", "pytorch3d") if _has_pytorch3d() else ("torch",)
    planes = "planes lie a pixel apart, so their number grows with the width until 192"
    compared = (
        "each view is compared with up to 4 others: quadratic up to 5 views, linear beyond; where cameras are "
        "estimated, features are matched between all pairs of up to 8 views, of more between each and up to 7 others"
    )
    return {
        "estimator": Stage(
            "Estimator",
            "Depth and confidence of all views by `stereo`; of two, unless views are what grows (then at 192x108).",
            ("given", "estimated"),
            None,
            (
                Series("pixels", _widths(Size(), 256, 384, 512, 640), 1.5, planes),
                Series("views", _views(Size(width=192), 2, 3, 5, 8, 16), 2.0, compared),
            ),
            smallest=256,
        ),
        "conditioning": Stage(
            "Conditioning",
            "Hierarchical warp with suppression along a zoom x1 to x4; 4 targets from 2 references, all of 512x288, "
            "except for what grows (views: 384x216).",
            warps,
            "torch",
            (
                Series("targets", _frames(Size(), 2, 4, 8, 16)),
                Series("reference pixels", _widths(references, 256, 512, 768, 1024)),
                Series("target pixels", zooms),
                Series("views", _views(Size(width=384), 2, 4, 8)),
            ),
        ),
        "fusion": Stage(
            "Fusion into the cloud",
            "Consistency check (Eq. 6) of views with exact depth: 6, or of 192x108 where views are what grows.",
            ("torch",),
            None,
            (
                Series("pixels", _widths(Size(views=6), 128, 256, 384, 512)),
                Series(
                    "views", _views(Size(width=192), 4, 8, 16, 24), 2.0, "every view is checked against every other"
                ),
            ),
        ),
        "points": Stage(
            "Point render",
            "The cloud seen from 4 targets (structure guidance), 512x288 and 200,000 points except for what grows. "
            "PyTorch3D renders one scale, without filling gaps.",
            renders,
            "pytorch3d" if _has_pytorch3d() else None,
            (
                Series("points", _counts(Size(), 50_000, 100_000, 200_000, 400_000)),
                Series("pixels", _widths(Size(count=200_000), 256, 512, 768, 1024)),
            ),
        ),
    }


def _networks(precisions: tuple[str, ...]) -> dict[str, Stage]:
    base = Size(width=384, frames=4)
    attention = "attention over space compares all places of a frame: up to quadratic at its coarse level"
    over_time = "attention over time compares all frames at a place; linear as long as it is a small share"
    chunks = Series("frames", _frames(base, 4, 8, 16))
    pixels = Series("pixels", _widths(base, 192, 384, 768))
    compared = "float32" if len(precisions) > 1 else None
    return {
        "unet": Stage(
            "U-Net step",
            "One call of the denoiser, without guidance: 4 frames; of 192x108 where frames are what grows.",
            precisions,
            compared,
            (
                Series("frames", _frames(replace(base, width=192), 4, 8, 16, 32), 1.0, over_time),
                Series("pixels", _widths(base, 192, 288, 384, 576), 2.0, attention),
            ),
        ),
        "encode": Stage(
            "Autoencoder, encoding",
            "Frames to latents, 4 at a time: 4 of 384x216 except for what grows.",
            precisions,
            compared,
            (chunks, pixels),
        ),
        "decode": Stage(
            "Autoencoder, decoding",
            "Latents to frames, 4 at a time: 4 of 384x216 except for what grows.",
            precisions,
            compared,
            (chunks, pixels),
        ),
    }


def _splats(device: str) -> dict[str, Stage]:
    if device == "cpu":
        backends = ("cpu", "torch")
    else:
        backends = ("gsplat", "torch") if gsplat_available() else ("torch",)
    fitted, seen = Size(width=384, views=4), Size(count=100_000)
    one = "an iteration looks at one image, whatever their number"
    return {
        "fit": Stage(
            "Gaussian fit, one iteration",
            "Render, loss, gradient and step; 4 images of 384x216 and 50,000 Gaussians except for what grows.",
            backends,
            "torch",
            (
                Series("Gaussians", _counts(fitted, 12_500, 25_000, 50_000, 100_000)),
                Series("pixels", _widths(fitted, 192, 384, 768)),
                Series("images", _views(fitted, 4, 8, 24), 0.0, one),
            ),
        ),
        "render": Stage(
            "Render of a frame",
            "512x288 and 100,000 Gaussians except for what grows; about fifty count at a pixel, whatever their number.",
            backends,
            "torch",
            (
                Series("Gaussians", _counts(seen, 25_000, 50_000, 100_000, 200_000)),
                Series("pixels", _widths(seen, 256, 512, 768, 1024)),
            ),
        ),
    }


def _has_pytorch3d() -> bool:
    return importlib.util.find_spec("pytorch3d") is not None
