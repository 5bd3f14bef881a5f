"""Shared parts of networks for one photograph: its lens, and notes on reliability."""

from typing import ClassVar

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.cameras.conversions import focal_from_fov
from cus.errors import InputError
from cus.estimators.estimator import Network, Request
from cus.estimators.framing import FramedViews
from cus.estimators.predictions import Prediction
from cus.scene import SceneEstimate

FIELD = 55.0  # degrees along the longer side if no focal length is known: about 35 mm on full frame
LEAST_FIELD, LARGEST_FIELD = 1.0, 170.0  # plausible field of view of a lens in degrees
CONFIDENCE = 2.0  # for every pixel, because these networks give no confidence: a trust of one half


class OneViewNetwork(Network):
    """A network for one view.

    Attributes:
        sees_lens: whether it estimates the focal length.
        caution: a warning about its depths for the notes; empty if there is none.
    """

    fewest = 1
    most = 1
    sees_lens: ClassVar[bool] = False
    caution: ClassVar[str] = ""

    def estimate(self, request: Request, weights: str | None) -> SceneEstimate:
        """Estimate as for every network, with a note if the lens is a guess."""
        scene = super().estimate(request, weights)
        known = request.focals is not None and bool(torch.isfinite(request.focals).all())
        if request.cameras is None and not known and not self.sees_lens:
            scene = scene.with_notes(
                f"the focal length is not known: {FIELD:g} degrees along the longer side are taken; give --fov or "
                "--focal-35mm"
            )
        return scene.with_notes(self.caution) if self.caution else scene

    def seen_through(
        self,
        depth: Tensor,
        framed: FramedViews,
        given: Cameras | None,
        field: float | None = None,
        *,
        metric: bool,
        confidence: Tensor | None = None,
    ) -> Prediction:
        """Convert a map of depth over focal length (in units of the frame's longer side) to a prediction.

        Args:
            depth: [h, w] depth over focal length in the frame.
            framed: framed view.
            given: known camera of the view, or None.
            field: horizontal field of view of the frame in degrees estimated by the network; None: `FIELD`.
            metric: whether depth is in metres.
            confidence: [h, w] confidences >= 1; None: `CONFIDENCE` everywhere.

        Raises:
            InputError: an implausible field of view.
        """
        Ks = self._lens(depth, framed, given, field)
        scaled = depth * Ks[0, 0, 0] / max(depth.shape)
        return self._prediction(scaled, Ks, confidence, metric=metric, follows_lens=True)

    def in_metres(self, depth: Tensor, framed: FramedViews, given: Cameras | None) -> Prediction:
        """Convert a map [h, w] of depth in metres to a prediction, for any lens."""
        return self._prediction(depth, self._lens(depth, framed, given, None), None, metric=True, follows_lens=False)

    def _lens(self, depth: Tensor, framed: FramedViews, given: Cameras | None, field: float | None) -> Tensor:
        """[1, 3, 3] intrinsics in pixels of the frame."""
        height, width = depth.shape
        if given is not None:
            return framed.Ks_of_frames(given.Ks).to(depth)
        # Also refuses NaN.
        if field is not None and not LEAST_FIELD <= field <= LARGEST_FIELD:
            raise InputError(
                f"{self.title} finds no lens that the photograph could be seen through (a field of view of "
                f"{field:.4g} degrees); use another photograph, or another estimator"
            )
        focal = focal_from_fov(FIELD, max(width, height)) if field is None else focal_from_fov(field, width)
        return depth.new_tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])[None]

    def _prediction(
        self, depth: Tensor, Ks: Tensor, confidence: Tensor | None, *, metric: bool, follows_lens: bool
    ) -> Prediction:
        here = torch.eye(4, device=depth.device)[None]
        sure = torch.full_like(depth, CONFIDENCE) if confidence is None else confidence
        return Prediction(self.title, here, Ks, [depth], [sure], metric=metric, follows_lens=follows_lens)
