"""Feature matrices drawn by their spectrum: U diag(sqrt s) V^T with seeded orthogonal factors, in any dtype and layout.

What breaks numerical code is the spectrum, the scale and the storage, not the entries; so those are the parameters
here and the entries follow from a seed.  Everything is built with an explicit dtype, device and generator: the same
arguments give the same bits whatever the ambient state (on one machine and one set of versions).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ntkla.linalg import checks

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def _ones(r: int) -> torch.Tensor:
    return torch.ones(r, dtype=torch.float64, device="cpu")


def _geometric(r: int, condition: float) -> torch.Tensor:
    exponents = torch.arange(r, dtype=torch.float64, device="cpu") / max(r - 1, 1)
    return torch.pow(torch.tensor(condition, dtype=torch.float64, device="cpu"), -exponents)


def _clustered(r: int, condition: float) -> torch.Tensor:
    third = torch.arange(r, dtype=torch.int64, device="cpu") * 3 // r
    return torch.pow(torch.tensor(condition, dtype=torch.float64, device="cpu"), -third.to(torch.float64) / 2)


def _pairs(r: int, condition: float) -> torch.Tensor:
    return _geometric(-(-r // 2), condition).repeat_interleave(2)[:r]


def _leading(r: int, count: int, rest: float) -> torch.Tensor:
    values = _ones(r) * rest
    values[:count] = 1.0
    return values


# name: eigenvalues of Phi^T Phi from their number and the ratio of largest to smallest; the largest is 1.
SPECTRA: dict[str, Callable[[int, float], torch.Tensor]] = {
    "flat": lambda r, condition: _ones(r),
    "geometric": _geometric,
    "clustered": _clustered,
    "pairs": _pairs,
    "one_large": lambda r, condition: _leading(r, 1, 1.0 / condition),
    "one_small": lambda r, condition: _leading(r, r - 1, 1.0 / condition) if r > 1 else _ones(r),
    "low_rank": lambda r, condition: _leading(r, -(-r // 2), 0.0),
    "rank_one": lambda r, condition: _leading(r, 1, 0.0),
    "zero": lambda r, condition: _leading(r, 0, 0.0),
}
# Small integers of half rank: rank deficiency that is exact in every dtype, which a rounded spectrum never is.
INTEGER = "integer_low_rank"
SPECTRUM_NAMES = (*SPECTRA, INTEGER)
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded")
TWISTS = ("none", "graded_columns", "twin_columns", "twin_rows", "zero_row_and_column")


def generator(seed: int) -> torch.Generator:
    """A CPU generator of its own: the global one is never read or advanced."""
    return torch.Generator(device="cpu").manual_seed(seed)


def normal(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Standard normal float64 entries [rows, columns] from a seed."""
    return torch.randn((rows, columns), generator=generator(seed), dtype=torch.float64, device="cpu")


def orthonormal_columns(rows: int, columns: int, seed: int) -> torch.Tensor:
    """A float64 matrix [rows, columns] with orthonormal columns, rows >= columns, from a seed."""
    q: torch.Tensor = torch.linalg.qr(normal(rows, columns, seed))[0]
    return q


def features_with_spectrum(
    n: int,
    features: int,
    spectrum: str,
    *,
    condition: float = 1e4,
    seed: int = 0,
    dtype: str = "float64",
    layout: str = "contiguous",
    scale: float = 1.0,
    twist: str = "none",
) -> torch.Tensor:
    """Features [n, F] with a named spectrum, element type, storage and scale.

    Args:
        n, features: the shape.
        spectrum: one of `SPECTRUM_NAMES`; eigenvalues of Phi^T Phi before rounding, the largest being `scale**2`.
        condition: largest over smallest non-zero eigenvalue, where the spectrum has a free ratio.
        seed: of the orthogonal factors.
        dtype: `"float64"`, `"float32"` or `"bfloat16"`; the float64 matrix is rounded to it.
        layout: one of `LAYOUTS`; `"expanded"` repeats the first row with stride 0.
        scale: the largest singular value.
        twist: one of `TWISTS`: columns graded over twelve decades, an exact copy of a column or of a row, or a row
            and a column of zeros.

    Returns:
        A CPU tensor of shape [n, F].

    Raises:
        ArgumentError: an unknown name.
    """
    checks.choice("spectrum", spectrum, SPECTRUM_NAMES)
    checks.choice("dtype", dtype, tuple(DTYPES))
    checks.choice("layout", layout, LAYOUTS)
    checks.choice("twist", twist, TWISTS)
    if spectrum == INTEGER:
        x = _integer_low_rank(n, features, seed)
    else:
        rank = min(n, features)
        values = SPECTRA[spectrum](rank, condition)
        left, right = orthonormal_columns(n, rank, 2 * seed), orthonormal_columns(features, rank, 2 * seed + 1)
        x = (left * values.sqrt()) @ right.T
    return laid_out(_twisted(x * scale, twist).to(DTYPES[dtype]), layout)


def _integer_low_rank(n: int, features: int, seed: int) -> torch.Tensor:
    rank = max(1, min(n, features) // 2)
    left, right = normal(n, rank, 2 * seed).round(), normal(rank, features, 2 * seed + 1).round()
    return torch.matmul(left, right)


def _twisted(x: torch.Tensor, twist: str) -> torch.Tensor:
    n, features = x.shape
    if twist == "graded_columns":
        x *= _geometric(features, 1e12) * 1e6
    elif twist == "twin_columns":
        x[:, -1] = x[:, 0]
    elif twist == "twin_rows":
        x[-1] = x[0]
    elif twist == "zero_row_and_column":
        x[n // 2] = 0.0
        x[:, features // 2] = 0.0
    return x


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values (for `"expanded"`: the first row of them, n times) in another storage layout.

    Gaps in the storage hold NaN, so code that reads outside its view is found out.
    """
    n, features = x.shape
    if layout == "transposed":
        return x.T.contiguous().T
    if layout == "expanded":
        return x[:1].expand(n, features)
    if layout == "strided":
        store = torch.full((2 * n, 3 * features), float("nan"), dtype=x.dtype, device=x.device)
        store[::2, ::3] = x
        return store[::2, ::3]
    if layout == "offset":
        store = torch.full((n + 1, features + 2), float("nan"), dtype=x.dtype, device=x.device)
        store[1:, 1:-1] = x
        return store[1:, 1:-1]
    return x.contiguous()
