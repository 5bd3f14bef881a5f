"""Close-up-GS on a scene to refine: its rounds, which continue after an interruption."""

from functools import partial

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.diffusion.loading import load_model
from cus.inference.folder import State
from cus.inference.progress import OnProgress
from cus.inference.refinement.work import Work
from cus.inference.settings import fingerprint
from cus.refinement.detail import with_detail
from cus.refinement.frontier import round_factors
from cus.refinement.progressive import GeneratedViews, Known, ProgressiveOptions, choose_views, generate_views
from cus.scene import SceneEstimate
from cus.splats import Gaussians
from cus.tensor_files import tensors_digest

# Generating a round's views takes about as long as this many steps of its fit; for the progress bar.
GENERATION = 100


def rounds(work: Work, on_fit: OnProgress) -> Gaussians:
    """All rounds up to the factor of the settings. Raises InputError for a model that cannot be loaded."""
    training, factors = _Training(work), round_factors(work.settings.times)
    gaussians = work.given
    each = GENERATION + work.settings.steps
    for number, factor in enumerate(factors):

        def told(before: int, done: int, total: int, text: str = "", /, number: int = number) -> None:
            on_fit(number * each + before + done, len(factors) * each, f"x{factors[number]:g}: {text}")

        last = factors[number - 1] if number else 1.0
        told(0, 0, 0, "views")
        made, weights = training.views(f"round{number + 1}", gaussians, (factor, last), work.settings.seed + number)
        gaussians, added = with_detail(gaussians, made, training.known.finest, training.options.gaussians)
        work.notes.append(f"x{factor:g}: {len(made)} views generated, {added:,} Gaussians added")
        training.known = training.known.extended(made, weights)
        source, seed = GeneratedViews(training.known), work.settings.seed + number
        gaussians = work.fit(f"fit{number + 1}", gaussians, seed, source, partial(told, GENERATION))
    return gaussians


class _Training:
    """What the rounds share: the known views, the target and the model."""

    def __init__(self, work: Work) -> None:
        self.work, self.options = work, ProgressiveOptions()
        photographs, views = work.labels.scene, work.views
        self.pipeline = load_model(work.settings.model, photographs.images.device)
        own = tuple(photo for photo in views.photographs if photo is not None)
        self.known = Known(photographs, own, views.pixel_weights, len(photographs))
        start, end = work.walk.centers[0], work.walk.centers[-1]
        self.target = start + (end - start) / (1 - 1 / work.settings.times)
        self.distance = float((start - self.target).norm())

    def views(
        self, stage: str, gaussians: Gaussians, factors: tuple[float, float], seed: int
    ) -> tuple[SceneEstimate, Tensor]:
        """Generated views between two factors, new and last, and their pixels' weights; saved as a stage's state."""
        work = self.work
        key = fingerprint([work.made_from, stage, tensors_digest(gaussians.to("cpu").tensors())])
        state = work.folder.load(stage, key) if work.resume else None
        if state is None:
            generator = torch.Generator().manual_seed(seed)
            near, far = (self.distance / factor for factor in factors)
            chosen = choose_views(gaussians, self.known, self.target, (near, far), self.options, generator)
            views = generate_views(
                gaussians, self.known, chosen, self.pipeline, work.labels, self.target, self.options, seed
            )
            state = _state(*views)
            work.folder.save(stage, key, state)
        work.unfinished.append(work.folder.path / "state" / f"{stage}.safetensors")
        return _views(state, self.known.scene.images.device)


def _state(made: SceneEstimate, weights: Tensor) -> State:
    cameras = {"viewmats": made.cameras.viewmats, "Ks": made.cameras.Ks}
    maps = {"images": made.images, "depths": made.depths, "confidences": made.confidences, "weights": weights}
    return State(cameras | maps | ({} if made.gains is None else {"gains": made.gains}))


def _views(state: State, device: torch.device) -> tuple[SceneEstimate, Tensor]:
    found = {name: tensor.to(device) for name, tensor in state.tensors.items()}
    height, width = found["images"].shape[-2:]
    cameras = Cameras(found["viewmats"], found["Ks"], width, height)
    made = SceneEstimate(found["images"], cameras, found["depths"], found["confidences"], gains=found.get("gains"))
    return made, found["weights"]
