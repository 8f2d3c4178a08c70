"""Leading modes of a Gram matrix by Lanczos on its smaller side, judged through the features.

On the side of the samples the Ritz vectors are the eigenvectors U of G; on the side of the columns they are lifted to
U (`small_side.lifted`).  Either way G U is then formed through the features, and everything that is said of the modes
comes from that product, the vectors and the values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ntkla.linalg.certificates import GramProduct, gram_product
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.completeness import Outside, by_inertia, by_trace, complete, remainder_of_features
from ntkla.linalg.eigen.lanczos_search import LanczosSearch, Progress
from ntkla.linalg.eigen.leading_enclosures import LeadingPairs, Measured
from ntkla.linalg.eigen.modes import Eigenmodes
from ntkla.linalg.eigen.normal_product import normal_product
from ntkla.linalg.eigen.partial_modes import partial_modes
from ntkla.linalg.eigen.small_side import lifted
from ntkla.linalg.linear_operator import summed_bounds
from ntkla.linalg.operators import squared_norms

_REMEDIES = {
    None: "no proof was asked for. Pass prove='inertia'.",
    "trace": "the other eigenvalues hold too much of the trace. Pass prove='inertia', or route='full'.",
    "inertia": "the factorisation found more. Pass a larger block_size, or route='full'.",
}


class Judgement(NamedTuple):
    """Pairs, how their vectors were multiplied, and d of the k leading ones."""

    pairs: LeadingPairs
    product: GramProduct
    outside: Outside


class FeatureLanczos:
    """Searches and judges the k leading modes of `Phi Phi^T`.

    Args:
        design: Phi.
        k, block, tolerance, seed, most_columns, progress: as for `LanczosSearch`.
        prove: `"trace"`, `"inertia"` or None.
        gives_way: whether there is no result rather than one that has not converged.
    """

    def __init__(
        self,
        design: DesignMatrix,
        k: int,
        *,
        block: int,
        tolerance: float,
        prove: str | None,
        seed: int,
        most_columns: float,
        gives_way: bool,
        progress: Progress | None,
    ) -> None:
        self.design, self.k, self.tolerance, self.prove, self.gives_way = design, k, tolerance, prove, gives_way
        self.on_samples = design.rows <= design.columns
        self.trace = summed_bounds(*squared_norms(design))
        self.search = LanczosSearch(
            (lambda u: design.matmul(design.rmatmul(u))) if self.on_samples else normal_product(design),
            min(design.rows, design.columns),
            k,
            block=block,
            tolerance=tolerance,
            seed=seed,
            device=design.device,
            most_columns=most_columns,
            progress=progress,
        )

    def modes(self) -> Eigenmodes | None:
        """The modes; None when the columns ran out before they converged and another route is to be taken then."""
        while True:
            converged = self.search.converge()
            if not converged and self.gives_way:
                return None
            found = self._found()
            if not converged or self._complete(found) or not self.search.look_again():
                break
        return partial_modes(
            found.pairs,
            self.k,
            found.outside,
            self.trace,
            tolerance=self.tolerance,
            passes=self.search.lanczos.passes,
            remedy=_REMEDIES[self.prove],
            rank=min(self.design.rows, self.design.columns),
        )

    def _found(self) -> Judgement:
        values, vectors = self.search.pairs(self.k + self._more())
        product = gram_product(
            self.design, vectors if self.on_samples else lifted(self.design, vectors, vectors.shape[1])
        )
        return self._judged(values, product)

    def _judged(self, values: torch.Tensor, product: GramProduct) -> Judgement:
        """Judged again as soon as more is known of the largest eigenvalue, on which the rounding of G U depends."""
        measured, total = Measured(product.vectors, values, product.image), self.trace[1]
        largest = total
        for outside_of in (self._by_trace, self._outside, None):
            pairs = measured.pairs(product.error(total, largest))
            if outside_of is not None:
                outside = outside_of(pairs, product)
            largest = min(largest, float(pairs.upper(self.k, outside.bound)[0]))
        return Judgement(pairs, product, outside)

    def _by_trace(self, pairs: LeadingPairs, product: GramProduct) -> Outside:
        return Outside(by_trace(pairs, self.k, self.trace[1]), "trace")

    def _outside(self, pairs: LeadingPairs, product: GramProduct) -> Outside:
        by = self._by_trace(pairs, product)
        if self.prove == "inertia" and not complete(pairs, self.k, by.bound, self.tolerance):
            left = remainder_of_features(product, pairs, self.k, self.trace[1])
            found = by_inertia(left, pairs, self.k, self.search.following(), self.tolerance)
            return Outside(found, "inertia") if found < by.bound else by
        return by if self.prove is not None else Outside(self.trace[1], "trace")

    def _complete(self, found: Judgement) -> bool:
        return complete(found.pairs, self.k, found.outside.bound, self.tolerance)

    def _more(self) -> int:
        """How many vectors beyond the wanted ones the proof by trace should take in: as few as it needs, or none."""
        ritz, k = self.search.ritz, self.k
        values, largest = ritz.values.clamp(min=0.0), float(ritz.values[0])
        if self.prove is None or not len(values) > k or not largest > 0.0:
            return 0
        most = min(len(values), k + 2 * self.search.lanczos.block)
        tails = (self.trace[1] - values.cumsum(0)[k - 1 : most]).clamp(min=0.0)
        couplings = (ritz.residuals / largest).square().cumsum(0).sqrt()[k - 1 : most] * largest
        following = values[k]
        bounds = (following + tails) / 2 + torch.hypot((following - tails) / 2, couplings)
        bounds[0] = tails[0]
        # A tenth of the gap, and half of the tolerance, are left to what the estimates leave out.
        goal = values[k - 1] - 0.1 * (values[k - 1] - following) + 0.5 * self.tolerance * largest
        enough = torch.nonzero(bounds < goal)
        return int(enough[0]) if len(enough) else 0
