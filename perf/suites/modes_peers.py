"""Everyone else who computes leading eigenvectors in suite `modes`; on a GPU the dense ones run there.

Each returns (values [k], vectors [n outputs, k]) in float64.  An expert works on the smaller side, `S = X^T X` [F, F],
and maps back: `u = X v / sqrt(value)`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.operators import GramOperator
from perf.harness import Contender, Skip, Work
from perf.suites.modes_problem import Problem

TOLERANCE = 1e-10  # of ntkla and of everybody who takes one
SAME, SMALLER = "scipy eigsh, same operator", "scipy eigsh, numpy, smaller side"
LOBPCG, EIGH, RANDOMIZED = "torch.lobpcg, smaller Gram", "torch.linalg.eigh, smaller Gram", "sklearn randomized_svd"
_STEPS = 300  # of lobpcg


class Pairs(NamedTuple):
    """Computed eigenvalues, descending, and vectors as columns."""

    values: torch.Tensor
    vectors: torch.Tensor


def work(problem: Problem) -> Work:
    """The least that any method does: one product of the kernel with k vectors, which checks the answer."""
    (n, features), k = problem.x.shape, problem.k
    return Work(4.0 * n * features * k, float(problem.x.nbytes + 8 * n * problem.outputs * k))


def contenders(problem: Problem, names: tuple[str, ...]) -> list[Contender]:
    """The named ones; only the one on the same operator takes several outputs."""
    calls = {
        SAME: _same, SMALLER: _smaller, LOBPCG: _lobpcg, EIGH: _eigh, RANDOMIZED: _randomized,
    }  # fmt: skip
    notes = {RANDOMIZED: "its error is not held against it"}
    return [
        Contender(
            name,
            partial(calls[name], problem),
            work(problem),
            digits=float("inf") if name == RANDOMIZED else TOLERANCE,
            note=notes.get(name, ""),
        )
        for name in names
    ]


def operator(problem: Problem) -> GramOperator | KroneckerGram:
    """What ntkla is given, and scipy through `to_scipy`."""
    gram = GramOperator(problem.x)
    return gram if problem.outputs == 1 else KroneckerGram(gram, problem.outputs)


def _same(problem: Problem) -> Pairs:
    values, vectors = eigsh(operator(problem).to_scipy(), k=problem.k, which="LA", tol=TOLERANCE, v0=_start(problem))
    return _descending(values, vectors)


def _start(problem: Problem) -> np.ndarray:
    """A seeded start, so that every run does the same work."""
    start: np.ndarray = np.random.default_rng(0).standard_normal(problem.x.shape[0] * problem.outputs)
    return start


def _smaller(problem: Problem) -> Pairs:
    if problem.x.device.type != "cpu":
        raise Skip("numpy works on the processor")
    x = problem.x.double().numpy()
    side = x.shape[1]
    product = LinearOperator((side, side), matvec=lambda v: x.T @ (x @ v), dtype=np.float64)
    values, vectors = eigsh(product, k=problem.k, which="LA", tol=TOLERANCE, v0=_start(problem)[:side])
    return _mapped(torch.from_numpy(x), _descending(values, vectors))


def _lobpcg(problem: Problem) -> Pairs:
    x = problem.x.double()
    generator = torch.Generator(x.device).manual_seed(0)
    start = torch.randn((x.shape[1], problem.k), generator=generator, dtype=x.dtype, device=x.device)
    # Its test divides a residual by the norms of S and of the start, as tol asks for.
    found: Any = torch.lobpcg(x.T @ x, k=problem.k, X=start, niter=_STEPS, tol=TOLERANCE)
    return _mapped(x, Pairs(*found))


def _eigh(problem: Problem) -> Pairs:
    x = problem.x.double()
    values, vectors = torch.linalg.eigh(x.T @ x)
    return _mapped(x, Pairs(values[-problem.k :].flip(0), vectors[:, -problem.k :].flip(1)))


def _randomized(problem: Problem) -> Pairs:
    if problem.x.device.type != "cpu":
        raise Skip("sklearn works on the processor")
    try:
        from sklearn.utils.extmath import randomized_svd
    except ImportError as error:
        raise Skip(f"sklearn is not installed ({error})") from error
    vectors, singular, _ = randomized_svd(problem.x.numpy(), problem.k, random_state=0)
    return Pairs(torch.from_numpy(singular).double() ** 2, torch.from_numpy(vectors.copy()).double())


def _descending(values: np.ndarray, vectors: np.ndarray) -> Pairs:
    order = np.argsort(values)[::-1]
    return Pairs(torch.from_numpy(values[order].copy()), torch.from_numpy(vectors[:, order]))


def _mapped(x: torch.Tensor, found: Pairs) -> Pairs:
    return Pairs(found.values, x @ (found.vectors / found.values.clamp(min=1e-300).sqrt()))
