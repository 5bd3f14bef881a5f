import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from cus.kernels import threads as threads_module
from cus.kernels.threads import in_pieces


@pytest.mark.parametrize("openmp", [True, False], ids=["openmp", "pool"])
def test_pieces_cover_everything_once_on_torchs_threads_and_on_a_pool(openmp: bool, monkeypatch) -> None:
    if not openmp:
        monkeypatch.setattr(threads_module, "_openmp_parallel", lambda: None)
    elif sys.platform != "linux":
        pytest.skip("only the wheels for Linux bring an OpenMP library of this interface")
    else:
        assert threads_module._openmp_parallel() is not None
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        visited, idents = [0] * 1000, set()

        def work(first: int, last: int) -> None:
            idents.add(threading.get_ident())
            time.sleep(1e-3)
            for item in range(first, last):
                visited[item] += 1

        in_pieces(work, 1000)
    finally:
        torch.set_num_threads(before)
    assert visited == [1] * 1000
    assert threading.get_ident() in idents and len(idents) == 3


@pytest.mark.parametrize("openmp", [True, False], ids=["openmp", "pool"])
def test_an_error_in_one_piece_reaches_the_caller(openmp: bool, monkeypatch) -> None:
    if not openmp:
        monkeypatch.setattr(threads_module, "_openmp_parallel", lambda: None)

    def work(first: int, last: int) -> None:
        if first <= 70 < last:
            raise ValueError("piece of 70")

    with pytest.raises(ValueError, match="piece of 70"):
        in_pieces(work, 100)


WAITING = """
import time, torch
from cus.kernels.threads import yield_cores
torch.set_num_threads(2)
yield_cores()
values = torch.zeros(100_000)
values.add_(1)
started = time.process_time()
for _ in range(100):
    values.add_(1)
    time.sleep(3e-3)
print(time.process_time() - started)
"""


@pytest.mark.skipif(sys.platform != "linux" or (os.cpu_count() or 1) < 2, reason="needs GNU's OpenMP and two cores")
def test_threads_that_wait_for_torchs_next_operation_take_no_time_of_a_core() -> None:
    # In a process of its own: the threads that other tests have left would be counted, too.
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", WAITING], env=environment, capture_output=True, text=True, check=True)
    # Threads that watch for work take milliseconds each time.
    assert float(done.stdout) < 0.15
