"""Whether a change leaves every number of the shipped example as it was, bit for bit.

    python tests/golden/shipped_example.py record before.json     # on the checkout before the change
    python tests/golden/shipped_example.py compare before.json    # on the one after it, on the same machine

Runs `cus-infer` on the courtyard at a tiny size, once with hierarchical and once with fused conditioning, and
`cus-eval` on the cases of the same scene, and hashes what they write: conditioning, frames, depth, clouds, splats,
videos and tables. Files that tell times and places (the report, the records of a run) are left out. Floating point
differs between machines and versions of PyTorch: compare hashes on one machine only. No test reads them.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COURTYARD = ROOT / "examples" / "courtyard"
INFER = (
    *("cus.cli.infer", "--views", COURTYARD / "a.jpg", COURTYARD / "b.jpg"),
    *("--cameras", COURTYARD / "transforms.json", "--size", "128", "--photo-size", "256", "--frames", "3"),
    *("--steps", "2", "--splat-iterations", "5", "--quiet", "--seed", "1"),
)
RUNS = {
    "hierarchical": (*INFER, "--conditioning", "hierarchical", "--structure"),
    "fused": (*INFER, "--conditioning", "fused"),
    "evaluation": (
        *("cus.cli.eval", "--data", COURTYARD, "--split", ROOT / "configs/eval/courtyard.json", "--quiet"),
        *("--size", "96", "--rows", "hierarchical", "fused", "frames", "--metrics", "psnr", "ssim"),
        *("frames=3", "splat_iterations=5"),
    ),
}
# These tell times, places and versions.
VOLATILE = {
    *("run.json", "report.html", "settings.json", "records.jsonl", "results.json", "per_image.csv", "page.html"),
    "results.md",
    ".closeupshot-files",
}


def content(path: Path, folder: Path) -> bytes:
    """A file without what differs between two runs: keys of the cache in safetensors, paths in text."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        return json.dumps(header, sort_keys=True).encode() + data[8 + size :]
    if path.suffix in (".json", ".md", ".tex"):
        # The relative path first: it may end like the absolute one.
        for root, name in ((os.path.relpath(ROOT, path.parent), b"ROOT"), (str(ROOT), b"ROOT"), (str(folder), b"OUT")):
            data = data.replace(root.encode(), name)
    return data


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 by path of every file below a folder that holds results alone."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in VOLATILE]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(content(path, folder)).hexdigest() for path in files}


def made() -> dict[str, str]:
    """Runs everything in folders of its own; the hashes of what came out."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder:
        for name, (module, *arguments) in RUNS.items():
            command = [sys.executable, "-m", str(module), *map(str, arguments), "--out", str(Path(folder) / name)]
            subprocess.run(command, check=True, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
        return hashes(Path(folder))


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """A line for each file that is gone, new or not the same."""
    lines = [f"gone: {name}" for name in sorted(before.keys() - after.keys())]
    lines += [f"new: {name}" for name in sorted(after.keys() - before.keys())]
    return lines + [f"differs: {name}" for name in sorted(before.keys() & after.keys()) if before[name] != after[name]]


def main() -> int:
    """Records the hashes, or compares with recorded ones; 1 if any differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=("record", "compare"))
    parser.add_argument("file", type=Path, help="JSON file of the hashes")
    options = parser.parse_args()
    if options.act == "record":
        options.file.write_text(json.dumps(made(), indent=1) + "\n")
        return 0
    before, after = json.loads(options.file.read_text()), made()
    found = differences(before, after)
    print("\n".join(found) or f"All {len(after)} files are the same, bit for bit.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
