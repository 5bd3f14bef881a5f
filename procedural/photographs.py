"""Photographs for training, from a manifest that states each one's licence.

A manifest is JSON next to (or above) the files: `{"photographs": [{"file": "a.jpg", "licence": "CC BY-SA 3.0",
"source": "where from", "credit": "who"}, ...]}`, paths relative to the manifest. Licences of training data may extend
to the weights, so photographs without a licence that permits this are not read.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from cus.cameras.photos import inspect_photo, resize
from cus.errors import InputError
from cus.files import read_json

PERMITTED = ("cc0", "cc0 1.0", "public domain", "unrestricted", "cc by 2.0", "cc by 3.0", "cc by 4.0") + (
    "cc by-sa 2.0",
    "cc by-sa 3.0",
    "cc by-sa 4.0",
)
SMALLEST = 480  # pixels of the shorter side: smaller photographs give no sharp texture


@dataclass(frozen=True)
class Photograph:
    """An entry of a manifest.

    Attributes:
        path: path of the file.
        licence: one of `PERMITTED`, as written.
        source: where it was obtained.
        credit: attribution required by the licence, or empty.
    """

    path: Path
    licence: str
    source: str
    credit: str

    def entry(self) -> dict[str, str]:
        """Its entry in a record of the training, without local paths."""
        return {"file": self.path.name, "licence": self.licence, "source": self.source, "credit": self.credit}


def read_manifest(path: Path) -> list[Photograph]:
    """Read the photographs of a manifest, in its order.

    Raises:
        InputError: no manifest, an entry without file or licence, a licence that does not permit training, or a file
            that is missing, unreadable or too small.
    """
    expected = (
        'expected JSON such as {"photographs": [{"file": "a.jpg", "licence": "CC BY 4.0", "source": "...", '
        '"credit": "..."}]}'
    )
    content = read_json(path, expected)
    try:
        listed = content["photographs"]
        entries = [
            (str(e["file"]), str(e["licence"]), str(e.get("source", "")), str(e.get("credit", ""))) for e in listed
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no manifest of photographs; {expected}") from error
    if not entries:
        raise InputError(f"{path} lists no photographs")
    found = []
    for name, licence, source, credit in entries:
        if licence.lower() not in PERMITTED:
            raise InputError(
                f"{path}: {name} is under {licence!r}, which does not permit training of weights that are published; "
                f"permitted are {', '.join(PERMITTED)}: remove it from the manifest"
            )
        photo = inspect_photo(path.parent / name)
        if min(photo.width, photo.height) < SMALLEST:
            raise InputError(f"{photo.path} is {photo.width}x{photo.height}; textures need {SMALLEST} pixels a side")
        found.append(Photograph(photo.path, licence, source, credit))
    return found


def random_part(photograph: Photograph, rng: np.random.Generator, longest: int = 1280) -> Tensor:
    """A photograph as a texture [3, h, w] in [0, 1], shrunk slightly so that it is sharp to the pixel."""
    pixels = inspect_photo(photograph.path).pixels()
    height, width = pixels.shape[:2]
    # Stored pictures are rarely sharp to the pixel.
    shrink = float(rng.uniform(0.6, 0.9)) * min(1.0, longest / max(height, width))
    pixels = resize(pixels, max(64, round(width * shrink)), max(64, round(height * shrink)))
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if rng.random() < 0.2:
        pixels = np.rot90(pixels)
    values = np.ascontiguousarray(pixels).astype(np.float32) / 255
    if rng.random() < 0.4:
        values = values ** float(rng.uniform(0.75, 1.3))
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def as_taken(pictures: Tensor, rng: np.random.Generator, differences: float = 1.0, shrunk: bool = False) -> Tensor:
    """Add the effects of cameras to pictures [V, 3, H, W] in [0, 1]: exposure, white balance, noise, JPEG.

    Args:
        pictures: ideal pictures.
        rng: generator of all draws.
        differences: strength of exposure and colour differences between the pictures.
        shrunk: whether they stand for shrunk photographs of several times as many pixels, which averages out most of
            the noise and all JPEG artefacts. A model that learns from noisier references than those in inference
            oversmooths.
    """
    taken = []
    noise = float(rng.uniform(0, 0.012)) * (0.2 if shrunk else 1)
    quality = int(rng.integers(82, 99))
    compressed = bool(rng.random() < 0.6) and not shrunk
    for picture in pictures:
        gain = np.exp(rng.normal(0, 0.04 * differences) + rng.normal(0, 0.012 * differences, 3))
        values = picture.permute(1, 2, 0).numpy() * gain.astype(np.float32)
        # Shot noise: brighter pixels have more of it in absolute terms.
        strength = noise * (0.4 + 0.6 * np.sqrt(np.clip(values, 0, 1)))
        values = values + strength * rng.standard_normal(values.shape, dtype=np.float32)
        stored = np.ascontiguousarray(np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8))
        if compressed:
            _, data = cv2.imencode(".jpg", stored[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
            decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
            assert decoded is not None
            stored = np.ascontiguousarray(decoded[..., ::-1])
        taken.append(torch.from_numpy(stored).permute(2, 0, 1).float() / 255)
    return torch.stack(taken)
