"""Held-out clips, and scores of a model's frames for them."""

from dataclasses import replace

from torch import Tensor

from cus.datasets.clips import Clip, clip_paths, load_clip
from cus.datasets.structures import read_structure, require_structures
from cus.errors import InputError
from cus.models.gradient_similarity import deviation, gmsd_map
from cus.models.perceptual import SMALLEST, PerceptualDistance
from cus.remote import local_folder
from cus.splats.losses import ssim
from cus.training.pictures import box_blurred, psnr


def held_out_clips(folder: str, most: int, conditioning: str = "", structures: str = "") -> list[Clip]:
    """The first clips of a folder; an empty list without a folder.

    Args:
        folder: folder of clips; "" for none.
        most: maximum number of clips.
        conditioning: kind of their conditioning images; "" for the default ones.
        structures: folder of structure images (data/make_coarse.py) that replace the clips' own; "" keeps these.

    Raises:
        InputError: no clips in the folder, none with such a warp, or no structure images.
    """
    if not folder:
        return []
    if structures:
        require_structures(local_folder(structures))
    clips = []
    for path in clip_paths(local_folder(folder))[:most]:
        clip = load_clip(path).conditioned_on(conditioning)
        clips.append(
            replace(clip, structure=read_structure(local_folder(structures), path.name)) if structures else clip
        )
    return clips


def judge() -> PerceptualDistance | None:
    """The perceptual distance for held-out frames; None if its weights are not installed."""
    try:
        return PerceptualDistance.load("alex")
    except InputError:
        return None


def clip_scores(clip: Clip, frames: Tensor, distance: PerceptualDistance | None = None) -> dict[str, float]:
    """Scores of generated frames and of the conditioning: PSNR in dB, also of its best box blur, SSIM and GMSD.

    A given `distance` is included if the pictures are large enough for it.
    """
    blurred = max(psnr(box_blurred(clip.conditioning, radius), clip.targets) for radius in (1, 2, 3))
    scores = {
        "psnr": psnr(frames, clip.targets),
        "psnr_conditioning": psnr(clip.conditioning, clip.targets),
        "psnr_blurred": blurred,
        "ssim": float(ssim(frames, clip.targets).mean()),
        "ssim_conditioning": float(ssim(clip.conditioning, clip.targets).mean()),
        "gmsd": _gmsd(frames, clip.targets),
        "gmsd_conditioning": _gmsd(clip.conditioning, clip.targets),
    }
    if distance is not None and min(clip.targets.shape[-2:]) >= SMALLEST:
        scores["st_lpips"] = float(distance(frames, clip.targets).mean())
        scores["st_lpips_conditioning"] = float(distance(clip.conditioning, clip.targets).mean())
    return scores


def _gmsd(images: Tensor, targets: Tensor) -> float:
    """Mean over the pictures [T, 3, H, W]; in double precision, as cus-eval computes it."""
    pairs = zip(images.double().clamp(0, 1), targets.double(), strict=True)
    return sum(float(deviation(gmsd_map(*pair))) for pair in pairs) / len(images)


def guided_scores(clip: Clip, frames: Tensor, distance: PerceptualDistance | None) -> dict[str, float]:
    """Scores of the second pass's frames, for comparison with the first pass."""
    scores = clip_scores(clip, frames, distance)
    return {f"{name}_guided": scores[name] for name in ("psnr", "ssim", "gmsd", "st_lpips") if name in scores}
