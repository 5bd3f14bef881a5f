"""A whole run: photographs in; frames, point cloud, Gaussian scene and report out. Every stage can be resumed."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.cameras.path_files import read_camera_path
from cus.closeup import CloseUp, close_up, condition
from cus.conditioning import Conditioning, conditioning_kind
from cus.diffusion import CloseUpShotPipeline
from cus.diffusion.loading import find_fitting_lora, find_model, load_model, model_identity, plan_memory
from cus.diffusion.memory import Choice, Clip
from cus.diffusion.parts import sampling_of
from cus.errors import InputError
from cus.estimators import estimate_scene
from cus.estimators.choice import prepare
from cus.inference import outputs, recorded
from cus.inference.fitting import FitOptions, Splat, fit
from cus.inference.folder import RunFolder, State
from cus.inference.photographs import (
    Inputs,
    first_reference,
    frame_size,
    inspect,
    oversized,
    photographs,
    read,
    size_inside,
)
from cus.inference.progress import STAGES, OnProgress, Progress
from cus.inference.settings import InferSettings, Trajectory, file_digest, fingerprint
from cus.inference.stages import Results, StageCache
from cus.inference.target_path import ALONE_NOTE, check_alone, target_path
from cus.inference.verdict import Verdict, look, seen_in
from cus.inference.view_choice import choose_views
from cus.models.attention import set_attention_backend
from cus.runtime import peak_memory, versions
from cus.scene import SceneEstimate


class Run:
    """One run. The constructor checks all inputs, loads the model and prepares the folder; `execute` does the work.

    Args:
        settings: settings of the run.
        progress: callback for each stage.
        resume: whether to reuse the folder's finished stages that were made from the same inputs.
        overwrite: whether to replace an earlier run in the folder.
        started: start of the work on the clock of `time.perf_counter`; None: now.

    Raises:
        InputError: anything that would stop the run later and can be detected now.
    """

    def __init__(
        self,
        settings: InferSettings,
        progress: Progress,
        *,
        resume: bool = False,
        overwrite: bool = False,
        started: float | None = None,
    ) -> None:
        self.started = time.perf_counter() if started is None else started
        settings.check()
        self.views = choose_views(settings.views, settings.max_views, settings.out)
        self.settings = settings = replace(settings, views=self.views.paths)
        self.progress = progress
        self.device, self.dtype = settings.torch_device(), settings.torch_dtype()
        inputs = inspect(self.views, settings.cameras)
        if len(self.views.paths) == 1:
            check_alone(settings.trajectory, settings.end_zoom())
        prepare(settings.estimator, len(self.views.paths))
        self.stored = find_model(settings.model, settings.variant)
        self.lora = None if settings.lora is None else find_fitting_lora(settings.lora, self.stored)
        self.folder = RunFolder(settings.out)
        # Before the model is loaded, which can take minutes.
        frames = [path.relative_to(settings.out).as_posix() for path in self.views.frames]
        self.folder.prepare(resume=resume, overwrite=overwrite, inputs=self._files(), also=frames)
        try:
            self._get_ready(inputs, resume)
        except BaseException:
            self.folder.close()
            raise

    def _files(self) -> list[Path]:
        """All files that the run reads."""
        settings = self.settings
        path = None if settings.trajectory in get_args(Trajectory) else Path(settings.trajectory)
        model = self.stored.folder if self.stored.hub is None else None
        lora = self.lora.file if self.lora is not None and self.lora.hub is None else None
        # The run itself writes frames of videos, so only their videos count as inputs.
        photos = [*(view for view in settings.views if view not in self.views.frames), *self.views.sources]
        return [*photos, *(file for file in (settings.cameras, path, model, lora) if file is not None)]

    def _get_ready(self, inputs: Inputs, resume: bool) -> None:
        """Resolve open settings, load the model and decode the photographs."""
        settings, own = self.settings, sampling_of(self.stored)
        self.sampling = own
        self.frames = settings.frames or own.frames
        self.longest_side = settings.size or max(own.width, own.height)
        self.size = frame_size(inputs.photos[0], self.longest_side)
        self.passes = 1 + (own.second_pass if settings.structure is None else settings.structure)
        self.kind = conditioning_kind(
            own.conditioning if settings.conditioning == "auto" else settings.conditioning,
            suppress_background=settings.suppress_background,
        )
        self.memory = None if settings.conditioning_only else self._plan_memory()
        self.pipeline = None if self.memory is None else self._load(self.memory)
        for path, frame in self.views.frames.items():
            data = frame.png()
            self.folder.write(path.relative_to(settings.out).as_posix(), lambda part, data=data: part.write_bytes(data))
        batch = read(inputs, settings.photo_size, focal_35mm=settings.focal_35mm, fov=settings.fov)
        self.results = Results(inputs, batch, notes=[*self.views.notes, *inputs.notes, *batch.set.notes])
        self.results.loading = time.perf_counter() - self.started
        self.each = StageCache(self.folder, resume, self.device, self.progress, self.results)

    def _plan_memory(self) -> Choice:
        """How the network uses memory; refuses frames that do not fit."""
        width, height = self.size
        clip = Clip(self.frames, height, width, self.passes == 2, self.settings.guidance)
        return plan_memory(self.stored, clip, self.device, self.dtype, self.settings.memory)

    def _load(self, memory: Choice) -> CloseUpShotPipeline:
        """Load the model with the user's settings."""
        settings = self.settings
        bars: list[OnProgress] = []

        def fetched(done: int, total: int) -> None:
            # Most models are already local and need no progress bar.
            bars.extend([] if bars else [self.progress.start("Model from the Hub", False)])
            bars[0](done, total)

        started = time.perf_counter()
        how = (self.device, settings.variant, self.dtype, memory.plan, fetched)
        pipeline = load_model(self.stored, *how, lora=self.lora)
        if bars:
            self.progress.finish("Model from the Hub", time.perf_counter() - started)
        set_attention_backend(pipeline.unet, settings.attention)
        return pipeline.compile() if settings.compile else pipeline

    def planned(self) -> list[str]:
        """The stages of this run in order, without the report that ends every run."""
        if self.settings.conditioning_only:
            return ["scene", "conditioning"]
        passes = ["coarse", "structure", "frames"] if self.passes == 2 else ["frames"]
        return ["scene", "conditioning", *passes, "cloud", *(["splat"] if self.settings.splat else [])]

    def missing(self) -> list[str]:
        """Labels of the planned stages that are not finished."""
        return [STAGES[name] for name in self.planned() if name not in self.results.seconds]

    def execute(
        self, on_frames: Callable[[], None] | None = None, on_verdict: Callable[[Verdict], None] | None = None
    ) -> None:
        """Run all unfinished stages.

        However it ends, `run.json` and `report.html` describe what exists and what is missing; they exist as soon as
        there are frames.

        Args:
            on_frames: called when the frames are finished, if stages follow.
            on_verdict: called with the expected quality of the close-up, long before the frames are finished.

        Raises:
            InputError: photographs that cannot be used together, or a full disk.
            KeyboardInterrupt: the user interrupted the run.
        """
        status = "failed"
        try:
            self._work(on_frames, on_verdict)
            # From here on, files in the folder from other settings no longer belong to any run.
            self.folder.drop_earlier(states=True)
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            try:
                self._report(status)
            finally:
                self.folder.close()

    def _work(self, on_frames: Callable[[], None] | None, on_verdict: Callable[[Verdict], None] | None) -> None:
        settings, results = self.settings, self.results
        scene = self._scene()
        path = results.cameras = self._path(scene)
        # Read for the conditioning and again for the fit, so that they take no memory while the network runs.
        photos = cache(lambda: photographs(results.inputs, results.batch))
        self._keep_conditioning(scene, path, photos, photos.cache_clear, on_verdict)
        if self.pipeline is None:
            self.each("conditioning", condition, self.kind, scene, path, photos, self.sampling.layers > 0)
            return
        self._keep_frames(on_frames)
        made = close_up(
            scene,
            path,
            self.pipeline,
            passes=self.passes,
            kind=self.kind,
            photographs=photos,
            reference=first_reference(scene, results.batch, results.inputs.photos[0]),
            steps=settings.steps,
            guidance=settings.guidance,
            seed=settings.seed,
            each=self.each,
        )
        # The fit needs the memory, and no later stage needs the network.
        self.pipeline = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        outputs.write_cloud(self.folder, made.cloud)
        if settings.splat:
            self._splat(made)

    def _scene(self) -> SceneEstimate:
        """Estimate cameras, depth and confidence; the run continues with the photographs that could be placed."""
        settings, results, batch = self.settings, self.results, self.results.batch
        files = [file_digest(view) for view in settings.views]
        posed = results.inputs.posed
        cameras = posed and [posed.viewmats.tolist(), posed.Ks.tolist(), posed.sizes, repr(posed.lenses), posed.upright]
        masks = [mask and file_digest(mask) for mask in results.inputs.masks]
        focal = settings.focal_35mm, settings.fov
        made_from = (files, cameras, masks, settings.photo_size, *focal, settings.estimator, settings.all_views)

        def record(scene: SceneEstimate) -> State:
            return recorded.scene_state(scene, batch.set.valid[list(scene.used)])

        self.each.add("scene", made_from, record, recorded.scene_from)
        estimate = partial(
            estimate_scene,
            batch.set.images.to(self.device),
            batch.cameras,
            settings.estimator,
            valid=batch.set.valid,
            focals=batch.focals,
            sizes=batch.sizes,
            all_views=settings.all_views,
        )
        scene = results.scene = self.each("scene", estimate)
        results.keep(scene.used)
        outputs.write_depths(self.folder, outputs.placed_names(settings, results), scene)
        return scene

    def _path(self, scene: SceneEstimate) -> Cameras:
        """The cameras of the frames."""
        settings, results = self.settings, self.results
        if settings.trajectory not in get_args(Trajectory):
            # A file determines all cameras and their number.
            path = read_camera_path(settings.trajectory, *self.size, settings.frames, results.batch.origin)
            results.notes.extend(path.notes)
            return path.cameras
        inside = size_inside(results.batch, results.inputs.photos[0])
        zoom, target = settings.end_zoom(), settings.target
        if len(scene) == 1 and settings.trajectory == "orbit":
            results.notes.append(ALONE_NOTE)
        return target_path(settings.trajectory, scene, inside, self.size, zoom=zoom, target=target, frames=self.frames)

    def _keep_conditioning(
        self,
        scene: SceneEstimate,
        path: Cameras,
        photos: Callable[[], list[Tensor]],
        release: Callable[[], None],
        on_verdict: Callable[[Verdict], None] | None,
    ) -> None:
        """Save the conditioning with the measures of the verdict, then write its files."""
        settings, results, kind = self.settings, self.results, self.kind

        def record(made: Conditioning) -> State:
            taken = photos() if kind.takes_photographs else None
            release()
            return look(scene, path, recorded.state_of(made), results.inputs, results.batch, taken)

        def then(made: Conditioning, state: State) -> None:
            # The fit, and some kinds, take colours from full-resolution photographs.
            sizes = [(photo.width, photo.height) for photo in results.inputs.photos]
            if (kind.takes_photographs or "splat" in self.planned()) and (note := oversized(sizes)):
                results.notes.append(note)
            if kind.name != self.sampling.conditioning:
                trained = f"{settings.model} does best with {self.sampling.conditioning} ones"
                results.notes.append(f"the conditioning images are {kind.name}, as asked for; {trained}")
            results.conditioning = made
            results.verdict, results.plain_crop = seen_in(state)
            outputs.write_cameras(self.folder, results.inputs, results.batch, scene.cameras, path)
            outputs.write_sequence(self.folder, "conditioning", "conditioning.mp4", made.images, settings.fps)
            if on_verdict is not None and results.verdict is not None:
                on_verdict(results.verdict)

        cameras = [path.viewmats.tolist(), path.Ks.tolist(), path.width, path.height]
        made_from = (self.each.key("scene"), cameras, settings.suppress_background, kind.name, "measures", 3)
        self.each.add("conditioning", made_from, record, recorded.conditioning_from, then)

    def _keep_frames(self, on_frames: Callable[[], None] | None) -> None:
        """Save the frames of each pass and the point cloud; write the frames and a first report."""
        settings, results, each = self.settings, self.results, self.each

        def first(frames: Tensor, _: State) -> None:
            results.frames = frames

        def final(frames: Tensor, _: State) -> None:
            results.frames = frames
            outputs.write_sequence(self.folder, "frames", "video.mp4", frames, settings.fps)
            if self.folder.speaks_of_this_run():
                self._write_report("running")
            if on_frames is not None:
                on_frames()

        model = [model_identity(self.stored), settings.variant]
        model += [] if self.lora is None else [file_digest(self.lora.file)]
        sampling = (*model, settings.steps, settings.guidance, settings.seed, str(self.dtype))
        before = "conditioning"
        if self.passes == 2:
            each.add("coarse", (each.key(before), *sampling), recorded.frames_state, recorded.frames_from, first)
            each.add("structure", (each.key("coarse"),), recorded.state_of, recorded.conditioning_from)
            before = "structure"
        each.add("frames", (each.key(before), *sampling), recorded.frames_state, recorded.frames_from, final)
        each.add("cloud", (each.key("frames"),), recorded.cloud_state, recorded.cloud_from)

    def _splat(self, made: CloseUp) -> None:
        """Fit the Gaussian scene to frames and photographs."""
        settings, results = self.settings, self.results
        options = FitOptions(iterations=settings.splat_iterations, seed=settings.seed)
        config = options.config(self.device, *self.size)
        made_from = (self.each.key("cloud"), repr(config), settings.seed)
        # Its name contains the fingerprint of the fit's inputs, so that of another run is never used.
        checkpoint = self.folder.checkpoint("splat", fingerprint(made_from), keep=self.each.resume)

        def make(on_progress: OnProgress) -> Splat:
            own = photographs(results.inputs, results.batch)
            return fit(made, made.cloud, options, on_progress, checkpoint, own, results.batch.set.valid)

        self.each.add("splat", made_from, Splat.state, Splat.of)
        results.splat = self.each("splat", make)
        self.folder.discard(checkpoint)
        outputs.write_splat(self.folder, results.splat, settings.fps)

    def _report(self, status: str) -> None:
        if not (status == "finished" or self.folder.speaks_of_this_run()):
            # Nothing was made: the folder still belongs to the earlier run, so its record and report stay.
            return
        started = time.perf_counter()
        self.progress.start(STAGES["report"], False)
        try:
            self._write_report(status)
            self.results.seconds["report"] = time.perf_counter() - started
            self.folder.write_json("run.json", self.summary(status))
            self.folder.rewrite()
        except InputError:
            # After a failure, the user must see the first error.
            if status == "finished":
                raise
        self.progress.finish(STAGES["report"], time.perf_counter() - started)

    def _write_report(self, status: str) -> None:
        summary = self.summary(status)
        outputs.write_report(self.folder, self.settings, self.results, summary)
        self.folder.write_json("run.json", summary)

    def summary(self, status: str) -> dict[str, Any]:
        """Content of `run.json`: resolved settings, notes, seconds per stage, peak memory, versions, files."""
        settings, verdict = self.settings, self.results.verdict
        used = asdict(settings) | {
            "model": self.stored.name,
            "lora": self.lora and self.lora.name,
            "frames": self.frames,
            "size": self.longest_side,
            "zoom": settings.end_zoom(),
            "conditioning": self.kind.name,
            "structure": self.passes == 2,
            "steps": settings.steps or self.sampling.steps,
            "guidance": self.sampling.guidance if settings.guidance is None else settings.guidance,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "memory": settings.memory if self.memory is None else self.memory.name,
        }
        return {
            "status": status,
            "settings": used,
            "notes": self.results.notes,
            "verdict": verdict and verdict.to_json(),
            "seconds": {name: round(seconds, 2) for name, seconds in self.results.seconds.items()},
            "loading_seconds": round(self.results.loading, 2),
            "total_seconds": round(time.perf_counter() - self.started, 2),
            "reused": self.results.reused,
            "stages": {name: self.each.key(name) for name in self.planned() if name in self.results.seconds},
            "missing": self.missing(),
            "network_memory_bytes": {"estimated": self.memory.need, "free": self.memory.free} if self.memory else None,
            "peak_memory_bytes": peak_memory(),
            "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
            "versions": versions(),
            "files": self.folder.files(),
        }
