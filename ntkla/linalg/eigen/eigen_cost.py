"""What eigenmodes cost, before they run: the direct decomposition against Lanczos, and the memory of both.

Counted are multiplications of float64 products (n rows, K columns, m = min(n, K), c columns multiplied):

- direct: `n K m` to form the smaller side and 12 m^3 to decompose and certify it;
- Lanczos: `2 n K` for each column, weighted by what thin products lose against square ones; 5 (k + block) columns
  are typical.

The direct way proves completeness whatever the spectrum, and a slow decay takes three to five times the typical
columns: so Lanczos is taken only where it promises to cost less than a quarter, and never for work of a second or so.
The weights were fitted to timings; no result's truth depends on them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ntkla.linalg import checks
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.lanczos_search import basis_columns, has_room

ROUTES = ("auto", "full", "lanczos")
_DECOMPOSITION = 12.0
_THIN = 2.3
_TYPICAL = 5.0
_WORTHWHILE, _LEAST_WORK = 0.25, 3e10


@dataclass(frozen=True)
class EigenCost:
    """Multiplications of the two routes, and the route that was picked.

    Attributes:
        full: of the direct decomposition.
        lanczos: of Lanczos with a typical number of columns; infinite where its basis has no room.
        column: of one column of Lanczos.
        route: `"full"` or `"lanczos"`.
    """

    full: float
    lanczos: float
    column: float
    route: str

    @property
    def most_columns(self) -> float:
        """Columns after which Lanczos has cost as much as the direct way would have: then that is taken."""
        return self.full / self.column


def eigen_cost(rows: int, columns: int, k: int, block: int, route: str = "auto") -> EigenCost:
    """Compares the routes for k modes of rows x columns features; `route` other than "auto" overrides it."""
    checks.choice("route", route, ROUTES)
    n, width, m = float(rows), float(columns), float(min(rows, columns))
    full = n * width * m + _DECOMPOSITION * m**3
    column = _THIN * 2 * n * width
    room = has_room(k, block, min(rows, columns))
    lanczos = column * _TYPICAL * (k + block) if room else math.inf
    cheaper = full > _LEAST_WORK and lanczos < _WORTHWHILE * full
    picked = ("lanczos" if cheaper else "full") if route == "auto" else route
    return EigenCost(full, lanczos, column, picked)


def full_memory(rows: int, columns: int, k: int) -> int:
    """Bytes at the peak of the direct decomposition, beside the features; k = 0 for the eigenvalues alone.

    The small side, its vectors, their Gram matrix, the residual, LAPACK's two work arrays and copy; then the vectors of
    G with their residuals and the copies of a QR, and their Gram matrix.
    """
    return 8 * (7 * min(rows, columns) ** 2 + 4 * rows * k + 3 * k**2)


def lanczos_memory(size: int, k: int, block: int, *, squares: bool = False) -> int:
    """Bytes at the peak of Lanczos on vectors of length `size`, beside its operator and what a product needs.

    The basis, its rotation and the sections; then the judged vectors, their products and the copies of a QR.  `squares`
    adds what a proof by inertia needs: the matrix, what is left of it, its factor and their sources.
    """
    basis = basis_columns(k, block)
    vectors = size * (2 * basis + 6 * block + 6 * (k + 2 * block)) + 6 * basis**2
    return 8 * (vectors + (6 * size**2 if squares else 0))


def feature_lanczos_memory(design: DesignMatrix, k: int, block: int, *, squares: bool = False) -> int:
    """Bytes at the peak of Lanczos on the smaller side of features, beside them.

    As above; a block of the features in float64; and the judged vectors on the other side.
    """
    n, width = design.rows, design.columns
    other = 6 * max(n, width) * (k + 2 * block)
    return lanczos_memory(min(n, width), k, block, squares=squares) + 8 * (min(design.block_rows, n) * width + other)
