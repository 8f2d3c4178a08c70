"""`drift_summary`: the norms and decisions of arrays that it does not make, by the kernel and in blocks by torch."""

from __future__ import annotations

import pytest
import torch

import ntkla
from ntkla.forgetting.drift_bound import RowSizes, drift_of, size_of
from ntkla.forgetting.reports import drift_summary as module
from ntkla.forgetting.reports.drift_summary import DriftSummary, drift_summary
from ntkla.forgetting.reports.predictions import Flips, Predictions
from ntkla.linalg import errors
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import SHORT_CHAIN, gamma
from ntkla.linalg.solve.stability import SolutionError
from ntkla.testing import hostile_states
from ntkla.testing.spectra import LAYOUTS, laid_out
from tests.kernels.draws import DEVICE, normal

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton.drift_summary import drift_summary as launch

BACKENDS = ("torch", "triton")
backends = pytest.mark.parametrize("backend", BACKENDS)


def solved(features: int, outputs: int, bias: bool = True, dtype: torch.dtype = torch.float64) -> ntkla.Forgetting:
    old, new = normal(2, features, dtype=dtype), normal(9, features, seed=1, dtype=dtype)
    return ntkla.predict_forgetting(old, new, normal(9, outputs, seed=2).double(), ridge=1e-2, bias=bias)


def arrays(x: torch.Tensor, forgetting: ntkla.Forgetting) -> tuple[torch.Tensor, torch.Tensor]:
    """The drift and its bound, [n, C] each, as a forecast has them; by the backend that is asked for."""
    design = DesignMatrix(x, forgetting.bias_update is not None)
    weights = forgetting.update(torch.arange(len(forgetting.head_update), device=DEVICE))
    bound = forgetting.update_error_bound
    return drift_of(design, weights, SolutionError(bound, torch.zeros_like(bound)), RowSizes(design))[:2]


def outputs_before(n: int, outputs: int, off: float) -> Predictions:
    """Some that are certain, some within their bounds of each other, and ties."""
    value = normal(n, outputs, seed=3).double()
    value[::5] = value[::5].round()
    return Predictions(value, torch.full_like(value, off))


@backends
@pytest.mark.parametrize("off", [0.0, 1e-1, 1.0])
@pytest.mark.parametrize("sizes", [(33, 18, 21), (17, 5, 2), (5, 35, 17), (1, 1, 1)])
def test_it_decides_what_the_arrays_decide(backend, off, sizes):
    n, features, outputs = sizes
    x, forgetting = normal(n, features, seed=4).double(), solved(features, outputs)
    before, labels = outputs_before(n, outputs, off), torch.arange(n, device=DEVICE) % outputs
    with ntkla.backend(backend):
        found = drift_summary(x, forgetting, before=before, labels=labels)
        assert backend == "torch" or ntkla.last_dispatch() == "triton:drift:float64"
        drift, bound = arrays(x, forgetting)
    after = before.moved(drift, bound)
    flips = Flips.between(before, after)
    assert torch.equal(found.flips.certain, flips.certain)
    assert torch.equal(found.flips.impossible, flips.impossible)
    assert torch.equal(found.flips.undecided, flips.undecided)
    assert found.flips.count == flips.count
    assert found.accuracy_before == before.accuracy(labels)
    assert found.accuracy_after == after.accuracy(labels)
    assert str(flips.count) in str(found)


@backends
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_norms_are_those_of_the_arrays_within_their_errors(backend, dtype):
    """Within both errors, and an error that is no more than a few roundings above that of the array."""
    x, forgetting = normal(33, 18, seed=4, dtype=dtype), solved(18, 21, dtype=dtype)
    with ntkla.backend(backend):
        found = drift_summary(x, forgetting)
    drift, bound = arrays(x, forgetting)
    for value, error, size in (
        (found.norms, found.norm_errors, size_of(drift, bound, dim=1)),
        (found.output_norms, found.output_errors, size_of(drift, bound, dim=0)),
    ):
        assert ((value - size.value).abs() <= (error + size.error) * SHORT_CHAIN).all()
        assert (error <= 2 * size.error + gamma(8 * value.numel()) * size.value).all()
    assert found.flips is found.accuracy_before is found.accuracy_after is None


@backends
def test_norms_hold_for_the_exact_drift(backend):
    """Zeros for the old features and an update that is known exactly: the drift is the bias's, exactly."""
    x, forgetting = torch.zeros(5, 3, dtype=torch.float64, device=DEVICE), solved(3, 4)
    with ntkla.backend(backend):
        found = drift_summary(x, forgetting)
    expected = torch.linalg.vector_norm(forgetting.bias_update)
    assert ((found.norms - expected).abs() <= found.norm_errors).all()
    rounding = gamma(64) * expected
    assert (found.norm_errors <= 2 * torch.linalg.vector_norm(forgetting.update_error_bound) + rounding).all()


def test_a_bound_that_is_a_thousandth_too_small_changes_what_is_decided(monkeypatch):
    """Outputs that tie but for what the bound of the drift leaves open, for the kernel's own norms."""
    from csrc_triton import drift_summary as launcher

    x, forgetting = normal(9, 18, seed=4).double(), solved(18, 2)
    drift, bound = arrays(x, forgetting)
    # After the drift the second output is ahead by a little less than both bounds allow.
    value = torch.stack([torch.zeros(9).double().to(DEVICE), drift[:, 0] - drift[:, 1]], 1)
    value[:, 1] += (1 - 5e-4) * bound.sum(1)
    before = Predictions(value, torch.zeros_like(value))
    with ntkla.backend("triton"):
        assert drift_summary(x, forgetting, before=before).flips.undecided.any()
        right = launcher.limits_of
        monkeypatch.setattr(launcher, "limits_of", lambda *given: right(*given) * (1 - 4e-3))
        assert not drift_summary(x, forgetting, before=before).flips.undecided.any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(layout):
    x, forgetting, before = normal(17, 6, seed=4).double(), solved(6, 18), outputs_before(17, 18, 0.5)
    spread = Predictions(laid_out(before.value, layout), laid_out(before.error_bound, layout))
    with ntkla.backend("triton"):
        found = drift_summary(laid_out(x, layout), forgetting, before=spread)
        again = drift_summary(
            laid_out(x, layout).clone(),
            forgetting,
            before=Predictions(*(t.clone() for t in (spread.value, spread.error_bound))),
        )
    assert torch.equal(found.norms, again.norms)
    assert torch.equal(found.flips.certain, again.flips.certain)


def test_every_entry_is_written_and_bits_repeat(monkeypatch):
    x, forgetting, before = normal(33, 6, seed=4).double(), solved(6, 18), outputs_before(33, 18, 0.5)
    with ntkla.backend("triton"):
        expected = drift_summary(x, forgetting, before=before)
        empty = torch.empty

        def poisoned(*size, **kind):
            made = empty(*size, **kind)
            return made.fill_(torch.nan if made.is_floating_point() else -(2**31))

        monkeypatch.setattr(torch, "empty", poisoned)
        found = drift_summary(x, forgetting, before=before)
    for name in ("norms", "norm_errors", "output_norms", "output_errors"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert torch.equal(found.flips.certain, expected.flips.certain)


def test_torch_works_in_blocks(monkeypatch):
    x, forgetting, before = normal(33, 6, seed=4).double(), solved(6, 5), outputs_before(33, 5, 0.5)
    labels = torch.arange(33, device=DEVICE) % 5
    whole = drift_summary(x, forgetting, before=before, labels=labels)
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", 40)
    parts = drift_summary(x, forgetting, before=before, labels=labels)
    assert torch.equal(parts.flips.certain, whole.flips.certain)
    assert parts.accuracy_after == whole.accuracy_after
    assert ((parts.output_norms - whole.output_norms).abs() <= parts.output_errors + whole.output_errors).all()


def test_a_product_that_is_to_be_checked_is_one_that_can_be():
    x, forgetting = normal(9, 6, seed=4).double(), solved(6, 5)
    with ntkla.backend("triton"), ntkla.checked_products():
        found = drift_summary(x, forgetting)
        assert ntkla.last_dispatch() == "triton:drift:float64"
    assert isinstance(found, DriftSummary)


X, FORGETTING = normal(4, 3, seed=4).double(), solved(3, 2)
BEFORE = outputs_before(4, 2, 0.0)
E = torch.zeros(2, dtype=torch.float64, device=DEVICE)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: drift_summary(X[:, :2], FORGETTING), errors.ShapeError, "features: expected 3 columns"),
        (lambda: drift_summary(X, X), errors.NtklaError, "forgetting"),
        (lambda: drift_summary(X / 0.0, FORGETTING), errors.NonFiniteError, "features"),
        (lambda: drift_summary(X, FORGETTING, labels=torch.arange(4)), errors.ArgumentError, "labels: expected the"),
        (lambda: drift_summary(X[:3], FORGETTING, before=BEFORE), errors.ShapeError, "before"),
        (
            lambda: drift_summary(X, FORGETTING, before=BEFORE, labels=torch.arange(4, device=DEVICE)),
            errors.LabelError,
            "label",
        ),
        (lambda: launch(X, X.T, E, E, E), ValueError, "drift_summary: expected"),
        (lambda: launch(X, X[:2].T[:3], E, E, E, before=X), ValueError, r"\(4, 2\)"),
        (lambda: launch(X.long(), X[:2].T, E, E, E), TypeError, "drift_summary: expected one of"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@backends
def test_narrow_outputs_before_keep_their_subnormal_numbers(backend):
    """The drift and the difference before are both far below what flushed float32 keeps."""
    one = torch.ones(1, 1, dtype=torch.float64, device=DEVICE)
    forgetting = ntkla.predict_forgetting(one, one, -one.new_tensor([[5e-41, 0.0]]), ridge=2.0**-60)
    narrow, none = torch.tensor([[0.0, 1e-40]], device=DEVICE), torch.zeros(1, 2, dtype=torch.float64, device=DEVICE)
    before, labels = Predictions(narrow, none), torch.tensor([1], device=DEVICE)
    unknown = Predictions(none, torch.full_like(narrow, 1e-40))
    with hostile_states()["flush denormal"](), ntkla.backend(backend):
        after = drift_summary(one, forgetting, before=before, labels=labels).accuracy_after
        assert (after.low, after.high) == (1, 1)
        after = drift_summary(one, forgetting, before=unknown, labels=labels).accuracy_after
        assert (after.low, after.high) == (0, 1)
    for wrong in (3, (1, 2)):
        with pytest.raises(errors.ArgumentError, match=r"head\.predict"):
            drift_summary(one, forgetting, before=wrong)


@backends
@pytest.mark.parametrize("bias", [False, True])
def test_a_head_is_as_good_as_its_outputs(backend, bias, monkeypatch):
    """Formed block by block: no array of samples by outputs is needed."""
    x, forgetting = normal(33, 6, seed=4).double(), solved(6, 5, bias)
    offsets = normal(1, 5, seed=6)[0].double() if bias else None
    head, labels = ntkla.LinearHead(normal(5, 6, seed=5).double(), offsets), torch.arange(33, device=DEVICE) % 5
    with ntkla.backend(backend):
        expected = drift_summary(x, forgetting, before=Predictions(*head.predict(x)), labels=labels)
        monkeypatch.setattr(module, "_BLOCK_ENTRIES", 7 * 5)
        found = drift_summary(x, forgetting, before=head, labels=labels)
    assert found.flips.count == expected.flips.count
    assert (found.accuracy_before, found.accuracy_after) == (expected.accuracy_before, expected.accuracy_after)
    with pytest.raises(errors.ShapeError, match="before: expected weight"):
        drift_summary(x, forgetting, before=ntkla.LinearHead(normal(4, 6).double()))
