import os

import pytest

from tests.robustness import kills


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks what it kills")
def test_killed_commands_resume_to_the_same_bits_and_leave_the_inputs_alone(tmp_path, capsys):
    assert kills.main(["--kills", "8", "--seed", "1", "--keep", str(tmp_path)]) == 0, capsys.readouterr().out
