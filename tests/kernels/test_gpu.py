"""Every kernel at the size of a device: exact entries, large products checked at random, the same bits every time.

The other files of this folder run on a GPU as they are where there is one; here are the sizes that take many programs.
The same bodies run in the interpreter at small sizes, so that they are known to work where no GPU is.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import ntkla
from ntkla.linalg.precision import UNIT_ROUNDOFF
from ntkla.testing import ProductCheck, check_product
from tests.kernels.draws import DEVICE, factors, normal, whole
from tests.kernels.places import GPU, places

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton.gram import MODES, gram, gram_error
from csrc_triton.integer_gram import PADDING, integer_gram
from csrc_triton.layer_ntk import layer_ntk
from csrc_triton.layer_tiles import layer_ntk_error
from csrc_triton.normal_matmul import normal_matmul_error
from csrc_triton.planes import split
from csrc_triton.split_gram import split_gram, split_gram_error
from csrc_triton.split_layer import split_layer, split_layer_error
from tests.kernels.normal_problems import CASES as NORMAL_CASES
from tests.kernels.normal_problems import drawn, run, small

CASES = [(mode, dtype) for mode, dtypes in MODES.items() for dtype in dtypes]
U64 = UNIT_ROUNDOFF[torch.float64]
Checked = tuple[torch.Tensor, Callable[[torch.Tensor], ProductCheck]]

# --- exact entries --------------------------------------------------------------------------------------------------


@places
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("mode", "dtype"), CASES)
def test_grams_of_many_tiles_have_the_exact_entries(place, mode, dtype, symmetric):
    """Sums of small integers are exact in every mode; torch multiplies them in float64."""
    n, m, features = (2049, 1023, 777) if place == GPU else (33, 15, 18)
    x = whole(n, features, dtype=dtype)
    y = None if symmetric else whole(m, features, seed=1, dtype=dtype)
    right = x if y is None else y
    assert torch.equal(gram(x, y, bias=True, mode=mode).double(), x.double() @ right.double().T + 1)


@places
@pytest.mark.parametrize("symmetric", [True, False])
def test_grams_of_many_planes_have_the_exact_entries(place, symmetric):
    """The right side has numbers of 13 bits, and so low planes; a row in a thousand of the left one falls back."""
    n, m, features = (2049, 1023, 777) if place == GPU else (33, 15, 18)
    x = whole(n, features, most=7)
    x[7::1000], x[7::1000, 0] = 0.0, 2.0**-130
    y = None if symmetric else whole(m, features, seed=2, most=15) + whole(m, features, seed=3, most=1) * 2.0**-9
    planes, exact = split(x), x.double().masked_fill(x.abs() < 2.0**-126, 0.0)
    assert planes.fallen.tolist() == list(range(7, n, 1000))
    right = exact if y is None else y.double()
    expected = (exact @ right.T + 1).float()
    assert torch.equal(split_gram(planes, None if y is None else split(y), bias=True), expected)


@places
@pytest.mark.parametrize(("mode", "dtype"), NORMAL_CASES)
def test_normal_products_of_many_programs_have_the_exact_entries(place, mode, dtype):
    """x has few entries that are not 0, so that float32 holds the sums inside a block."""
    sizes = ((30011, 769, 9), (5003, 4096, 2), (10**6 + 3, 3, 1)) if place == GPU else ((70, 9, 3), (5, 257, 2))
    for n, features, columns in sizes:
        problem = drawn(small, n, features, columns, weighted=True, bias=True, dtype=dtype)
        x, w, weights, _ = problem
        x *= whole(n, features, seed=4, most=20, dtype=torch.float32).eq(0)
        design = torch.cat([x, torch.ones_like(x[:, :1])], 1).double()
        expected = design.T @ (weights.double()[:, None] * (design @ w.double()))
        assert torch.equal(
            run(problem, mode).double(), expected.to(torch.float64 if mode == "float64" else torch.float32)
        )


@places
@pytest.mark.parametrize("outputs", [1, 10])
@pytest.mark.parametrize(("mode", "dtype"), CASES)
def test_layers_of_many_tiles_have_the_exact_entries(place, mode, dtype, outputs):
    n, positions, inputs, deltas = (203, 3, 129, 33) if place == GPU else (4, 2, 17, 3)
    draw = lambda *shape, **kind: whole(*shape, most=1, **kind)  # noqa: E731
    a, d = factors(n, outputs, positions, inputs, deltas, dtype=dtype, draw=draw)
    mask = torch.arange(positions, device=DEVICE) < 1 + torch.arange(n, device=DEVICE)[:, None] % positions
    rows = jacobian(a, d, mask)
    computed = layer_ntk([a], [d], (), (), [mask], mode=mode)
    assert torch.equal(computed.double().flatten(2, 3).flatten(0, 1), rows @ rows.T)


def jacobian(a: torch.Tensor, d: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The per-sample gradients [n C, F_a F_d] in float64."""
    counted = a.double() if mask is None else a.double() * mask[..., None]
    return torch.einsum("itf,ictg->icfg", counted, d.double()).flatten(2, 3).flatten(0, 1)


@places
def test_results_beyond_two_to_the_31_entries_have_the_exact_entries(place):
    """On both sides of the diagonal, where the last tile is written and where its mirror image is."""
    n = 47001 if place == GPU else 41
    if place == GPU and torch.cuda.mem_get_info()[0] < 7 * n * n:
        pytest.skip("needs 16 GB of free device memory")
    x = whole(n, 3, dtype=torch.bfloat16)
    computed, last = gram(x, mode="bf16"), x[-129:].double()
    assert torch.equal(computed[-129:].double(), last @ x.double().T)
    assert torch.equal(computed[:, -129:].double(), x.double() @ last.T)
    cross = gram(x, x[: n // 2], mode="bf16")
    assert torch.equal(cross[-1].double(), x[: n // 2].double() @ x[-1].double())


@places
@pytest.mark.parametrize("symmetric", [True, False])
def test_integer_planes_of_many_tiles_have_the_exact_sums(place, symmetric):
    """Three planes, two windows; torch multiplies them in float64, without rounding."""
    n, m, features = (2049, 1023, 896) if place == GPU else (33, 15, PADDING)
    x, y = (whole(3, rows, features, seed=rows, most=64).to(torch.int8) for rows in (n, m))
    right = x if symmetric else y
    levels = [[(p, q) for p in range(3) for q in range(3) if p + q == level] for level in range(5)]
    digits, carry = integer_gram(x, None if symmetric else y, levels)
    left, right = (sum(2.0 ** (7 * p) * z[p].double() for p in range(3)) for z in (x, right))
    assert torch.equal((digits + (carry << 42)).double(), left @ right.T)


@pytest.mark.gpu
def test_integer_sums_beyond_int32_are_exact():
    """The largest entries over more features than int32 adds up: the sums are drained before."""
    features = 2**20 + PADDING
    x = torch.full((1, 130, features), -64, dtype=torch.int8, device=DEVICE)
    x[0, ::2] = 64
    digits, carry = integer_gram(x, None, [[(0, 0)]])
    sign = x[0, :, :1].long().sign()
    assert torch.equal(digits + (carry << 42), 64**2 * features * sign * sign.T)


# --- rounding, at random --------------------------------------------------------------------------------------------


def gram_check(place: str, mode: str, dtype: torch.dtype) -> Checked:
    n, features = (3001, 2048) if place == GPU else (35, 40)
    x, y = normal(n, features, dtype=dtype) + 1, normal(n // 2, features, seed=1, dtype=dtype)
    ones = torch.ones_like(x[:, :1])
    left, right = torch.cat([x, ones], 1), torch.cat([y, ones[: n // 2]], 1)
    error = gram_error(features, mode)
    return gram(x, y, bias=True, mode=mode), lambda found: check_product(found, [left, right.T], error=error)


def split_check(place: str, mode: str, dtype: torch.dtype) -> Checked:
    n, features = (3001, 2048) if place == GPU else (35, 40)
    x, y = normal(n, features, dtype=dtype) + 1, normal(n // 2, features, seed=1, dtype=dtype)
    y[3, 3] = 1e-30
    error = split_gram_error(features)
    return split_gram(split(x), split(y)), lambda found: check_product(found, [x, y.T], error=error)


def layer_check(place: str, mode: str, dtype: torch.dtype) -> Checked:
    n, outputs, positions, inputs, deltas = (150, 4, 5, 192, 64) if place == GPU else (4, 2, 2, 20, 5)
    a, d = factors(n, outputs, positions, inputs, deltas, dtype=dtype, draw=normal)
    rows = jacobian(a.abs(), d.abs()), jacobian(a, d)
    # Magnitudes of the sum over positions: where they cancel the claim is about the sum of the magnitudes.
    if mode == "split":
        error = split_layer_error(positions, positions, inputs, deltas, 1)
        computed = split_layer([a], [d])[0].flatten(2, 3).flatten(0, 1)
    else:
        error = layer_ntk_error(positions, positions, inputs, deltas, 1, mode)
        computed = layer_ntk([a], [d], mode=mode).flatten(2, 3).flatten(0, 1)

    def check(found: torch.Tensor) -> ProductCheck:
        lost = error * float((rows[0] @ rows[0].T).max())
        return check_product(found, [rows[1], rows[1].T], error=2 * (positions + 1) * U64, lost=lost)

    return computed, check


def normal_check(place: str, mode: str, dtype: torch.dtype) -> Checked:
    n, features, columns = (50021, 1024, 8) if place == GPU else (37, 20, 3)
    problem = drawn(normal, n, features, columns, weighted=True, bias=False, dtype=dtype)
    x, w, weights, _ = problem
    # The weights are multiplied in beforehand, in float64: one rounding.
    error = normal_matmul_error(n, features, mode) + 2 * U64
    weighted = x.double().T * weights.double()
    return run(problem, mode), lambda found: check_product(found, [weighted, x, w], error=error)


CHECKS = {
    "gram": (gram_check, CASES),
    "split_gram": (split_check, [("split", torch.float32)]),
    "layer_ntk": (layer_check, [*CASES, ("split", torch.float32)]),
    "normal_matmul": (normal_check, NORMAL_CASES),
}
RANDOM = [(kernel, mode, dtype) for kernel, (_, cases) in CHECKS.items() for mode, dtype in cases]


@places
@pytest.mark.parametrize(("kernel", "mode", "dtype"), RANDOM)
def test_a_large_product_agrees_with_its_factors(place, kernel, mode, dtype):
    """Within the kernel's bound; a row that is swapped with the next is noticed."""
    computed, check = CHECKS[kernel][0](place, mode, dtype)
    assert check(computed).agrees, str(check(computed))
    row = computed.shape[0] // 2
    computed[[row, row + 1]] = computed[[row + 1, row]]
    assert check(computed).rows == (row, row + 1)


@places
@pytest.mark.parametrize(("kernel", "mode", "dtype"), RANDOM)
def test_the_bits_are_the_same_every_time(place, kernel, mode, dtype):
    """Also where other work runs on the device at the same time, on another stream."""
    first, _ = CHECKS[kernel][0](place, mode, dtype)
    for _ in range(1 if place != GPU else 5):
        with torch.cuda.stream(torch.cuda.Stream()) if place == GPU else torch.no_grad():
            noise = normal(2000, 2000) if place == GPU else normal(2, 2)
            noise @ noise
        again, _ = CHECKS[kernel][0](place, mode, dtype)
        assert torch.equal(first, again)


# --- behind the public door -----------------------------------------------------------------------------------------


@places
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_public_operators_run_the_kernels_and_are_well_formed(place, dtype):
    n, features = (300, 200) if place == GPU else (5, 3)
    x, w = normal(n, features, dtype=dtype), normal(features, 2, seed=1, dtype=dtype)
    a, d = factors(n // 4 + 1, 2, 2, 5, 3, dtype=dtype, draw=normal)
    with ntkla.backend("triton"):
        for operator, arguments in (
            (torch.ops.ntkla.gram, (x, None, True, "auto")),
            (torch.ops.ntkla.gram, (x, None, True, "exact")),
            (torch.ops.ntkla.normal_matmul, (x, w, None, False, "auto")),
            (torch.ops.ntkla.layer_ntk, ([a], [d], [], [], [], [], "auto", "auto")),
        ):
            torch.library.opcheck(operator.default, arguments)
            operator(*arguments)
            assert ntkla.last_dispatch().startswith("triton:")
        traced = torch.compile(ntkla.gram, backend="aot_eager")(x)
        assert torch.equal(traced, ntkla.gram(x))
