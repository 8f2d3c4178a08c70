"""How many threads the demo's linear algebra uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ntkla.app.failures import need


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch, numpy and scipy compute with one thread an operation inside the block, and as before afterwards.

    The demo's matrices are small: a second thread gains little on an idle machine, and where other programs run,
    threads that wait for each other at every step make it several times slower.

    Raises:
        MissingPackageError: without threadpoolctl, which alone reaches the BLAS libraries of numpy and scipy.
    """
    limits = need("threadpoolctl", "cli").threadpool_limits
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with limits(1):
            yield
    finally:
        torch.set_num_threads(before)
