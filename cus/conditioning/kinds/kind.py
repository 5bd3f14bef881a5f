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
    """A way to show a network what the photographs know of target cameras. The fields of a subclass are its options.

    Attributes:
        name: by which checkpoints, commands and settings ask for it.
        takes_photographs: whether colours come from the photographs at their own resolution; else from the scene's
            images.
        wants_agreement: whether `show` expects a scene that has been through `agree`.
        sees_whole_frames: whether the images of a window must be cut out of whole frames, because a smaller frame
            would be rendered in another way.
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
        """The conditioning of T target cameras.

        Args:
            scene: reference images with cameras, depths (0 = none) and confidences.
            cameras: T cameras of any size.
            photographs: the views at any larger size, V of [3, Hi, Wi], for kinds that take them.
            with_layers: whether to fill `Conditioning.layers`, where the kind has layers.
            on_progress: called with (targets done, T).

        Raises:
            InputError: the targets see nothing of the scene.
        """
