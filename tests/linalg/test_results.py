"""Results compare, hash, copy and convert as Python objects should, tensors or not."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import pytest
import torch

import ntkla
from ntkla.linalg.results import Result
from ntkla.testing.spectra import normal

OLD, NEW = (ntkla.Task.from_labels(normal(6, 3, seed), torch.arange(6) % 2, 2) for seed in (0, 1))
REPORT = ntkla.forecast(OLD, NEW, ntkla.LinearHead(normal(2, 3, 2), normal(1, 2, 3)[0]), ridge=1.0)
KRONECKER = ntkla.eigenmodes(ntkla.KroneckerGram(ntkla.GramOperator(OLD.features), 2), 5)
RESULTS = [
    ntkla.ridge_solve(NEW.features, NEW.targets, ridge=1.0, bias=True),
    REPORT,
    REPORT.forgetting,
    REPORT.forgetting.diagnostics,
    REPORT.decomposition,
    REPORT.modes,
    REPORT.modes.spectrum,
    REPORT.before,
    REPORT.flips,
    REPORT.k_G,
    KRONECKER,
]


def holds_tensors(result: Result) -> bool:
    return any(isinstance(getattr(result, f.name), (torch.Tensor, Result)) for f in dataclasses.fields(result))


@pytest.mark.parametrize("result", RESULTS, ids=lambda r: type(r).__name__)
def test_results_compare_hash_copy_and_convert(result: Any) -> None:
    again = (copy.deepcopy(result), pickle.loads(pickle.dumps(result)))
    for other in again:
        assert (result == other) == (not holds_tensors(result))
        assert json.dumps(other.to_dict()) == json.dumps(result.to_dict())
        assert str(other) == str(result)
    assert result == copy.copy(result) or holds_tensors(result)
    assert len({result, result}) == 1
