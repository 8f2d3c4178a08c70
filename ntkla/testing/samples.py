"""What comes with the features of a sample, by kind: right-hand sides, and weights that every bound should survive."""

from __future__ import annotations

import torch

from ntkla.testing.spectra import DTYPES, normal

RESIDUALS = ("random", "in_span", "orthogonal", "one_output", "zero")
WEIGHTINGS = ("none", "ones", "uniform", "counts", "powers", "zeros", "wide", "one_huge", "one_tiny", "one_only")


def targets(
    design: torch.Tensor,
    outputs: int,
    kind: str = "random",
    *,
    seed: int = 0,
    scale: float = 1.0,
    dtype: str = "float64",
) -> torch.Tensor:
    """Right-hand sides [n, C] for features [n, F].

    Args:
        design: the features.
        outputs: C.
        kind: `"random"`; `"in_span"` of the features; `"orthogonal"` to them (so that Phi^T t cancels); `"one_output"`
            (only the first column is not zero); `"zero"`.
        seed: of the entries.
        scale: multiplies them.
        dtype: `"float64"`, `"float32"` or `"bfloat16"`.
    """
    n, features = design.shape
    t = normal(n, outputs, seed)
    wide = design.to(torch.float64)
    if kind == "in_span":
        largest = float(wide.abs().amax())
        t = (wide / largest if largest > 0 else wide) @ normal(features, outputs, seed + 1)
    elif kind == "orthogonal":
        basis = torch.linalg.qr(wide / max(float(wide.abs().amax()), 2.0**-900))[0]
        t = t - basis @ (basis.T @ t)
    elif kind == "one_output":
        t[:, 1:] = 0.0
    elif kind == "zero":
        t.zero_()
    return (t * scale).to(DTYPES[dtype])


def sample_weights(kind: str, n: int, *, seed: int = 0, dtype: str = "float64") -> torch.Tensor | None:
    """Weights [n] of samples, at least one of them above 0; None for the kind `"none"`.

    Kinds: `"ones"`; `"uniform"` in (0, 1); `"counts"` 1 to 4; `"powers"` of two; `"zeros"`, about half of them;
    `"wide"`, 1e-12 to 1e12; `"one_huge"`, 1e12 among 1e-12; `"one_tiny"`, 1e-12 among ones; `"one_only"` that is not 0.
    """
    if kind == "none":
        return None
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.rand((n,), generator=generator, dtype=torch.float64, device="cpu").clamp(min=2.0**-40)
    chosen = torch.arange(n, device="cpu") == seed % n
    ones = torch.ones_like(drawn)
    values = {
        "ones": ones,
        "uniform": drawn,
        "counts": 1.0 + torch.floor(4.0 * drawn).clamp(max=3.0),
        "powers": 2.0 ** torch.floor(80.0 * drawn - 40.0),
        "zeros": torch.where(chosen | (drawn < 0.5), drawn, 0.0),
        "wide": 10.0 ** (24.0 * drawn - 12.0),
        "one_huge": torch.where(chosen, 1e12, 1e-12 * ones),
        "one_tiny": torch.where(chosen, 1e-12, ones),
        "one_only": torch.where(chosen, ones, 0.0),
    }[kind]
    return values.to(DTYPES[dtype])
