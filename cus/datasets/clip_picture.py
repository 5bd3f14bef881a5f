"""Clips as one picture for viewing: references, targets, and every conditioning side by side."""

from collections.abc import Sequence

from PIL import Image, ImageDraw
from torch import Tensor

from cus.datasets.clips import Clip
from cus.tensor_files import to_bytes

_GAP, _LINE = 4, 16  # pixels between pictures, and height of a line of text


def clip_picture(clips: Sequence[tuple[str, Clip]], width: int = 240) -> Image.Image:
    """Draw a row for each clip: its references, then its first and last frame with their conditioning.

    Args:
        clips: pairs of a caption and a clip.
        width: width of a picture in pixels; its aspect ratio is the first clip's.
    """
    rows = [(words, _pictures(clip)) for words, clip in clips]
    shape = clips[0][1].targets.shape
    height = round(width * shape[-2] / shape[-1])
    columns = max(len(pictures) for _, pictures in rows)
    step = height + 2 * _LINE + _GAP
    sheet = Image.new("RGB", (columns * (width + _GAP), len(rows) * step), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (words, pictures) in enumerate(rows):
        draw.text((2, row * step + 2), words, fill="black")
        for column, (label, image) in enumerate(pictures):
            place = column * (width + _GAP), row * step + _LINE
            shown = Image.fromarray(to_bytes(image).permute(1, 2, 0).numpy())
            sheet.paste(shown.resize((width, height), Image.Resampling.LANCZOS), place)
            draw.text((place[0] + 2, place[1] + height + 1), label, fill="black")
    return sheet


def _pictures(clip: Clip) -> list[tuple[str, Tensor]]:
    last = len(clip.targets) - 1
    found = [("first reference", clip.references[0])]
    if len(clip.references) > 1:
        found.append(("last reference", clip.references[-1]))
    for frame in dict.fromkeys((0, last)):
        found += [(f"target {frame}", clip.targets[frame]), (f"conditioning {frame}", clip.conditioning[frame])]
    if clip.structure is not None:
        found.append((f"structure {last}", clip.structure[last]))
    return found + [(f"{name} {last}", warp.images[last]) for name, warp in clip.others.items()]
