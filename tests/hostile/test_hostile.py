"""The quick part of the sweep; `python -m tests.hostile` runs all of it."""

import subprocess
import sys

import pytest

from tests.hostile.harness import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")


def test_no_quick_hostile_input_ends_in_a_traceback_a_hang_or_silence() -> None:
    # A process of its own: it must have no thread when it forks.
    command = [sys.executable, "-m", "tests.hostile", "--quick"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
