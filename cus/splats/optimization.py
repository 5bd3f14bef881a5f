"""The optimisation loop of a fit as a value: all mutable state, and one step."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cus.splats.crops import Crops, Supervision, ViewSource, whole
from cus.splats.fit_config import FitConfig
from cus.splats.fit_views import Views
from cus.splats.image_corrections import CameraRefinement, Exposure, mean_depth
from cus.splats.losses import disparity_error, ssim
from cus.splats.parameters import Parameters
from cus.splats.rasterization import rasterization


class Optimization:
    """A fit between two steps. `advance` does one; `state` holds everything that later steps depend on."""

    def __init__(
        self, views: Views, parameters: Parameters, config: FitConfig, seed: int, source: ViewSource | None = None
    ) -> None:
        self.config, self.source = config, source
        self.iteration = 0
        self.parameters = parameters
        self.strategy = config.made_strategy()
        device = views.images.device
        self.strategy_state = self.strategy.initialize(len(parameters), device)
        self.generator = torch.Generator().manual_seed(seed)
        self.queue: list[int] = []
        self.errors = torch.full((len(views),), torch.nan)
        self.exposure = Exposure(views.references, config.exposure_rate, config.exposure_weight)
        gauge = int(views.references.nonzero()[0]) if bool(views.references.any()) else 0
        unit = 1.0
        if config.refine_cameras:
            with torch.no_grad():
                unit = mean_depth(parameters.tensors()[0], views.cameras)
        self.refinement = CameraRefinement(len(views), gauge, unit, config.camera_rate, device)
        self._fine = views.shrunk(config.max_pixels)
        width, height = self._fine.cameras.width, self._fine.cameras.height
        self._coarse = self._fine.shrunk(width * height // 4)
        self._crops = Crops(views, width, height, self.generator)

    def advance(self) -> None:
        """Do one step: draw an image and a background, compare, move along the gradient, run the strategy."""
        config, iteration = self.config, self.iteration
        progress = iteration / config.iterations
        coarse = progress < config.coarse_share
        if not self.queue:
            self.queue = self._round(coarse)
        turn = self.queue.pop()
        background = torch.rand(3, generator=self.generator).to(self._fine.images)
        degree = min(config.sh_degree, int(progress / config.sh_warmup)) if config.sh_warmup > 0 else config.sh_degree
        image, seen = self._drawn(turn, self._coarse if coarse else self._fine)
        loss, render, info = self._loss(image, seen, background, degree)
        if turn < len(self._fine):
            self._note_error(image, render, seen)
        if self.source is not None and not coarse:
            loss = loss + self._source_loss(self.source, background, degree)
        penalty = self.strategy.penalty(self.parameters)
        (loss if penalty is None else loss + penalty).backward()
        rate_factor = config.final_rate**progress
        self.parameters.step(rate_factor)
        if config.exposure:
            self.exposure.step(rate_factor)
        if config.refine_cameras:
            self.refinement.step(rate_factor)
        self.strategy.after_backward(
            self.parameters, self.strategy_state, iteration, config.iterations, info, self.generator
        )
        self.iteration += 1

    @property
    def psnr(self) -> float:
        """PSNR in dB of the mean squared error over the whole images, each as of its last turn."""
        known = self.errors[torch.isfinite(self.errors)]
        return -10 * math.log10(max(float(known.mean()), 1e-12)) if len(known) else math.nan

    def _round(self, coarse: bool) -> list[int]:
        """Shuffled turns of one round.

        Every image once, and crops of each photograph as the number of images plus its own.
        """
        count = len(self._fine)
        turns = torch.arange(count)
        if not coarse and self._crops.images:
            crops = torch.tensor(self._crops.images).repeat(self.config.crops)
            turns = torch.cat([turns, count + crops])
        return turns[torch.randperm(len(turns), generator=self.generator)].tolist()

    def _drawn(self, turn: int, views: Views) -> tuple[int, Supervision]:
        """The image of this turn and its supervision: the whole image, or a crop of its photograph."""
        count = len(views)
        if turn < count:
            return turn, whole(views, turn)
        return turn - count, self._crops.draw(turn - count)

    def _source_loss(self, source: ViewSource, background: Tensor, degree: int) -> Tensor:
        """The weighted loss of a view of the source, or zero if it finds none."""
        with torch.no_grad():
            made = source.draw(self.parameters.tensors(), self.generator)
        if made is None:
            return background.new_zeros(())
        return source.weight * self._loss(None, made, background, degree)[0]

    def _loss(
        self, image: int | None, seen: Supervision, background: Tensor, degree: int
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Eq. 10 for one image in front of a random background, which penalises gaps; and the render.

        The image is None for a view of the source.
        """
        config = self.config
        means, quats, scales, _, sh = self.parameters.tensors()
        camera = seen.camera
        opacities = self.parameters.opacities_in(camera)
        viewmats = camera.viewmats
        if config.refine_cameras and image is not None:
            viewmats = self.refinement.viewmat(image, viewmats)
        depths = seen.depths if config.depth_weight > 0 else None
        renders, alphas, info = rasterization(
            means, quats, scales, opacities, sh, viewmats, camera.Ks, camera.width, camera.height,
            sh_degree=degree, tile_size=config.tile_size, backgrounds=background[None],
            render_mode="RGB" if depths is None else "RGB+ED",
            rasterize_mode="antialiased" if config.antialiased else "classic", backend=config.backend,
        )  # fmt: skip
        if info["means2d"].requires_grad:
            info["means2d"].retain_grad()
        render = renders[0, ..., :3].permute(2, 0, 1)
        if config.exposure and image is not None:
            render = self.exposure.seen(image, render)
        loss = _picture_loss(render, seen.target, seen.weights, config.ssim_weight)
        if depths is not None:
            error = disparity_error(renders[0, ..., 3], alphas[0, ..., 0], depths, seen.weights)
            loss = loss + config.depth_weight * error
        if image is None:
            return loss, render, info
        if config.exposure:
            loss = loss + self.exposure.penalty(image)
        return self._fine.image_weights[image] * loss, render, info

    @torch.no_grad()
    def _note_error(self, image: int, render: Tensor, seen: Supervision) -> None:
        shown = (seen.weights > 0).to(render)
        squares = ((render - seen.target).square().mean(dim=0) * shown).sum() / shown.sum().clamp_min(1)
        self.errors[image] = float(squares)

    def state(self) -> dict[str, Tensor]:
        """Everything that `restore` and `Parameters.restored` need, by name."""
        parts = {
            "parameters": self.parameters.state(),
            "strategy": self.strategy_state,
            "exposure": self.exposure.state(),
            "cameras": self.refinement.state(),
        }
        tensors = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        return tensors | {
            "iteration": torch.tensor(self.iteration),
            "queue": torch.tensor(self.queue, dtype=torch.int64),
            "errors": self.errors,
            "drawn": self._crops.drawn,
            "source": torch.zeros(0) if self.source is None else self.source.counts,
            "generator": self.generator.get_state(),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned; the parameters must already be those of the state."""

        def part(name: str) -> dict[str, Tensor]:
            start = f"{name}."
            return {k.removeprefix(start): v.clone() for k, v in state.items() if k.startswith(start)}

        self.strategy_state = part("strategy")
        self.exposure.restore(part("exposure"))
        self.refinement.restore(part("cameras"))
        self.iteration = int(state["iteration"])
        self.queue = state["queue"].tolist()
        self.errors = state["errors"].cpu().clone()
        self._crops.drawn = state["drawn"].cpu().clone()
        if self.source is not None:
            self.source.counts = state["source"].cpu().clone()
        self.generator.set_state(state["generator"].cpu())


def _picture_loss(render: Tensor, target: Tensor, weights: Tensor, ssim_weight: float) -> Tensor:
    """Eqs. 8 and 10 without W_image: render and target [3, H, W], W_pixel [H, W]."""
    l1 = ((render - target).abs() * weights).mean()
    if ssim_weight == 0:
        return l1
    believed = torch.lerp(render.detach(), target, weights.expand_as(target))
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim(render, believed))
