"""`cus-convert`: converts a checkpoint of ViewCrafter to a model folder, and a model folder to such a checkpoint."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional

from cus.cli.command import run_command
from cus.cli.reading import Common
from cus.errors import InputError
from cus.limits import limited
from cus.options import Flag, option

if TYPE_CHECKING:
    from cus.cli.console import ConsoleProgress
    from cus.inference.progress import OnProgress
    from cus.lvdm import Converted

EXAMPLES = """\
checkpoint -> folder:
  Takes a whole checkpoint of ViewCrafter or DynamiCrafter: U-Net, autoencoder, image projector and both CLIP towers.
  Every name and shape, the noise schedule and all values are checked; a file that differs is refused with the first
  differences, and the folder is removed. No code in the file is run. The two prompts are encoded once, so that the
  folder needs no text tower. Sizes are those of ViewCrafter's sparse-view model; --config takes others from the YAML
  file that came with a checkpoint.

folder -> checkpoint:
  Writes U-Net, autoencoder, image projector, image tower and noise schedule under ViewCrafter's names, bit for bit as
  they are stored unless --dtype says otherwise. Not written are the text tower, because a folder keeps only the
  encoded prompts, unused parts of CLIP, and the skip convolutions of a finetuned decoder, which have no names there.
  ViewCrafter's loader requires every tensor of its model: --complete-from takes the missing ones from the folder's
  original checkpoint.

examples:
  cus-convert model_sparse.ckpt models/viewcrafter
  cus-infer --model models/viewcrafter --views a.jpg b.jpg
  cus-convert model.ckpt models/other --config inference.yaml --frames 16
  cus-convert models/finetuned model.ckpt --complete-from model_sparse.ckpt
"""


@dataclass(frozen=True)
class ConvertOptions:
    """Turn a checkpoint of ViewCrafter into a folder that cus-infer --model reads, or back.

    Attributes:
        source: a .ckpt or .safetensors file, or a model folder
        target: what to write: a folder for a file, a .ckpt or .safetensors file for a folder
        dtype: type of the stored weights. Default for a folder: float16, which halves a float32 file, suits GPUs, and
            rounds weights eight times finer than bfloat16; use float32 for training, or to keep a float32 file bit by
            bit. A value beyond float16's range is an error. Default for a checkpoint: as stored
        shard_size: largest file of weights in a folder, in 1e9 bytes (default: 2)
        config: the checkpoint's YAML file, if its sizes are not ViewCrafter's
        frames: clip length of the checkpoint's training, which its YAML file does not state (default: 25)
        complete_from: for a folder: take tensors that it lacks from this checkpoint
        overwrite: replace a checkpoint, or a folder that cus-convert has filled and that contains nothing else
        common: options of every command
    """

    source: Annotated[Path, Positional, option("CHECKPOINT|FOLDER")]
    target: Annotated[Path, Positional, option("FOLDER|CHECKPOINT")]
    dtype: Annotated[Literal["float16", "bfloat16", "float32"] | None, option()] = None
    shard_size: Annotated[float | None, option("GB")] = limited(None, above=0)
    config: Annotated[Path | None, option("YAML")] = None
    frames: Annotated[int | None, option("N")] = limited(None, low=1)
    complete_from: Annotated[Path | None, option("CHECKPOINT")] = None
    overwrite: Flag = False
    common: Common = Common()


def convert(options: ConvertOptions, progress: "ConsoleProgress") -> None:
    """Convert in the direction given by the source. Raises InputError."""
    if not options.source.exists():
        raise InputError(f"no such file or folder: {options.source}")
    work = _to_checkpoint if options.source.is_dir() else _to_folder
    with progress:
        made = work(options, _Stages(progress))
        for note in made.notes:
            progress.note(note)
        size = f"{made.parameters / 1e6:,.1f} M parameters, {made.size / 1e9:.2f} GB"
        progress.done(f"{made.path} ({size})", path=made.path, parameters=made.parameters, bytes=made.size)


def _to_folder(options: ConvertOptions, stages: "_Stages") -> "Converted":
    if options.complete_from is not None:
        raise InputError("--complete-from is for writing a checkpoint from a folder")
    if options.target.suffix in (".ckpt", ".safetensors"):
        raise InputError(f"{options.source} is a file, so the target must be a folder, not {options.target}")
    import torch

    from cus.lvdm import ConversionOptions, LVDMConfig, convert_checkpoint

    config = None if options.config is None else LVDMConfig.read(options.config)
    given = {
        "dtype": None if options.dtype is None else getattr(torch, options.dtype),
        "shard_bytes": None if options.shard_size is None else max(1, int(options.shard_size * 1e9)),
        "frames": options.frames,
    }
    how = ConversionOptions(**{k: v for k, v in given.items() if v is not None}, overwrite=options.overwrite)
    return convert_checkpoint(options.source, options.target, config, how, stages)


def _to_checkpoint(options: ConvertOptions, stages: "_Stages") -> "Converted":
    for name in ("shard_size", "config", "frames"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is for writing a folder from a checkpoint")
    import torch

    from cus.lvdm import export_checkpoint

    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    return export_checkpoint(options.source, options.target, dtype, options.complete_from, options.overwrite, stages)


class _Stages:
    """Shows each stage as its own bar."""

    def __init__(self, progress: "ConsoleProgress") -> None:
        self.progress, self.stage, self.started = progress, "", 0.0
        self.report: OnProgress | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self.stage:
            self.stage, self.started = stage, time.perf_counter()
            self.report = self.progress.start(stage, False)
        if self.report is not None:
            self.report(done, total)
        if done >= total:
            self.progress.finish(stage, time.perf_counter() - self.started)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status of `run_command`."""
    advice = "close other programs, or try a smaller --shard-size"
    return run_command("cus-convert", ConvertOptions, convert, argv, epilog=EXAMPLES, memory_advice=advice)


if __name__ == "__main__":
    sys.exit(main())
