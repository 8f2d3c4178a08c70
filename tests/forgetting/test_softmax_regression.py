"""`softmax_regression`: what it promises beside its bounds, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

import ntkla
from ntkla import (
    ArgumentError,
    DeviceError,
    DtypeError,
    LabelError,
    LinearHead,
    MemoryEstimateError,
    NonFiniteError,
    NotCertifiedError,
    RidgeError,
    ShapeError,
    softmax_regression,
)
from ntkla.linalg.precision import ENTROPY_TOLERANCE, gamma


def drawn(n=80, features=6, classes=4, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator, dtype=torch.float64).relu().to(dtype)
    return x, torch.randint(0, classes, (n,), generator=generator)


def separated(n=40):
    x, labels = drawn(n, 2, 2)
    return torch.nn.functional.one_hot(labels).double() + 0.1 * x, labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["rows", "columns", "strided"])
def test_narrow_features_are_their_exact_values(dtype, layout):
    x, labels = drawn(dtype=dtype)
    given = {"rows": x, "columns": x.T.contiguous().T, "strided": x.repeat_interleave(2, 1)[:, ::2]}[layout]
    narrow = softmax_regression(given, labels, classes=4, ridge=1.0, bias=True)
    wide = softmax_regression(x.double(), labels, classes=4, ridge=1.0, bias=True)
    assert narrow.status.certified
    assert narrow.diagnostics.factor == "newton-cg:float32"
    apart = torch.cat([narrow.weight - wide.weight, (narrow.bias - wide.bias)[:, None]], 1)
    assert float(apart.norm()) <= narrow.error_bound + wide.error_bound


def test_labels_are_one_hot_targets_and_totals_are_weights():
    x, labels = drawn()
    hard = ntkla.cross_entropy_targets(labels, 4)
    counts = torch.rand(80, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    plain = softmax_regression(x, labels, classes=4, ridge=1.0)
    assert torch.equal(softmax_regression(x, hard, ridge=1.0).weight, plain.weight)
    weighted = softmax_regression(x, labels, classes=4, ridge=1.0, weights=counts)
    folded = softmax_regression(x, hard * counts[:, None], ridge=1.0)
    assert float((weighted.weight - folded.weight).norm()) <= weighted.error_bound + folded.error_bound


def test_a_start_saves_work_and_changes_nothing():
    x, labels = drawn(400, 20, 5)
    first = softmax_regression(x, labels, classes=5, ridge=1.0, bias=True)
    cold = softmax_regression(x, labels, classes=5, ridge=0.9, bias=True)
    warm = softmax_regression(x, labels, classes=5, ridge=0.9, bias=True, start=first.head)
    assert warm.diagnostics.corrections < cold.diagnostics.corrections
    assert float((warm.weight - cold.weight).norm()) <= warm.error_bound + cold.error_bound


def test_a_head_that_is_its_own_optimum_stays():
    x, labels = drawn()
    first = softmax_regression(x, labels, classes=4, ridge=1.0, tol=1e-12)
    # The gradient at the optimum is -ridge W: towards a head moved by that, nothing is left to train.
    again = softmax_regression(x, torch.softmax(x @ first.weight.T, 1), ridge=1.0, head=first.head)
    assert float(again.head_update.norm()) <= again.update_error_bound
    assert again.status.code == "uncertified"
    # What rounding leaves of a sum over the samples, each of probabilities of at most 1, over the ridge of 1.
    assert again.update_error_bound <= gamma(len(x)) * float(x.norm()) * len(x) ** 0.5


def test_separable_data_are_told():
    x, labels = separated()
    large, small = (softmax_regression(x, labels, classes=2, ridge=ridge) for ridge in (1e-1, 1e-8))
    assert small.diagnostics.separable
    assert small.diagnostics.least_margin > 0
    assert small.diagnostics.accuracy == 1.0
    assert "separable" in str(small)
    assert float(small.weight.norm()) > 2 * float(large.weight.norm())
    soft = softmax_regression(x, ntkla.cross_entropy_targets(labels, 2, label_smoothing=0.1), ridge=1e-8)
    assert not soft.diagnostics.separable
    assert soft.diagnostics.least_margin is None


def test_a_tiny_ridge_says_what_was_reached():
    x, labels = drawn(60, 5, 3)
    found = softmax_regression(x, labels, classes=3, ridge=1e-12, tol=1e-12)
    assert found.status.code == "above_tolerance"
    assert "larger ridge" in found.status.message
    assert found.relative_bound < 1.0
    with pytest.raises(NotCertifiedError):
        softmax_regression(x, labels, classes=3, ridge=1e-12, tol=1e-12, strict=True)


def test_one_class_and_absent_classes():
    x, labels = drawn()
    alone = softmax_regression(x, torch.zeros(80, dtype=torch.int64), classes=1, ridge=1.0, bias=True)
    assert alone.status.certified
    assert not bool(alone.weight.any())
    absent = softmax_regression(x, labels, classes=7, ridge=1.0, bias=True)
    assert absent.status.certified
    assert bool((absent.bias[4:] < absent.bias[:4].min()).all())
    with pytest.raises(ArgumentError, match="class 4"):
        softmax_regression(x, labels, classes=7, ridge=1.0, bias=True, penalize_bias=False)


@pytest.mark.parametrize(("n", "features", "classes"), [(1, 1, 2), (1, 9, 3), (5, 60, 3), (300, 8, 200)])
def test_shapes_at_the_edges(n, features, classes):
    x, labels = drawn(n, features, classes, torch.float32)
    found = softmax_regression(x, labels, classes=classes, ridge=0.1, bias=True)
    assert found.status.certified, found
    # Rows of the update sum to zero over the classes: the loss does not depend on that sum, the ridge does.
    assert float(found.weight.sum(0).norm()) <= found.error_bound * classes**0.5


def test_results_are_reproducible_readable_and_plain():
    x, labels = drawn(dtype=torch.float32)
    calls = []
    state = torch.get_rng_state()
    found = softmax_regression(x, labels, classes=4, ridge=1.0, progress=lambda step, left: calls.append((step, left)))
    assert torch.equal(found.weight, softmax_regression(x, labels, classes=4, ridge=1.0).weight)
    assert torch.equal(state, torch.get_rng_state())
    assert [step for step, _ in calls] == list(range(1, found.diagnostics.corrections + 1))
    assert "tensor" not in str(found)
    assert json.loads(json.dumps(found.to_dict()))["diagnostics"]["hessian_products"] > 0
    assert not softmax_regression(x.requires_grad_(), labels, classes=4, ridge=1.0).weight.requires_grad


X, LABELS = drawn()
HEAD = LinearHead(torch.zeros(4, 6))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"ridge": 0.0}, RidgeError),
        ({"ridge": -1.0}, RidgeError),
        ({"classes": None}, ArgumentError),
        ({"classes": 3}, LabelError),
        ({"targets": LABELS[:5]}, ShapeError),
        ({"targets": torch.ones(80, 3, dtype=torch.float64)}, ShapeError),
        ({"targets": -torch.ones(80, 4, dtype=torch.float64)}, ArgumentError),
        ({"targets": torch.zeros(80, 4, dtype=torch.float64)}, ArgumentError),
        ({"targets": torch.full((80, 4), float("nan"), dtype=torch.float64)}, NonFiniteError),
        ({"targets": LABELS.tolist()}, DtypeError),
        ({"targets": torch.ones(1, 1).expand(80, 2**40), "classes": None}, MemoryEstimateError),
        ({"features": X.to("meta")}, DeviceError),
        ({"features": X.to(torch.int64)}, DtypeError),
        ({"bias": 1}, ArgumentError),
        ({"head": torch.zeros(4, 6)}, ArgumentError),
        ({"head": HEAD, "bias": True}, ArgumentError),
        ({"head": LinearHead(torch.zeros(3, 6))}, ShapeError),
        ({"start": LinearHead(torch.zeros(4, 5))}, ShapeError),
        ({"weights": torch.zeros(80)}, ArgumentError),
        ({"weights": torch.ones(79)}, ShapeError),
        ({"tol": 0.0}, ArgumentError),
        ({"progress": 3}, DtypeError),
        ({"strict": None}, ArgumentError),
    ],
)
def test_bad_input_is_named(changes, error):
    with pytest.raises(error):
        softmax_regression(**({"features": X, "targets": LABELS, "classes": 4, "ridge": 1.0} | changes))


def finite(found) -> bool:
    numbers = [found.weight, found.head_update, torch.tensor([found.diagnostics.gradient_norm], dtype=torch.float64)]
    return all(bool(torch.isfinite(x).all()) for x in numbers) and found.error_bound == found.error_bound


def test_a_start_that_is_sure_of_everything_leads_somewhere():
    """No curvature is left to see there, and so no preconditioner to make."""
    x, labels = drawn(6, 3, 3)
    start = LinearHead(1e70 * torch.diag(torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)))
    found = softmax_regression(x, labels, classes=3, ridge=1.0, start=start)
    assert finite(found)
    assert not found.status.certified or found.relative_bound <= ENTROPY_TOLERANCE


@pytest.mark.parametrize("seed", range(4))
def test_huge_features_and_targets_end_with_numbers(seed):
    """Slopes are rounding there: the search along a step still ends, with a point and a bound."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(5, 1, generator=generator) * 1e9
    targets = torch.rand(5, 4, generator=generator, dtype=torch.float64) * 1e6
    head = LinearHead(torch.randn(4, 1, generator=generator))
    assert finite(softmax_regression(x, targets, ridge=1e-3, head=head))
