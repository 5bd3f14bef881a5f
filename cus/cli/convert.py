"""`cus-convert`: a checkpoint of ViewCrafter as a model folder, and a model folder as such a checkpoint."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cus.cli.command import CommandParser, run_parser
from cus.cli.console import ConsoleProgress, add_output_options
from cus.errors import InputError

if TYPE_CHECKING:
    from cus.inference.progress import OnProgress
    from cus.lvdm import Converted

DTYPES = ("float16", "bfloat16", "float32")
EXAMPLES = """\
checkpoint -> folder:
  Takes a whole checkpoint of ViewCrafter or DynamiCrafter: U-Net, autoencoder, image projector and both CLIP towers.
  Every name and shape, the noise schedule and all values are checked; a file that differs is refused with the first
  differences, and nothing is left of the folder. No code in the file is run. The two prompts go through the text tower
  once, so that the folder needs none. Sizes are those of ViewCrafter's sparse-view model; --config takes others from
  the YAML file that came with a checkpoint.

folder -> checkpoint:
  Writes U-Net, autoencoder, image projector, image tower and noise schedule under ViewCrafter's names, bit by bit as
  they are stored unless --dtype says otherwise. Left out are the text tower, of which a folder keeps only the prompts,
  what else CLIP has that nothing reads, and the skip convolutions of a finetuned decoder, for which there are no names.
  ViewCrafter's loader wants every tensor that its model has: --complete-from takes those left out from the checkpoint
  that the folder came from.

examples:
  cus-convert model_sparse.ckpt models/viewcrafter
  cus-infer --model models/viewcrafter --views a.jpg b.jpg
  cus-convert model.ckpt models/other --config inference.yaml --frames 16
  cus-convert models/finetuned model.ckpt --complete-from model_sparse.ckpt
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options, with units and defaults."""
    parser = CommandParser(
        "cus-convert",
        description="Turn a checkpoint of ViewCrafter into a folder that cus-infer --model reads, or back.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "source", type=Path, metavar="CHECKPOINT|FOLDER", help="a .ckpt or .safetensors file, or a model folder"
    )
    parser.add_argument(
        "target",
        type=Path,
        metavar="FOLDER|CHECKPOINT",
        help="what to write: a folder for a file, a .ckpt or .safetensors file for a folder",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="type of the stored weights. Default for a folder: float16, which halves a float32 file, is what a GPU "
        "computes with, and rounds weights eight times finer than bfloat16; take float32 to train from, or to keep a "
        "float32 file bit by bit. A value that float16 cannot hold is an error. Default for a checkpoint: as stored",
    )
    parser.add_argument(
        "--shard-size", type=float, metavar="GB", help="largest file of weights in a folder, in 1e9 bytes (default: 2)"
    )
    parser.add_argument(
        "--config", type=Path, metavar="YAML", help="the checkpoint's YAML file, where its sizes are not ViewCrafter's"
    )
    parser.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="length of the clips that the checkpoint was trained with; its YAML file does not say it (default: 25)",
    )
    parser.add_argument(
        "--complete-from",
        type=Path,
        metavar="CHECKPOINT",
        help="for a folder: take the tensors that it does not hold from this checkpoint",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a checkpoint, or a folder that cus-convert has filled and in which nothing else lies",
    )
    add_output_options(parser)
    return parser


def convert(arguments: argparse.Namespace) -> None:
    """Run with parsed options. Raises InputError."""
    if not arguments.source.exists():
        raise InputError(f"no such file or folder: {arguments.source}")
    work = _to_checkpoint if arguments.source.is_dir() else _to_folder
    with ConsoleProgress.of(arguments) as progress:
        made = work(arguments, _Stages(progress))
        for note in made.notes:
            progress.note(note)
        size = f"{made.parameters / 1e6:,.1f} M parameters, {made.size / 1e9:.2f} GB"
        progress.done(f"{made.path} ({size})", path=made.path, parameters=made.parameters, bytes=made.size)


def _to_folder(arguments: argparse.Namespace, stages: "_Stages") -> "Converted":
    if arguments.complete_from is not None:
        raise InputError("--complete-from is for writing a checkpoint from a folder")
    if arguments.target.suffix in (".ckpt", ".safetensors"):
        raise InputError(f"{arguments.source} is a file, so the target must be a folder, not {arguments.target}")
    size = 2.0 if arguments.shard_size is None else arguments.shard_size
    frames = 25 if arguments.frames is None else arguments.frames
    if not 0 < size < float("inf"):
        raise InputError(f"--shard-size must be more than 0, got {size}")
    if frames < 1:
        raise InputError(f"--frames must be 1 or more, got {frames}")
    import torch

    from cus.lvdm import ConversionOptions, LVDMConfig, convert_checkpoint

    config = None if arguments.config is None else LVDMConfig.read(arguments.config)
    dtype = getattr(torch, arguments.dtype or "float16")
    options = ConversionOptions(dtype, max(1, int(size * 1e9)), frames, arguments.overwrite)
    return convert_checkpoint(arguments.source, arguments.target, config, options, stages)


def _to_checkpoint(arguments: argparse.Namespace, stages: "_Stages") -> "Converted":
    for option in ("shard_size", "config", "frames"):
        if getattr(arguments, option) is not None:
            raise InputError(f"--{option.replace('_', '-')} is for writing a folder from a checkpoint")
    import torch

    from cus.lvdm import export_checkpoint

    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    return export_checkpoint(
        arguments.source, arguments.target, dtype, arguments.complete_from, arguments.overwrite, stages
    )


class _Stages:
    """Shows each stage that is named as a bar of its own."""

    def __init__(self, progress: ConsoleProgress) -> None:
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
    """Entry point; returns the exit status, see `run_command`."""
    advice = "close other programs, or try a smaller --shard-size"
    return run_parser(build_parser, convert, argv, memory_advice=advice)


if __name__ == "__main__":
    sys.exit(main())
