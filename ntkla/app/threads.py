"""How many threads the demo's linear algebra uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes each operation with one thread inside the block, and with as many as before afterwards.

    The demo's matrices are small: a second thread gains little on an idle machine, and where other programs run,
    threads that wait for each other at every step make it several times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
