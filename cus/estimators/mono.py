"""Depth of one photograph by a small network trained here without depth labels, and shipped with the package.

The last resort for one photograph: it needs no download, but was trained only on procedural rooms and yards.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators.estimator import Availability
from cus.estimators.framing import FramedViews, FrameRule
from cus.estimators.networks.single_view import STEP, Form, SingleViewDepth
from cus.estimators.one_view import OneViewNetwork
from cus.estimators.predictions import Prediction
from cus.estimators.straightening import straight_segments, straightened
from cus.tensor_files import save_tensors

FORMAT = "cus-single-view-1"
OWN = "shipped weights"  # stands for the weights in `SHIPPED`
DOUBT = 0.1  # relative difference of two predictions that removes most of one half, the largest trust
SHIPPED = Path(__file__).resolve().parent.parent / "weights" / "mono"


class Mono(OneViewNetwork):
    """The network for one view, with the shipped weights."""

    name = "mono"
    title = "the single-view network"
    repositories = (OWN,)
    licence = "that of CloseUpShot"
    # The size of its training pictures, because it knows the appearance of things at that size.
    rule = FrameRule(longest_side=192, patch=STEP, step=STEP, fill=None, one_size=True)
    caution = (
        "mono was trained only on rendered rooms and yards: its depth is a rough guess; da3 was trained on photographs"
    )

    def find(self, weights: str) -> Path | None:
        """The shipped file, or another one that is named."""
        if weights != OWN:
            return super().find(weights)
        shipped = SHIPPED / self.files[0]
        return shipped if shipped.is_file() else None

    def available(self) -> Availability:
        """Whether weights are shipped with this installation."""
        if self.find(OWN) is None:
            return Availability(False, reason="mono has no weights in this installation")
        return Availability(True, OWN, "it is the one that ships with its weights")

    def fetch(self, weights: str) -> Path:
        """The same file, checked. Raises InputError if this installation has none."""
        if weights != OWN:
            return super().fetch(weights)
        path = self.find(OWN)
        if path is None:
            raise InputError(
                f"{SHIPPED} holds no weights of mono; name a folder that train/single_view.py exported, as in "
                "mono:runs/mono/export, or use the estimator 'da3', which downloads its own"
            )
        self.check(path, weights)
        return path

    def check(self, path: Path, weights: str) -> None:
        """Check the form given in the file, and its tensors."""
        self.load(path)

    def read(self, path: Path) -> SingleViewDepth:
        """Read a file's network in float32."""
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a file is no mapping
        if metadata.get("format") != FORMAT:
            raise InputError(
                f"{path} does not hold the single-view network: its format is {metadata.get('format')}, not {FORMAT}; "
                "name a file that train/single_view.py exported"
            )
        model = SingleViewDepth(Form(**json.loads(metadata["form"])))
        state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        model.load_state_dict(state, strict=True)
        return model

    def run(self, model: SingleViewDepth, framed: FramedViews, given: Cameras | None) -> Tensor:
        """[2, h, w] depth and confidence of the view."""
        depth, sure = self.guess(model, framed)
        return torch.stack([_straightened(depth, framed), sure])

    def guess(self, model: SingleViewDepth, framed: FramedViews) -> Tensor:
        """[2, h, w] depth and confidence as the network has them, before straight edges are straightened."""
        picture = framed.pictures[0][None]
        seen = 1 / model(torch.cat([picture, picture.flip(-1)]))
        # Predict the mirrored picture, too; where the two predictions differ, neither can be trusted.
        first, second = seen[:1], seen[1:].flip(-1)
        doubt = (first - second).abs() / (first + second)
        maps = torch.cat([2 / (first + second), 1 / (1 - torch.exp(-doubt / DOUBT) / 2)], dim=1)
        return F.interpolate(maps, picture.shape[-2:], mode="bilinear", align_corners=False)[0]

    def prediction(self, output: Tensor, framed: FramedViews, given: Cameras | None) -> Prediction:
        """The depth of the view, with the given or a guessed lens."""
        return self.seen_through(output[0], framed, given, metric=False, confidence=output[1])


def _straightened(depth: Tensor, framed: FramedViews) -> Tensor:
    """[h, w] the depth of the frame's one view, such that its straight edges do not bend when the camera moves."""
    left, top, width, height = framed.placements[0].inner
    photograph, window = framed.photographs[0], (slice(top, top + height), slice(left, left + width))
    segments = straight_segments(photograph) * [width / photograph.shape[-1], height / photograph.shape[-2]]
    picture = framed.pictures[0][:, window[0], window[1]].permute(1, 2, 0)
    inverse = straightened(1 / depth[window].double().cpu().numpy(), picture.cpu().numpy(), segments)
    corrected = depth.clone()
    corrected[window] = 1 / torch.from_numpy(inverse).to(depth)
    return corrected


def save_network(path: Path, model: SingleViewDepth) -> None:
    """Write the network in half precision, with its form; means and variances of the norms stay in float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, value in model.state_dict().items():
        half = value.is_floating_point() and "running" not in name
        tensors[name] = (value.half() if half else value).cpu().contiguous()
    save_tensors(tensors, path, {"format": FORMAT, "form": json.dumps(model.form.to_dict())})
