"""The one-pass normal product's rounding: within its bound in every mode, which is not loose."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma
from ntkla.testing.balls import Exact, ball_matrix, design_matrix, times_weights
from ntkla.testing.specs import FeatureSpec
from ntkla.testing.strategies import feature_specs
from ntkla.testing.violations import Comparison, compare
from tests.kernels.draws import DEVICE, normal

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton.normal_blocks import chosen_block
from csrc_triton.normal_matmul import normal_matmul_error
from tests.kernels.normal_problems import CASES, Problem, drawn, run, twice_in_torch


def judge(computed: torch.Tensor, problem: Problem, mode: str, scale: float = 1.0) -> Comparison:
    """The result against the exact one, under `scale` times the bound of `normal_matmul_error`."""
    x, w, weights, bias = (t.cpu() if isinstance(t, torch.Tensor) else t for t in problem)
    (n, features), tiny = x.shape, torch.finfo(computed.dtype).tiny
    above = twice_in_torch(problem, magnitudes=True) * (1 + gamma(2 * (n + features + 4)))
    bound = scale * normal_matmul_error(n, features, mode, bias=bias) * above
    # What underflows in x w passes through a weight and an entry of x, both of order one here, and a sum over n.
    bound = bound + 2 * (n + 1) * (features + 2) * tiny * (1 + x.abs().double().max() ** 2)

    def product():
        design = design_matrix(x, bias)
        return times_weights(design, weights).transpose() * (design * ball_matrix(w))

    return compare(computed.cpu(), bound, Exact(product))


@settings(max_examples=12)
@given(feature_specs(), st.integers(1, 5), st.booleans(), st.booleans(), st.booleans())
def test_the_error_is_within_its_bound(spec: FeatureSpec, columns, weighted, bias, widened):
    x = spec.tensor.to(DEVICE)
    mode = "float64" if widened or x.dtype == torch.float64 else "ieee"
    _, w, weights, _ = drawn(normal, *x.shape, columns, weighted=weighted, bias=bias, dtype=x.dtype)
    problem = (x, w, weights, bias)
    verdict = judge(run(problem, mode), problem, mode)
    assert verdict.sound, str(verdict)


@pytest.mark.parametrize(("mode", "dtype"), CASES)
def test_the_error_of_long_sums_is_within_its_bound(mode, dtype):
    problem = drawn(normal, 150, 40, 2, weighted=True, bias=True, dtype=dtype)
    problem[0].add_(4)
    problem[1].sub_(4)
    verdict = judge(run(problem, mode), problem, mode)
    assert verdict.sound, str(verdict)


@pytest.mark.parametrize(("mode", "dtype"), [("ieee", torch.float32), ("float64", torch.float64)])
def test_the_bound_is_reached_within_a_factor(mode, dtype):
    """One product after another, of numbers just above powers of two, where a rounding weighs most."""
    x, w = 1 + normal(1, 1, dtype=dtype).abs() / 64, 1 + normal(1, 500, seed=1, dtype=dtype).abs() / 64
    problem = (x, w, x[0], False)
    computed = run(problem, mode)
    assert judge(computed, problem, mode).sound
    assert not judge(computed, problem, mode, scale=1 / 3).sound


def test_the_error_of_ieee_does_not_grow_with_the_rows():
    """After a one come blocks whose sums, 2^-26, a float32 accumulator would lose one by one."""
    rows = chosen_block(1, 1, "ieee").rows
    x = torch.full((33 * rows, 1), 2.0**-13 / math.sqrt(rows), device=DEVICE)
    x[:rows] = 0.0
    x[0] = 1.0
    assert run((x, torch.ones(1, 1, device=DEVICE), None, False), "ieee").item() == 1.0 + 2.0**-21
    at_most_rows = [normal_matmul_error(rows, 768, "ieee") for rows in (10**3, 10**6)]
    assert at_most_rows[1] - at_most_rows[0] <= gamma(10**6) * (1 + at_most_rows[1])


def test_the_bound_catches_a_planted_error():
    problem = drawn(normal, 40, 6, 3, weighted=True, bias=True, dtype=torch.float32)
    computed = run(problem, "ieee")
    assert judge(computed, problem, "ieee").sound
    computed[4, 2] *= 1 + 1e-3
    assert not judge(computed, problem, "ieee").sound
    rounded = tuple(t.bfloat16() if isinstance(t, torch.Tensor) else t for t in problem)
    assert not judge(run(rounded, "ieee"), problem, "ieee").sound
    assert not judge(run(problem, "ieee").double(), problem, "float64").sound


def test_the_bound_at_the_ends_of_its_range():
    assert normal_matmul_error(0, 0, "float64") >= UNIT_ROUNDOFF[torch.float64]
    assert normal_matmul_error(1, 2**24, "ieee") == math.inf
    assert normal_matmul_error(2**54, 1, "ieee") == math.inf
    assert normal_matmul_error(5, 7, "ieee", bias=True) > normal_matmul_error(5, 7, "ieee")
