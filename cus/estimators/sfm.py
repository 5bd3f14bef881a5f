"""Structure-from-motion primitives on arrays: features, matches, relative pose, absolute pose, bundle adjustment.

The only estimator file that imports pycolmap. Poses are 4x4 float64 world-to-camera matrices (`viewmats`),
pixels are [N, 2] float64 with the centre of the top-left pixel at (0.5, 0.5), as in COLMAP.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cus.runtime import signal_handlers_kept

with signal_handlers_kept():
    import pycolmap

MATCH_RATIO = 0.8
MATCH_MAX_DISTANCE = 0.7  # between unit descriptors, COLMAP's default
MATCH_ROWS = 256  # number of descriptors compared at a time
SEED = 0


@dataclass(frozen=True)
class Features:
    """SIFT features of one view: pixels [N, 2] float64, unit descriptors [N, 128] float32, scales [N] in pixels."""

    pixels: np.ndarray
    descriptors: Tensor
    scales: np.ndarray

    def __getitem__(self, keep: np.ndarray) -> "Features":
        return Features(self.pixels[keep], self.descriptors[torch.from_numpy(keep)], self.scales[keep])


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera with square pixels; `shared` is the group of views with a common unknown focal length."""

    focal: float
    cx: float
    cy: float
    width: int
    height: int
    known: bool = True
    shared: int = 0

    @property
    def matrix(self) -> np.ndarray:
        """[3, 3] float64 camera matrix in pixels."""
        return np.array([[self.focal, 0.0, self.cx], [0.0, self.focal, self.cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Observations:
    """Observations of points: three aligned arrays, track [M] int, view [M] int, pixels [M, 2] float64."""

    track: np.ndarray
    view: np.ndarray
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.track)

    def __getitem__(self, keep: np.ndarray) -> "Observations":
        return Observations(self.track[keep], self.view[keep], self.pixels[keep])


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress COLMAP's informational log lines, and restore the log level."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


def extract_features(gray: np.ndarray, max_features: int = 6000) -> Features:
    """SIFT on the CPU. `gray` [H, W] float32 in [0, 1]; keeps the coarsest `max_features`, the coarsest first."""
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.num_threads = 1
    options.sift.max_num_features = max_features
    with quiet():
        extractor = pycolmap.FeatureExtractor.create(options, pycolmap.Device.cpu)
        keypoints, descriptors = extractor.extract_from_float32_array(np.ascontiguousarray(gray, dtype=np.float32))
    pixels = pycolmap.keypoints_to_matrix(keypoints)[:, :2].astype(np.float64).reshape(-1, 2)
    vectors = torch.from_numpy(np.asarray(descriptors.data, dtype=np.float32).reshape(len(pixels), 128))
    scales = np.array([keypoint.compute_scale() for keypoint in keypoints], dtype=np.float64)
    order = np.argsort(-scales, kind="stable")
    return Features(pixels, torch.nn.functional.normalize(vectors, dim=1), scales)[order]


def match_features(a: Features, b: Features) -> np.ndarray:
    """[M, 2] int64 indices of mutual nearest neighbours that pass the ratio test."""
    if len(a.pixels) < 2 or len(b.pixels) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    columns, best, second, index = b.descriptors.T.contiguous(), [], [], []
    best_of_b = torch.full((len(b.pixels),), -torch.inf)
    # In blocks that fit a core's cache, and with maxima only: `topk` and `argmax` along columns take twice as long.
    for start in range(0, len(a.pixels), MATCH_ROWS):
        similarity = a.descriptors[start : start + MATCH_ROWS] @ columns
        best_of_b = torch.maximum(best_of_b, similarity.amax(dim=0))
        values, places = similarity.max(dim=1)
        similarity[torch.arange(len(values)), places] = -torch.inf
        best.append(values)
        index.append(places)
        second.append(similarity.amax(dim=1))
    similarity, places = torch.cat(best), torch.cat(index)
    nearest, next_nearest = ((2.0 - 2.0 * v).clamp(min=0.0).sqrt() for v in (similarity, torch.cat(second)))
    mutual = similarity == best_of_b[places]
    chosen = (mutual & (nearest < MATCH_RATIO * next_nearest) & (nearest < MATCH_MAX_DISTANCE)).nonzero()[:, 0]
    return torch.stack([chosen, places[chosen]], dim=1).numpy()


def relative_pose(
    pixels_a: np.ndarray, pixels_b: np.ndarray, camera_a: Intrinsics, camera_b: Intrinsics, max_error: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Pose of camera b with camera a at the identity, unit translation, from [M, 2] matched pixels of calibrated views.

    Returns:
        (b_from_a [4, 4], inliers [M] bool), or None if no essential matrix explains the matches. `max_error` is the
        RANSAC threshold in pixels.
    """
    options = pycolmap.TwoViewGeometryOptions()
    options.compute_relative_pose = True
    options.detect_watermark = False
    options.ransac.max_error = max_error
    options.ransac.random_seed = SEED
    matches = np.repeat(np.arange(len(pixels_a), dtype=np.uint32)[:, None], 2, axis=1)
    with quiet():
        geometry = pycolmap.estimate_calibrated_two_view_geometry(
            _camera(camera_a), pixels_a, _camera(camera_b), pixels_b, matches, options
        )
    if geometry.cam2_from_cam1 is None or len(geometry.inlier_matches) == 0:
        return None
    inliers = np.zeros(len(pixels_a), dtype=bool)
    inliers[np.asarray(geometry.inlier_matches)[:, 0]] = True
    return _to_4x4(geometry.cam2_from_cam1.matrix()), inliers


def absolute_pose(
    pixels: np.ndarray, points: np.ndarray, camera: Intrinsics, max_error: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Pose [4, 4] and inliers [M] bool of a view that sees `points` [M, 3] at `pixels` [M, 2]; None on failure."""
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error = max_error
    options.ransac.random_seed = SEED
    with quiet():
        result = pycolmap.estimate_and_refine_absolute_pose(pixels, points, _camera(camera), options)
    if result is None:
        return None
    return _to_4x4(result["cam_from_world"].matrix()), np.asarray(result["inlier_mask"], dtype=bool)


def adjust_bundle(
    viewmats: dict[int, np.ndarray],
    cameras: list[Intrinsics],
    points: np.ndarray,
    observations: Observations,
    *,
    refine_focals: bool,
    loss_scale: float = 1.0,
) -> tuple[dict[int, np.ndarray], list[Intrinsics], np.ndarray]:
    """Refine poses, points and unknown focal lengths, with a Cauchy loss of `loss_scale` pixels.

    Args:
        viewmats: pose of each registered view; the smallest view and one coordinate of another fix the gauge.
        cameras: intrinsics of every view.
        points: [T, 3] positions; only points with observations change.
        observations: observations in registered views only.
        refine_focals: whether to refine unknown focal lengths; views of one `shared` group keep a common one.
        loss_scale: scale of the loss in pixels.
    """
    model, ids = _reconstruction(viewmats, cameras, points, observations)
    config = pycolmap.BundleAdjustmentConfig()
    for view in viewmats:
        config.add_image(view + 1)
        if cameras[view].known:
            config.set_constant_cam_intrinsics(_camera_id(cameras, view))
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = refine_focals
    options.refine_extra_params = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = loss_scale
    # COLMAP's own tolerance is 0: all 100 iterations, for changes far below the position error of a feature.
    options.ceres.solver_options.function_tolerance = 1e-6
    with quiet():
        pycolmap.create_default_bundle_adjuster(options, config, model).solve()

    refined = {view: _to_4x4(model.image(view + 1).cam_from_world().matrix()) for view in viewmats}
    focals = {view: model.camera(_camera_id(cameras, view)).mean_focal_length() for view in viewmats}
    moved = [replace(camera, focal=focals.get(view, camera.focal)) for view, camera in enumerate(cameras)]
    # A group's focal length also applies to views that are not registered yet.
    by_group = {cameras[view].shared: focal for view, focal in focals.items() if not cameras[view].known}
    moved = [c if c.known or c.shared not in by_group else replace(c, focal=by_group[c.shared]) for c in moved]
    points = points.copy()
    for track, point_id in ids.items():
        points[track] = model.point3D(point_id).xyz
    return refined, moved, points


def _reconstruction(
    viewmats: dict[int, np.ndarray], cameras: list[Intrinsics], points: np.ndarray, observations: Observations
) -> tuple[pycolmap.Reconstruction, dict[int, int]]:
    model = pycolmap.Reconstruction()
    tracks: dict[int, list[tuple[int, int]]] = {}
    for view in sorted(viewmats):
        camera_id = _camera_id(cameras, view)
        if not model.exists_camera(camera_id):
            camera = _camera(cameras[view])
            camera.camera_id = camera_id
            model.add_camera_with_trivial_rig(camera)
        mine = np.flatnonzero(observations.view == view)
        image = pycolmap.Image(
            name=str(view), keypoints=observations.pixels[mine], camera_id=camera_id, image_id=view + 1
        )
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(viewmats[view][:3]))
        for index, track in enumerate(observations.track[mine]):
            tracks.setdefault(int(track), []).append((view + 1, index))
    ids = {}
    for track, elements in tracks.items():
        if len(elements) >= 2:
            seen = pycolmap.Track([pycolmap.TrackElement(image_id, index) for image_id, index in elements])
            ids[track] = model.add_point3D(points[track], seen)
    return model, ids


def _camera_id(cameras: list[Intrinsics], view: int) -> int:
    """Known cameras have their own id; unknown ones of one group share an id above all views."""
    camera = cameras[view]
    return view + 1 if camera.known else len(cameras) + 1 + camera.shared


def _camera(camera: Intrinsics) -> pycolmap.Camera:
    return pycolmap.Camera(
        model="SIMPLE_PINHOLE",
        width=camera.width,
        height=camera.height,
        params=[camera.focal, camera.cx, camera.cy],
    )


def _to_4x4(matrix: np.ndarray) -> np.ndarray:
    return np.vstack([np.asarray(matrix, dtype=np.float64), [0.0, 0.0, 0.0, 1.0]])
