"""What the clips of posed scenes look like: every number of it in one place."""

from dataclasses import dataclass, field

from cus.datasets.other_warps import OTHER_WARPS
from cus.limits import limited


@dataclass
class TruthRecipe:
    """How a scene of Gaussians is fitted to all photographs of a scene, to render close-ups from (Fig. 7).

    Attributes:
        size: longest side in pixels at which whole photographs are shown to the fit.
        full_size: longest side in pixels at which crops of them are: the paper takes four times 960x540. Smaller
            photographs are shown as they are.
        crops: of each photograph, a round of whole ones.
        iterations: steps of one picture each.
        max_gaussians: there are never more.
        sh_degree: of the colours, 0 to 3.
        exposure: learn a colour transform a photograph.
        cloud_views: photographs, spread evenly, whose estimated depths make the cloud that the fit starts from.
        cloud_size: their longest side in pixels.
        estimator: of these depths.
        hold_out: one photograph in so many is kept from the fit and scores it.
    """

    size: int = limited(960, low=32, high=8192)
    full_size: int = limited(3840, low=32, high=16384)
    crops: int = limited(2, low=0, high=100)
    iterations: int = limited(30_000, low=1)
    max_gaussians: int = limited(3_000_000, low=4)
    sh_degree: int = limited(3, low=0, high=3)
    exposure: bool = False
    cloud_views: int = limited(32, low=2)
    cloud_size: int = limited(640, low=32, high=8192)
    estimator: str = "stereo"
    hold_out: int = limited(16, low=3)


@dataclass
class Filters:
    """What a clip must be like to be kept. Every value is in the manifest, kept or not.

    Attributes:
        most_epipolar_error: of the scene's cameras, in pixels of photographs shrunk to 640; see `SceneCheck`.
        least_held_out_psnr: dB of the fit at photographs that it did not see, their mean. Below, the scene has
            photographic clips only.
        least_opacity: mean opacity of the emptiest frame of pseudo ground truth: the rest is background. Of
            photographs, the share of pixels that lens and mask leave.
        least_sharpness: mean gradient of the targets, over that of the conditioning, where both are known: a truth that
            is blurrier than what is warped teaches blur.
        least_distance: of the nearest hundredth of a frame's surface from its camera, in scene scales.
        most_inside: share of the frames whose camera stands behind a surface in all references that look there.
        least_coverage: share of the frames that the references show.
        least_agreement: dB between targets and conditioning where both are known: below, the references' depths are
            wrong altogether.
    """

    most_epipolar_error: float = limited(1.5, above=0)
    least_held_out_psnr: float = limited(22.0, low=0)
    least_opacity: float = limited(0.97, low=0, high=1)
    least_sharpness: float = limited(0.8, low=0)
    least_distance: float = limited(0.03, low=0)
    most_inside: float = limited(0.0, low=0, high=1)
    least_coverage: float = limited(0.6, low=0, high=1)
    least_agreement: float = limited(14.0, low=0)


@dataclass
class SceneRecipe:
    """Which clips a scene gives.

    Attributes:
        frames: length of a clip.
        width: of its frames and references, in pixels.
        height: likewise; photographs of another aspect are cut at their middle.
        segment: photographs from a segment's first reference to its last one, both included. A shorter scene is one
            segment.
        segments: most segments of a scene, spread evenly.
        pseudo: clips a segment with renders of a fit as ground truth; 0 leaves the fit out.
        photographic: clips a segment with photographs between the references as ground truth, at full resolution.
        close_up_share: of the pseudo clips; the others show regular views.
        nearer_share: of the close-ups that walk in; the others lengthen the lens.
        zoom: range of focal length factors.
        nearer: range of the share of the depth that is walked.
        photograph_scales: how many times as large as the frames the photographs of a segment are that the fused warp
            samples; each segment draws one of these, and takes the largest that its photographs have the pixels for.
        checked_pairs: pairs of photographs whose matches are held against the cameras, at most.
        estimator: of the references' depths; their cameras are the given ones.
        others: further warps that the clips hold beside the fused one, see `OTHER_WARPS`.
        truth: of pseudo ground truth.
        filters: of clips.
    """

    frames: int = limited(25, low=1, high=1000)
    width: int = limited(1024, low=32, high=8192)
    height: int = limited(576, low=32, high=8192)
    segment: int = limited(27, low=3)
    segments: int = limited(2, low=1)
    pseudo: int = limited(1, low=0)
    photographic: int = limited(1, low=0)
    close_up_share: float = limited(0.75, low=0, high=1)
    nearer_share: float = limited(0.3, low=0, high=1)
    zoom: tuple[float, float] = limited((4.0, 5.0), low=1, high=64)
    nearer: tuple[float, float] = limited((0.5, 0.6), low=0, high=0.95)
    photograph_scales: list[int] = limited(default_factory=lambda: [1, 1, 2, 4], low=1, high=16)
    checked_pairs: int = limited(40, low=1)
    estimator: str = "auto"
    others: list[str] = limited(default_factory=list, choices=tuple(OTHER_WARPS))
    truth: TruthRecipe = field(default_factory=TruthRecipe)
    filters: Filters = field(default_factory=Filters)
