"""Every check at the door: what passes, and what is refused by which name with which words."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from ntkla.linalg import checks, errors

X = torch.ones(4, 3, dtype=torch.float64)
CPU = torch.device("cpu")


# --- arrays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_good_matrix_passes_without_a_copy(dtype):
    x = torch.ones(4, 3, dtype=dtype)
    assert checks.matrix("x", x, rows=4, columns=3).data_ptr() == x.data_ptr()
    assert checks.matrix("x", x.T, rows=3, columns=4).stride() == (1, 3)
    assert not checks.matrix("x", x.clone().requires_grad_()).requires_grad


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_a_nested_tensor_is_refused(layout):
    nested = torch.nested.nested_tensor([X[0], X[1, :2]], layout=layout)
    with pytest.raises(errors.DtypeError, match="expected a dense tensor, got a nested one"):
        checks.matrix("x", nested)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_pending_sign_is_applied(strided, dtype):
    # Both read their memory with the sign changed: numpy refuses such tensors, and their bits tell the wrong sign.
    x = torch.complex(X.to(dtype), X.to(dtype)).conj().imag if strided else torch._neg_view(X.to(dtype))
    assert x.is_neg()
    found = checks.matrix("x", x)
    assert not found.is_neg()
    assert torch.equal(found, -X.to(dtype))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (None, errors.DtypeError, "x: expected a torch.Tensor, got NoneType. Convert it"),
        ([[1.0]], errors.DtypeError, "got list"),
        (np.ones((4, 3)), errors.DtypeError, "got ndarray"),
        (X.long(), errors.DtypeError, "got torch.int64"),
        (X.bool(), errors.DtypeError, "got torch.bool"),
        (X.cfloat(), errors.DtypeError, "got torch.complex64"),
        (X.to_sparse(), errors.DtypeError, "layout torch.sparse_coo"),
        (X[0], errors.ShapeError, r"expected two dimensions \(one row a sample\), got shape \(3,\)"),
        (X[None], errors.ShapeError, r"got shape \(1, 4, 3\)"),
        (X[:0], errors.ShapeError, r"at least one row and one column, got shape \(0, 3\)"),
        (X[:, :0], errors.ShapeError, r"at least one row and one column, got shape \(4, 0\)"),
        (X[:3], errors.ShapeError, r"expected 4 rows, got 3 \(shape \(3, 3\)\)"),
        (X[:, :2], errors.ShapeError, r"expected 3 columns, got 2 \(shape \(4, 2\)\)"),
        (X.to("meta"), errors.DeviceError, "meta device and has no values"),
        (X * torch.tensor([1, math.nan, 1]), errors.NonFiniteError, "4 NaN or infinite of 12. Clean or drop"),
        (X * torch.tensor([1, -math.inf, 1]), errors.NonFiniteError, "4 NaN or infinite of 12"),
        (X.half() * 1e4 * 1e4, errors.NonFiniteError, "12 NaN or infinite of 12"),
        (X * 2.0**251, errors.ScaleError, "the largest magnitude is 3.62e.75.*power of two"),
        (X * -(2.0**251), errors.ScaleError, "power of two"),
    ],
)
def test_a_bad_matrix_is_refused(x, error, message):
    with pytest.raises(error, match=message) as caught:
        checks.matrix("x", x, rows=4, columns=3)
    assert isinstance(caught.value, errors.NtklaError)


def test_the_largest_entry_that_passes():
    assert checks.matrix("x", X * checks.LARGEST_ENTRY) is not None


def test_a_device_without_float64_is_refused():
    class Elsewhere(torch.Tensor):
        """A tensor that says that it lies on Apple's GPU."""

        @property
        def device(self):
            return torch.device("mps")

    with pytest.raises(errors.DeviceError, match=r"'mps', which has no float64.*Move it to 'cpu'"):
        checks.matrix("x", X.as_subclass(Elsewhere))


def test_finite_lets_an_empty_array_pass():
    assert checks.finite("x", X[:0]) is None


def test_one_device_and_one_dtype():
    assert checks.one_device(x=X, y=None, z=X) == CPU
    assert checks.one_dtype(x=X, y=None, z=X) == torch.float64
    with pytest.raises(errors.DeviceError, match=r"x on cpu, z on meta. Move them with .to\(device\)"):
        checks.one_device(x=X, y=None, z=X.to("meta"))
    with pytest.raises(errors.DtypeError, match=r"x torch.float64, z torch.float32. Convert with .to\(dtype\)"):
        checks.one_dtype(x=X, y=None, z=X.float())


# --- numbers --------------------------------------------------------------------------------------------------------

NOT_NUMBERS = (None, "1", b"1", True, [1.0], 1j, torch.ones(2), object)


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=str)
@pytest.mark.parametrize(
    ("check", "error"),
    [
        (checks.nonnegative, errors.RidgeError),
        (checks.number, errors.ArgumentError),
        (checks.positive, errors.ArgumentError),
    ],
)
def test_what_is_no_number_is_named(check, error, value):
    with pytest.raises(error, match="lr: expected a number, got"):
        check("lr", value)


@pytest.mark.parametrize("check", [checks.nonnegative, checks.number, checks.positive])
@pytest.mark.parametrize("value", [10**400, Fraction(10**400)], ids=["int", "fraction"])
def test_a_number_beyond_float64_is_named(check, value):
    with pytest.raises((errors.RidgeError, errors.ArgumentError), match="lr: expected a number within the range"):
        check("lr", value)


@pytest.mark.parametrize("value", [0, 2, 0.5, np.float32(0.5), torch.tensor(0.5), 1e-300])
def test_numbers_of_every_kind_pass(value):
    for check in (checks.nonnegative, checks.number):
        assert check("ridge", value) == float(value)
        assert isinstance(check("ridge", value), float)


@pytest.mark.parametrize("value", [-1, -1e-320, math.nan, math.inf, -math.inf])
def test_a_ridge_is_finite_and_not_negative(value):
    with pytest.raises(errors.RidgeError, match=r"ridge: expected a finite number >= 0 \(absolute"):
        checks.nonnegative("ridge", value)


@pytest.mark.parametrize("flushed", [False, True])
def test_a_ridge_that_flushed_arithmetic_would_take_for_none_is_refused(flushed):
    torch.set_flush_denormal(flushed)
    try:
        for value in (1e-310, -1e-310 if flushed else 1e-305):
            with pytest.raises(errors.RidgeError, match=r"ridge: expected 0 or at least 9\.33e-302"):
                checks.nonnegative("ridge", value)
        assert checks.nonnegative("ridge", 0.0) == 0.0
    finally:
        torch.set_flush_denormal(False)


def test_a_ridge_beyond_every_kernel_is_refused():
    assert checks.nonnegative("ridge", checks.LARGEST_ENTRY) == checks.LARGEST_ENTRY
    with pytest.raises(errors.RidgeError, match="zero to every digit"):
        checks.nonnegative("ridge", 2.0**251)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_is_finite(value):
    with pytest.raises(errors.ArgumentError, match="t: expected a finite number, got"):
        checks.number("t", value)


@pytest.mark.parametrize("value", [0, -1, -0.0])
def test_a_positive_number_is_positive(value):
    with pytest.raises(errors.ArgumentError, match="lr: expected a finite number > 0, got"):
        checks.positive("lr", value)
    assert checks.positive("lr", 1e-320) == 1e-320


@pytest.mark.parametrize(
    "value", [1.0, "1", None, True, torch.tensor(1.5), np.ones(2), torch.tensor(1, device="meta")], ids=str
)
def test_what_is_no_integer_is_named(value):
    with pytest.raises(errors.ArgumentError, match="k: expected an integer, got"):
        checks.integer("k", value, least=1)


@pytest.mark.parametrize(("value", "message"), [(0, "k: expected an integer >= 1 and <= 5, got 0"), (6, "<= 5, got 6")])
def test_an_integer_outside_its_range_is_named(value, message):
    with pytest.raises(errors.ArgumentError, match=message):
        checks.integer("k", value, least=1, most=5)


def test_an_integer_longer_than_any_tensor_is_named():
    with pytest.raises(errors.ArgumentError, match=f"classes: expected an integer >= 1 and <= {checks.LONGEST}"):
        checks.integer("classes", 2**63, least=1)
    with pytest.raises(errors.ArgumentError, match="classes: expected an integer >= 1, got 0"):
        checks.integer("classes", 0, least=1)


@pytest.mark.parametrize("value", [1, np.int64(1), torch.tensor(1)], ids=["int", "numpy", "torch"])
def test_integers_of_every_kind_pass(value):
    found = checks.integer("k", value, least=1)
    assert (found, type(found)) == (1, int)


@pytest.mark.parametrize("value", [1, 0, "yes", None, torch.tensor(True), np.True_], ids=str)
def test_a_flag_is_true_or_false(value):
    with pytest.raises(errors.ArgumentError, match="bias: expected True or False, got"):
        checks.flag("bias", value)
    assert checks.flag("bias", True) is True
    assert checks.flag("bias", False) is False


@pytest.mark.parametrize("value", ["Primal", "", None, 1, ["primal"]], ids=str)
def test_a_choice_is_one_of_the_allowed_words(value):
    with pytest.raises(errors.ArgumentError, match="route: expected one of 'primal', 'dual', got"):
        checks.choice("route", value, ("primal", "dual"))
    assert checks.choice("route", "dual", ("primal", "dual")) == "dual"


# --- memory ---------------------------------------------------------------------------------------------------------


def test_progress_is_a_function_or_none():
    assert checks.progress(None, "done and total") is None
    assert checks.progress(print, "done and total") is print
    with pytest.raises(errors.DtypeError, match="progress: expected a function of done and total, or None, got int"):
        checks.progress(3, "done and total")


def test_memory_that_will_not_fit_is_refused_with_the_number_of_bytes():
    with pytest.raises(
        errors.MemoryEstimateError, match=r"K needs about 1e\+09 GB \(1000000000000000000 bytes\) on cpu"
    ):
        checks.memory("K", 10**18, CPU)
    with pytest.raises(MemoryError) as caught:
        checks.memory("K", 10**18, CPU)
    assert caught.value.bytes_needed == 10**18
    assert checks.memory("K", 1, CPU) is None


# --- the exceptions themselves --------------------------------------------------------------------------------------


def test_every_error_is_an_ntkla_error_and_a_python_one():
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.NtklaError)]
    builtin = (ValueError, TypeError, MemoryError, RuntimeError, ArithmeticError, ImportError)
    assert all(issubclass(kind, builtin) for kind in found if kind is not errors.NtklaError)
    assert len(found) > 10


def test_a_diverging_rate_carries_the_largest_stable_one():
    error = errors.TrainingDivergesError("lr is too large", 0.25)
    assert error.largest_stable_lr == 0.25
    assert str(error) == "lr is too large"
