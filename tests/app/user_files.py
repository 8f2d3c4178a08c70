"""Arrays and files as a user may bring them, and what a refusal of one must look like."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch

from ntkla.app.files.reading import read_task
from ntkla.linalg.errors import NtklaError

N, F, C = 12, 5, 4
draw = np.random.default_rng(0)
X, Y, T = draw.standard_normal((N, F)), draw.integers(0, C, N), draw.standard_normal((N, C))
WEIGHTS, HEAD, BIAS = draw.random(N), draw.standard_normal((C, F)), draw.standard_normal(C)


def save(name, **arrays):
    safetensors.torch.save_file({key: torch.as_tensor(array) for key, array in arrays.items()}, name)


def as_task(argument):
    return read_task(argument).task(C, need_targets=True)


def as_old_task(argument):
    return read_task(argument).task(C, need_targets=False)


def refused(error, words, argument, reader=read_task):
    """The message of the error, which is one readable line that begins with the name of a file."""
    with pytest.raises(error, match=words) as caught:
        reader(argument)
    message = str(caught.value)
    assert isinstance(caught.value, NtklaError)
    assert message.isprintable()
    return message
