"""The design matrix: its sums are bounds, and no second copy of the features is made for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import gamma
from ntkla.testing import DTYPES
from ntkla.testing.spectra import normal

# More than two blocks of rows, and a last one that is not full.
ROWS, COLUMNS = 5000, 3


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_norms_and_sums_of_several_blocks(dtype: str, bias: bool) -> None:
    features = normal(ROWS, COLUMNS, 0).to(DTYPES[dtype])
    design = DesignMatrix(features, bias)
    wide = features.to(torch.float64)
    if bias:
        wide = torch.cat([wide, torch.ones((ROWS, 1), dtype=torch.float64)], 1)
    lengths = (wide * wide).sum(1).sqrt() * (1.0 - gamma(COLUMNS + 3))
    assert bool((design.row_norms() >= lengths).all())
    sums = wide.abs().sum(0)
    assert bool(((design.absolute_column_sums() - sums).abs() <= 2 * gamma(ROWS) * sums).all())


# In a process of its own: bytes at the peak, less those before, over the bytes of the features in float64.
MEASURED = """
import sys, torch
from ntkla.linalg.design import DesignMatrix

def status(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

features = torch.zeros((40000, 500), dtype=getattr(torch, sys.argv[1])).fill_(0.5)
design = DesignMatrix(features)
DesignMatrix(features[:10]).frobenius()  # libraries set up their own buffers once
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
design.row_norms(), design.absolute_column_sums()
print((status("VmHWM") - before) / (8 * features.numel()))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no /proc that forgets a process's peak")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_no_second_copy_of_the_features_is_made(dtype: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURED, dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1 / 4  # a copy in float32 alone would be half
