"""Judging an error bound: `|computed - exact| <= bound` decided entry by entry in ball arithmetic, and its tightness.

For people who verify their own kernels: give the computed array, its claimed bound and an :class:`ntkla.testing.Exact`
reference, and read off the entries where the claim is false.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ntkla.linalg.errors import ShapeError
from ntkla.testing.ball_solutions import drift_of, head_update, ridge_solution
from ntkla.testing.balls import (
    FIRST_BITS,
    MOST_BITS,
    Exact,
    ball,
    ball_matrix,
    euclidean_norm,
    upper,
    working_precision,
)
from ntkla.testing.specs import Problem, RidgeProblem

if TYPE_CHECKING:
    from ntkla.forgetting.drifts import Forgetting
    from ntkla.linalg.ridge import RidgeSolution


@dataclass(frozen=True)
class Violation:
    """One entry whose error is larger than its bound.

    Attributes:
        index: (row, column), or (column,) for a bound on a whole column.
        computed: the entry, or the largest magnitude in the column.
        error: upper end of the enclosure of |computed - exact|; NaN when the computed value or the bound is NaN.
        bound: what was claimed.
    """

    index: tuple[int, ...]
    computed: float
    error: float
    bound: float


@dataclass(frozen=True)
class Comparison:
    """The verdict on one array.

    Attributes:
        name: what was compared.
        entries: how many bounds were judged.
        violations: those that are false.
        undecided: those that ball arithmetic could not decide with `MOST_BITS` bits.
        largest_ratio: largest error over bound among finite positive bounds: 1 would be a bound that is just met.
        finite: how many bounds were finite.
    """

    name: str
    entries: int
    violations: tuple[Violation, ...]
    undecided: int
    largest_ratio: float
    finite: int

    @property
    def sound(self) -> bool:
        """True when every bound was proved to hold."""
        return not self.violations and not self.undecided

    def __str__(self) -> str:
        head = f"{self.name}: {len(self.violations)} of {self.entries} bounds violated, {self.undecided} undecided"
        worst = "".join(
            f"\n  {v.index}: computed {v.computed:.17g}, error {v.error:.6g} > bound {v.bound:.6g}"
            for v in self.violations[:5]
        )
        return f"{head}, error at most {self.largest_ratio:.3g} of its bound{worst}"


def compare(computed: torch.Tensor, bound: torch.Tensor, exact: Exact, name: str = "result") -> Comparison:
    """Judges entrywise bounds.

    Args:
        computed: [n, m], any supported dtype.
        bound: [n, m], claimed upper bounds of |computed - exact|; `inf` claims nothing.
        exact: the reference, n x m.
        name: for the message.

    Raises:
        ShapeError: the shapes differ.
    """
    if computed.shape != bound.shape:
        raise ShapeError(f"compare: expected a bound of shape {tuple(computed.shape)}, got {tuple(bound.shape)}.")
    indices: list[tuple[int, ...]] = [(i, j) for i in range(computed.shape[0]) for j in range(computed.shape[1])]
    values, claims = computed.detach().flatten().tolist(), bound.detach().flatten().tolist()

    def errors(balls: Any) -> list[Any]:
        difference = _same_shape(balls, computed) - _finite_balls(computed)
        return [abs(entry) for entry in difference.entries()]

    return _judged(name, indices, values, claims, exact, errors)


def compare_columns(computed: torch.Tensor, bound: torch.Tensor, exact: Exact, name: str = "result") -> Comparison:
    """Judges bounds of the Euclidean norm of each column's error: computed [n, m], bound [m].

    Raises:
        ShapeError: the shapes differ.
    """
    if bound.shape != computed.shape[1:]:
        raise ShapeError(
            f"compare_columns: expected a bound of shape {tuple(computed.shape[1:])}, got {tuple(bound.shape)}."
        )
    largest = computed.detach().abs().amax(0).tolist()

    def errors(balls: Any) -> list[Any]:
        columns = (_same_shape(balls, computed) - _finite_balls(computed)).transpose().tolist()
        return [euclidean_norm(column) for column in columns]

    return _judged(name, [(j,) for j in range(len(largest))], largest, bound.detach().tolist(), exact, errors)


def _same_shape(balls: Any, computed: torch.Tensor) -> Any:
    if (balls.nrows(), balls.ncols()) != tuple(computed.shape):
        raise ShapeError(
            f"the reference has shape {(balls.nrows(), balls.ncols())}, the result {tuple(computed.shape)}."
        )
    return balls


def _finite_balls(computed: torch.Tensor) -> Any:
    """NaN and infinities cannot be balls; they are judged by their value in `_judged`, so zeros stand in for them."""
    return ball_matrix(torch.where(torch.isfinite(computed), computed, torch.zeros_like(computed)))


def _judged(
    name: str,
    indices: list[tuple[int, ...]],
    values: list[float],
    claims: list[float],
    exact: Exact,
    errors: Callable[[Any], list[Any]],
) -> Comparison:
    """Raises the precision until every finite claim is proved or refuted."""
    broken = [i for i, (v, b) in enumerate(zip(values, claims, strict=True)) if not math.isfinite(v) or math.isnan(b)]
    limits = {i: ball(b) for i, b in enumerate(claims) if math.isfinite(b) and i not in broken}
    open_, found, ratio, bits = list(limits), {}, 0.0, FIRST_BITS
    while open_ and bits <= MOST_BITS:
        with working_precision(bits):
            enclosure = exact.at(bits)
            balls = None if enclosure is None else errors(enclosure)
        undecided = []
        for i in open_:
            # A comparison of balls is True only when it holds for all of their numbers.
            if balls is not None and balls[i] <= limits[i]:
                ratio = max(ratio, upper(balls[i]) / claims[i] if claims[i] > 0 else 0.0)
            elif balls is not None and balls[i] > limits[i]:
                found[i] = upper(balls[i])
            else:
                undecided.append(i)
        open_, bits = undecided, 2 * bits
    wrong = {**{i: math.nan for i in broken}, **found}
    listed = tuple(Violation(indices[i], values[i], wrong[i], claims[i]) for i in sorted(wrong))
    return Comparison(name, len(claims), listed, len(open_), ratio, len(limits))


def check_ridge(solution: RidgeSolution, problem: RidgeProblem) -> tuple[Comparison, ...]:
    """Judges the bounds of `ntkla.ridge_solve(**problem.arguments())`: the solution's, and the bias's below it."""
    exact = ridge_solution(
        problem.design.tensor,
        problem.targets,
        ridge=problem.ridge,
        bias=problem.bias,
        penalize_bias=problem.penalize_bias,
        weights=problem.weights,
    )
    computed, bound = solution.solution, solution.error_bound
    if solution.bias is not None and solution.bias_error_bound is not None:
        computed = torch.cat([computed, solution.bias[None]])
        bound = torch.cat([bound, solution.bias_error_bound[None]])
    return (compare(computed, bound, exact, "solution"),)


def exact_update(problem: Problem) -> Exact:
    """dW^T of a forgetting problem, exactly: [F, C], with the bias as one more row."""
    return head_update(
        problem.features_new,
        problem.residual_new,
        ridge=problem.ridge,
        bias=problem.bias,
        penalize_bias=problem.penalize_bias,
        weight_decay=problem.weight_decay,
        head_weight=problem.head_weight,
        head_bias=problem.head_bias,
        weights=problem.weights,
    )


def check_forgetting(forgetting: Forgetting, problem: Problem) -> tuple[Comparison, ...]:
    """Judges the bounds of `ntkla.predict_forgetting(**problem.arguments())`: the drift's, and the head update's."""
    update = exact_update(problem)
    computed = update_with_bias(forgetting)
    return (
        compare(
            forgetting.drift, forgetting.error_bound, drift_of(problem.features_old, update, bias=problem.bias), "drift"
        ),
        compare_columns(computed, forgetting.update_error_bound, update, "head update"),
    )


def update_with_bias(forgetting: Forgetting) -> torch.Tensor:
    """dW^T, [F, C], with the bias update as one more row where there is one."""
    update = forgetting.head_update.T
    return update if forgetting.bias_update is None else torch.cat([update, forgetting.bias_update[None]])


def relative_drift_bound(forgetting: Forgetting, features_old: torch.Tensor) -> float:
    """||error_bound|| over max(||dF||, || |Phi_A| |dW|^T ||) in Frobenius norms; 0 for 0/0, inf on overflow."""
    magnitudes = features_old.to(torch.float64).abs() @ forgetting.head_update.T.abs()
    if forgetting.bias_update is not None:
        magnitudes = magnitudes + forgetting.bias_update.abs()
    bound = _norm(forgetting.error_bound)
    scale = max(_norm(forgetting.drift), _norm(magnitudes))
    if bound == 0:
        return 0.0
    return bound / scale if scale > 0 and math.isfinite(bound) and math.isfinite(scale) else math.inf


def _norm(x: torch.Tensor) -> float:
    """The Frobenius norm, by the largest entry first: squares of small numbers vanish, those of large ones overflow."""
    largest = float(x.abs().max())
    return largest * float(torch.linalg.vector_norm(x / largest)) if 0 < largest < math.inf else largest
