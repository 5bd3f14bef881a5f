"""Time, memory and disk space of `cus-convert` at full size, with a checkpoint with the right names and random values.

    python benchmarks/convert.py                        # writes benchmarks/convert.md; needs 30 GB of disk for a while
    python benchmarks/convert.py --folder /scratch --dtypes float16 --no-write

The checkpoint has every tensor of ViewCrafter's (the reference's list, and open_clip's ViT-H-14 in both embedders). It
is converted to a folder and back by the command itself, in a separate process, whose private memory is read every 10
ms; pages of mapped files, which the system can reclaim, are not counted. Then the U-Net is loaded from the folder, and
the exported file is compared with the original, all bit by bit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rasterizer import machine_lines
from cus.diffusion.schedule import NoiseSchedule
from cus.lvdm import load_lvdm_checkpoint, lvdm_from_unet
from cus.lvdm.config import schedule_buffers
from cus.lvdm.weight_files import write_safetensors
from cus.models.unet import UNet

NAMES = Path(__file__).resolve().parent.parent / "tests" / "golden" / "viewcrafter_checkpoint_keys.json"
PERIOD = 0.01  # seconds between two readings of the memory
COMPARED = 40  # number of compared tensors of the U-Net


@dataclass(frozen=True)
class Run:
    """Seconds and peak private memory in bytes of one command."""

    seconds: float
    memory: int


def shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of the checkpoint except its schedule."""
    from open_clip import get_model_config
    from open_clip.model import CLIP

    config: Any = get_model_config("ViT-H-14")
    with torch.device("meta"):
        clip = {name: tuple(tensor.shape) for name, tensor in CLIP(**config).state_dict().items()}
    found = {name: tuple(shape) for name, shape in json.loads(NAMES.read_text()).items()}
    found |= {f"cond_stage_model.model.{name}": shape for name, shape in clip.items() if name[:7] != "visual."}
    found |= {f"embedder.model.{name}": shape for name, shape in clip.items() if name[:12] != "transformer."}
    return found


def write_checkpoint(path: Path, dtype: torch.dtype) -> None:
    """Write a file in ViewCrafter's layout with little memory: all tensors are views of one table of random numbers."""
    wanted = shapes()
    longest = max(torch.Size(shape).numel() for shape in wanted.values())
    table = 0.02 * torch.randn(longest + 4096, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    table = table.to(dtype)
    tensors: dict[str, Tensor] = {}
    for name, shape in wanted.items():
        start = zlib.crc32(name.encode()) % 4096
        tensors[name] = table[start : start + torch.Size(shape).numel()].view(shape)
    mapped = path.with_suffix(".safetensors")
    write_safetensors(mapped, tensors | schedule_buffers(NoiseSchedule()), None, lambda _: None)
    torch.save({"state_dict": load_lvdm_checkpoint(mapped), "global_step": 0}, path)
    mapped.unlink()


def own_memory(process: int) -> int:
    """Bytes of a process that are not pages of files."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


def measured(*arguments: object) -> Run:
    """Run `cus-convert` in a separate process and measure it."""
    command = [sys.executable, "-m", "cus.cli.convert", *map(str, arguments)]
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        try:
            peak = max(peak, own_memory(process.pid))
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(PERIOD)
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Run(time.perf_counter() - started, peak)


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def check_unet(folder: Path, original: dict[str, Tensor]) -> tuple[float, int]:
    """Seconds to load the U-Net of a folder, and the number of its tensors compared with the checkpoint's."""
    started = time.perf_counter()
    unet = UNet.from_pretrained(folder / "unet", torch_dtype=torch.float16)
    seconds = time.perf_counter() - started
    theirs = lvdm_from_unet(unet)
    names = sorted(theirs)[:: max(1, len(theirs) // COMPARED)]
    for name in names:
        if not torch.equal(theirs[name], original[name].half()):
            raise SystemExit(f"{name} is not the checkpoint's")
    return seconds, len(names)


def check_back(path: Path, original: dict[str, Tensor]) -> int:
    """The number of tensors in the exported file equal to the original's, rounded to float16; exits on a difference."""
    back, exact = load_lvdm_checkpoint(path), schedule_buffers(NoiseSchedule())
    if back.keys() != original.keys():
        raise SystemExit("the file written back has other names")
    for name, tensor in back.items():
        # Tensors that the folder lacks come from the original file.
        expected = original[name] if name in exact or tensor.dtype == original[name].dtype else original[name].half()
        if tensor.dtype != expected.dtype or not torch.equal(tensor, expected):
            raise SystemExit(f"{name} came back as another")
    return len(back)


def lines_of(dtype: str, scratch: Path) -> list[str]:
    """Measure one type of checkpoint; returns a row of the table, and what was compared."""
    checkpoint, folder, back = scratch / "model.ckpt", scratch / "folder", scratch / "back.ckpt"
    write_checkpoint(checkpoint, getattr(torch, dtype))
    there = measured(checkpoint, folder)
    original = load_lvdm_checkpoint(checkpoint)
    loading, compared = check_unet(folder, original)
    again = measured(folder, back, "--complete-from", checkpoint)
    count = check_back(back, original)
    row = (
        f"| {dtype}, {checkpoint.stat().st_size / 1e9:.2f} GB | {folder_size(folder) / 1e9:.2f} GB, "
        f"{len(list(folder.rglob('*.safetensors')))} files | {there.seconds:.0f} s | {there.memory / 1e9:.2f} GB "
        f"| {again.seconds:.0f} s | {again.memory / 1e9:.2f} GB |"
    )
    checked = f"{compared} tensors of the U-Net and all {count} of the file written back are the first one's bit by bit"
    return [row, f"{dtype}: {checked}; loading the U-Net took {loading:.1f} s."]


def main() -> None:
    """Measure, print, and write the table next to this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, metavar="FOLDER", help="where to work (default: the system's own)")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=["float16", "float32"],
        default=["float16", "float32"],
        help="of the checkpoint (default: both)",
    )
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args()
    if not Path("/proc/self/status").exists():
        raise SystemExit("memory is read from /proc, which this system does not have")
    lines = ["# Conversion of a full-size checkpoint", "", "`python benchmarks/convert.py`", ""]
    lines += [*machine_lines(os.getloadavg()[0]), ""]
    lines += [
        "Folder in float16, shards of at most 2 GB. Memory is the process's own at the peak, Python and its libraries "
        "included; pages of mapped files are not counted.",
        "",
        "| checkpoint | folder | to the folder | memory | back to a checkpoint | memory |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    notes = []
    for dtype in arguments.dtypes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
            row, note = lines_of(dtype, Path(scratch))
        lines.append(row)
        notes.append(note)
    text = "\n".join([*lines, "", *notes]) + "\n"
    print(text)
    if not arguments.no_write:
        (Path(__file__).parent / "convert.md").write_text(text)


if __name__ == "__main__":
    main()
