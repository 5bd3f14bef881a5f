"""The interface of all kinds of conditioning images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.conditioning import Conditioning
from cus.scene import SceneEstimate


@dataclass(frozen=True)
class ConditioningKind(ABC):
    """A way to show a network what the photographs know of the targets. The fields of a subclass are its options.

    Attributes:
        name: name of the kind in checkpoints, commands and settings.
        takes_photographs: whether colours come from the photographs at full resolution rather than from the scene's
            images.
        wants_agreement: whether `show` expects a scene that has been through `agree`.
        sees_whole_frames: whether the images of a window must be cut out of whole frames, because a smaller frame
            would be rendered differently.
    """

    name: ClassVar[str]
    takes_photographs: ClassVar[bool] = False
    wants_agreement: ClassVar[bool] = False
    sees_whole_frames: ClassVar[bool] = False

    @abstractmethod
    def show(
        self,
        scene: SceneEstimate,
        cameras: Cameras,
        photographs: Sequence[Tensor] | None = None,
        *,
        with_layers: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Conditioning:
        """Render the conditioning of T target cameras.

        Args:
            scene: reference images with cameras, depths (0 = none) and confidences.
            cameras: T cameras of any size.
            photographs: the views at a larger size, V of [3, Hi, Wi], for kinds that take them.
            with_layers: whether to fill `Conditioning.layers`, if the kind has layers.
            on_progress: called with (targets done, T).

        Raises:
            InputError: the targets see nothing of the scene.
        """
