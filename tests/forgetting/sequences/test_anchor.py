"""What protects a task: its pseudo-samples are those of the penalty, and errors reach no further than it says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.forgetting.sequences.anchor import Anchor
from ntkla.forgetting.sequences.penalty import Penalty
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.precision import U64, gamma, norm_upper
from ntkla.testing import feature_specs
from ntkla.testing.spectra import normal
from tests.forgetting.sequences.rational import design, rational
from tests.linalg.exact_reference import exactly, value
from tests.soundness.judge import fewer

CLASSES = 4


def norm(matrix) -> float:
    """A little above the Frobenius norm of a rational matrix."""
    total = sum((x * x for row in matrix.tolist() for x in row), 0 * matrix[0, 0])
    scale = int(total.q).bit_length() - int(total.p).bit_length() if total != 0 else 0
    half = scale // 2
    mantissa = total * (1 << 2 * half) if half >= 0 else total / (1 << -2 * half)
    return math.ldexp(math.sqrt(float(int(mantissa.p)) / float(int(mantissa.q))) if mantissa != 0 else 0.0, -half)


def reaches_no_further(anchor: Anchor, features: torch.Tensor, bias: bool) -> bool:
    """`||Z e|| <= stretch ||Phi e|| + rounding ||e||` along the axes, along Z's own rows, and anywhere."""
    phi, z = design(features, bias), rational(anchor.rows)
    columns = anchor.rows.shape[1]
    own = anchor.rows.T / anchor.rows.abs().max()
    vectors = torch.cat([torch.eye(columns, dtype=torch.float64), normal(columns, 2, columns), own], 1).T
    for vector in (rational(row[:, None]) for row in vectors):
        reached = norm(z * vector) * (1 - 2.0**-40)
        if reached > anchor.stretch * norm(phi * vector) + anchor.rounding * norm(vector):
            return False
    return True


@given(feature_specs(), st.integers(1, 6), st.booleans(), st.sampled_from([1e-3, 1.0, 1e6]))
@fewer(2)
def test_an_error_of_the_reference_reaches_no_further(spec, modes, bias, weight):
    anchor = Anchor.of(DesignMatrix(spec.tensor, bias), Penalty.checked(modes, weight=weight), CLASSES)
    assert not anchor.count or reaches_no_further(anchor, spec.tensor, bias)


def test_a_reach_that_is_said_too_short_is_seen():
    """The planted error: one percent less."""
    features = normal(9, 4, 3)
    anchor = Anchor.of(DesignMatrix(features), Penalty.checked(3, weight=7.0), CLASSES)
    assert reaches_no_further(anchor, features, False)
    assert not reaches_no_further(replace(anchor, stretch=0.99 * anchor.stretch), features, False)


def test_what_the_probes_do_not_see_is_not_protected():
    """A direction that the features map to exactly zero: all of Z there is rounding."""
    x = (normal(9, 4, 3) * 2.0**10).round()
    features = torch.cat([x, x[:, :1] + x[:, 1:2]], 1)
    anchor = Anchor.of(DesignMatrix(features), Penalty.checked(3, weight=7.0), CLASSES)
    unseen = torch.tensor([[1.0], [1.0], [0.0], [0.0], [-1.0]], dtype=torch.float64)
    assert norm(rational(anchor.rows) * rational(unseen)) <= anchor.rounding * math.sqrt(3.0)
    assert anchor.rounding <= math.sqrt(U64) * float(norm_upper(anchor.rows))


@pytest.mark.parametrize("bias", [False, True])
def test_pseudo_samples_are_those_of_the_penalty(bias):
    """`1/2 ||Z X - T||^2 = weight / (C k) ||U^T (Phi X - F)||^2` for any X."""
    features, weight, k = normal(12, 5, 1), 3.0, 4
    anchor = Anchor.of(DesignMatrix(features, bias), Penalty.checked(k, weight=weight), CLASSES)
    modes, phi = eigenmodes(features, k, bias=bias), torch.cat([features, torch.ones(12, int(bias))], 1).double()
    moved = normal(phi.shape[1], CLASSES, 2)
    mine = float((anchor.rows @ moved).square().sum()) / 2
    theirs = weight / (CLASSES * k) * float((modes.basis.T @ (phi @ moved)).square().sum())
    assert abs(mine - theirs) <= 64 * gamma(12 * k) * theirs
    columns = list(zip(*exactly(anchor.rows), strict=True))
    assert value(anchor.square) == [[sum(a * b for a, b in zip(x, y, strict=True)) for y in columns] for x in columns]
