"""Wide features end to end: sums of 2048 products whose small ones a chain of additions would lose, every one."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from ntkla.forgetting.drifts import Forgetting
from ntkla.forgetting.predict import predict_forgetting
from ntkla.linalg import design
from ntkla.linalg.precision import UNIT_ROUNDOFF

WIDTH = 2048
SMALL = 2.0**-27
OLD_ROWS = 64


def spiked(rows: int) -> torch.Tensor:
    """[rows, 2048], every row (1, 2^-27, 2^-27, ...): beside 1, a product of two small entries is u / 2."""
    x = torch.full((rows, WIDTH), SMALL, dtype=torch.float64)
    x[:, 0] = 1.0
    return x


def forecast() -> Forgetting:
    """One new sample, equal to the old ones, with a ridge of 1 and a residual of -2: the head moves by about phi."""
    residual = torch.tensor([[-2.0]], dtype=torch.float64)
    return predict_forgetting(spiked(OLD_ROWS), spiked(1), residual, ridge=1.0, tol=UNIT_ROUNDOFF[torch.float64])


def self_product() -> Fraction:
    """The exact product of a row with itself."""
    return 1 + (WIDTH - 1) * Fraction(SMALL) ** 2


def chained(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b, one product after the other."""
    out = torch.zeros((a.shape[0], b.shape[1]), dtype=torch.float64)
    for k in range(a.shape[1]):
        out += a[:, k : k + 1] * b[k : k + 1]
    return out


def worst(forgetting: Forgetting) -> Fraction:
    """The largest error over its bound."""
    exact = 2 * self_product() / (self_product() + 1)
    pairs = zip(forgetting.drift.flatten().tolist(), forgetting.error_bound.flatten().tolist(), strict=True)
    return max(abs(Fraction(drift) - exact) / Fraction(bound) for drift, bound in pairs)


def test_a_wide_drift_is_within_its_bound() -> None:
    assert worst(forecast()) <= 1


def test_a_product_in_one_chain_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(design, "pieced_matmul", chained)
    assert worst(forecast()) > 1
