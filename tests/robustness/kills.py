"""Kills commands at random moments, resumes them, and compares with a run that nobody interrupted.

    python -m tests.robustness.kills --kills 100 [--seed 0] [--only infer fit eval train clips] [--keep FOLDER]

Every kill is SIGKILL, SIGTERM or SIGINT at a random moment of one of five commands, on inputs small enough for
seconds. The command is then run again with its way of resuming, and now and then killed once more, until it is done.
Its folder must hold the same bits as the one of an undisturbed run, and the folder of the inputs must be as it was.
Prints a table; exits with 1 on any difference. One process imports everything once and forks what is killed.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
COMMANDS = ("infer", "fit", "eval", "train", "clips")
# Long enough for the slowest command on a busy machine; more is a hang.
LONGEST_SECONDS = 300.0
# How long a command may take to end in order.
ENDING_SECONDS = 30.0
# What tells when and how long, not what.
VOLATILE = (
    *("seconds", "loading_seconds", "total_seconds", "reused", "peak_memory_bytes", "peak_gpu_memory_bytes"),
    *("network_memory_bytes", "out", "time", "started", "notes"),
)
UNCOMPARED = ("report.html", "page.html", "results.tex", "results.md", "per_image.csv", "log.jsonl", ".bin", ".pkl")


@dataclass
class Tally:
    """What happened to one command."""

    kills: Counter[str] = field(default_factory=Counter)
    done_before: int = 0
    wrong: list[str] = field(default_factory=list)


def work(command: str, inputs: Path, out: Path, mode: str = "--resume", size: int = 0) -> Callable[[], int]:
    """The command, resuming where there is something to resume; returns its exit status.

    Args:
        command: one of COMMANDS.
        inputs: what `make_inputs` has made.
        out: the folder that the command fills.
        mode: `--resume` or `--overwrite`; training and clips know only the former.
        size: of the pictures, where it is not to be the usual one.
    """
    from cus.cli import eval as evaluation
    from cus.cli import fit, infer

    posed = inputs / "scenes" / "one"
    match command:
        case "infer":
            views = [str(path) for path in sorted((inputs / "pair" / "images").glob("*.*"))]
            sizes = [
                "--photo-size",
                "256",
                "--size",
                f"{size or 64}",
                "--frames",
                "3",
                "--steps",
                "1",
                "--splat-iterations",
                "220",
            ]
            cameras = ["--cameras", str(inputs / "pair" / "transforms.json"), "--structure"]
            return lambda: infer.main(["--views", *views, "--out", str(out), *sizes, *cameras, mode])
        case "fit":
            options = ["--iterations", "220", "--max-gaussians", "300", "--sh-degree", "0", "--size", f"{size or 64}"]
            return lambda: fit.main([str(posed), "--out", str(out), *options, mode])
        case "eval":
            options = ["--size", f"{size or 96}", "--rows", "hierarchical", "--metrics", "psnr", mode]
            rules = ["rules.zooms=[2]", "rules.centers=[centre]"]
            return lambda: evaluation.main(
                ["--data", str(inputs / "scenes"), "--out", str(out), *options, "--", *rules]
            )
        case "train":
            return lambda: _train(inputs, out)
        case _:
            return lambda: _clips(inputs, out)


def _train(inputs: Path, out: Path) -> int:
    from cus.training.scripts import train_stage
    from cus.training.vae import VaeConfig, VaeStage

    model = ["model.latent_channels=4", "model.block_out_channels=[8,8]", "model.layers_per_block=1"]
    model += ["model.norm_num_groups=4", "model.mid_block_add_attention=false", "crop=[16,16]"]
    loop = ["loop.steps=40", "loop.batch=1", "loop.workers=0", "loop.precision=float32", "loop.save_every=4"]
    data = [f"out={out}", f"clips={inputs / 'clips'}", f"held_out={inputs / 'clips'}"]
    return _status(lambda: train_stage(VaeConfig, VaeStage, [*data, *model, *loop], lambda done, total: None))


def _clips(inputs: Path, out: Path) -> int:
    from cus.training.scripts import settings_of
    from procedural.rendered_clips import ProceduralClips, build

    recipe = ["recipe.width=32", "recipe.height=24", "recipe.window_width=16", "recipe.window_height=16"]
    settings = [f"out={out}", "clips=6", "supersample=1", "reference_widths=[32]", "recipe.frames=2", *recipe]
    return _status(lambda: build(settings_of(ProceduralClips, settings), lambda done, total: None))


def _status(act: Callable[[], object]) -> int:
    from cus.cli.command import Telling, guarded

    return guarded(lambda: act() and None, Telling("script"), final=False)


def make_inputs(folder: Path) -> None:
    """Two rendered scenes of three photographs, a pair of larger ones with cameras, and three clips."""
    import torch

    from cus.datasets.clips import Clip, save_clip
    from tests.datasets.layouts import write_transforms
    from tests.evaluation.small_scenes import rendered, write_scenes

    write_scenes(folder / "scenes")
    images, cameras = rendered("one")
    write_transforms(folder / "pair", images[:2], cameras[:2])
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        videos = torch.rand(4, 3, 3, 32, 32, generator=generator)
        masks = torch.ones(3, 32, 32, dtype=torch.bool)
        clip = Clip(videos[0, :2], videos[1], videos[2], masks, videos[3])
        save_clip(folder / "clips" / f"{seed}.safetensors", clip)


def load_everything() -> None:
    """Import what the commands import, once for all children."""
    import torch

    import cus.cli.eval
    import cus.cli.fit
    import cus.cli.infer  # noqa: F401
    import cus.evaluation.runner
    import cus.inference.photo_fit
    import cus.inference.run
    import cus.training.vae  # noqa: F401
    from cus.diffusion.loading import find_model, load_model

    # Loading a model imports half of diffusers.
    load_model(find_model("mini"), torch.device("cpu"))


def start(act: Callable[[], int], log: Path) -> int:
    """Fork a child that does `act`; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        # Whoever started this may have put something else in their place.
        sys.stdout = sys.stderr = open(stream, "w", buffering=1, encoding="utf-8")  # noqa: SIM115
        status = act()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    """The child's exit status, negative for a signal, or None where it still runs after that time."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


def run(act: Callable[[], int], log: Path) -> int | None:
    """The exit status of an undisturbed run."""
    return wait(start(act, log), LONGEST_SECONDS)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def contents(folder: Path) -> dict[str, Any]:
    """What must be the same bits, by path."""
    found: dict[str, Any] = {}
    # An interrupted training saves a checkpoint at a step of chance: of all that are kept, the last one counts.
    earlier = tuple(f"checkpoints/{path.name}/" for path in sorted(folder.glob("checkpoints/step-*"))[:-1])
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if name.startswith(earlier):
            continue
        if path.name.endswith(UNCOMPARED):
            found[name] = "is there"
        elif path.suffix == ".json":
            found[name] = _without_volatile(json.loads(path.read_text()), str(folder))
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = sorted(json.dumps(_without_volatile(line, str(folder)), sort_keys=True) for line in lines)
        elif path.suffix == ".safetensors":
            found[name] = _tensors(path)
        elif path.suffix == ".yaml" or path.name == ".closeupshot-files":
            lines = path.read_text().replace(str(folder), "").splitlines()
            found[name] = sorted(line for line in lines if not line.strip('"').startswith(earlier))
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _tensors(path: Path) -> tuple[dict[str, str], str]:
    """Metadata, whose order in the file is chance, and a checksum of the tensors."""
    from safetensors import safe_open

    from cus.tensor_files import tensors_digest

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return dict(file.metadata() or {}), tensors_digest(tensors)


def _without_volatile(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {key: _without_volatile(inner, folder) for key, inner in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [_without_volatile(inner, folder) for inner in value]
    return value.replace(folder, "") if isinstance(value, str) else value


def kill_once(act: Callable[[], int], log: Path, seconds: float, chance: random.Random, tally: Tally) -> bool:
    """Start, kill at a random moment; whether the command was done before."""
    number = chance.choice(SIGNALS)
    delay = chance.uniform(0, seconds)
    child = start(act, log)
    if wait(child, delay) is not None:
        tally.done_before += 1
        return True
    os.kill(child, number)
    status = wait(child, ENDING_SECONDS)
    if status is None:
        tally.wrong.append(f"{number.name} after {delay:.2f} s: still running {ENDING_SECONDS:g} s later")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    elif status not in (-number, 0, 128 + number):
        tally.wrong.append(f"{number.name} after {delay:.2f} s: exit status {status}")
    if "Traceback" in log.read_text():
        tally.wrong.append(f"{number.name} after {delay:.2f} s: a traceback in {log}")
    tally.kills[number.name] += 1
    return False


def trial(command: str, inputs: Path, folder: Path, seconds: float, chance: random.Random, tally: Tally) -> None:
    """Kill a command once or more, let it come to its end, and compare with the undisturbed run beside it."""
    out, log = folder / "out", folder / "log.txt"
    shutil.rmtree(out, ignore_errors=True)
    log.write_text("")
    act = work(command, inputs, out)
    while not kill_once(act, log, seconds, chance, tally) and chance.random() < 0.3:
        pass
    status = run(act, log)
    if status != 0:
        tally.wrong.append(f"resuming ended with {status}: {log.read_text()[-400:]}")
        return
    expected, got = contents(folder / "undisturbed"), contents(out)
    differing = [name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name)]
    if differing:
        tally.wrong.append(f"differs: {', '.join(sorted(differing)[:6])}")


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit status is 1 where anything differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many, over all commands (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and signals (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=COMMANDS, help="these commands")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it")
    options = parser.parse_args(arguments)
    load_everything()
    root = options.keep or Path(tempfile.mkdtemp(prefix="kills-"))
    root.mkdir(parents=True, exist_ok=True)
    inputs = root / "inputs"
    if run(lambda: make_inputs(inputs) or 0, root / "inputs.txt") != 0:
        print((root / "inputs.txt").read_text())
        return 1
    before = checksums(inputs)
    chance = random.Random(options.seed)
    tallies = {command: Tally() for command in options.only}
    lengths: dict[str, float] = {}
    for command in options.only:
        folder = root / command
        folder.mkdir(exist_ok=True)
        status = run(work(command, inputs, folder / "undisturbed"), folder / "log.txt")
        # Once more: the first one may have compiled kernels, and what differs here would differ below, too.
        started = time.monotonic()
        status = status or run(work(command, inputs, folder / "out"), folder / "log.txt")
        lengths[command] = time.monotonic() - started
        if status == 0 and contents(folder / "undisturbed") != contents(folder / "out"):
            tallies[command].wrong.append("two undisturbed runs differ")
        if status != 0:
            print(f"{command}: the undisturbed run ended with {status}:\n{(folder / 'log.txt').read_text()[-2000:]}")
            return 1
        print(f"{command}: {lengths[command]:.1f} s undisturbed", flush=True)
    while (killed := sum(sum(tally.kills.values()) for tally in tallies.values())) < options.kills:
        command = options.only[killed % len(options.only)]
        tally = tallies[command]
        known = len(tally.wrong)
        trial(command, inputs, root / command, lengths[command], chance, tally)
        for words in tally.wrong[known:]:
            print(f"{command}: {words}", flush=True)
        if checksums(inputs) != before:
            tally.wrong.append("the inputs have changed")
            break
    _print_table(tallies)
    if options.keep is None and not any(tally.wrong for tally in tallies.values()):
        shutil.rmtree(root)
    return int(any(tally.wrong for tally in tallies.values()))


def _print_table(tallies: dict[str, Tally]) -> None:
    print("\n| command | SIGKILL | SIGTERM | SIGINT | done before the kill | wrong |")
    print("| --- | --- | --- | --- | --- | --- |")
    for command, tally in tallies.items():
        counts = " | ".join(str(tally.kills[number.name]) for number in SIGNALS)
        print(f"| {command} | {counts} | {tally.done_before} | {len(tally.wrong)} |")


if __name__ == "__main__":
    sys.exit(main())
