"""`cus-refine --method vsd` and `cus-fit --super-resolve`: a scene of more pixels than its photographs have."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cus.diffusion.loading import find_fitting_lora, find_model
from cus.diffusion.lora import require_peft
from cus.errors import InputError
from cus.inference.folder import RunFolder
from cus.inference.progress import OnProgress
from cus.inference.refinement.enlarge_settings import EnlargeSettings
from cus.inference.refinement.settings import RefineSettings
from cus.inference.refinement.subject import Subject
from cus.inference.refinement.work import Enlargeable
from cus.refinement.distillation import DistillOptions
from cus.refinement.priors import CriticOptions, PipelinePrior, open_prior, prior_class
from cus.refinement.super_resolution import Call, SuperResolution, super_resolve
from cus.splats import Gaussians
from cus.splats.fit_start import read_checkpoint, write_checkpoint

# Most pixels of an enlarged photograph: what fits into memory with a prior's condition.
MOST_PIXELS = 36_000_000


def check(subject: Subject, settings: RefineSettings) -> None:
    """Refuse what cannot be enlarged. Raises InputError."""
    check_enlargement(max(map(max, subject.posed.sizes)), settings.times, _used_size(subject) or settings.size)
    check_prior(settings.model, settings.enlargement, int(settings.times))


def _used_size(subject: Subject) -> int | None:
    """Longest side of the photographs as a run recorded them with their depths; None if they are read anew."""
    recorded = None if subject.run is None else RunFolder(subject.run).recorded("scene")
    return None if recorded is None or "valid" not in recorded.tensors else max(recorded.tensors["valid"].shape[-2:])


def check_enlargement(longest: int, factor: float, size: int) -> None:
    """Refuse a factor for photographs of `longest` pixels that are used at `size`. Raises InputError."""
    if factor != int(factor) or not 2 <= factor <= 16:
        raise InputError(f"photographs are enlarged by a whole factor from 2 to 16; got --factor {factor:g}")
    if longest >= factor * size:
        raise InputError(
            f"the photographs are {longest} pixels long, and used at {size} they would be enlarged to "
            f"{int(factor) * size}: they show that already; use --size {longest} (a run of cus-infer: a larger "
            "--factor), or --method pseudo-labels"
        )
    side = int(factor) * min(size, longest)
    if side**2 > MOST_PIXELS:
        raise InputError(
            f"photographs of {min(size, longest)} pixels, {int(factor)} times larger, are {side} pixels long: more "
            "than fits; use a smaller --size or --factor"
        )


def check_prior(model: str, settings: EnlargeSettings, factor: int) -> None:
    """Refuse a prior that is missing or cannot enlarge by the factor, without its weights. Raises InputError."""
    kind = prior_class(model)
    if kind is not None and settings.gradient in (None, "vsd"):
        require_peft()
    if kind is not None and kind.factor not in (None, factor):
        raise InputError(f"{model} enlarges {kind.factor} times, not {factor}; use --factor {kind.factor}")
    if kind is PipelinePrior:
        found = find_model(model)
        if settings.lora is not None:
            find_fitting_lora(settings.lora, found)
    elif settings.lora is not None:
        raise InputError("--lora changes a model of this project: name one with --model, such as mini")


@dataclass(frozen=True)
class Kept:
    """Keeps finished parts of rounds in files (a `Keeper`).

    Attributes:
        work: the work that they belong to.
    """

    work: Enlargeable

    def __call__(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors in the file of this name, or those that `make` makes."""
        path = self.work.part(f"vsd-{name}")
        identity = {"part": name, "made_from": self.work.made_from}
        try:
            found = read_checkpoint(path, identity, "cpu")
        except InputError as error:
            self.work.notes.append(f"{str(error).partition(';')[0]}, so it was made again")
            found = None
        if found is None:
            found = make()
            write_checkpoint(path, found, identity)
        return found


def rounds(work: Enlargeable, on_progress: OnProgress) -> Gaussians:
    """Super-resolve a scene; each round's pictures and scene are kept for --resume until all is written."""
    settings, chosen = work.settings, work.settings.enlargement
    factor = int(settings.times)
    device = work.given.means.device
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    prior = open_prior(settings.model, factor, device, dtype, CriticOptions(seed=settings.seed), chosen.lora)
    gradient = chosen.gradient or ("vsd" if prior is None or prior.has_spread else "sds")
    options = SuperResolution(
        factor,
        chosen.rounds,
        settings.steps,
        selective=chosen.selective,
        distillation=DistillOptions(gradient, chosen.steps, critic_every=chosen.critic_every),
    )
    # Distilling and fitting take turns; each counts as much as the other.
    total = 2 * chosen.rounds * settings.steps

    def on_upscale(turn: int, done: int, of: int) -> None:
        text = f"round {turn + 1} of {chosen.rounds}, {gradient.upper()}"
        on_progress(settings.steps * 2 * turn + round(settings.steps * done / of), total, text)

    def record(turn: int):
        def on_fit(done: int, _: int, text: str = "", /) -> None:
            place = f"round {turn + 1} of {chosen.rounds}, {text}"
            on_progress(settings.steps * (2 * turn + 1) + done, total, place)

        return work.record(f"vsd-fit{turn}", on_fit)

    if prior is not None:
        on_progress(0, total, "warps of the photographs for the model")
    call = Call(on_upscale, record, Kept(work))
    made = super_resolve(
        work.estimate, work.views, work.given.baked(), work.config, options, prior, settings.seed, call
    )
    if prior is not None:
        work.notes.append(f"photographs were enlarged by {settings.model}, {gradient.upper()}")
    work.notes.extend(told(work, made.selected))
    return made.gaussians


def told(work: Enlargeable, selected: float) -> list[str]:
    """Notes on what was enlarged."""
    factor, size = int(work.settings.times), max(work.estimate.cameras.width, work.estimate.cameras.height)
    own = max((max(p.shape[-2:]) for p in work.views.photographs if p is not None), default=size)
    notes = []
    if own > size:
        notes.append(
            f"the photographs, {own} pixels long, were used and enlarged from {size} pixels; --size {own} starts from "
            "all of their pixels"
        )
    if work.settings.enlargement.selective:
        share, rest = 100 * selected, "; the rest is resolved by other photographs"
        notes.append(
            f"{share:.0f} % of the photographs' pixels were enlarged {factor} times{rest if share < 99.5 else ''}"
        )
    return notes
