"""The controls next to the picture: contents, viewpoint, paths, recording."""

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cus.cameras import Cameras
from cus.cameras.trajectories import Target
from cus.errors import InputError
from cus.viewer.paths import build_path, run_target
from cus.viewer.recording import record
from cus.viewer.requests import DEFAULT_FRAMES, LARGEST_SIDE, MOST_FRAMES, SMALLEST_SIDE, PathRequest, Recording
from cus.viewer.stage import Frustum, Stage, missing_pictures

if TYPE_CHECKING:
    import viser

KINDS = {"walk in": "walk", "zoom in": "zoom", "swing around": "orbit", "the run's path": "run"}
HERE, CLICKED, RUN_END = "the middle of this view", "a point that I click", "where the run's path ends"
NOWHERE = "choose ..."


class Player:
    """Calls `show(frame)` at a steady rate until the path ends or it is paused; a new start ends the previous one."""

    def __init__(self) -> None:
        self._pause: threading.Event | None = None

    @property
    def playing(self) -> bool:
        """Whether frames are being shown."""
        return self._pause is not None and not self._pause.is_set()

    def start(self, first: int, frames: int, fps: float, show: Callable[[int], None]) -> None:
        """Show frames `first` to `frames` - 1, in a thread."""
        self.pause()
        pause = self._pause = threading.Event()

        def run() -> None:
            # The position follows the clock, not the number of updates: slow links skip frames.
            started = time.monotonic()
            shown = first - 1
            while not pause.is_set() and shown < frames - 1:
                due = first + int((time.monotonic() - started) * fps)
                if due > shown:
                    shown = min(due, frames - 1)
                    show(shown)
                pause.wait(0.25 / fps)
            pause.set()

        threading.Thread(target=run, name="cus-view player", daemon=True).start()

    def pause(self) -> None:
        """Pause playback."""
        if self._pause is not None:
            self._pause.set()


class Stopped(Exception):
    """Raised inside a job that has been stopped."""


class OneAtATime:
    """Runs a job in a thread; refuses another while it is running."""

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, job: Callable[[Callable[[], None]], None]) -> bool:
        """Run `job(check)` in a thread; False if one is running. `check()` raises `Stopped` after `stop`."""
        if not self._busy.acquire(blocking=False):
            return False
        self._stop.clear()

        def check() -> None:
            if self._stop.is_set():
                raise Stopped

        def run() -> None:
            try:
                job(check)
            except Stopped:
                pass
            finally:
                self._busy.release()

        self._thread = threading.Thread(target=run, name="cus-view recording", daemon=True)
        self._thread.start()
        return True

    def cancel(self) -> None:
        """Tell the job to stop."""
        self._stop.set()

    def stop(self) -> None:
        """Tell the job to stop, and wait up to a second; its thread does not keep the process alive."""
        self.cancel()
        if self._thread is not None:
            self._thread.join(timeout=1)


@dataclass(frozen=True)
class ChosenPath:
    """The path to play and record.

    Attributes:
        label: user-visible name.
        cameras: T cameras of the path.
    """

    label: str
    cameras: Cameras


class Panel:
    """The controls of a viewer, shared by all clients; jumps and paths move only the client that uses them.

    Args:
        server: viser's server.
        stage: contents of its scene.
    """

    def __init__(self, server: "viser.ViserServer", stage: Stage) -> None:
        self.server, self.stage, self.scene = server, stage, stage.scene
        self.player, self.recorder = Player(), OneAtATime()
        self.path: ChosenPath | None = None
        self.controls: dict[str, Any] = {}
        self.waiting_for_click = False

    def build(self) -> None:
        """Add the controls to the server, and handle clients."""
        # Next to the picture, not over it; without the button that would share the scene through an external server.
        self.server.gui.configure_theme(show_logo=False, show_share_button=False)
        self.server.gui.main_panel.dock_right()
        self.controls["status"] = self.server.gui.add_markdown(self._welcome())
        with self.server.gui.add_folder("Show"):
            self._add_show()
        with self.server.gui.add_folder("Look from"):
            self._add_jumps()
        with self.server.gui.add_folder("Path"):
            self._add_path()
        with self.server.gui.add_folder("Record"):
            self._add_record()

        @self.server.on_client_connect
        def _(client: "viser.ClientHandle") -> None:
            # Only now is the window's aspect ratio known, on which the field of view depends.
            self.stage.place(client, self.scene.first_camera())
            client.camera.on_update(lambda _: self.stage.follow(client))

        self.server.on_client_disconnect(self.stage.forget)

    def stop(self) -> None:
        """Stop playback and recording."""
        self.player.pause()
        self.recorder.stop()

    def say(self, text: str, *, error: bool = False) -> None:
        """Show a line above the controls."""
        self.controls["status"].content = f"**Error:** {text}" if error else text

    def _welcome(self) -> str:
        lines = [f"{len(self.scene.gaussians):,} Gaussians", *self.scene.notes]
        limit = self.stage.max_gaussians
        if limit is not None and limit < len(self.scene.gaussians):
            lines.append(f"the {limit:,} most visible are shown; recordings use all")
        missing = missing_pictures(self.stage.frusta)
        if missing:
            lines.append(f"pictures not found: {', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''}")
        return "  \n".join(lines)

    def _guarded(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        """The callback, with the user's errors shown in the panel."""

        @wraps(callback)
        def guarded(event: Any) -> None:
            try:
                callback(event)
            except InputError as error:
                self.say(str(error), error=True)

        return guarded

    # What is shown -------------------------------------------------------------------------------------------------

    def _add_show(self) -> None:
        gui, stage = self.server.gui, self.stage
        toggles: list[tuple[str, str, bool, Callable[[bool], None]]] = [
            ("gaussians", "Gaussians", True, lambda on: setattr(stage.gaussians, "visible", on))
        ]
        if stage.points is not None:
            toggles.append(("points", "Point cloud", False, lambda on: setattr(stage.points, "visible", on)))
        for group, label in (("photographs", "Photographs"), ("path", "Frames of the run's path")):
            if any(frustum.group == group for frustum in stage.frusta):
                toggles.append((group, label, True, lambda on, group=group: stage.show(group, on)))
        for name, label, initial, apply in toggles:
            toggle = self.controls[name] = gui.add_checkbox(label, initial)
            toggle.on_update(lambda event, apply=apply: apply(event.target.value))
        if stage.frusta:
            size = stage.size
            slider = self.controls["size"] = gui.add_slider(
                "Frustum size", min=0.1, max=5.0, step=0.1, initial_value=1.0, hint="1 is fitted to the scene"
            )
            slider.on_update(lambda event: stage.resize_frusta(size * event.target.value))

    # Where to look from --------------------------------------------------------------------------------------------

    def _add_jumps(self) -> None:
        choices: dict[str, Cameras] = {"start": self.scene.first_camera()}
        for frustum in self.stage.frusta:
            label = f"{'photo' if frustum.group == 'photographs' else 'frame'} {frustum.name}"
            choices[label if label not in choices else f"{label} ({len(choices)})"] = frustum.camera
            if frustum.picture is not None:
                frustum.picture.on_click(self._jump_to(frustum))
        jump = self.controls["jump"] = self.server.gui.add_dropdown("View", (NOWHERE, *choices), initial_value=NOWHERE)

        @jump.on_update
        def _(event: Any) -> None:
            if event.client is not None and event.target.value in choices:
                self.player.pause()
                self.stage.place(event.client, choices[event.target.value])
                # So that the same view can be chosen again after moving away from it.
                event.target.value = NOWHERE

    def _jump_to(self, frustum: Frustum) -> Callable[[Any], None]:
        def jump(event: Any) -> None:
            if not self.waiting_for_click:
                self.player.pause()
                self.stage.place(event.client, frustum.camera)

        return jump

    # Paths ---------------------------------------------------------------------------------------------------------

    def _add_path(self) -> None:
        gui, controls = self.server.gui, self.controls
        has_run = self.scene.frames is not None
        kinds = [label for label, kind in KINDS.items() if has_run or kind != "run"]
        controls["kind"] = gui.add_dropdown("Path", kinds)
        targets = (HERE, CLICKED, RUN_END) if has_run else (HERE, CLICKED)
        controls["towards"] = gui.add_dropdown(
            "Go to", targets, hint="paths start at this view; to the run's end, at the first photograph"
        )
        controls["factor"] = gui.add_number(
            "Factor", 3.0, min=1.0, max=64.0, step=0.5, hint="how much nearer, or larger"
        )
        factors = gui.add_button_group("", ("x3", "x9"))
        factors.on_click(lambda event: setattr(controls["factor"], "value", float(event.target.value[1:])))
        controls["frames"] = gui.add_number("Frames", DEFAULT_FRAMES, min=2, max=MOST_FRAMES, step=1)
        controls["make"] = gui.add_button("Make the path")
        controls["make"].on_click(self._guarded(self._make))
        controls["frame"] = gui.add_slider("Frame", min=0, max=1, step=1, initial_value=0, disabled=True)
        controls["frame"].on_update(self._scrub)
        controls["play"] = gui.add_button("Play / pause", disabled=True)
        controls["play"].on_click(self._play)

    def _make(self, event: Any) -> None:
        kind, towards = KINDS[self.controls["kind"].value], self.controls["towards"].value
        if kind == "run":
            self._choose(event.client, PathRequest("run"), None)
        elif towards == CLICKED:
            self._await_click()
        elif towards == RUN_END:
            self._choose(event.client, self._request(run_target(self.scene)), self.scene.first_camera())
        else:
            self._choose(event.client, self._request(None), self.stage.camera_of_client(event.client))

    def _request(self, target: Target | None) -> PathRequest:
        kind = KINDS[self.controls["kind"].value]
        factor = 1.0 if kind == "orbit" else float(self.controls["factor"].value)
        return PathRequest(kind, factor, target, int(self.controls["frames"].value))  # type: ignore[arg-type]

    def _await_click(self) -> None:
        if self.waiting_for_click:
            return
        self.waiting_for_click = True
        self.say("Click the point to go to.")

        def clicked(event: Any) -> None:
            self.server.scene.remove_click_callback(clicked)
            self.waiting_for_click = False
            self._guarded(self._choose_clicked)(event)

        self.server.scene.on_click()(clicked)

    def _choose_clicked(self, event: Any) -> None:
        u, v = event.screen_pos
        self._choose(event.client, self._request((u, v)), self.stage.camera_of_client(event.client))

    def _choose(self, client: "viser.ClientHandle", request: PathRequest, start: Cameras | None) -> None:
        """Build a path, draw it, and move the client to its start."""
        self.player.pause()
        cameras = build_path(self.scene, request, start)
        label = request.kind if request.kind in ("run", "orbit") else f"{request.kind}_x{request.factor:g}"
        self.path = ChosenPath(label, cameras)
        slider = self.controls["frame"]
        slider.max, slider.value, slider.disabled = max(1, len(cameras) - 1), 0, False
        self.controls["play"].disabled = self.controls["record"].disabled = False
        self.stage.show_line(cameras)
        self.stage.place(client, cameras[0])
        self.say(f"Path: {label}, {len(cameras)} frames. Play it, or record it.")

    def _scrub(self, event: Any) -> None:
        # Without a client, the player moved the slider.
        if event.client is not None and self.path is not None:
            self.player.pause()
            self._show_frame(event.client, self.path, int(event.target.value))

    def _show_frame(self, client: "viser.ClientHandle", path: ChosenPath, frame: int) -> None:
        self.stage.place(client, path.cameras[min(frame, len(path.cameras) - 1)])

    def _play(self, event: Any) -> None:
        path, client = self.path, event.client
        if self.player.playing or path is None:
            self.player.pause()
            return
        slider = self.controls["frame"]
        first = 0 if slider.value >= len(path.cameras) - 1 else int(slider.value)

        def show(frame: int) -> None:
            slider.value = frame
            self._show_frame(client, path, frame)

        self.player.start(first, len(path.cameras), float(self.controls["fps"].value), show)

    # Recording -----------------------------------------------------------------------------------------------------

    def _add_record(self) -> None:
        gui, controls = self.server.gui, self.controls
        controls["width"] = gui.add_number(
            "Longest side", 960, min=SMALLEST_SIDE, max=LARGEST_SIDE, step=2, hint="pixels"
        )
        controls["fps"] = gui.add_number("Frames a second", 24, min=1, max=120, step=1)
        controls["background"] = gui.add_rgb("Background", (0, 0, 0))
        controls["record"] = gui.add_button("Record", disabled=True, hint="make a path first")
        controls["record"].on_click(self._guarded(self._record))
        controls["cancel"] = gui.add_button("Cancel", visible=False)
        controls["cancel"].on_click(lambda _: self.recorder.cancel())
        controls["progress"] = gui.add_progress_bar(0.0, visible=False)

    def _record(self, event: Any) -> None:
        path, client = self.path, event.client
        if path is None:
            raise InputError("make a path first")
        red, green, blue = (channel / 255 for channel in self.controls["background"].value)
        recording = Recording(int(self.controls["width"].value), int(self.controls["fps"].value), (red, green, blue))
        recording.check(len(path.cameras))
        if not self.recorder.start(lambda check: self._render(client, path, recording, check)):
            raise InputError("a recording is being made; wait until it is finished")

    def _render(
        self, client: "viser.ClientHandle", path: ChosenPath, recording: Recording, check: Callable[[], None]
    ) -> None:
        """In the recorder's thread: render, and offer the video to the client that started it."""
        bar = self.controls["progress"]
        bar.value, bar.visible, self.controls["cancel"].visible = 0.0, True, True
        self.say(f"Recording {path.label} ...")

        def on_progress(done: int, total: int) -> None:
            check()
            bar.value = 100 * done / total

        try:
            with tempfile.TemporaryDirectory() as folder:
                video = Path(folder) / f"{path.label}.mp4"
                record(self.scene, path.cameras, video, recording, on_progress)
                client.send_file_download(video.name, video.read_bytes())
            self.say(f"Recorded {path.label}: {len(path.cameras)} frames; save it from the notification.")
        except (InputError, OSError, MemoryError, RuntimeError) as error:
            self.say(f"the recording failed: {error}", error=True)
        except Stopped:
            self.say("The recording was cancelled.")
        finally:
            bar.visible = self.controls["cancel"].visible = False
