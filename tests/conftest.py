"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip `gpu` tests, with the reason, on a machine without CUDA."""
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
