"""When Lanczos has found the k leading pairs, and whether something larger was missed: the policy over `lanczos.py`.

A pair has converged when the estimate of its residual is below a quarter of the tolerance, relative to the largest
Ritz value; what is then proved is found anew from the vectors.  `look_again` searches the complement of what was found
from a new random block, until the largest Ritz value there has settled below or as much work was done as before: a copy
of a multiple eigenvalue, or a vector that the first block was orthogonal to, is likely to come out by then.  Only
`completeness.py` proves that nothing was missed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ntkla.linalg.eigen.lanczos import BlockLanczos, Product, Ritz
from ntkla.linalg.precision import U64

Progress = Callable[[int, float], None]

# A restart keeps k + k/2 + block vectors; this many blocks beside 2 k leave it room to work.
_BLOCKS_HELD = 8
# Lanczos gives up after this many columns for each vector of its basis, where nothing else says how many are worth it.
_PATIENCE = 40
# How far the residual of the first unwanted pair may reach into the gap below the wanted ones.
_SETTLED = 0.1
# A new block of fewer columns than this may by chance have next to nothing of a vector that was missed: more steps,
# each of which multiplies that part, stand in for them.
_ENOUGH_COLUMNS = 8


def basis_columns(k: int, block: int) -> int:
    """Vectors that the basis holds at most, the next block included: `2 k + 9 block`."""
    return 2 * k + (_BLOCKS_HELD + 1) * block


def default_block(k: int, size: int) -> int:
    """16 columns for up to 32 pairs, 32 for more, as far as the space has room for a basis.

    A product with 16 columns costs little more than one with a few, and up to 16 copies of an eigenvalue come at once.
    """
    return max(1, min(16 if k <= 32 else 32, (size - 2 * k) // (_BLOCKS_HELD + 1)))


def patience(k: int, block: int) -> float:
    """Columns after which a search that did not converge ends."""
    return _PATIENCE * float(basis_columns(k, block) - block)


def has_room(k: int, block: int, size: int) -> bool:
    """Whether a space of this dimension holds such a basis."""
    return basis_columns(k, block) <= size


class LanczosSearch:
    """The k leading pairs of an operator on [size] vectors.

    Args:
        product: [size, b] -> [size, b], float64.
        tolerance: of the residuals, relative to the largest eigenvalue.
        most_columns: columns that may be multiplied altogether.
        progress: called after every step that is looked at with the passes so far and the worst relative residual.
        The others as for `BlockLanczos`.
    """

    def __init__(
        self,
        product: Product,
        size: int,
        k: int,
        *,
        block: int,
        tolerance: float,
        seed: int,
        device: torch.device,
        most_columns: float,
        progress: Progress | None = None,
    ) -> None:
        self.k, self.target = k, max(tolerance / 4, 16 * U64)
        self.most_columns, self.progress = most_columns, progress
        self.lanczos = BlockLanczos(
            product,
            size,
            wanted=k,
            block=block,
            capacity=basis_columns(k, block) - block,
            seed=seed,
            device=device,
        )
        self.ritz: Ritz
        # A look at the section makes a GPU wait, so there it is taken once a basis is full only.
        self._always_looks = device.type == "cpu"

    def converge(self) -> bool:
        """Iterates until the k leading pairs have converged; False when the columns ran out before."""
        while True:
            if self._step() and self._worst() <= self.target:
                return True
            if self.lanczos.columns >= self.most_columns:
                self.ritz = self.lanczos.ritz()
                return False

    def look_again(self) -> bool:
        """Searches the complement of what was found; True when that changed one of the k leading values."""
        k, former = self.k, self.ritz.values[: self.k]
        # A product that is noisy may change the values for ever.
        if self.lanczos.columns >= 2 * self.most_columns:
            return False
        least = self.lanczos.columns + _ENOUGH_COLUMNS
        last = max(least, self.lanczos.columns + min(self.lanczos.columns, self.most_columns))
        self.lanczos.restart_afresh(self.ritz)
        while True:
            looked = self._step() and self.lanczos.columns >= least
            if looked and self._worst() <= self.target and len(self.ritz.values) > k:
                gap = self.ritz.values[k - 1] - self.ritz.values[k]
                if self.ritz.residuals[k] <= max(_SETTLED * gap, self.target * self.ritz.values[0]):
                    break
            if self.lanczos.columns >= last:
                self.ritz = self.lanczos.ritz()
                break
        change = (self.ritz.values[:k] - former).abs().max()
        return bool(change > 4 * self.target * self.ritz.values[0])

    def pairs(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first `count` Ritz values, [count], none negative, and vectors, [size, count]."""
        vectors = self.lanczos.vectors(self.ritz, count)
        return self.ritz.values[:count].clamp(min=0.0).to(vectors.device), vectors

    def following(self) -> float:
        """About the eigenvalue after the wanted ones, from above; 0 where the basis knows none."""
        return float((self.ritz.values + self.ritz.residuals)[self.k]) if len(self.ritz.values) > self.k else 0.0

    def last_vector(self) -> torch.Tensor:
        """The vector of the smallest Ritz value, [size, 1]."""
        return self.lanczos.vectors(self.ritz, len(self.ritz.values))[:, -1:]

    def _step(self) -> bool:
        """One step; whether the section was looked at."""
        if self.lanczos.full:
            self.lanczos.restart(self.ritz)
        self.lanczos.step()
        looks = self.lanczos.filled >= self.k and (self._always_looks or self.lanczos.full)
        if looks:
            self.ritz = self.lanczos.ritz()
            if self.progress is not None:
                self.progress(self.lanczos.passes, self._worst())
        return looks

    def _worst(self) -> float:
        """The largest residual of the k leading pairs, relative to the largest value; 0 for a zero operator."""
        largest, worst = float(self.ritz.values[0].abs()), float(self.ritz.residuals[: self.k].max())
        return worst / largest if largest > 0.0 else worst
