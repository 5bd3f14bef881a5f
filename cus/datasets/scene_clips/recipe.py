"""All settings of the clips of posed scenes."""

from dataclasses import dataclass, field

from cus.datasets.other_warps import OTHER_WARPS
from cus.limits import limited


@dataclass
class TruthRecipe:
    """How to fit Gaussians to all photographs of a scene, to render close-ups as ground truth (Fig. 7).

    Attributes:
        size: longest side in pixels of whole photographs in the fit.
        full_size: longest side in pixels of the photographs that crops are taken from: the paper uses four times
            960x540. Smaller photographs keep their size.
        crops: number of crops of each photograph per round of whole ones.
        iterations: number of steps of one picture each.
        max_gaussians: maximum number of Gaussians.
        sh_degree: degree of the colours' harmonics, 0 to 3.
        exposure: whether to learn a colour transform per photograph.
        cloud_views: number of photographs, evenly spaced, whose estimated depths give the fit's starting cloud.
        cloud_size: longest side of these in pixels.
        estimator: estimator of these depths.
        hold_out: one photograph in this many is held out of the fit to score it.
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
    """Criteria for keeping a clip. All values are in the manifest, whether the clip is kept or not.

    Attributes:
        most_epipolar_error: maximum error of the scene's cameras, in pixels of photographs shrunk to 640
            (`SceneCheck`).
        least_held_out_psnr: minimum mean PSNR of the fit at held-out photographs, in dB. Below it, the scene only has
            photographic clips.
        least_opacity: minimum mean opacity of the emptiest frame of pseudo ground truth: the rest is background. For
            photographs, the minimum fraction of pixels that lens and mask leave.
        least_sharpness: minimum ratio of the mean gradients of the targets and the conditioning, where both are known:
            ground truth that is blurrier than the warped references teaches blur.
        least_distance: minimum distance of the nearest hundredth of a frame's surface from its camera, in scene scales.
        most_inside: maximum fraction of frames whose camera is behind a surface in all references that see its place.
        least_coverage: minimum fraction of the frames that the references show.
        least_agreement: minimum PSNR between targets and conditioning where both are known, in dB: below it, the
            references' depths are completely wrong.
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
    """The clips to make from a scene.

    Attributes:
        frames: number of frames per clip.
        width: width of frames and references in pixels.
        height: height of frames and references in pixels; photographs of another aspect ratio are centre-cropped.
        segment: number of photographs from a segment's first reference to its last one, inclusive. A shorter scene is
            one segment.
        segments: maximum number of segments of a scene, evenly spaced.
        pseudo: number of clips per segment with renders of a fit as ground truth; 0 skips the fit.
        photographic: number of clips per segment with full-resolution photographs between the references as ground
            truth.
        close_up_share: fraction of close-ups among the pseudo clips; the others show regular views.
        nearer_share: fraction of the close-ups that move closer; the others zoom.
        zoom: range of focal length factors.
        nearer: range of the fraction of the depth by which the camera moves closer.
        photograph_scales: possible sizes, relative to the frames, of a segment's photographs for the fused warp; each
            segment draws one, limited to what its photographs' resolution allows.
        checked_pairs: maximum number of pairs of photographs whose matches are used to check the cameras.
        estimator: estimator of the references' depths; their cameras are the given ones.
        others: names of additional warps in the clips besides the fused one, from `OTHER_WARPS`.
        truth: settings of the pseudo ground truth.
        filters: criteria for keeping clips.
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
