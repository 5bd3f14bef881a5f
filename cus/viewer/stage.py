"""Contents of the browser's scene: Gaussians, points, and the frusta of cameras with their pictures."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cus.cameras import Cameras, PosedPhotos
from cus.cameras.conversions import viewmats_from_c2w
from cus.splats import Gaussians
from cus.splats.projection import rotmat_from_quat
from cus.splats.sh import evaluate_sh
from cus.viewer.scene import ViewScene, camera_of, picture_of

if TYPE_CHECKING:
    import viser

# The viewer stores covariances in half precision and clips at fixed distances, so a scene is scaled such that its
# `ViewScene.unit` is this many of the viewer's units.
SHOWN_UNIT = 10.0
NEAR, FAR = 0.01, 10_000.0
PICTURE_SIDE = 480
GROUPS = {"photographs": (255, 140, 0), "path": (70, 130, 255)}
# Smaller than the photographs': a path starts at a photograph, and the two pictures would be coplanar.
GROUP_SIZES = {"photographs": 1.0, "path": 0.8}


@dataclass(frozen=True)
class Eye:
    """A browser's viewpoint; its lens is symmetric about the middle of the picture.

    Attributes:
        position: [3] world position.
        look_at: [3] world point to orbit.
        up: [3] unit vector.
        half_tangents: (x, y): half width and half height of the picture at distance 1.
    """

    position: np.ndarray
    look_at: np.ndarray
    up: np.ndarray
    half_tangents: tuple[float, float]

    def vertical_fov(self, aspect: float) -> float:
        """Vertical field of view in radians that shows the whole picture in a window with aspect ratio `aspect`."""
        across, down = self.half_tangents
        return 2 * math.atan(max(down, across / aspect))


def eye_of(camera: Cameras, distance: float) -> Eye:
    """The eye that sees a camera's picture, looking at the point at `distance` in its middle.

    Exact for a principal point in the middle; otherwise (e.g. a zoom towards another point) the eye turns to the
    picture's middle, which changes the foreshortening because its lens is symmetric.
    """
    c2w, K = camera.c2w[0].double().numpy(), camera.Ks[0].double().numpy()
    ray = np.array([(camera.width / 2 - K[0, 2]) / K[0, 0], (camera.height / 2 - K[1, 2]) / K[1, 1], 1.0])
    forward = c2w[:3, :3] @ (ray / np.linalg.norm(ray))
    up = -c2w[:3, 1] + (c2w[:3, 1] @ forward) * forward
    half = camera.width / 2 / K[0, 0], camera.height / 2 / K[1, 1]
    return Eye(c2w[:3, 3], c2w[:3, 3] + distance * forward, up / np.linalg.norm(up), half)


def camera_from_eye(wxyz: np.ndarray, position: np.ndarray, vertical_fov: float, width: int, height: int) -> Cameras:
    """One camera from a browser's orientation (camera-to-world), position, field of view in radians and window size."""
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = torch.from_numpy(Rotation.from_quat(np.roll(wxyz, -1)).as_matrix())
    c2w[:3, 3] = torch.from_numpy(np.asarray(position, np.float64))
    focal = height / 2 / math.tan(vertical_fov / 2)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Cameras(viewmats_from_c2w(c2w[None]), K[None], width, height)


def wxyz_of(camera: Cameras) -> np.ndarray:
    """[4] the camera-to-world rotation of one camera as a quaternion w x y z."""
    return np.roll(Rotation.from_matrix(camera.c2w[0, :3, :3].double().numpy()).as_quat(), 1)


def frustum_corners(camera: Cameras) -> np.ndarray:
    """[4, 3] corners of a camera's picture in its own axes: top left, top right, bottom right, bottom left.

    The pyramid of these corners and the camera's centre has the volume of a cube of side 1 for any lens: a longer lens
    gives a longer and slimmer one, so that those of a zoom do not coincide.
    """
    K = camera.Ks[0].double().numpy()
    pixels = np.array([[0, 0], [camera.width, 0], [camera.width, camera.height], [0, camera.height]], np.float64)
    slopes = (pixels - K[:2, 2]) / K[(0, 1), (0, 1)]
    depth = (3 * K[0, 0] * K[1, 1] / (camera.width * camera.height)) ** (1 / 3)
    return np.concatenate([slopes * depth, np.full((4, 1), depth)], axis=1)


@dataclass
class Frustum:
    """A camera in the browser's scene.

    Attributes:
        name: name of its picture.
        group: "photographs" or "path".
        camera: camera in scene units.
        frame: node at the camera's centre, in its axes.
        lines: edges of the frustum.
        picture: node of its picture, or None.
    """

    name: str
    group: str
    camera: Cameras
    frame: Any
    lines: Any
    picture: Any | None

    def corners(self, size: float) -> np.ndarray:
        """[4, 3] corners of the picture in the camera's axes, for frusta of the given size."""
        return size * GROUP_SIZES[self.group] * frustum_corners(self.camera)

    def resize(self, size: float) -> None:
        """Draw at a size in the viewer's units: the side of the cube with the pyramid's volume."""
        corners = self.corners(size)
        edges = [(np.zeros(3), corner) for corner in corners]
        edges += [(corners[i], corners[(i + 1) % 4]) for i in range(4)]
        self.lines.points = np.array(edges, np.float32)
        if self.picture is not None:
            self.picture.position = corners.mean(axis=0)
            self.picture.render_width = float(corners[1, 0] - corners[0, 0])
            self.picture.render_height = float(corners[3, 1] - corners[0, 1])


@dataclass
class Stage:
    """The scene in the browser.

    Attributes:
        server: viser's server.
        scene: scene to show.
        max_gaussians: maximum number of Gaussians shown.
        shown: whether each group of frusta is visible.
        frusta: frusta of the cameras.
        distance: typical distance (`ViewScene.unit`) in scene units.
        scale: the viewer's units per scene unit.
        size: size of the frusta in scene units.
        placed: last eye set for each client, by its id, and the aspect ratio of its window at that time.
        gaussians: viser's handle; so are `points` and `line`, if any.
    """

    server: "viser.ViserServer"
    scene: ViewScene
    max_gaussians: int | None = None
    shown: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(GROUPS, True))
    frusta: list[Frustum] = field(default_factory=list)
    distance: float = 1.0
    scale: float = 1.0
    size: float = 0.0
    placed: dict[int, tuple[Eye, float]] = field(default_factory=dict)
    gaussians: Any = None
    points: Any = None
    line: Any = None

    def build(self) -> None:
        """Add everything to the server's scene, and start every client at the first camera."""
        self.distance = self.scene.unit()
        self.scale = SHOWN_UNIT / self.distance
        first = self.scene.first_camera()
        ups = [-c.c2w[0, :3, 1].double().numpy() for c in self._cameras() or [first]]
        self.server.scene.set_up_direction(
            np.mean(ups, axis=0) if np.linalg.norm(np.mean(ups, axis=0)) > 0.1 else ups[0]
        )
        self.server.scene.world_axes.visible = False
        self._add_gaussians()
        self._add_points()
        self.size = self._frustum_size()
        for group, posed in (("photographs", self.scene.photos), ("path", self.scene.frames)):
            if posed is not None:
                self.frusta += [self._add_frustum(group, posed, index) for index in range(len(posed))]
        eye = self.eye(first)
        start = self.server.initial_camera
        start.position, start.look_at, start.up = eye.position, eye.look_at, eye.up
        start.fov, start.near, start.far = eye.vertical_fov(first.width / first.height), NEAR, FAR

    def eye(self, camera: Cameras) -> Eye:
        """The eye of one camera, in the viewer's units; it orbits a point at the scene's typical distance."""
        eye = eye_of(camera, self.distance)
        return Eye(eye.position * self.scale, eye.look_at * self.scale, eye.up, eye.half_tangents)

    def place(self, client: "viser.ClientHandle", camera: Cameras) -> None:
        """Give a client the view of `camera`."""
        eye = self.eye(camera)
        # Read once: the window may change concurrently, and `follow` must then notice.
        aspect = client.camera.aspect
        with client.atomic():
            client.camera.up_direction = eye.up
            client.camera.position = eye.position
            client.camera.look_at = eye.look_at
            client.camera.fov = eye.vertical_fov(aspect)
        self.placed[client.client_id] = eye, aspect
        self.hide_near_frusta()

    def follow(self, client: "viser.ClientHandle") -> None:
        """React to a client's changed view: fit the picture to its window, and hide frusta in the way."""
        placed, aspect = self.placed.get(client.client_id), client.camera.aspect
        if placed is not None and abs(aspect - placed[1]) > 1e-3:
            # Elsewhere, the user has moved away, or the client has not yet reported its new position.
            if np.allclose(client.camera.position, placed[0].position, atol=1e-3):
                self.placed[client.client_id] = placed[0], aspect
                client.camera.fov = placed[0].vertical_fov(aspect)
        self.hide_near_frusta()

    def forget(self, client: "viser.ClientHandle") -> None:
        """Forget a client that has left."""
        self.placed.pop(client.client_id, None)
        self.hide_near_frusta()

    def camera_of_client(self, client: "viser.ClientHandle") -> Cameras:
        """The camera of a client's window, in scene units and pixels of the window."""
        view = client.camera
        position = np.asarray(view.position) / self.scale
        return camera_from_eye(view.wxyz, position, view.fov, view.image_width, view.image_height)

    def show(self, group: str, visible: bool) -> None:
        """Show or hide a group of frusta."""
        self.shown[group] = visible
        self.hide_near_frusta()

    def resize_frusta(self, size: float) -> None:
        """Set the frusta's size, in scene units."""
        self.size = size
        for frustum in self.frusta:
            frustum.resize(size * self.scale)
        self.hide_near_frusta()

    def hide_near_frusta(self) -> None:
        """Hide the frusta around a client's position: their pictures would fill its view."""
        eyes = [np.asarray(c.camera.position) / self.scale for c in self.server.get_clients().values()]
        for frustum in self.frusta:
            reach = frustum.corners(self.size)[0, 2]
            center = frustum.camera.centers[0].double().numpy()
            inside = any(np.linalg.norm(eye - center) < 0.75 * reach for eye in eyes)
            frustum.frame.visible = self.shown[frustum.group] and not inside

    def show_line(self, path: Cameras) -> None:
        """Draw the line of a path's centres, replacing an earlier one; a path without motion has none."""
        if self.line is not None:
            self.line.remove()
            self.line = None
        centers = path.centers.double().numpy() * self.scale
        if len(centers) > 1 and np.ptp(centers, axis=0).max() > 1e-3 * SHOWN_UNIT:
            pairs = np.stack([centers[:-1], centers[1:]], axis=1).astype(np.float32)
            self.line = self.server.scene.add_line_segments(
                "/way", pairs, colors=(255, 60, 120), thickness=2.0, thickness_units="screen"
            )

    def _cameras(self) -> list[Cameras]:
        photos = self.scene.photos
        return [] if photos is None else [camera_of(photos, i) for i in range(len(photos))]

    def _add_gaussians(self) -> None:
        shown = most_visible(self.scene.gaussians.baked(), self.max_gaussians).to("cpu")
        half_axes = rotmat_from_quat(shown.quats) * shown.scales[:, None, :] * self.scale
        center = torch.cat([c.centers for c in self._cameras() or [self.scene.first_camera()]]).mean(dim=0)
        colors = evaluate_sh(shown.sh_degree, shown.means - center, shown.sh)
        self.gaussians = self.server.scene.add_gaussian_splats(
            "/gaussians",
            centers=(shown.means * self.scale).numpy(),
            covariances=(half_axes @ half_axes.mT).numpy(),
            rgbs=colors.clamp(0, 1).numpy(),
            opacities=shown.opacities[:, None].numpy(),
        )

    def _add_points(self) -> None:
        points = self.scene.points
        if points is not None and len(points.positions):
            self.points = self.server.scene.add_point_cloud(
                "/points",
                points=points.positions * self.scale,
                colors=points.colors,
                point_size=0.002 * SHOWN_UNIT,
                precision="float32",
                point_shading="flat",
                visible=False,
            )

    def _frustum_size(self) -> float:
        """Frustum size in scene units: a fraction of the typical distance, limited to avoid overlapping neighbours."""
        size = 0.1 * self.distance
        cameras = self._cameras()
        if len(cameras) > 1:
            centers = torch.cat([c.centers for c in cameras])
            apart = torch.pdist(centers).min().item()
            size = min(size, apart) if apart > 0.1 * size else size
        return size

    def _add_frustum(self, group: str, posed: PosedPhotos, index: int) -> Frustum:
        camera, name = camera_of(posed, index), posed.paths[index].name
        node = f"/{group}/{index:04d}"
        frame = self.server.scene.add_frame(
            node, show_axes=False, wxyz=wxyz_of(camera), position=camera.centers[0].double().numpy() * self.scale
        )
        lines = self.server.scene.add_line_segments(
            f"{node}/edges",
            np.zeros((8, 2, 3), np.float32),
            colors=GROUPS[group],
            thickness=1.5,
            thickness_units="screen",
        )
        pixels = picture_of(posed, index, PICTURE_SIDE)
        picture = None
        if pixels is not None:
            picture = self.server.scene.add_image(f"{node}/picture", pixels, 1.0, 1.0, format="jpeg", cast_shadow=False)
        frustum = Frustum(name, group, camera, frame, lines, picture)
        frustum.resize(self.size * self.scale)
        return frustum


def most_visible(gaussians: Gaussians, count: int | None) -> Gaussians:
    """The `count` Gaussians with the largest opacity x area (the two longest axes), in order; None keeps all."""
    if count is None or count >= len(gaussians):
        return gaussians
    longest = gaussians.scales.topk(2, dim=1).values
    weights = gaussians.opacities * longest.prod(dim=1)
    return gaussians.select(weights.topk(count).indices.sort().values)


def missing_pictures(frusta: Iterable[Frustum]) -> list[str]:
    """Names of the pictures that could not be read."""
    return [frustum.name for frustum in frusta if frustum.picture is None]
