"""Depth of one photograph by a small network that learned it without depth labels, trained here and shipped.

The last resort for one photograph: it needs no download, and knows rooms and yards of our own making only.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cus.cameras import Cameras
from cus.cameras.conversions import focal_from_fov
from cus.errors import InputError
from cus.estimators.estimator import Availability, Network, Request
from cus.estimators.framing import FramedViews, FrameRule
from cus.estimators.networks.single_view import STEP, Form, SingleViewDepth
from cus.estimators.predictions import Prediction
from cus.scene import SceneEstimate

FORMAT = "cus-single-view-1"
OWN = "shipped"  # stands for the weights in `SHIPPED`
SHIPPED = Path(__file__).resolve().parent.parent / "weights" / "mono"
FIELD = 55.0  # degrees of the longest side, where no focal length is known: that of a phone's main camera is about 65
CONFIDENCE = 2.0  # of every pixel, as the network says nothing of it: a trust of one half


class Mono(Network):
    """The network for one view, with the weights that ship."""

    name = "mono"
    title = "the single-view network"
    fewest = 1
    most = 1
    repositories = (OWN,)
    licence = "that of CloseUpShot"
    # Of the size that it has learned from: it knows what things look like at that size.
    rule = FrameRule(longest_side=192, patch=STEP, step=STEP, fill=None, one_size=True)

    def find(self, weights: str) -> Path | None:
        """The shipped file, or another that is named."""
        if weights != OWN:
            return super().find(weights)
        shipped = SHIPPED / self.files[0]
        return shipped if shipped.is_file() else None

    def available(self) -> Availability:
        """Whether weights ship with this installation."""
        if self.find(OWN) is None:
            return Availability(False, reason="mono has no weights in this installation")
        return Availability(True, OWN, "it is the one that ships with its weights")

    def fetch(self, weights: str) -> Path:
        """Likewise, checked. Raises InputError where this installation has none."""
        if weights == OWN and self.find(OWN) is None:
            raise InputError(
                f"{SHIPPED} holds no weights of mono; name a folder that train/single_view.py exported, as in "
                "mono:runs/mono/export, or use the estimator 'da3', which downloads its own"
            )
        return super().fetch(weights)

    def check(self, path: Path, weights: str) -> None:
        """The form that the file names, and its tensors."""
        load_network(path)

    def estimate(self, request: Request, weights: str | None) -> SceneEstimate:
        """As of every network, with a note where the lens is a guess."""
        scene = super().estimate(request, weights)
        known = request.focals is not None and bool(torch.isfinite(request.focals).all())
        if request.cameras is None and not known:
            scene = scene.with_notes(
                f"the focal length is not known: {FIELD:g} degrees along the longer side are taken; give --fov or "
                "--focal-35mm"
            )
        return scene.with_notes(
            "mono has seen rooms and yards of our own making only: take it for a rough guess; da3 sees real photographs"
        )

    def predict(
        self,
        path: Path,
        framed: FramedViews,
        given: Cameras | None,
        device: torch.device,
        report: Callable[[int], None],
    ) -> Prediction:
        """Depth of the view, seen through the given lens, or through one of `FIELD` degrees."""
        model = load_network(path).to(device)
        report(1)
        pictures = torch.stack(framed.pictures)
        height, width = pictures.shape[-2:]
        with torch.no_grad():
            depths = model(pictures)
        depths = torch.nn.functional.interpolate(depths, (height, width), mode="bilinear", align_corners=False)[:, 0]
        report(2)
        if given is not None:
            Ks = framed.Ks_of_frames(given.Ks)
        else:
            focal = focal_from_fov(FIELD, max(width, height))
            Ks = pictures.new_tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])[None]
        depths = depths * Ks[:, 0, 0, None, None] / max(width, height)
        viewmats = torch.eye(4, device=device)[None]
        return Prediction(self.title, viewmats, Ks, list(depths), list(torch.full_like(depths, CONFIDENCE)))


def save_network(path: Path, model: SingleViewDepth) -> None:
    """Write the network in half precision, with its form; means and variances of the norms stay in float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, value in model.state_dict().items():
        half = value.is_floating_point() and "running" not in name
        tensors[name] = (value.half() if half else value).cpu().contiguous()
    save_file(tensors, path, {"format": FORMAT, "form": json.dumps(model.form.to_dict())})


def load_network(path: Path) -> SingleViewDepth:
    """The network of a file in float32, in evaluation mode on the CPU.

    Raises:
        InputError: a damaged file, another format, or tensors that are not the network's.
    """
    try:
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
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read as the single-view network ({reason}); get it again") from error
    return model.eval().requires_grad_(False)
