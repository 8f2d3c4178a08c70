"""Every failure that was found, pinned: the cases that once broke a bound, a promise or an input check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import example

from ntkla.testing import FeatureSpec, Problem, RidgeProblem


def pinned(cases: Sequence[Any]) -> Callable[[Any], Any]:
    """A decorator that adds every case as an `@example`."""

    def decorate(test: Any) -> Any:
        for case in cases:
            test = example(case)(test)
        return test

    return decorate


RIDGE_SOUND = (
    # The start was taken for a measured solution when its size fell below the goal.
    RidgeProblem(
        FeatureSpec(2, 1, "rank_one", condition=1e15, seed=6147, layout="strided", scale=1e-300),
        2,
        targets_kind="in_span",
        targets_scale=1e3,
        seed=17293,
        ridge_relative=1e-15,
    ),
    RidgeProblem(
        FeatureSpec(5, 1, "clustered", condition=1e6, seed=2498, dtype="bfloat16", layout="transposed", scale=1e-3),
        targets_kind="orthogonal",
        targets_scale=1e-12,
        seed=9,
        ridge_relative=1e-6,
        route="primal",
    ),
    RidgeProblem(
        FeatureSpec(9, 1, "rank_one", condition=1e6, seed=1048576, layout="expanded", scale=1e-6, twist="twin_rows"),
        2,
        targets_kind="orthogonal",
        seed=885,
        ridge_relative=0.1,
        route="dual",
    ),
    # Sums of squares vanish: the norm of the outputs was lost.
    RidgeProblem(FeatureSpec(6, 4, seed=1, condition=1e6), 2, targets_scale=1e-170, ridge_relative=1.0),
    RidgeProblem(FeatureSpec(6, 4, seed=1, scale=1e-158), 2, ridge_relative=1.0),
    # One row in an unusual layout could not be read as bytes.
    RidgeProblem(FeatureSpec(1, 1, "zero", layout="offset"), ridge_relative=1e-12, bias=True, penalize_bias=False),
    RidgeProblem(FeatureSpec(1, 8, "low_rank", twist="zero_row_and_column", scale=1e-3), 2, route="dual"),
)

RIDGE_CERTIFIED = (
    # Zero features: the rounding of the targets was carried over to a solution that is exactly zero.
    RidgeProblem(FeatureSpec(9, 9, "zero", dtype="bfloat16", layout="offset"), 4, targets_dtype="bfloat16"),
    RidgeProblem(FeatureSpec(1, 1, "clustered", scale=1e3, twist="zero_row_and_column"), ridge_relative=0.1),
    # The bias's bound was left out of what was called certified.
    RidgeProblem(FeatureSpec(1, 1, "flat", scale=1e-3, twist="graded_columns"), bias=True, penalize_bias=False),
    # Features of 1e12 beside a free bias of one.
    RidgeProblem(
        FeatureSpec(9, 9, "pairs", condition=1e2, layout="transposed", scale=1e12),
        targets_scale=1e12,
        ridge_relative=0.1,
        bias=True,
        penalize_bias=False,
    ),
    RidgeProblem(
        FeatureSpec(4, 4, condition=1e6, dtype="bfloat16", layout="expanded", scale=1e12, twist="twin_columns"),
        targets_scale=1e-6,
        ridge_relative=1e3,
        bias=True,
        penalize_bias=False,
    ),
    # A zero output beside others had the slice exponent of one, not the least.
    RidgeProblem(
        FeatureSpec(9, 9, "clustered", condition=1e10, layout="expanded", scale=1e-12, twist="twin_columns"),
        2,
        targets_kind="one_output",
        targets_scale=1e-12,
        ridge_relative=0.1,
    ),
)

RIDGE_RANK = (
    # Equal rows beside a free bias: the rounding of centring was taken for a rank.
    RidgeProblem(
        FeatureSpec(9, 1, "flat", layout="expanded", scale=1e-3), ridge_relative=0.0, bias=True, penalize_bias=False
    ),
)

FORGETTING_SOUND = (
    # The relative bound was divided by the size of an earlier, coarser solution.
    Problem(
        FeatureSpec(1, 2, "flat", condition=1.0),
        FeatureSpec(1, 2, "flat", condition=1.0, scale=1e-6),
        residual_kind="orthogonal",
        weight_decay_relative=1e-3,
        bias=True,
    ),
    # Squares of the update overflow: a relative bound was a NaN.
    Problem(FeatureSpec(2, 1, "flat"), FeatureSpec(1, 1, "flat", scale=1e-160), ridge_relative=1.0),
    Problem(
        FeatureSpec(9, 2, "low_rank", condition=1e15, layout="expanded", scale=1e12),
        FeatureSpec(9, 2, "low_rank", condition=1e10, seed=246, layout="expanded", scale=1e-160, twist="twin_columns"),
        3,
        residual_kind="in_span",
        residual_scale=1e3,
        ridge_relative=1e-6,
        weight_decay_relative=1e-3,
        head_scale=1e3,
    ),
)

FORGETTING_CERTIFIED = (
    # Rows of zeros were given the norm that other rows might have lost to underflow.
    Problem(
        FeatureSpec(3, 1, twist="zero_row_and_column"), FeatureSpec(7, 1, "pairs", scale=1e3), 4, residual_scale=1e3
    ),
    # A free bias: an error of the weights counts by what it does to an output.
    Problem(
        FeatureSpec(1, 2, "flat", condition=1.0, dtype="float32", scale=1e12),
        FeatureSpec(2, 2, "flat", condition=1.0, dtype="float32", scale=1e12),
        ridge_relative=1e-6,
        bias=True,
        penalize_bias=False,
    ),
    # Features of a million beside a free bias of one.
    Problem(
        FeatureSpec(9, 9, "flat", layout="strided", scale=1e6),
        FeatureSpec(9, 9, "flat", seed=3451, layout="strided", scale=1e6, twist="twin_rows"),
        residual_kind="one_output",
        ridge_relative=0.1,
        weight_decay_relative=1.0,
        bias=True,
        penalize_bias=False,
    ),
)
