"""Where the kernels run: sizes for the interpreter, which is slow, and for a GPU, where a bug may need many programs.

A test that takes `place` runs here in the interpreter, at small sizes, and on a GPU, marked `gpu`, at large ones.
"""

from __future__ import annotations

import pytest

from tests.kernels.draws import DEVICE

INTERPRETER, GPU = "interpreter", "gpu"

places = pytest.mark.parametrize(
    "place",
    [
        pytest.param(
            INTERPRETER, marks=pytest.mark.skipif(DEVICE == "cuda", reason="Triton's interpreter takes CPU tensors")
        ),
        pytest.param(GPU, marks=pytest.mark.gpu),
    ],
)
