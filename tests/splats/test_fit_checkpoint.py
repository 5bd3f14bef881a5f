"""A fit that is cut off goes on as if it had not been."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cus.errors import InputError
from cus.splats import FitConfig, FitStatus, Gaussians, fit_gaussians
from tests.splats.walls import cameras as wall_cameras
from tests.splats.walls import cloud, wall_pictures

QUICK = replace(
    FitConfig.for_backend("torch"), iterations=40, max_gaussians=800, sh_degree=1, exposure=True, refine_cameras=True
)


class Killed(Exception):
    pass


def fitted(config: FitConfig, checkpoint: Path | None, stop: int | None = None, **changes: Any) -> Gaussians:
    images, views, points, colors = wall_pictures()

    def watch(status: FitStatus) -> None:
        if status.iteration == stop:
            raise Killed

    arguments: dict[str, Any] = {"images": images, "points": cloud(points, colors), "seed": 5} | changes
    return fit_gaussians(cameras=views, config=config, checkpoint=checkpoint, every=20, on_status=watch, **arguments)


def equal(first: Gaussians, second: Gaussians) -> bool:
    return all(torch.equal(value, second.tensors()[name]) for name, value in first.tensors().items())


@pytest.mark.parametrize("strategy", ["fixed", "default", "mcmc"])
def test_forty_steps_are_twenty_and_twenty_bit_for_bit(strategy, tmp_path) -> None:
    config = replace(QUICK, strategy=strategy)
    whole = fitted(config, None)
    path = tmp_path / "fit.safetensors"
    with pytest.raises(Killed):
        fitted(config, path, stop=27)
    steps: list[int] = []
    again = fitted(config, path, on_progress=lambda done, total: steps.append(done))
    assert steps == list(range(21, 41))
    assert equal(whole, again)
    assert equal(whole, fitted(config, path, stop=1))  # finished: nothing is left to do
    assert [p.name for p in tmp_path.iterdir()] == ["fit.safetensors"]


def photographs() -> tuple[torch.Tensor, ...]:
    """Two of the four pictures at twice the size."""
    larger = wall_pictures(wall_cameras().resized(96, 64))[0]
    return tuple((picture * 255).round().to(torch.uint8) for picture in larger[:2])


def test_a_fit_with_crops_of_photographs_goes_on_bit_for_bit(tmp_path) -> None:
    path = tmp_path / "fit.safetensors"
    given = (None, *photographs(), None)
    whole = fitted(QUICK, None, photographs=given)
    with pytest.raises(Killed):
        fitted(QUICK, path, stop=27, photographs=given)
    assert equal(whole, fitted(QUICK, path, photographs=given))
    assert not equal(whole, fitted(QUICK, None))
    with pytest.raises(InputError, match="other inputs"):
        fitted(QUICK, path, photographs=(*given[:2], None, None))


def test_checkpoints_of_another_fit_are_refused(tmp_path) -> None:
    path = tmp_path / "fit.safetensors"
    config = replace(QUICK, iterations=20)
    fitted(config, path)
    with pytest.raises(InputError, match="other settings.*delete it"):
        fitted(replace(config, iterations=60), path)
    with pytest.raises(InputError, match="other settings"):
        fitted(config, path, seed=6)
    darker = 0.5 * wall_pictures()[0]
    with pytest.raises(InputError, match="other inputs.*delete it"):
        fitted(config, path, images=darker)


def test_damaged_checkpoints_are_named(tmp_path) -> None:
    path = tmp_path / "fit.safetensors"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="cannot be read.*delete it"):
        fitted(QUICK, path)


def test_places_that_cannot_be_written_are_named(tmp_path) -> None:
    with pytest.raises(InputError, match="could not be written"):
        fitted(QUICK, tmp_path / "missing" / "fit.safetensors")


FULL_DISK = """
import resource, sys
from dataclasses import replace
from pathlib import Path
from tests.splats.test_fit_checkpoint import QUICK, fitted
from cus.errors import InputError

path = Path(sys.argv[1])
try:
    fitted(QUICK, path, stop=20)
except Exception:
    pass
before = path.read_bytes()
limit = len(before) // 2
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    fitted(QUICK, path)
except InputError as error:
    print(error)
assert path.read_bytes() == before
print(sorted(p.name for p in path.parent.iterdir()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes")
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path) -> None:
    path = tmp_path / "fit.safetensors"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "could not be written" in done.stdout and "free some space" in done.stdout
    assert "['fit.safetensors']" in done.stdout
