"""Stand-ins for packages that are on no index, importable in one test at a time."""

import sys
from collections.abc import Iterator

import pytest

from tests.estimators.photographs import STAND_INS

PACKAGES = ("vggt", "dust3r", "mapanything")


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`vggt`, `dust3r` and `mapanything` are the stand-ins, whatever is installed."""
    mine = [name for name in sys.modules if name.split(".")[0] in PACKAGES]
    kept = {name: sys.modules.pop(name) for name in mine}
    monkeypatch.syspath_prepend(str(STAND_INS))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[name]
    sys.modules.update(kept)
