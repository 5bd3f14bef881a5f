"""Depth and new views from a single picture, learned together from posed pictures without depth labels.

The method is that of Minciullo et al. 2023 (arXiv 2308.14108). An encoder sees one picture. Its latent, transformed as
a set of points, is the input for another camera. One depth decoder is used twice, with shared weights: from the latent
and the encoder's own skips it gives the picture's depth, by which the skips are splatted into the other view (direct
warp); from the transformed latent and those skips it gives the other view's depth, by which the skips are sampled
(inverse warp). From these the other view is generated. There are two changes: perceptual differences use the features
of the encoder itself, without gradients to its weights, as there is no VGG here; and reprojection is also evaluated on
halved pictures.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from omegaconf import MISSING
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from cus.datasets.clips import clip_paths
from cus.datasets.posed_views import CONTENT, PosedViews, ViewItems, load_views, shrunk
from cus.errors import InputError
from cus.estimators.mono import save_network
from cus.estimators.networks.single_view import STEP, Decoder, Encoder, Form, SingleViewDepth
from cus.files import require_regular
from cus.limits import limited
from cus.remote import local_folder
from cus.training.loop import LoopSettings
from cus.training.pictures import psnr, save_grid
from cus.training.self_supervision import (
    View,
    consistency,
    projected,
    reprojection,
    resized,
    sampled,
    smoothness,
    splatted,
)

PERCEPTUAL_LEVELS = 3


@dataclass(frozen=True)
class DepthScores:
    """Scores of one picture, or means over several.

    Attributes:
        abs_rel: mean relative error.
        rmse: root mean square error, in scene units.
        delta: fraction of pixels whose depth is within a factor of 1.25.
    """

    abs_rel: float
    rmse: float
    delta: float

    @staticmethod
    def mean(scores: Iterable["DepthScores"]) -> "DepthScores":
        """The mean over several pictures with equal weights."""
        columns = list(zip(*(astuple(one) for one in scores), strict=True))
        return DepthScores(*(sum(column) / len(column) for column in columns))


def depth_scores(depths: Tensor, exact: Tensor) -> DepthScores:
    """Score a depth map [H, W] of any scale.

    Args:
        depths: [H, W] positive depths; others count as 0 after scaling.
        exact: [H, W] exact depths in scene units; pixels with 0 (no depth, such as the sky) do not count.

    Raises:
        ValueError: no exact depth, or no estimate where there is one.
    """
    known = exact > 0
    there = known & (depths > 0)
    if not bool(there.any()):
        raise ValueError("there is no depth to compare")
    scaled = depths * (exact[there].median() / depths[there].median())
    found, truth = scaled[known].clamp(min=0), exact[known]
    ratio = torch.maximum(found / truth, truth / found.clamp(min=1e-12))
    return DepthScores(
        abs_rel=float(((found - truth).abs() / truth).mean()),
        rmse=float((found - truth).square().mean().sqrt()),
        delta=float((ratio < 1.25).float().mean()),
    )


@dataclass
class SingleViewConfig:
    """Settings of `train/single_view.py`.

    Attributes:
        out: output folder of the run.
        views: folder of sets of posed views (data/make_views.py).
        init: weights to start from (`checkpoints/step-*/model.safetensors` of a run); empty: random ones.
        held_out: folder of sets with exact depths, for samples and scores; empty: none.
        form: size and range of the network (`cus.estimators.networks.single_view.Form`).
        parts: "joint" or, for comparisons, only "depth" or "synthesis".
        warps: skips of the generated view: "both" samples them by the other view's own depth (inverse), "direct" uses
            the splatted ones.
        drawn_share: fraction of a batch's pictures whose other view is generated, which costs more than depth alone.
        automasking: exclude pixels that look the same without any motion (`reprojection`).
        others: number of other views per picture.
        shrink: factor by which stored views are shrunk, in training and scores.
        recolor: largest relative change of brightness, contrast and channels of an item.
        reconstruction_weight: weight of the L1 distance of the generated view.
        perceptual_weight: weight of its distance in features.
        photometric_weight: weight of reprojection, for both depths.
        smoothness_weight: weight of the edge-aware smoothness of both depths.
        consistency_weight: weight of the consistency of both depths.
        loop: settings of the training loop (`LoopSettings`).
    """

    out: str = MISSING
    views: str = MISSING
    init: str = ""
    held_out: str = ""
    form: Form = field(default_factory=Form)
    parts: str = limited("joint", choices=("joint", "depth", "synthesis"))
    warps: str = limited("both", choices=("both", "direct"))
    drawn_share: float = limited(1.0, above=0, high=1)
    automasking: bool = True
    others: int = limited(2, low=1, high=16)
    shrink: int = limited(1, low=1, high=16)
    recolor: float = limited(0.2, low=0, high=0.9)
    reconstruction_weight: float = limited(1.0, low=0)
    perceptual_weight: float = limited(0.1, low=0)
    photometric_weight: float = limited(1.0, low=0)
    smoothness_weight: float = limited(0.01, low=0)
    consistency_weight: float = limited(0.1, low=0)
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(learning_rate=2e-4, batch=8))


@dataclass(frozen=True)
class Drawn:
    """The network's output for a picture and another view of the same scene.

    Attributes:
        depths: [B, 1, H, W] z-depths of the picture.
        other_depths: [B, 1, H, W] z-depths of the other view.
        picture: [B, 3, H, W] in [0, 1], generated other view.
        perceptual: its distance from the true one in the encoder's features, a scalar.
    """

    depths: Tensor
    other_depths: Tensor | None = None
    picture: Tensor | None = None
    perceptual: Tensor | None = None


class SingleView(nn.Module):
    """The network in training: depth of one picture, depth and picture of another view."""

    def __init__(self, form: Form, parts: str = "joint", warps: str = "both") -> None:
        super().__init__()
        self.parts, self.warps = parts, warps
        self.depth = SingleViewDepth(form)
        self.drawing = Decoder(form) if parts != "depth" else None
        # The picture itself, warped, is the finest skip.
        self.head = None
        if self.drawing is not None:
            self.head = nn.Sequential(
                nn.Conv2d(self.drawing.channels + 3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 1)
            )

    def forward(self, image: Tensor, other: Tensor, K: Tensor, other_K: Tensor, viewmats: Tensor) -> Drawn:
        """Depths of B pictures, and the generated other views of the first N of them.

        Args:
            image: [B, 3, H, W] pictures in [0, 1].
            other: [N, 3, H, W] true other views, used only for the perceptual distance.
            K: [B, 3, 3] intrinsics of the pictures.
            other_K: [N, 3, 3] intrinsics of the other views.
            viewmats: [N, 4, 4] from the pictures' cameras to those of the other views.
        """
        net = self.depth
        # This makes convolutions on a CPU faster, but nothing else.
        *skips, latent = net.encoder(image.contiguous(memory_format=torch.channels_last))
        depths = net.depth(net.pose(latent), skips) * _focal(K, image)
        whole = F.interpolate(depths, scale_factor=2.0, mode="bilinear", align_corners=False)
        if self.drawing is None or self.head is None:
            return Drawn(whole)
        count = len(other)
        image, K, skips, near = image[:count], K[:count], [skip[:count] for skip in skips], depths[:count]
        moved = net.pose(latent[:count], viewmats)
        put_down = _directly(skips, near, K, other_K, viewmats)
        other_depths = net.depth(moved, put_down) * _focal(other_K, image)
        other_whole = F.interpolate(other_depths, scale_factor=2.0, mode="bilinear", align_corners=False)
        back = torch.linalg.inv(viewmats)
        if self.warps == "both":
            fetched = _inversely(skips, other_depths, other_K, K, back)
            finest = sampled(image, projected(other_whole, other_K, K, back)[0])
        else:
            fetched = put_down
            finest = splatted(image, *projected(whole[:count], K, other_K, viewmats))
        features = F.interpolate(self.drawing(moved, fetched), scale_factor=2.0, mode="nearest")
        picture = self.head(torch.cat([features, finest.to(features)], dim=1)).float().sigmoid()
        return Drawn(whole, other_whole, picture, _perceptual(net.encoder, picture, other))


def _focal(Ks: Tensor, image: Tensor) -> Tensor:
    """[B, 1, 1, 1] focal lengths in units of the picture's longest side."""
    return (Ks[:, 0, 0] / max(image.shape[-2:]))[:, None, None, None]


def _levels(skips: list[Tensor], depths: Tensor) -> list[tuple[Tensor, Tensor, float]]:
    """Each skip with the depths at its size, and this size relative to the picture's."""
    return [
        (skip.float(), F.avg_pool2d(depths, 2**level) if level else depths, 0.5 ** (level + 1))
        for level, skip in enumerate(skips)
    ]


def _directly(skips: list[Tensor], depths: Tensor, K: Tensor, other_K: Tensor, viewmats: Tensor) -> list[Tensor]:
    """Skips of the picture splatted into the other view by the picture's depths [B, 1, H / 2, W / 2]."""
    return [
        splatted(skip, *projected(depth, resized(K, factor), resized(other_K, factor), viewmats))
        for skip, depth, factor in _levels(skips, depths)
    ]


def _inversely(skips: list[Tensor], depths: Tensor, K: Tensor, other_K: Tensor, viewmats: Tensor) -> list[Tensor]:
    """Skips of another picture sampled for a view by the view's depths [B, 1, H / 2, W / 2]."""
    return [
        sampled(skip, projected(depth, resized(K, factor), resized(other_K, factor), viewmats)[0])
        for skip, depth, factor in _levels(skips, depths)
    ]


def _perceptual(encoder: Encoder, picture: Tensor, truth: Tensor) -> Tensor:
    """Distance of two pictures in the encoder's features, without gradients to its weights."""
    frozen = {name: value.detach() for name, value in (*encoder.named_parameters(), *encoder.named_buffers())}
    learning = encoder.training
    encoder.eval()
    with torch.no_grad():
        wanted = functional_call(encoder, frozen, (truth,))[:PERCEPTUAL_LEVELS]
    found = functional_call(encoder, frozen, (picture,))[:PERCEPTUAL_LEVELS]
    encoder.train(learning)
    distances = [(a.float() - b.float()).abs().mean() for a, b in zip(found, wanted, strict=True)]
    return torch.stack(distances).mean()


class SingleViewStage:
    """Trains single-view depth and view synthesis (a `cus.training.stage.Stage`)."""

    def __init__(self, config: SingleViewConfig) -> None:
        self.config = config
        self.module = SingleView(config.form, config.parts, config.warps)
        if config.init:
            _start_from(self.module, Path(config.init))
        self.module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.held_out = (
            [_held_out(path, config.shrink) for path in clip_paths(local_folder(config.held_out), CONTENT)]
            if config.held_out
            else []
        )

    def dataset(self) -> ViewItems:
        """Pictures with their neighbours."""
        c = self.config
        return ViewItems(local_folder(c.views), c.others, c.loop.seed, c.recolor, c.shrink)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """All losses of one batch; the generated view is one of the others, at random."""
        c = self.config
        image, others, Ks, viewmats = batch["image"], batch["others"], batch["Ks"], batch["viewmats"]
        chosen = int(torch.randint(others.shape[1], (1,), generator=generator))
        count = math.ceil(c.drawn_share * len(image))
        other, other_K, way = others[:count, chosen], Ks[:count, 1 + chosen], viewmats[:count, chosen]
        drawn = module(image, other, Ks[:, 0], other_K, way)
        total = image.new_zeros(())
        if c.parts != "synthesis":
            around = [(others[:, i], Ks[:, 1 + i], viewmats[:, i]) for i in range(others.shape[1])]
            total = total + self._depth_loss(image, drawn.depths, Ks[:, 0], around)
        if drawn.picture is None or drawn.other_depths is None or drawn.perceptual is None:
            return total
        total = total + c.reconstruction_weight * (drawn.picture - other).abs().mean()
        total = total + c.perceptual_weight * drawn.perceptual
        if c.parts == "synthesis":
            return total
        seen, K, back = image[:count], Ks[:count, 0], torch.linalg.inv(way)
        total = total + self._depth_loss(other, drawn.other_depths, other_K, [(seen, K, back)])
        contradiction = consistency(drawn.other_depths, drawn.depths[:count], other_K, K, back)
        return total + c.consistency_weight * contradiction

    def _depth_loss(self, image: Tensor, depths: Tensor, K: Tensor, others: Sequence[View]) -> Tensor:
        """Reprojection and smoothness of the depths of one view."""
        c = self.config
        judged = reprojection(image, depths, K, others, automasking=c.automasking)
        return c.photometric_weight * judged + c.smoothness_weight * smoothness(depths, image)

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Write pictures, estimated and exact depths; scores over all held-out sets."""
        if not self.held_out:
            return {}
        learning, device = self.module.training, next(self.module.parameters()).device
        self.module.eval()
        rows, scores, drawings = [], [], []
        for index, views in enumerate(self.held_out):
            image, other = views.images[:1].to(device), views.images[1:2].to(device)
            Ks, way = views.cameras.Ks.to(device), (views.cameras.viewmats[1:2] @ views.cameras.c2w[:1]).to(device)
            drawn = self.module(image, other, Ks[:1], Ks[1:2], way)
            found, exact = drawn.depths[0, 0].cpu(), views.depths[0]  # pyright: ignore[reportOptionalSubscript]
            scores.append(depth_scores(found, exact))
            if drawn.picture is not None:
                drawings.append(psnr(drawn.picture, other))
            if index < 6:
                picture = other if drawn.picture is None else drawn.picture
                rows += [image[0].cpu(), _shown(found), _shown(exact), other[0].cpu(), picture[0].cpu()]
        self.module.train(learning)
        save_grid(folder / f"step-{step:08d}.png", rows, columns=5)
        mean = DepthScores.mean(scores)
        measures = {"abs_rel": mean.abs_rel, "rmse": mean.rmse, "delta": mean.delta}
        return measures | ({"psnr": sum(drawings) / len(drawings)} if drawings else {})

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Save the part that gives depth, for `cus-infer --estimator mono:FOLDER`."""
        save_network(folder / "model.safetensors", self.module.depth)


def _start_from(module: SingleView, path: Path) -> None:
    try:
        require_regular(path)
        module.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, OSError, RuntimeError, InputError) as error:
        raise InputError(
            f"init={path} cannot be read as the weights of such a network ({str(error).splitlines()[0]}); name the "
            "model.safetensors of a checkpoint of train/single_view.py with the same form and parts"
        ) from error


def _held_out(path: Path, shrink: int) -> PosedViews:
    views = load_views(path)
    if views.depths is None:
        raise InputError(f"{path} has no exact depths to score with; build the set with depths=true")
    images, cameras = shrunk(views.images, views.cameras, shrink)
    middle = slice(shrink // 2, None, shrink)
    views = PosedViews(images, cameras, views.depths[:, middle, middle])
    if len(views.images) < 2 or any(side % STEP for side in views.images.shape[-2:]):
        raise InputError(f"{path} must hold two views or more, whose sides are multiples of {STEP}")
    return views


def _shown(depths: Tensor) -> Tensor:
    """[3, H, W] inverse depth as grey; near is light."""
    inverse = torch.where(depths > 0, 1 / depths.clamp(min=1e-6), 0.0)
    return (inverse / inverse.quantile(0.98)).clamp(0, 1)[None].expand(3, -1, -1)
