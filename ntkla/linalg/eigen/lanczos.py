"""Thick-restart block Lanczos: leading eigenpairs of a symmetric operator that is known through its products.

A basis V grows by one block a step.  The block's product with A is orthogonalised against V twice, and what is left,
orthonormalised by Householder QR, is the next block, so that with the collected coefficients H

    A V = V H + next B E^T      (E the last block's columns)

and an eigenpair (theta, s) of H gives the Ritz pair (theta, V s) with the residual norm `||B s_last||`.  When V is
full it is replaced by its leading Ritz vectors and the relation holds on (Wu and Simon, "Thick-restart Lanczos method
for large symmetric eigenvalue problems", SIAM J. Matrix Anal. Appl. 22, 2000).

What goes wrong elsewhere, and why it does not here:

- One vector finds one copy of a multiple eigenvalue; a random block of b finds b.  More copies, and eigenvectors that
  the start is orthogonal to, are found by `restart_afresh`: the wanted vectors are kept and a new random block joins.
- H is filled with the coefficients that were computed, not assumed tridiagonal, and the basis is kept orthonormal, so
  no copies are made: two Ritz vectors of one eigenvector would need two orthonormal vectors that are the same.
- A block that loses rank is completed by QR with new directions, orthogonalised like any other: there is no breakdown,
  hence no threshold for one.  Where arithmetic is exact QR would make up the same direction again and again, which
  then lies in the basis; so noise of the size of one rounding is added first.  Everything else is compared with the
  largest Ritz value, never with a constant.

Nothing here is proved; `leading_enclosures.py` judges the vectors that come out, however they were made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from ntkla.linalg.precision import U64

Product = Callable[[torch.Tensor], torch.Tensor]
# Powers of two that scale products: both they and their inverses are normal numbers.
_LARGEST_EXPONENT = 1000
# The least noise, for an operator that has shown nothing but zeros: far below any product that is scaled.
_LEAST_NOISE = 2.0**-600


class Ritz(NamedTuple):
    """Eigenpairs of A's section in the basis, descending: values, coefficients [m, m], residual norms (estimates)."""

    values: torch.Tensor
    coefficients: torch.Tensor
    residuals: torch.Tensor


class BlockLanczos:
    """A growing and restarting orthonormal basis in which A is known.

    Args:
        product: [N, b] -> [N, b] float64, the operator.
        size: N.
        wanted: how many leading pairs a restart keeps at least.
        block: columns of a step; `capacity + block <= size`.
        capacity: columns of the basis, at least `wanted + 2 * block`.
        seed: of the random blocks; the global generator is not touched.
        device: where the basis lives.

    Memory: `(capacity + 3 block)` vectors of length N.  A step costs one product and `6 N m b` operations for a basis
    of m columns; on a GPU it does not wait for the device.  Deterministic for fixed inputs, versions and threads.
    """

    def __init__(
        self, product: Product, size: int, *, wanted: int, block: int, capacity: int, seed: int, device: torch.device
    ) -> None:
        self.product, self.wanted, self.block, self.capacity = product, wanted, block, capacity
        self.filled = 0
        self.columns = 0
        self.passes = 0
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._basis = torch.empty((size, capacity + block), dtype=torch.float64, device=device)
        self._section = torch.zeros((capacity, capacity), dtype=torch.float64, device=device)
        self._coupling = torch.zeros((block, block), dtype=torch.float64, device=device)
        # What earlier restarts dropped of the residuals of the first columns.
        self._dropped = torch.zeros(capacity, dtype=torch.float64, device=device)
        self._scale: float | None = None
        start = self._random()
        self._noise = start.clone()
        self._set_next(start)

    @property
    def full(self) -> bool:
        """Whether the next step needs a restart first."""
        return self.filled + self.block > self.capacity

    def step(self) -> None:
        """Multiplies the next block and makes the one after it."""
        start, stop = self.filled, self.filled + self.block
        basis = self._basis[:, :stop]
        image = self._multiplied(basis[:, start:])
        coefficients = basis.T @ image
        image -= basis @ coefficients
        again = basis.T @ image
        image -= basis @ again
        coefficients += again
        self._section[:stop, start:stop] = coefficients
        self._section[start:stop, :start] = coefficients[:start].T
        # Turned on with every step, so that it is a new direction each time.
        size = U64 * self._section.abs().max() + _LEAST_NOISE
        following, first = torch.linalg.qr(image + size * torch.roll(self._noise, self.passes, 0))
        # Columns that QR made up for a lost rank, or that rounding spoilt, are not orthogonal to the basis yet.
        following -= basis @ (basis.T @ following)
        following, second = torch.linalg.qr(following)
        self._coupling = second @ first
        self.filled = stop
        self._set_next(following)

    def ritz(self) -> Ritz:
        """The eigenpairs of the section, computed on the CPU: waits for the device."""
        section = self._section[: self.filled, : self.filled].cpu()
        values, coefficients = torch.linalg.eigh((section + section.T) * 0.5)
        values, coefficients = values.flip(0), coefficients.flip(1)
        last = self._coupling.cpu() @ coefficients[-self.block :]
        dropped = self._dropped[: self.filled, None].cpu() * coefficients
        residuals = torch.linalg.vector_norm(torch.cat([last, dropped]), dim=0)
        scale = self._scale or 1.0
        return Ritz(values * scale, coefficients, residuals * scale)

    def vectors(self, ritz: Ritz, count: int) -> torch.Tensor:
        """The first `count` Ritz vectors, [N, count]."""
        return self._basis[:, : self.filled] @ ritz.coefficients[:, :count].to(self._basis.device)

    def restart(self, ritz: Ritz) -> None:
        """Replaces the basis by its leading Ritz vectors; the next block stays."""
        # Half as many again as are wanted: those behind them shield the wanted ones from the rest of the spectrum.
        kept = min(self.wanted + self.wanted // 2 + self.block, self.capacity - self.block)
        following = self._basis[:, self.filled : self.filled + self.block].clone()
        self._keep(ritz, kept, torch.zeros_like(ritz.residuals[:kept]))
        self._set_next(following)

    def restart_afresh(self, ritz: Ritz) -> None:
        """Keeps the wanted Ritz vectors and goes on from a new random block."""
        self._keep(ritz, self.wanted, ritz.residuals[: self.wanted] / (self._scale or 1.0))
        self._set_next(self._random())

    def _keep(self, ritz: Ritz, kept: int, dropped: torch.Tensor) -> None:
        device = self._basis.device
        former = self._dropped[: self.filled, None].cpu() * ritz.coefficients[:, :kept]
        self._basis[:, :kept] = self.vectors(ritz, kept)
        self._section.zero_()
        self._section.diagonal()[:kept] = (ritz.values[:kept] / (self._scale or 1.0)).to(device)
        self._dropped.zero_()
        self._dropped[:kept] = torch.maximum(dropped, torch.linalg.vector_norm(former, dim=0)).to(device)
        self.filled = kept

    def _set_next(self, block: torch.Tensor) -> None:
        self._basis[:, self.filled : self.filled + self.block] = block

    def _random(self) -> torch.Tensor:
        """A random block, orthonormal and orthogonal to the basis."""
        shape = (self._basis.shape[0], self.block)
        block = torch.randn(shape, generator=self._generator, dtype=torch.float64, device="cpu").to(self._basis.device)
        kept = self._basis[:, : self.filled]
        for _ in range(2):
            block -= kept @ (kept.T @ block)
            block = torch.linalg.qr(block)[0]
        return block

    def _multiplied(self, block: torch.Tensor) -> torch.Tensor:
        """A block's product, scaled by a power of two so that neither it nor its squares leave the range."""
        image = self.product(block)
        self.columns += block.shape[1]
        self.passes += 1
        if self._scale is None:
            largest = float(image.abs().max())
            exponent = math.frexp(largest)[1] if largest > 0 else 0
            self._scale = 2.0 ** max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, exponent))
        return image * (1.0 / self._scale)
