"""The change of a residual in one pass over the features: its bound against ball arithmetic, whatever multiplies."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

import ntkla
from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.backends.primitive import normal_roundings
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import gamma, norm_upper
from ntkla.linalg.solve import one_pass
from ntkla.linalg.solve.normal_problem import NormalProblem, Residual
from ntkla.linalg.solve.one_pass import one_pass_change, one_pass_wanted
from ntkla.linalg.solve.residual import residual
from ntkla.linalg.solve.weights import SampleWeights
from ntkla.testing import WEIGHTINGS, Comparison, Exact, FeatureSpec, compare_columns, sample_weights
from ntkla.testing.balls import ball_matrix, design_matrix, diagonal, times_weights
from ntkla.testing.spectra import normal
from ntkla.testing.strategies import feature_specs


def homogeneous(spec: FeatureSpec, bias: bool, weighting: str = "none", outputs: int = 2) -> NormalProblem:
    """A problem with a penalty, and nothing else."""
    design = DesignMatrix(spec.tensor, bias)
    targets = torch.zeros((spec.n, outputs), dtype=torch.float64)
    penalty = torch.full((design.columns,), 0.3 * min(1.0, spec.scale) ** 2 + 2.0**-900, dtype=torch.float64)
    values = sample_weights(weighting, spec.n, seed=spec.seed)
    weights = None if values is None else SampleWeights.of(values, design, targets)
    frobenius = design.frobenius() if weights is None else weights.frobenius
    return NormalProblem(design, targets, (penalty,), None, frobenius, weights)


def judged(problem: NormalProblem, step: torch.Tensor, r: Residual) -> list[Comparison]:
    """Both roundings together, and the norm of the outputs that one of them is made of."""
    phi = design_matrix(problem.design.features, problem.design.bias)
    weights = None if problem.weights is None else problem.weights.values

    def change():
        penalty = diagonal(ball_matrix(problem.diagonals[0][:, None]).entries())
        return -(phi.transpose() * times_weights(phi * ball_matrix(step), weights) + penalty * ball_matrix(step))

    def outputs():
        plain = phi * ball_matrix(step)
        return plain if weights is None else diagonal([w.sqrt() for w in ball_matrix(weights).entries()]) * plain

    whole = r.adjoint_error + problem.frobenius * r.output_error
    zero = torch.zeros((problem.design.rows, step.shape[1]), dtype=torch.float64)
    return [
        compare_columns(r.value, whole * (1.0 + gamma(4)), Exact(change), "change"),
        compare_columns(zero, r.output_norm, Exact(outputs), "norm of the outputs"),
    ]


@given(feature_specs(extreme=True), st.booleans(), st.sampled_from(WEIGHTINGS), st.sampled_from((0, -300, 300, -700)))
def test_the_bound_holds(spec, bias, weighting, exponent):
    problem = homogeneous(spec, bias, weighting)
    step = normal(problem.design.columns, 2, spec.seed) * 2.0**exponent
    with ntkla.backend("torch"):
        r = one_pass_change(problem, step)
    for verdict in judged(problem, step, r):
        assert verdict.sound, str(verdict)


def test_several_blocks_and_what_the_bias_loses():
    problem = homogeneous(FeatureSpec(1100, 3, "geometric", condition=1e3), True)
    step = normal(4, 2, 1)
    r = one_pass_change(problem, step)
    for verdict in judged(problem, step, r):
        assert verdict.sound, str(verdict)
    exact = residual(problem, Doubled(step, torch.zeros_like(step)), (2, 2))
    assert bool(((r.value - exact.value)[-1].abs() <= r.bias_error + problem.root_total * r.output_error).all())


def test_the_bound_catches_a_planted_error():
    problem = homogeneous(FeatureSpec(9, 5, seed=1), True, "uniform")
    step = normal(6, 2, 1)
    r = one_pass_change(problem, step)
    moved = r.value.clone()
    moved[2, 1] *= 1 + 1e-12
    change, _ = judged(problem, step, replace(r, value=moved))
    assert not change.sound
    _, outputs = judged(problem, step, replace(r, output_norm=r.output_norm * 0.99))
    assert not outputs.sound


def test_the_norm_of_the_outputs_is_all_but_reached():
    """Also where the features all but cancel, down to the root of what rounding leaves open."""
    spec = FeatureSpec(40, 6, "geometric", condition=1e3, seed=2)
    problem = homogeneous(spec, False)
    step = normal(6, 2, 3)
    found = one_pass_change(problem, step).output_norm
    assert bool((found <= torch.linalg.vector_norm(spec.tensor @ step, dim=0) * (1 + 2.0**-20)).all())
    least = torch.linalg.svd(homogeneous(replace(spec, condition=1e15), False).design.features).Vh[-1:].T
    cancelling = replace(problem, design=DesignMatrix(replace(spec, condition=1e15).tensor))
    open_to_rounding = math.sqrt(2 * gamma(normal_roundings(40, 6) + 8)) * problem.frobenius
    assert float(one_pass_change(cancelling, least).output_norm) <= 2 * open_to_rounding * float(norm_upper(least))


def test_where_a_kernel_is_wanted(monkeypatch):
    problem = homogeneous(FeatureSpec(9, 5), True)
    assert not one_pass_wanted(problem, 2)
    with ntkla.backend("torch"):
        assert not one_pass_wanted(problem, 2)
    with ntkla.backend("triton"):
        assert one_pass_wanted(problem, 2)
        assert one_pass_wanted(problem, one_pass.MOST_COLUMNS)
        assert not one_pass_wanted(problem, one_pass.MOST_COLUMNS + 1)
        monkeypatch.setattr(one_pass, "most_features", lambda primitive: {"normal_matmul": 5}[primitive])
        assert not one_pass_wanted(problem, 2)
