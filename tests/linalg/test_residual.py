"""Every rounding bound of a residual against ball arithmetic, at every level, and where a gamma is all but reached."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch

from ntkla.linalg.arithmetic.doubled import Doubled, two_product, two_sum
from ntkla.linalg.arithmetic.products import PIECE
from ntkla.linalg.arithmetic.slicing import slice_bits
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.precision import U64
from ntkla.linalg.solve import normal_problem
from ntkla.linalg.solve import residual as residual_module
from ntkla.linalg.solve.normal_problem import NormalProblem, Residual
from ntkla.linalg.solve.residual import residual
from ntkla.linalg.solve.weights import SampleWeights
from ntkla.testing import Comparison, Exact, FeatureSpec, compare_columns
from ntkla.testing.balls import ball, ball_matrix, design_matrix, diagonal, times_weights
from ntkla.testing.planted import hadamard_basis
from ntkla.testing.samples import sample_weights
from ntkla.testing.spectra import normal

# Forward and adjoint alone, both, unequal pairs, and the highest.
LEVELS = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (1, 3), (0, 4), (4, 0), (3, 2), (4, 4)]


def sliced_or_plain(problem: NormalProblem, x: Doubled, levels: tuple[int, int]) -> tuple[Residual, Doubled]:
    """The residual, and the T that it was formed from, with its low part."""
    parts: list[Doubled] = []

    class Recorded(residual_module._Pass):
        def _outputs_of(self, *arguments: Any) -> Doubled:
            parts.append(super()._outputs_of(*arguments))
            return parts[-1]

    if levels == (0, 0):
        outputs = [
            problem.targets[rows] - normal_problem.pieced_matmul(block, x.high)
            for rows, block in problem.design.blocks()
        ]
        high = torch.cat(outputs)
        return residual(problem, x, levels), Doubled(high, torch.zeros_like(high))
    run = Recorded(problem, x, levels, False)
    for rows, block in problem.design.blocks():
        run.add_block(rows, block, problem.targets[rows])
    return run.finish(), Doubled(*(torch.cat([getattr(t, part) for t in parts]) for part in ("high", "low")))


def balls(x: Doubled) -> Any:
    return ball_matrix(x.high) + ball_matrix(x.low)


def judged(problem: NormalProblem, x: Doubled, r: Residual, t: Doubled) -> list[Comparison]:
    """Both roundings, and that of the bias's row: T against Y - Phi x, rho against the T that was computed."""
    phi = design_matrix(problem.design.features, problem.design.bias)
    weights = None if problem.weights is None else problem.weights.values

    def outputs() -> Any:
        difference = ball_matrix(problem.targets) - phi * balls(x) - balls(t)
        if weights is None:
            return difference
        return diagonal([w.sqrt() for w in ball_matrix(weights).entries()]) * difference

    def rho() -> Any:
        sums = [
            sum(map(ball, column), ball(0.0)) for column in zip(*(d.tolist() for d in problem.diagonals), strict=True)
        ]
        exact = phi.transpose() * times_weights(balls(t), weights)
        exact = exact - diagonal(sums) * balls(x) if sums else exact
        return exact if problem.shift is None else exact + balls(problem.shift)

    verdicts = [
        compare_columns(torch.zeros_like(t.high), r.output_error, Exact(outputs), "T"),
        compare_columns(r.value, r.adjoint_error, Exact(rho), "rho"),
    ]
    if problem.design.bias:
        last = Exact(lambda: type(phi)([rho().tolist()[-1]]))
        verdicts.append(compare_columns(r.value[-1:], r.bias_error, last, "the bias's row"))
    return verdicts


def problem_of(
    spec: FeatureSpec, bias: bool, diagonals: int, shift: bool, weighting: str = "none"
) -> tuple[NormalProblem, Doubled]:
    """A problem with everything that a residual can have, and a trial solution with a low part."""
    design = DesignMatrix(spec.tensor, bias)
    x = normal(design.columns, 3, spec.seed) / spec.scale
    sizes = [0.3 * spec.scale**2, 1e-3 * spec.scale**2][:diagonals]
    penalties = tuple(torch.full((design.columns,), size, dtype=torch.float64) for size in sizes)
    moved = two_product(x, torch.full_like(x, 0.7 * spec.scale**2)) if shift else None
    targets = widened(spec.tensor) @ x[: spec.features] + normal(spec.n, 3, spec.seed + 1)
    trial = two_sum(x, x * U64 / 3)
    values = sample_weights(weighting, spec.n, seed=spec.seed)
    if values is None:
        return NormalProblem(design, targets, penalties, moved, design.frobenius()), trial
    weights = SampleWeights.of(values, design, targets)
    return NormalProblem(design, targets, penalties, moved, weights.frobenius, weights), trial


CASES = {
    "two diagonals, shift, bias": (FeatureSpec(9, 5, seed=1), True, 2, True),
    "wide bfloat16": (FeatureSpec(4, 140, seed=2, dtype="bfloat16", scale=1e3), False, 1, False),
    "graded, float32": (FeatureSpec(7, 6, seed=3, twist="graded_columns", scale=1e-6, dtype="float32"), True, 1, True),
    "no penalty": (FeatureSpec(8, 8, "clustered", condition=1e10, seed=4), False, 0, False),
    "tiny": (FeatureSpec(5, 3, seed=5, scale=1e-160, layout="strided"), True, 2, False),
    "weights from 1e-12 to 1e12, bias": (FeatureSpec(9, 5, seed=7), True, 2, True, "wide"),
    "one huge weight, float32": (FeatureSpec(6, 30, seed=8, scale=1e-3, dtype="float32"), False, 1, True, "one_huge"),
    "weights of which some are zero": (FeatureSpec(8, 3, "clustered", seed=9, scale=1e6), True, 0, False, "zeros"),
}


@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_roundings_are_within_their_bounds(case: str, levels: tuple[int, int]) -> None:
    problem, x = problem_of(*CASES[case])
    for verdict in judged(problem, x, *sliced_or_plain(problem, x, levels)):
        assert verdict.sound, verdict


@pytest.mark.parametrize("weighting", ["none", "wide"])
@pytest.mark.parametrize("levels", [(0, 0), (1, 2), (2, 0)], ids=str)
def test_the_roundings_over_several_blocks_are_within_their_bounds(levels: tuple[int, int], weighting: str) -> None:
    problem, x = problem_of(FeatureSpec(2300, 2, seed=6, dtype="float32"), True, 2, True, weighting)
    assert problem.design.block_rows < problem.design.rows
    for verdict in judged(problem, x, *sliced_or_plain(problem, x, levels)):
        assert verdict.sound, verdict


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_the_recorded_pass_is_the_one_that_the_library_makes(levels: tuple[int, int]) -> None:
    problem, x = problem_of(*CASES["two diagonals, shift, bias"])
    recorded, t = sliced_or_plain(problem, x, levels)
    for keep in (False, True):
        r = residual(problem, x, levels, keep_outputs=keep)
        if levels != (0, 0) or not keep:
            assert torch.equal(r.value, recorded.value)
            assert torch.equal(r.adjoint_error, recorded.adjoint_error)
        assert torch.equal(r.output_error, recorded.output_error)
        assert (r.outputs is not None) == keep
        assert not keep or torch.equal(r.outputs, t.high)


@pytest.mark.parametrize("part", ["output_error", "adjoint_error", "bias_error"])
def test_a_bound_a_thousand_times_too_small_is_seen(part: str) -> None:
    refused = 0
    for arguments, levels in itertools.product(CASES.values(), [(0, 0), (1, 1), (0, 1), (2, 2)]):
        problem, x = problem_of(*arguments)
        r, t = sliced_or_plain(problem, x, levels)
        planted = replace(r, **{part: getattr(r, part) * 1e-3})
        verdicts = judged(problem, x, planted, t)
        refused += not all(verdict.sound for verdict in verdicts)
    assert refused > 0


def at_its_solution() -> tuple[NormalProblem, Doubled]:
    """A problem that x solves exactly: rho is 0, and nothing hides what the levels leave of the two products."""
    basis = hadamard_basis(64)
    design = DesignMatrix(basis[:, :3].clone())
    x = torch.tensor([[3.0, -1.0], [5.0, 7.0], [-2.0, 1.0]], dtype=torch.float64)
    targets = design.matmul(x) + basis[:, 5:7]
    return NormalProblem(design, targets, (), None, design.frobenius()), Doubled(x, torch.zeros_like(x))


def test_every_level_is_more_accurate_than_the_one_before() -> None:
    """By the bits of a slice, less the looseness of its norm (2^5 is what `refine.py` reckons with)."""
    problem, x = at_its_solution()
    step = 2.0 ** (5 - slice_bits(problem.design.columns, problem.design.block_rows))
    for part, levels in (("output_error", lambda s: (s, 1)), ("adjoint_error", lambda s: (4, s))):
        bounds = [float(getattr(residual(problem, x, levels(s)), part).max()) for s in range(5)]
        floor = bounds[4]
        for before, after in itertools.pairwise(bounds):
            assert after <= max(before * step, 2 * floor), (part, bounds)
        assert floor < bounds[0] * step**2, (part, bounds)


LENGTHS = {"columns": 2048, "rows": 3000}
SMALL = 2.0**-27


def spiked(length: int) -> torch.Tensor:
    """(1, 2^-27, 2^-27, ...): beside 1 each product with itself is u / 2, which a chain of additions loses."""
    out = torch.full((length,), SMALL, dtype=torch.float64)
    out[0] = 1.0
    return out


def one_sum(length: int) -> Fraction:
    """The exact product of `spiked` with itself."""
    return 1 + (length - 1) * Fraction(SMALL) ** 2


def wide(rows: int = 64) -> tuple[NormalProblem, Doubled]:
    """Every output a sum of 2048 products."""
    phi = spiked(LENGTHS["columns"]).expand(rows, -1).clone()
    x = spiked(LENGTHS["columns"])[:, None].expand(-1, 3).clone()
    design = DesignMatrix(phi)
    targets = torch.zeros((rows, 3), dtype=torch.float64)
    return NormalProblem(design, targets, (), None, design.frobenius()), Doubled(x, torch.zeros_like(x))


def long() -> tuple[NormalProblem, Doubled]:
    """Every entry of Phi^T T a sum over 3000 rows, T the targets: x is zero."""
    column = spiked(LENGTHS["rows"])[:, None]
    design = DesignMatrix(column.expand(-1, 3).clone())
    zero = torch.zeros((3, 2), dtype=torch.float64)
    return NormalProblem(design, column.expand(-1, 2).clone(), (), None, design.frobenius()), Doubled(zero, zero)


def wide_error(level: int) -> tuple[Fraction, Fraction]:
    """(error, bound) of the outputs of `wide`; all rows and columns are the same sum."""
    problem, x = wide()
    r, t = sliced_or_plain(problem, x, (level, 1 if level else 0))
    exact = one_sum(LENGTHS["columns"])
    squares = [
        (Fraction(h) + Fraction(low) + exact) ** 2
        for h, low in zip(t.high[:, 0].tolist(), t.low[:, 0].tolist(), strict=True)
    ]
    return sum(squares), Fraction(float(r.output_error[0])) ** 2


def long_error(level: int) -> tuple[Fraction, Fraction]:
    """(error, bound) of rho of `long`, squared."""
    problem, x = long()
    r = residual(problem, x, (0, level))
    squares = [(Fraction(value) - one_sum(LENGTHS["rows"])) ** 2 for value in r.value[:, 0].tolist()]
    return sum(squares), Fraction(float(r.adjoint_error[0])) ** 2


SPIKED = {"wide": wide_error, "long": long_error}


@pytest.mark.parametrize("level", range(5))
@pytest.mark.parametrize("sums", SPIKED)
def test_sums_that_lose_every_small_product_keep_their_bound(sums: str, level: int) -> None:
    error, bound = SPIKED[sums](level)
    assert error <= bound


def chained(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b, one product after the other: the worst order that a gamma has to allow for."""
    out = torch.zeros((a.shape[0], b.shape[1]), dtype=torch.float64)
    for k in range(a.shape[1]):
        out += a[:, k : k + 1] * b[k : k + 1]
    return out


def pieced(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The same within pieces, which is as bad as a BLAS may be within the contract."""
    out = chained(a[:, :PIECE], b[:PIECE])
    add_pieces(out, a[:, PIECE:], b[PIECE:])
    return out


def add_pieces(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    for start in range(0, a.shape[1], PIECE):
        out += chained(a[:, start : start + PIECE], b[start : start + PIECE])


def whole(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """One chain over all pieces, which begins with what is there."""
    for k in range(a.shape[1]):
        out += a[:, k : k + 1] * b[k : k + 1]


# The first piece loses its 127 small products of u / 2 each, half of the 128 u that gamma counts for it.
REACHED = Fraction(1, 4)


@pytest.mark.parametrize("sums", SPIKED)
def test_the_worst_order_within_pieces_comes_near_the_bound(monkeypatch: pytest.MonkeyPatch, sums: str) -> None:
    monkeypatch.setattr(normal_problem, "pieced_matmul", pieced)
    monkeypatch.setattr(normal_problem, "add_matmul", add_pieces)
    error, bound = SPIKED[sums](0)
    assert REACHED**2 * bound < error <= bound


@pytest.mark.parametrize("sums", SPIKED)
def test_one_chain_over_all_pieces_breaks_the_bound(monkeypatch: pytest.MonkeyPatch, sums: str) -> None:
    """So the pieces matter, and these inputs tell a sum with them from one without."""
    monkeypatch.setattr(normal_problem, "pieced_matmul", chained)
    monkeypatch.setattr(normal_problem, "add_matmul", whole)
    error, bound = SPIKED[sums](0)
    assert error > bound
