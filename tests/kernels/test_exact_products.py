"""The exact mode by the integer kernel, behind the public door: the bits of torch's, and checked on request."""

from __future__ import annotations

import pytest
import torch

import ntkla
from ntkla import ExactNormal, Task, TaskMoments, exact_gram, gram
from ntkla.linalg.arithmetic.fixed_point import FixedPoint
from ntkla.linalg.backends import integer_products, kernels
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import BackendError, DeviceError, KernelFaultError, ShapeError
from ntkla.linalg.solve import exact_sums
from ntkla.linalg.solve.exact_normal import exact_normal
from ntkla.testing import hostile_states
from tests.kernels.draws import DEVICE, normal

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def both(compute):
    """What torch and what the kernel make of it."""
    with ntkla.backend("torch"):
        by_torch = compute()
    with ntkla.backend("triton"):
        return by_torch, compute()


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left.view(torch.int64), right.view(torch.int64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_has_the_bits_of_torch(dtype):
    rows, features = {2: (17, 20), 4: (4, 20), 8: (2, 9)}[dtype.itemsize]
    x, y = normal(rows, features, dtype=dtype), normal(3, features, seed=1, dtype=dtype)
    for other in (None, y):
        assert same(*both(lambda other=other: gram(x, other, bias=True, precision="exact")))
    with ntkla.backend("triton"):
        gram(x[:2], precision="exact")
        assert ntkla.last_dispatch() == "triton:gram:exact"


SIZES = {
    "subnormal": (1e-310, 1e-310),
    "huge times tiny": (1e307, 1e-307),
    "zeros": (0.0, 1.0),
    "apart by 2^100": (torch.tensor([2.0**50, 2.0**-50, 1.0, 0.0, 1.0], dtype=torch.float64, device=DEVICE), 1.0),
}


@pytest.mark.parametrize("name", SIZES)
def test_numbers_of_hostile_sizes_have_the_bits_of_torch(name):
    scales = SIZES[name]
    x, y = (normal(n, 5, seed=n, dtype=torch.float64) * scale for n, scale in zip((4, 2), scales, strict=True))
    for left, right in zip(*(vars(found).values() for found in both(lambda: exact_gram(x, y, bias=True))), strict=True):
        assert left == right if not isinstance(left, torch.Tensor) else same(left, right)


@pytest.mark.skipif(DEVICE == "cuda", reason="states of the processor")
@pytest.mark.parametrize("name", hostile_states())
def test_no_state_of_the_process_changes_a_bit_of_the_kernels(name):
    x = normal(3, 5, dtype=torch.bfloat16).double() * 2.0**-520
    whole, part = gram(x, bias=True, precision="exact"), exact_gram(x, slices=2)
    with hostile_states()[name](), ntkla.backend("triton"):
        assert same(gram(x, bias=True, precision="exact"), whole)
        assert same(exact_gram(x, slices=2).high, part.high)


@pytest.mark.parametrize("count", [1, 2])
def test_so_many_slices_are_so_many_planes(count, monkeypatch):
    """The leading ones: what is asked for is what is multiplied."""
    x = normal(5, 9)
    seen = []
    launch = kernels.integer_gram
    monkeypatch.setattr(kernels, "integer_gram", lambda a, b, levels: seen.append(a.shape[0]) or launch(a, b, levels))
    by_torch, by_kernel = both(lambda: exact_gram(x, slices=count))
    assert same(by_torch.high, by_kernel.high)
    assert same(by_torch.error_bound, by_kernel.error_bound)
    assert set(seen) == {count}


# --- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bias"), [(torch.float32, False), (torch.bfloat16, True)])
def test_normal_equations_have_the_bits_of_torch_for_any_cut(dtype, bias, monkeypatch):
    x, y = normal(37, 4, dtype=dtype), normal(37, 2, seed=1, dtype=torch.float16).double()
    monkeypatch.setattr(exact_sums, "KERNEL_ROWS", 20)
    by_torch, by_kernel = both(lambda: ExactNormal.of(x, y, bias=bias))
    assert by_kernel.equals(by_torch)
    with ntkla.backend("triton"):
        parts = ExactNormal.of(x[:5], y[:5], bias=bias).add(x[5:], y[5:], bias=bias)
    assert parts.equals(by_torch)
    square, right = parts.rounded()
    design = torch.cat([x.double(), torch.ones_like(x[:, :1]).double()], 1)[:, : 4 + bias]
    assert same(square, gram(design.T, precision="exact"))
    assert same(right, gram(design.T, y.T, precision="exact"))
    assert "2 outputs" in str(parts)


def test_moments_of_a_task_have_the_bits_of_torch():
    task = Task.from_labels(normal(21, 3, dtype=torch.float32), torch.arange(21, device=DEVICE) % 3, classes=3)
    by_torch, by_kernel = both(lambda: TaskMoments.of(task, bias=True))
    assert by_kernel.equals(by_torch)


def test_known_squares_and_targets_in_two_parts_have_the_bits_of_torch():
    design, high, low = DesignMatrix(normal(9, 3)), normal(9, 2, seed=1), normal(9, 2, seed=2) * 2.0**-60
    known = exact_normal(design, (high,)).square
    by_torch, by_kernel = both(lambda: exact_normal(design, (high, low), square=known))
    assert by_kernel.equals(by_torch)


def test_weighted_sums_are_torchs_own():
    x, y, weights = normal(9, 3), normal(9, 2, seed=1), normal(9, 1, seed=2)[:, 0].abs()
    by_torch, forced = both(lambda: ExactNormal.of(x, y, weights))
    assert forced.equals(by_torch)


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (lambda: ExactNormal.of(normal(4, 3), normal(4, 1)), ShapeError, "expected 3 features .* and 2 outputs"),
        (lambda: ExactNormal.of(normal(4, 3), normal(5, 2)), ShapeError, "targets: expected 4 rows"),
        (lambda: ExactNormal.zeros(3, 2, torch.device("meta")), DeviceError, "one device"),
    ],
)
def test_sums_of_other_things_are_refused(other, error, message):
    with pytest.raises(error, match=message):
        ExactNormal.of(normal(4, 3), normal(4, 2)) + other()


# --- checked on request, and where it cannot run --------------------------------------------------------------------


def off_by_one(x, y, levels):
    digits, carry = LAUNCH(x, y, levels)
    digits[-1, -1] += 2**41
    return digits, carry


LAUNCH = kernels.integer_gram
CALLS = {
    "gram": lambda: gram(normal(5, 9), precision="exact"),
    "exact_gram": lambda: exact_gram(normal(5, 9), normal(3, 9, seed=1), slices=2),
    "square": lambda: ExactNormal.of(normal(9, 5), normal(9, 2, seed=1)),
    "targets in two parts": lambda: exact_normal(
        DesignMatrix(normal(9, 5)),
        (normal(9, 2), normal(9, 2, seed=1)),
        square=FixedPoint.zeros(5, 5, normal(1).device),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_kernel_at_fault_is_noticed_where_products_are_checked(name, monkeypatch):
    with ntkla.backend("triton"), ntkla.checked_products(20):
        CALLS[name]()
        monkeypatch.setattr(kernels, "integer_gram", off_by_one)
        with pytest.raises(KernelFaultError, match="exact"):
            CALLS[name]()


@pytest.mark.parametrize("name", CALLS)
def test_a_kernel_that_is_forced_and_cannot_run_is_an_error(name, monkeypatch):
    monkeypatch.setattr(kernels, "why_not", lambda *call: "there is none today")
    with ntkla.backend("triton"), pytest.raises(BackendError, match="there is none today"):
        CALLS[name]()


class NotCompiled(Exception):
    """What a compiler might raise."""


def not_compiled(x, y, levels):
    raise NotCompiled("no registers left")


@pytest.mark.parametrize("name", CALLS)
def test_a_kernel_that_does_not_compile_is_an_error_where_it_is_forced_and_else_torchs(name, monkeypatch):
    monkeypatch.setattr(kernels, "integer_gram", not_compiled)
    monkeypatch.setattr(kernels, "compiler_failed", lambda error: isinstance(error, NotCompiled))
    with ntkla.backend("triton"), pytest.raises(BackendError, match="NotCompiled: no registers left"):
        CALLS[name]()
    if name == "gram":
        return  # `dispatch.run` does this for it: test_dispatch.py
    monkeypatch.setattr(integer_products, "kernel_wanted", lambda call: True)
    with ntkla.backend("auto"), pytest.warns(RuntimeWarning, match="runs in torch, .* no registers left"):
        CALLS[name]()


def test_another_fault_of_a_kernel_is_not_hidden(monkeypatch):
    monkeypatch.setattr(kernels, "integer_gram", not_compiled)
    with ntkla.backend("triton"), pytest.raises(NotCompiled):
        CALLS["exact_gram"]()


def test_a_kernel_that_the_table_wants_and_that_cannot_run_is_not_tried(monkeypatch):
    monkeypatch.setattr(integer_products, "kernel_wanted", lambda call: True)
    monkeypatch.setattr(kernels, "why_not", lambda *call: "there is none today")
    with ntkla.backend("auto"), pytest.warns(RuntimeWarning, match="there is none today"):
        exact_gram(normal(2, 3))
    assert ntkla.last_dispatch() == "torch:gram:exact"
