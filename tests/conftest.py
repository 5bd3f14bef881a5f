"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: a thread each, also in the programs that they start. Read with the first import of torch.
    os.environ["OMP_NUM_THREADS"] = "1"

import torch

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those that fork go first; `gpu` tests are skipped, with the reason, on a machine without CUDA."""
    # A process that has been through a backward pass forks children that cannot go through one.
    items.sort(key=lambda item: "robustness" not in item.path.parts)
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def photos() -> Path:
    """Real development photographs: `CUS_PHOTOS`, else `shared/data` beside the checkout; skips without them."""
    folder = Path(os.environ.get("CUS_PHOTOS", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no development photographs at {folder}; set CUS_PHOTOS")
    return folder


@pytest.fixture(scope="session")
def tiny_lvdm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A whole tiny checkpoint in ViewCrafter's layout, and its YAML config; do not change them."""
    from tests.lvdm.tiny_checkpoint import write_tiny_checkpoint

    return write_tiny_checkpoint(tmp_path_factory.mktemp("lvdm"))


@pytest.fixture(scope="session")
def tiny_model(tiny_lvdm: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That checkpoint as a model folder, for clips of 5 frames of 128x128; do not change it."""
    from cus.lvdm.config import LVDMConfig
    from cus.lvdm.conversion import ConversionOptions, convert_checkpoint

    checkpoint, config = tiny_lvdm
    folder = tmp_path_factory.mktemp("models") / "tiny"
    convert_checkpoint(checkpoint, folder, LVDMConfig.read(config), ConversionOptions(frames=5))
    return folder
