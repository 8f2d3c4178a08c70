"""The primitive `layer_ntk`: registered as PyTorch wants, differentiable, within its bound, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import ntkla
from ntkla.linalg import checks, errors
from ntkla.linalg.layers.layer_error import layer_ntk_error
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma
from ntkla.testing import ambient_state, hostile_states
from ntkla.testing.spectra import DTYPES
from ntkla.testing.violations import compare
from tests.linalg.layer_reference import exact_kernel, factors, flat, formula, normal

ROUTES = ("gram", "materialised")
NARROW = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _torch_body():
    """Both routes are torch's; the kernel has tests of its own."""
    with ntkla.backend("torch"):
        yield


def within(computed: torch.Tensor, bound: torch.Tensor, left, right=None, mask=None) -> None:
    verdict = compare(flat(computed), flat(bound), exact_kernel(left, right, mask))
    assert verdict.sound, str(verdict)


# --- the PyTorch contract -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("dtype", "two_sided"), [(torch.float64, True), (torch.bfloat16, False)])
def test_it_is_a_well_formed_operator(dtype, two_sided, route):
    pairs = [factors(3, 2, 2, 3, 2, dtype=dtype), factors(3, 2, 2, 1, 4, seed=5, dtype=dtype)]
    others = [factors(2, 1, 4, 3, 2, seed=7, dtype=dtype), factors(2, 1, 3, 1, 4, seed=9, dtype=dtype)]
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    lists = [[x.requires_grad_() for x in part] for part in (*zip(*pairs, strict=True), *zip(*others, strict=True))]
    sides, masks = (lists, [mask, mask]) if two_sided else ([*lists[:2], [], []], [])
    arguments = (*sides, masks, [], "auto", route)
    verdict = torch.library.opcheck(torch.ops.ntkla.layer_ntk, arguments)
    assert set(verdict.values()) == {"SUCCESS"}


@pytest.mark.parametrize("route", ROUTES)
def test_gradients_to_second_order(route):
    (a, d), (a2, d2) = factors(3, 2, 2, 3, 2), factors(2, 1, 3, 3, 2, seed=3)
    mask = torch.tensor([[True, True], [True, False], [False, True]])
    for function, inputs in (
        (lambda a, d: ntkla.layer_ntk(a, d, mask=mask, route=route), (a, d)),
        (lambda a, d, a2, d2: ntkla.layer_ntk(a, d, a2, d2, mask=mask, route=route), (a, d, a2, d2)),
        (lambda a, d: ntkla.layer_ntk([a, a[:, :1]], [d, d[:, :, :1]], route=route), (a, d)),
        (lambda a, d: ntkla.layer_ntk_diagonal(a, d, mask=mask), (a, d)),
    ):
        leaves = [x.clone().requires_grad_() for x in inputs]
        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("route", ROUTES)
def test_gradients_over_many_tiles_are_those_of_the_formula(route):
    a, d = factors(40, 30, 3, 4, 3)
    weights = normal(40, 30, 40, 30, seed=9)
    grads = []
    for kernel in (lambda a, d: ntkla.layer_ntk(a, d, route=route), lambda a, d: formula((a, d), (a, d))):
        leaves = [x.clone().requires_grad_() for x in (a, d)]
        grads.append(torch.autograd.grad((weights * kernel(*leaves)).sum(), leaves))
    magnitudes = [x.abs().requires_grad_() for x in (a, d)]
    reach = torch.autograd.grad((weights.abs() * formula(tuple(magnitudes), tuple(magnitudes))).sum(), magnitudes)
    for ours, theirs, most in zip(*grads, reach, strict=True):
        assert ((ours - theirs).abs() <= 2 * gamma(40 * 30 * 3 * 3 * 4) * most).all()


def test_it_compiles_into_one_graph():
    def both(a, d, a2, d2):
        return ntkla.layer_ntk(a, d), ntkla.layer_ntk([a, a], [d, d], [a2, a2], [d2, d2])

    arguments = (*factors(3, 2, 2, 3, 2), *factors(2, 1, 3, 3, 2, seed=3))
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    for computed, expected in zip(compiled(*arguments), both(*arguments), strict=True):
        assert torch.equal(computed, expected)
    grads = []
    for function in (compiled, both):
        leaves = [x.clone().requires_grad_() for x in arguments]
        grads.append(torch.autograd.grad(sum(x.sum() for x in function(*leaves)), leaves))
    assert all(torch.equal(x, y) for x, y in zip(*grads, strict=True))


def test_shapes_are_known_without_values():
    a, d = (x.to("meta") for x in factors(3, 2, 4, 5, 6, dtype=torch.bfloat16))
    assert ntkla.layer_ntk(a, d).shape == (3, 2, 3, 2)
    assert ntkla.layer_ntk(a, d).dtype == torch.float32
    assert ntkla.layer_ntk(a, d, a[:1], d[:1, :1], precision="float64").dtype == torch.float64


def test_dispatch_tells_what_ran_and_obeys():
    a, d = factors(2, 2, 2, 2, 2, dtype=torch.float32)
    ntkla.layer_ntk(a, d)
    assert ntkla.last_dispatch() == "torch:layer_ntk:float32"
    ntkla.layer_ntk(a, d, precision="float64")
    assert ntkla.last_dispatch() == "torch:layer_ntk:float64"


# --- the algebra ----------------------------------------------------------------------------------------------------

SHAPES = [(3, 2, 4, 5, 1, 3, 6, 2), (1, 1, 1, 2, 2, 1, 3, 3), (40, 30, 5, 10, 7, 5, 3, 4), (2, 2, 700, 3, 1, 9, 5, 4)]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_formula(shape, route):
    n, c, t, n2, c2, t2, f, g = shape
    left, right = factors(n, c, t, f, g), factors(n2, c2, t2, f, g, seed=3)
    for other in (left, right):
        given_other = () if other is left else right
        computed = ntkla.layer_ntk(*left, *given_other, route=route)
        bound = layer_ntk_error(*left, *given_other, route=route)
        assert ((computed - formula(left, other)).abs() <= 2 * bound).all()  # the formula rounds as well
        if other is left:
            assert torch.equal(computed, computed.permute(2, 3, 0, 1))


def test_no_positions_are_one_position():
    a, d = factors(4, 3, 1, 5, 2)
    plain = ntkla.layer_ntk(a[:, 0], d[:, :, 0])
    assert torch.equal(plain, ntkla.layer_ntk(a, d))
    gram = ntkla.gram(a[:, 0])[:, None, :, None] * ntkla.gram(d.reshape(12, 2)).reshape(4, 3, 4, 3)
    assert ((plain - gram).abs() <= 2 * layer_ntk_error(a, d)).all()


@pytest.mark.parametrize("route", ["auto", *ROUTES])
def test_parameters_are_summed(route):
    pairs = [factors(3, 2, 4, 5, 6), factors(3, 2, 1, 2, 9, seed=2), factors(3, 2, 7, 3, 3, seed=4)]
    pairs[1] = (pairs[1][0][:, 0], pairs[1][1][:, :, 0])
    together = ntkla.layer_ntk(*map(list, zip(*pairs, strict=True)), route=route)
    apart = sum(ntkla.layer_ntk(*pair, route=route) for pair in pairs)
    bound = layer_ntk_error(*map(list, zip(*pairs, strict=True)), route=route)
    assert ((together - apart).abs() <= 2 * bound).all()


@pytest.mark.parametrize("route", ROUTES)
def test_positions_that_do_not_count_are_never_used(route):
    a, d = factors(4, 3, 6, 5, 2)
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 0])[:, None]
    poisoned_a = a.masked_fill(~mask[:, :, None], math.nan)
    poisoned_d = d.masked_fill(~mask[:, None, :, None], math.inf)
    clean = a * mask[:, :, None], d * mask[:, None, :, None]
    masked = {"mask": mask, "route": route}
    assert torch.equal(ntkla.layer_ntk(poisoned_a, poisoned_d, **masked), ntkla.layer_ntk(*clean, route=route))
    assert torch.equal(ntkla.layer_ntk_diagonal(poisoned_a, poisoned_d, mask=mask), ntkla.layer_ntk_diagonal(*clean))
    crossed = ntkla.layer_ntk(a, d, poisoned_a, poisoned_d, mask2=mask, route=route)
    assert torch.equal(crossed, ntkla.layer_ntk(a, d, *clean, route=route))
    several = ntkla.layer_ntk([poisoned_a, a], [poisoned_d, d], mask=[mask, None], route=route)
    assert torch.equal(several, ntkla.layer_ntk([clean[0], a], [clean[1], d], route=route))
    leaves = [poisoned_a.clone().requires_grad_(), poisoned_d.clone().requires_grad_()]
    for gradient in torch.autograd.grad(ntkla.layer_ntk(*leaves, **masked).sum(), leaves):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("shape", [(0, 2, 3, 2, 2), (2, 0, 3, 2, 2), (2, 2, 0, 2, 2), (2, 2, 3, 0, 2), (2, 2, 3, 2, 0)])
def test_empty_sums_are_zero(shape, route):
    a, d = factors(*shape)
    n, c = shape[:2]
    assert torch.equal(ntkla.layer_ntk(a, d, route=route), torch.zeros(n, c, n, c, dtype=torch.float64))
    assert torch.equal(ntkla.layer_ntk_diagonal(a, d), torch.zeros(n, c, dtype=torch.float64))


@pytest.mark.parametrize("layout", ["strided", "offset", "expanded", "permuted"])
def test_any_layout(layout):
    a, d = factors(3, 2, 4, 5, 2)
    store_a, store_d = (torch.full(shape, math.nan, dtype=a.dtype) for shape in ((4, 9, 11), (4, 3, 9, 5)))
    if layout == "expanded":
        a, d = a[:1].expand(3, 4, 5), d[:, :, :1].expand(3, 2, 4, 2)
        views = a, d
    elif layout == "permuted":
        views = a.permute(2, 0, 1).contiguous().permute(1, 2, 0), d.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    else:
        step = 2 if layout == "strided" else 1
        positions = slice(1, 1 + 4 * step, step)
        views = store_a[1:, positions, 1 : 1 + 5 * step : step], store_d[1:, 1:, positions, 1:3]
        for view, x in zip(views, (a, d), strict=True):
            view.copy_(x)
    computed = ntkla.layer_ntk(*views)
    assert ((computed - ntkla.layer_ntk(a.contiguous(), d.contiguous())).abs() <= 2 * layer_ntk_error(a, d)).all()


# --- exactness ------------------------------------------------------------------------------------------------------

sizes = st.tuples(*(st.integers(1, most) for most in (3, 3, 4, 5, 5)))


@given(
    sizes,
    st.sampled_from(sorted(DTYPES)),
    st.sampled_from(("auto", "float64")),
    st.sampled_from(ROUTES),
    st.sampled_from([1e-12, 1.0, 1e7]),
    st.integers(0, 9),
)
@example((1, 1, 1, 1, 1), "float32", "auto", "gram", 1e-12, 0)
def test_it_is_within_its_bound(shape, dtype, precision, route, scale, seed):
    a, d = factors(*shape, seed=seed)
    a, d = (a * scale).to(DTYPES[dtype]), (d / scale).to(DTYPES[dtype])
    options = {"precision": precision, "route": route}
    within(ntkla.layer_ntk(a, d, **options), layer_ntk_error(a, d, **options), [(a, d)])


@given(sizes, sizes, st.sampled_from(NARROW), st.sampled_from(ROUTES), st.integers(0, 9))
def test_several_parameters_on_two_sides_are_within_their_bound(shape, other, dtype, route, seed):
    n, c, t, f, g = shape
    n2, c2, t2, f2, g2 = other
    left = [factors(n, c, t, f, g, seed=seed, dtype=dtype), factors(n, c, t2, f2, g2, seed=seed + 2, dtype=dtype)]
    right = [factors(n2, c2, t2, f, g, seed=seed, dtype=dtype), factors(n2, c2, t, f2, g2, seed=seed, dtype=dtype)]
    arguments = [list(part) for part in (*zip(*left, strict=True), *zip(*right, strict=True))]
    computed = ntkla.layer_ntk(*arguments, route=route)
    within(computed, layer_ntk_error(*arguments, route=route), left, right)


@pytest.mark.parametrize("route", ROUTES)
def test_a_masked_kernel_is_within_its_bound(route):
    a, d = factors(3, 2, 5, 4, 3, dtype=torch.float32)
    mask = torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    a[1, 3] = math.nan
    options = {"mask": mask, "route": route}
    within(ntkla.layer_ntk(a, d, **options), layer_ntk_error(a, d, **options), [(a, d)], mask=mask)


def test_the_bound_is_tight_somewhere():
    # Four roundings can all but add up: two factors just above a power of two, and every product rounded the same way.
    ratios = []
    for seed in range(40):
        a, d = factors(8, 1, 1, 1, 1, seed=seed, dtype=torch.float32)
        verdict = compare(flat(ntkla.layer_ntk(a, d)), flat(layer_ntk_error(a, d)), exact_kernel([(a, d)]))
        ratios.append(verdict.largest_ratio)
    assert max(ratios) > 1 / 4


@pytest.mark.parametrize("route", ROUTES)
def test_the_bound_catches_a_planted_error(route):
    a, d = factors(3, 2, 2, 3, 2)
    computed, bound, exact = (
        ntkla.layer_ntk(a, d, route=route),
        layer_ntk_error(a, d, route=route),
        exact_kernel([(a, d)]),
    )
    assert compare(flat(computed), flat(bound), exact).sound
    assert not compare(flat(computed) + 1e-8, flat(bound), exact).sound
    assert not compare(flat(computed), flat(bound) / 1e3, exact).sound
    narrow = ntkla.layer_ntk(a.float(), d.float(), route=route)
    assert not compare(flat(narrow.double()), flat(bound), exact).sound


@pytest.mark.parametrize("state", hostile_states())
def test_ambient_state_breaks_no_bound_and_is_left_alone(state):
    a, d = factors(3, 2, 3, 9, 7, dtype=torch.float32)
    with hostile_states()[state]():
        before = ambient_state()
        results = [(ntkla.layer_ntk(a, d, route=route), layer_ntk_error(a, d, route=route)) for route in ROUTES]
        assert ambient_state() == before
    for computed, bound in results:
        within(computed, bound, [(a, d)])


def test_a_bound_beyond_the_type_is_infinite_and_no_nan():
    a, d = torch.zeros(1, 2**13, 1, dtype=torch.float16), torch.zeros(1, 1, 2**13, 1, dtype=torch.float16)
    bound = layer_ntk_error(a, d, route="gram")
    assert math.isinf(float(bound))
    assert UNIT_ROUNDOFF[torch.float32] * 2**26 > 1


def test_the_diagonal_is_the_kernels():
    for shape in ((4, 3, 5, 6, 2), (3, 2, 90, 3, 2), (5, 2, 1, 4, 4)):
        a, d = factors(*shape)
        kernel, bound = flat(ntkla.layer_ntk(a, d)).diagonal(), flat(layer_ntk_error(a, d)).diagonal()
        assert ((ntkla.layer_ntk_diagonal(a, d).flatten() - kernel).abs() <= 3 * bound).all()
    assert ntkla.layer_ntk_diagonal(a.bfloat16(), d.bfloat16()).dtype == torch.float32


def test_the_same_call_gives_the_same_bits():
    a, d = factors(30, 3, 20, 9, 7, dtype=torch.bfloat16)
    for route in ROUTES:
        assert torch.equal(ntkla.layer_ntk(a, d, route=route), ntkla.layer_ntk(a, d, route=route))


# --- what is refused ------------------------------------------------------------------------------------------------

A, D = factors(3, 2, 4, 5, 6)
MASK = torch.ones(3, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ntkla.layer_ntk(A.tolist(), D.tolist()), errors.DtypeError, "a: expected a float64.*got list"),
        (lambda: ntkla.layer_ntk(A, [D]), errors.DtypeError, "two tensors or two sequences"),
        (
            lambda: ntkla.layer_ntk("a", "d"),
            errors.DtypeError,
            "a: expected a tensor or a sequence of tensors, got str",
        ),
        (lambda: ntkla.layer_ntk(A.long(), D), errors.DtypeError, r"a: .*got torch.int64"),
        (lambda: ntkla.layer_ntk(A, D.float()), errors.DtypeError, "a torch.float64, d torch.float32"),
        (lambda: ntkla.layer_ntk(A.to_sparse(), D), errors.DtypeError, "to_dense"),
        (lambda: ntkla.layer_ntk(A, D.to("meta")), errors.DeviceError, "d on meta"),
        (lambda: ntkla.layer_ntk(A, D[:, 0]), errors.ShapeError, "d: expected 4 dimensions"),
        (lambda: ntkla.layer_ntk(A[:, 0], D), errors.ShapeError, "d: expected 3 dimensions"),
        (lambda: ntkla.layer_ntk(A[0, 0], D), errors.ShapeError, "a: expected 3 dimensions"),
        (lambda: ntkla.layer_ntk(A, D[:2]), errors.ShapeError, r"d: expected shape \[3, C, 4, F_out\]"),
        (lambda: ntkla.layer_ntk(A, D[:, :, :3]), errors.ShapeError, r"got \[3, 2, 3, 6\]"),
        (lambda: ntkla.layer_ntk([], []), errors.ShapeError, "at least one"),
        (lambda: ntkla.layer_ntk([A, A], [D]), errors.ShapeError, "got 2 and 1"),
        (lambda: ntkla.layer_ntk([A, A[:2]], [D, D[:2]]), errors.ShapeError, "samples and outputs of the first"),
        (lambda: ntkla.layer_ntk([A, A.float()], [D, D.float()]), errors.DtypeError, "a torch.float32"),
        (lambda: ntkla.layer_ntk(A, D, A), errors.ShapeError, "both or neither, got a2 alone"),
        (lambda: ntkla.layer_ntk(A, D, None, D), errors.ShapeError, "got d2 alone"),
        (lambda: ntkla.layer_ntk(A, D, A[:, :, :3], D), errors.ShapeError, r"a\[0\]: .*got 5 and 3"),
        (lambda: ntkla.layer_ntk(A, D, A, D[..., :1]), errors.ShapeError, r"d\[0\]: .*got 6 and 1"),
        (lambda: ntkla.layer_ntk(A, D, [A, A], [D, D]), errors.ShapeError, "a2: expected as many parameters as a, 1"),
        (lambda: ntkla.layer_ntk(A, D, A.float(), D.float()), errors.DtypeError, "right side torch.float32"),
        (lambda: ntkla.layer_ntk(A, D, mask=MASK.float()), errors.DtypeError, "mask: expected a bool tensor"),
        (lambda: ntkla.layer_ntk(A, D, mask=MASK[:2]), errors.ShapeError, r"mask: expected shape \(3, 4\)"),
        (lambda: ntkla.layer_ntk(A, D, mask=[MASK, MASK]), errors.ShapeError, "one mask for all, or 1, got 2"),
        (lambda: ntkla.layer_ntk(A, D, mask=MASK.to("meta")), errors.DeviceError, "mask on meta"),
        (lambda: ntkla.layer_ntk(A, D, mask2=MASK), errors.ShapeError, "mask2: expected None without a2"),
        (lambda: ntkla.layer_ntk(A, D, precision="tf32"), errors.ArgumentError, "precision: .*got 'tf32'"),
        (
            lambda: ntkla.layer_ntk(A, D, route="jacobian"),
            errors.ArgumentError,
            "'gram', 'materialised', got 'jacobian'",
        ),
        (lambda: layer_ntk_error(A * math.nan, D), errors.NonFiniteError, "a: expected finite"),
        (lambda: layer_ntk_error(A.to("meta"), D.to("meta")), errors.DeviceError, "meta"),
        (lambda: ntkla.layer_ntk_diagonal(A, D[:2]), errors.ShapeError, "d: expected shape"),
        (lambda: ntkla.layer_ntk_diagonal(A, D, precision="half"), errors.ArgumentError, "precision"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_result_that_does_not_fit_is_refused_before_it_is_tried(monkeypatch):
    monkeypatch.setattr(checks, "available_memory", lambda device: 10_000)
    with pytest.raises(errors.MemoryEstimateError, match="layer_ntk needs about"):
        ntkla.layer_ntk(*factors(20, 3, 1, 2, 2))
