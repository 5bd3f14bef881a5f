"""Random windows of clips in pixels, for models with a free first stage, which need no cache of latents."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from cus.completion.surroundings import fill_holes
from cus.datasets.clips import (
    FORMAT,
    ClipItems,
    Window,
    images_of,
    item_seed,
    masks_of,
    open_tensors,
    require_conditioning,
)
from cus.datasets.structures import open_structure, require_structures
from cus.errors import InputError


class LayeredCrops(ClipItems):
    """Random windows of clips; item `i` depends only on the seed and `i`, so training resumes exactly.

    Items: targets, conditioning [T, 3, h, w]; layer_images [T, L, 3, h, w], layer_masks [T, L, h, w] and gate
    [T, h, w], if layers are requested; structure [T, 3, h, w] and guided, bool [], if `structure_share` is not 0:
    whether the item has a structure image (otherwise black); reference [3, S, S]: all float in [0, 1]. Windows are
    mirrored and rotated at random, consistently within an item. Clips shorter than `frames` repeat their last frame.
    Windows do not depend on the conditioning, the layers and the share: models that differ only in these see the same
        ones.

    Args:
        folder: folder of the clips.
        frames: number of frames per window.
        crop: (height, width) of a window in pixels; clips must be at least as large.
        seed: seed of the windows.
        layers: number of condition layers to read; clips without them are then an error.
        reference_size: side in pixels of the square input of the image tower.
        conditioning: name of the warp to read; "" is a clip's own conditioning, the only one with layers.
        structure_share: fraction of the items with a structure image that keep it.
        fill: whether to fill holes of the conditioning from their surroundings (`Sampling.fill_holes`).
        structures: folder of structure images (data/make_coarse.py) that replace the clips' own; or None.
    """

    def __init__(
        self,
        folder: Path,
        frames: int,
        crop: tuple[int, int],
        seed: int,
        layers: int,
        reference_size: int,
        conditioning: str = "",
        structure_share: float = 0.0,
        fill: bool = False,
        structures: Path | None = None,
    ) -> None:
        super().__init__(folder, seed)
        self.frames, self.crop = frames, crop
        self.layers, self.reference_size = layers, reference_size
        self.conditioning, self.structure_share, self.fill = conditioning, structure_share, fill
        self.structures = structures
        if structures is not None:
            require_structures(structures)
        if layers and conditioning:
            raise InputError(
                f"layers belong to a clip's own conditioning, not to conditioning={conditioning}: set sampling.layers=0"
            )
        with open_tensors(self.paths[0], FORMAT, "training clip") as file:
            names = set(file.keys())
        if layers and "gate" not in names:
            raise InputError(
                f"{self.paths[0]} has no condition layers, and the model reads {layers}; build clips with "
                "data/make_photographic.py"
            )
        require_conditioning(self.paths[0], conditioning)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(item_seed(self.seed, index))
        path = self.path_of(index)
        with open_tensors(path, FORMAT, "training clip") as file:
            tensors = {"targets": "targets", "conditioning": images_of(self.conditioning)}
            if self.layers:
                tensors |= {name: name for name in ("layer_images", "layer_masks", "gate")}
            if self.fill:
                tensors["masks"] = masks_of(self.conditioning)
            has_structure = self.structures is None and "structure" in file.keys()  # noqa: SIM118
            if self.structure_share and has_structure:
                tensors["structure"] = "structure"
            length, _, height, width = file.get_slice("targets").get_shape()
            frames = min(self.frames, length)
            window = Window.draw(length, (height, width), frames, self.crop, 1, generator)
            item = {name: window.of(file.get_slice(stored)).float() for name, stored in tensors.items()}
            reference = file.get_slice("references")[:1].float() / 255
        with open_structure(self.structures if self.structure_share else None, path.name) as file:
            if file is not None:
                has_structure = True
                item["structure"] = window.of(file.get_slice("structure")).float()
        turns, mirrored = (int(torch.randint(n, (1,), generator=generator)) for n in (4, 2))
        square = self.crop[0] == self.crop[1]
        for name, values in item.items():
            values = values if name in ("layer_masks", "masks") else values / 255
            values = values[:, : self.layers] if name.startswith("layer_") else values
            values = values.flip(-1) if mirrored else values
            values = values.rot90(turns if square else 2 * (turns % 2), (-2, -1))
            more = self.frames - frames
            item[name] = torch.cat([values, *[values[-1:]] * more]).contiguous()
        if self.fill:
            item["conditioning"] = fill_holes(item["conditioning"], item.pop("masks") > 0)
        if self.structure_share:
            # Drawn last.
            guided = has_structure and float(torch.rand(1, generator=generator)) < self.structure_share
            item["guided"] = torch.tensor(guided)
            if not guided:
                item["structure"] = torch.zeros_like(item["targets"])
        size = (self.reference_size, self.reference_size)
        item["reference"] = F.interpolate(reference, size, mode="bilinear", antialias=True)[0].clamp(0, 1)
        return item
