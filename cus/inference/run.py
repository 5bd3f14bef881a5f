"""A whole run: photographs in; frames, point cloud, Gaussian scene and report out. Every stage can be resumed."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor

import cus
from cus.conditioning import ConditioningKind
from cus.diffusion import CloseUpShotPipeline
from cus.diffusion.memory import Choice, Clip
from cus.diffusion.parts import sampling_of
from cus.errors import InputError
from cus.inference import machine, outputs, stages
from cus.inference.close_up_view import look, seen_in
from cus.inference.fitting import FitOptions, fit
from cus.inference.folder import RunFolder, State
from cus.inference.progress import OnProgress, Progress
from cus.inference.results import STAGES, Results
from cus.inference.settings import InferSettings, Trajectory, file_digest, fingerprint
from cus.inference.verdict import Verdict
from cus.inference.view_choice import choose_views
from cus.models.attention import set_attention_backend
from cus.splats import Gaussians

T = TypeVar("T")


class Run:
    """One run. Making it checks all inputs, loads the model and prepares the folder; `execute` does the work.

    Args:
        settings: what to do.
        progress: is told of every stage.
        resume: reuse the stages that the folder holds, where they were made from the same inputs.
        overwrite: replace an earlier run in the folder.
        started: when the work began, on the clock of `time.perf_counter`; None is now.

    Raises:
        InputError: anything that would stop the run later and can be known now.
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
        settings = replace(settings, views=self.views.paths)
        self.settings = settings
        self.progress = progress
        self.resume = resume
        inputs = stages.inspect(settings, self.views)
        self.stored = stages.find_model(settings.model, settings.variant)
        self.folder = RunFolder(settings.out)
        # Before the model is loaded, which can take minutes.
        frames = [path.relative_to(settings.out).as_posix() for path in self.views.frames]
        self.folder.prepare(resume=resume, overwrite=overwrite, inputs=self._files(), also=frames)
        try:
            self._get_ready(inputs)
        except BaseException:
            self.folder.close()
            raise

    def _files(self) -> list[Path]:
        """Everything that the run reads."""
        settings = self.settings
        path = None if settings.trajectory in get_args(Trajectory) else Path(settings.trajectory)
        model = self.stored.folder if self.stored.hub is None else None
        # Frames of videos are written by the run itself; their videos are among what is used.
        photos = [*(view for view in settings.views if view not in self.views.frames), *self.views.sources]
        return [*photos, *(file for file in (settings.cameras, path, model) if file is not None)]

    def _get_ready(self, inputs: stages.Inputs) -> None:
        """Settle what the settings leave open, load the model, and decode the photographs."""
        settings = self.settings
        self.defaults = sampling_of(self.stored)
        self.frames = settings.frames or self.defaults.frames
        self.size = settings.size or max(self.defaults.width, self.defaults.height)
        self.structure = self.defaults.second_pass if settings.structure is None else settings.structure
        self.kind: ConditioningKind = stages.conditioning_kind(settings, self.defaults)
        self.memory = None if settings.conditioning_only else self._plan_memory(inputs)
        self.pipeline = self._load()
        for path, frame in self.views.frames.items():
            data = frame.png()
            self.folder.write(path.relative_to(settings.out).as_posix(), lambda part, data=data: part.write_bytes(data))
        batch = stages.read(inputs, settings)
        self.results = Results(inputs, batch, notes=[*self.views.notes, *inputs.notes, *batch.set.notes])
        self.results.loading = time.perf_counter() - self.started
        self.keys: dict[str, str] = {}

    def _plan_memory(self, inputs: stages.Inputs) -> Choice:
        """How the network uses memory; refuses frames that it cannot hold."""
        width, height = stages.frame_size(inputs.photos[0], self.size)
        settings = self.settings
        clip = Clip(self.frames, height, width, self.structure, settings.guidance)
        return stages.plan_memory(self.stored, clip, settings)

    def _load(self) -> CloseUpShotPipeline | None:
        """The model, as the settings want it; None where it is not needed."""
        settings = self.settings
        if self.memory is None:
            return None
        dtype, device = settings.torch_dtype(), settings.torch_device()
        bars: list[OnProgress] = []

        def fetched(done: int, total: int) -> None:
            # Most models are here already, and need no bar.
            bars.extend([] if bars else [self.progress.start("Model from the Hub", False)])
            bars[0](done, total)

        started = time.perf_counter()
        pipeline = stages.load_model(self.stored, device, settings.variant, dtype, self.memory.plan, fetched)
        if bars:
            self.progress.finish("Model from the Hub", time.perf_counter() - started)
        set_attention_backend(pipeline.unet, settings.attention)
        return pipeline.compile() if settings.compile else pipeline

    def planned(self) -> list[str]:
        """The stages of this run, in order, without the report that closes every run."""
        settings = self.settings
        if settings.conditioning_only:
            return ["scene", "conditioning"]
        passes = ["coarse", "structure", "frames"] if self.structure else ["frames"]
        return ["scene", "conditioning", *passes, "cloud", *(["splat"] if settings.splat else [])]

    def missing(self) -> list[str]:
        """Labels of the planned stages that are not finished."""
        return [STAGES[name] for name in self.planned() if name not in self.results.seconds]

    def execute(
        self, on_frames: Callable[[], None] | None = None, on_verdict: Callable[[Verdict], None] | None = None
    ) -> None:
        """Do what is not finished yet.

        However it ends, `run.json` and `report.html` say what is there and what is missing; they are there from the
        time that frames exist.

        Args:
            on_frames: called when they are, if stages follow.
            on_verdict: called with what is to be expected of the close-up, long before it is there.

        Raises:
            InputError: photographs that cannot be used together, or a full disk.
            KeyboardInterrupt: as the user asked.
        """
        status = "failed"
        try:
            for name in self.planned():
                getattr(self, f"_{name}")()
                if name == "conditioning" and on_verdict is not None:
                    on_verdict(known(self.results.verdict))
                if name == "frames":
                    if self.folder.speaks_of_this_run():
                        self._write_report("running")
                    if on_frames is not None:
                        on_frames()
            # What the folder still holds of other settings belongs to no run any more.
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

    def _stage(self, name: str, made_from: list[Any], make: Callable[[OnProgress], State]) -> State:
        """What a stage leaves: read where the folder holds it for the same `made_from`, else made and recorded."""
        key = fingerprint([cus.__version__, name, *made_from])
        self.keys[name] = key
        started = time.perf_counter()
        state = self.folder.load(name, key) if self.resume else None
        if name in self.folder.damaged:
            again = f"{STAGES[name]}: what the folder held of it was damaged, so it was done again"
            self.results.notes.append(again)
        on_progress = self.progress.start(STAGES[name], state is not None)
        if state is None:
            state = make(on_progress)
            self.folder.save(name, key, state)
        else:
            self.results.reused.append(name)
        self.results.notes.extend(state.notes)
        self.results.seconds[name] = time.perf_counter() - started
        self.progress.finish(STAGES[name], self.results.seconds[name])
        device = self.settings.torch_device()
        return State({key: tensor.to(device) for key, tensor in state.tensors.items()}, state.notes)

    def _scene(self) -> None:
        settings, results = self.settings, self.results
        files = [file_digest(view) for view in settings.views]
        posed = results.inputs.posed
        cameras = posed and [posed.viewmats.tolist(), posed.Ks.tolist(), posed.sizes, repr(posed.lenses), posed.upright]
        masks = [mask and file_digest(mask) for mask in results.inputs.masks]
        made_from = [files, cameras, masks, settings.photo_size, settings.focal_35mm, settings.fov, settings.estimator]
        made_from.append(settings.all_views)
        state = self._stage("scene", made_from, lambda report: stages.estimate(results.batch, settings, report))
        results.scene = stages.scene_from(state)
        results.keep(results.scene.used)
        outputs.write_scene(self.folder, settings, results)

    def _conditioning(self) -> None:
        settings, results = self.settings, self.results
        scene = known(results.scene)
        photo = results.inputs.photos[0]
        target = stages.target_cameras(scene, results.batch, photo, settings, self.frames, self.size)
        results.notes.extend(target.notes)
        cameras = target.cameras
        path = [cameras.viewmats.tolist(), cameras.Ks.tolist(), cameras.width, cameras.height]
        made_from = [self.keys["scene"], path, settings.suppress_background, self.kind, "measures"]

        def make(on_progress: OnProgress) -> State:
            fused, photographs = self.kind == "fused", None
            if fused:
                photographs = stages.photographs(known(results.inputs), known(results.batch))
            layers = fused and self.defaults.layers > 0
            state = stages.warp(scene, cameras, self.kind, settings, on_progress, photographs, layers)
            return look(scene, cameras, state, results.inputs, results.batch, photographs)

        state = self._stage("conditioning", made_from, make)
        # Of the fused warp and of the fit, which both look at the photographs' own pixels.
        sizes = [(photo.width, photo.height) for photo in results.inputs.photos]
        if (self.kind == "fused" or "splat" in self.planned()) and (note := stages.oversized(sizes)):
            results.notes.append(note)
        if self.kind != self.defaults.conditioning:
            trained = f"{settings.model} does best with {self.defaults.conditioning} ones"
            results.notes.append(f"the conditioning images are {self.kind}, as asked for; {trained}")
        results.cameras, results.conditioning = cameras, stages.conditioning_from(state)
        results.verdict, results.plain_crop = seen_in(state)
        outputs.write_conditioning(self.folder, settings, results)

    def _pass(self, name: str, structure: Tensor | None, made_from: list[Any]) -> Tensor:
        settings, results = self.settings, self.results
        warped, pipeline = known(results.conditioning), known(self.pipeline)
        reference = stages.first_reference(known(results.scene), results.batch, results.inputs.photos[0])
        model = [stages.model_identity(self.stored), settings.variant]
        sampling = [*model, settings.steps, settings.guidance, settings.seed, str(settings.torch_dtype())]

        def make(on_progress: OnProgress) -> State:
            made = stages.generate(pipeline, reference, warped, structure, settings, on_progress)
            return State({"frames": made})

        return self._stage(name, [*made_from, *sampling], make).tensors["frames"]

    def _coarse(self) -> None:
        self.results.frames = self._pass("coarse", None, [self.keys["conditioning"]])

    def _structure(self) -> None:
        results = self.results
        made = results.generated()

        def make(on_progress: OnProgress) -> State:
            cloud = stages.fuse(made, on_progress)
            return stages.state_of(stages.structure_images(cloud, made.cameras))

        state = self._stage("structure", [self.keys["coarse"]], make)
        results.structure = stages.conditioning_from(state)

    def _frames(self) -> None:
        results = self.results
        if self.structure:
            results.frames = self._pass("frames", known(results.structure).images, [self.keys["structure"]])
        else:
            results.frames = self._pass("frames", None, [self.keys["conditioning"]])
        # The fit wants the memory, and no later stage the network.
        self.pipeline = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        outputs.write_frames(self.folder, self.settings, results)

    def _cloud(self) -> None:
        results = self.results
        made = results.generated()

        def make(on_progress: OnProgress) -> State:
            return stages.cloud_state(stages.fuse(made, on_progress))

        results.cloud = stages.cloud_from(self._stage("cloud", [self.keys["frames"]], make))
        outputs.write_cloud(self.folder, results)

    def _splat(self) -> None:
        settings, results = self.settings, self.results
        made = results.generated()
        cloud = known(results.cloud)

        options = FitOptions(iterations=settings.splat_iterations, seed=settings.seed)
        config = options.config(settings.torch_device(), known(results.cameras).width, known(results.cameras).height)
        made_from = [self.keys["cloud"], repr(config), settings.seed]
        # Its name holds what the fit is made from: one of another run is never taken for this one's.
        checkpoint = self.folder.checkpoint("splat", fingerprint(made_from), keep=self.resume)

        def make(on_progress: OnProgress) -> State:
            photographs = stages.photographs(known(results.inputs), known(results.batch))
            return fit(made, cloud, options, on_progress, checkpoint, photographs)

        state = self._stage("splat", made_from, make)
        self.folder.discard(checkpoint)
        tensors = dict(state.tensors)
        results.renders = tensors.pop("renders")
        results.gaussians = Gaussians(**tensors)
        outputs.write_splat(self.folder, settings, results)

    def _report(self, status: str) -> None:
        if not (status == "finished" or self.folder.speaks_of_this_run()):
            # Nothing was made: the folder is still the earlier run's, and what speaks of that one stays.
            return
        started = time.perf_counter()
        self.progress.start(STAGES["report"], False)
        try:
            self._write_report(status)
            self.results.seconds["report"] = time.perf_counter() - started
            self.folder.write_json("run.json", self.summary(status))
            self.folder.rewrite()
        except InputError:
            # After a failure the first error is the one that the user must read.
            if status == "finished":
                raise
        self.progress.finish(STAGES["report"], time.perf_counter() - started)

    def _write_report(self, status: str) -> None:
        summary = self.summary(status)
        outputs.write_report(self.folder, self.settings, self.results, summary)
        self.folder.write_json("run.json", summary)

    def summary(self, status: str) -> dict[str, Any]:
        """What `run.json` holds: settings as used, notes, seconds a stage, peak memory, versions, files."""
        settings, verdict = self.settings, self.results.verdict
        used = asdict(settings) | {
            "model": self.stored.name,
            "frames": self.frames,
            "size": self.size,
            "zoom": settings.end_zoom(),
            "conditioning": self.kind,
            "structure": self.structure,
            "steps": settings.steps or self.defaults.steps,
            "guidance": self.defaults.guidance if settings.guidance is None else settings.guidance,
            "device": str(settings.torch_device()),
            "dtype": str(settings.torch_dtype()).removeprefix("torch."),
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
            "stages": {name: self.keys[name] for name in self.planned() if name in self.results.seconds},
            "missing": self.missing(),
            "network_memory_bytes": {"estimated": self.memory.need, "free": self.memory.free} if self.memory else None,
            "peak_memory_bytes": machine.peak_memory(),
            "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
            "versions": machine.versions(),
            "files": self.folder.files(),
        }


def known(value: T | None) -> T:
    """The value, which an earlier stage has made."""
    assert value is not None, "a stage ran before what it needs"
    return value
