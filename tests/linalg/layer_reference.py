"""What the tests of the layer kernel compare with: the formula as written, and the exact kernel of stored factors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ntkla.testing.balls import Exact, ball_matrix, flint

Pair = tuple[torch.Tensor, torch.Tensor]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)


def factors(n: int, c: int, t: int, f: int, g: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Pair:
    """a [n, t, f] and d [n, c, t, g]."""
    return normal(n, t, f, seed=seed, dtype=dtype), normal(n, c, t, g, seed=seed + 1, dtype=dtype)


def formula(left: Pair, right: Pair) -> torch.Tensor:
    """`sum_{t,s} <a_it, a_js> <d_ict, d_jes>` in float64."""
    (a, d), (a2, d2) = ((x.double() for x in pair) for pair in (left, right))
    return torch.einsum("itf,jsf,ictg,jesg->icje", a, a2, d, d2)


def exact_jacobian(pairs: Sequence[Pair], mask: torch.Tensor | None = None):
    """The Jacobian of the stored factors as an `arb_mat` [n C, parameters], in the current working precision."""
    n, outputs = pairs[0][1].shape[:2]
    rows = []
    for i in range(n):
        for c in range(outputs):
            row = []
            for a, d in pairs:
                counted = slice(None) if mask is None else mask[i]
                row += (ball_matrix(a[i][counted]).transpose() * ball_matrix(d[i, c][counted])).entries()
            rows.append(row)
    return flint().arb_mat(rows)


def exact_kernel(left: Sequence[Pair], right: Sequence[Pair] | None = None, mask: torch.Tensor | None = None) -> Exact:
    """The exact kernel [n C, n2 C2] of the stored factors."""

    def compute():
        jacobian = exact_jacobian(left, mask)
        return jacobian * (jacobian if right is None else exact_jacobian(right)).transpose()

    return Exact(compute)


def flat(kernel: torch.Tensor) -> torch.Tensor:
    """[n, C, n2, C2] -> [n C, n2 C2]."""
    return kernel.flatten(2, 3).flatten(0, 1)
