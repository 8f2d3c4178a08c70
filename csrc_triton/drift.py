"""`x (high + low)` with a bound of the error of every entry, from one pass over the features x.

A change of a head's weights, [F, C] as an unevaluated sum of two, moves the outputs by `x (high + low) + bias`.  The
change itself is off by at most e_c in column c (2-norm), so with a gamma that covers the product's rounding

    |error_ic| <= d_i e_c + g_i r_c + t_c,      g_i >= ||x_i||,    r_c >= gamma ||w_c||,

d_i a bound of `||x_i - centre||`, of `||[x_i, 1]||` with a bias, or of ||x_i||; t_c is all that no row enters.  e, r
and t are the caller's, [C]; g and d are of the kernel: squares are summed while the rows pass on their way.

The kernel: `drift_kernels.py`.  Order of the arithmetic, all of it float64.  The products of a piece of 128 features
are added one after another from zero, then the pieces, those with `low` apart from those with `high`; then both, and
the bias last: a product meets `min(F, 128) + ceil(F / 128) + 1` roundings at most, as in torch (`pieced_matmul`).

Rounding of the norms.  A sum S of F squares that are rounded, in any order, is at least `(1 - gamma_F)` of the exact
one less `2 F tiny` for what underflows, so `||x_i||^2 <= S (1 + gamma_{2F+8}) + 2 F tiny`; a root and few products
follow, which `1 + 66 u` covers (`SHORT_CHAIN`).  A difference to the centre is rounded once more, by at most u of
itself, `u (||x_i|| + ||centre||)`, and the centre is off itself: what of that is not of x comes in `beside`.  Norms
below 2^-400 are bounds still, but loose, for squares vanish: the caller looks.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton

from csrc_triton.drift_kernels import drift_kernel
from csrc_triton.rows import loaded, loaded_dtype
from csrc_triton.tiles import INTERPRETED, POINTER, Tile, Variant, architecture, options

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_WIDTHS = (16, 32, 64)
_MOST_HELD = 2048
_ROWS, _DEPTH, _WARPS, _STAGES = 64, 16, 8, 2
# Features whose products are added one after another.
PIECE = 32 if INTERPRETED.value else 128
GROUP = 8

INSTRUCTION = {"sm_80": "DMMA", "sm_90": "DMMA", "sm_100": "DFMA|DMMA", "gfx942": "v_mfma_f64"}


class Moved(NamedTuple):
    """What a change of the weights does.

    Attributes:
        value, bound: float64 [n, C], the change of the outputs, and what it may be off by.
        norms, distances: float64 [n], g and d.
    """

    value: torch.Tensor
    bound: torch.Tensor
    norms: torch.Tensor
    distances: torch.Tensor


def drift(
    x: torch.Tensor,
    high: torch.Tensor,
    low: torch.Tensor | None,
    update: torch.Tensor,
    rounding: torch.Tensor,
    constant: torch.Tensor,
    *,
    bias: bool = False,
    centre: torch.Tensor | None = None,
    beside: torch.Tensor | None = None,
) -> Moved:
    """The product and its bound, in float64 whatever the types.

    Args:
        x: [n, F], float64, float32, bfloat16 or float16, any strides; on a CUDA device, or on the CPU in the
            interpreter.
        high, low: [F, C], or [F + 1, C] with `bias`, the last row that of a constant feature; widened to float64.
        update, rounding, constant: float64 [C], e, r and t at the head of this file.
        bias: whether a constant feature 1 is appended; d is then the norm of the longer rows, unless there is a centre.
        centre: [F], from which d is measured; None measures from 0.
        beside: float64, a scalar, what the distances are off by beside u times the norm; needed with a centre.

    Raises:
        TypeError: x in another type.
        ValueError: other shapes, two devices, or a device on which Triton does not run here.

    Cost: 2 n F C operations (4 with `low`), one read of x for each 64 outputs that are computed side by side.  Rows
    that are not dense, and 16-bit ones, are copied.  Deterministic: see the package.
    """
    check("drift", x, high, low, (update, rounding, constant), bias, centre)
    (n, features), outputs = x.shape, high.shape[1]
    kind: dict[str, Any] = {"dtype": torch.float64, "device": x.device}
    value, bound = (torch.empty((n, outputs), **kind) for _ in range(2))
    found = Moved(value, bound, *(torch.empty(n, **kind) for _ in range(2)))
    if n == 0:
        return found
    x = loaded(x, "float64")
    x = x if x.stride(1) == 1 else x.contiguous()
    name = architecture(x.device)
    tile = pinned_tile(outputs, low is not None)
    centred = centre is not None
    limits = limits_of(features, torch.zeros((), **kind) if beside is None else beside)
    wide = [high if t is None else t for t in (high, low, centre)]
    wide = [t.detach().resolve_neg().to(torch.float64).contiguous() for t in wide]
    programs = triton.cdiv(n, tile.rows) * max(1, triton.cdiv(outputs, tile.columns))
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        drift_kernel[(programs,)](
            x,
            *wide,
            limits,
            *(t.contiguous() for t in (update, rounding, constant)),
            *found,
            n,
            features,
            outputs,
            x.stride(0),
            **_constants(low is not None, bias, centred, tile),
            **options(tile.warps, tile.stages, name, all_registers=True),
        )
    return found


def pinned_tile(outputs: int, crowded: bool = False) -> Tile:
    """The tile for so many outputs, in the interpreter's size where kernels are interpreted.

    It has fewer rows where more than one product is `crowded` into the registers of a program.
    """
    if INTERPRETED.value:
        return Tile(16, 16, _DEPTH, _WARPS, 1)
    columns = max(16, min(_WIDTHS[-1], triton.next_power_of_2(outputs)))
    return Tile(min(_ROWS // (2 if crowded else 1), _MOST_HELD // columns), columns, _DEPTH, _WARPS, _STAGES)


def limits_of(features: int, beside: torch.Tensor) -> torch.Tensor:
    """What `row_bounds` takes: `1 + gamma_{2F+8}`, `2 F tiny`, and what stands beside; float64 [3]."""
    share = (2 * features + 8) * 2.0**-53
    numbers = [1.0 + share / (1.0 - share) * (1.0 + 2.0**-40), 2.0 * features * 2.0**-1022]
    fixed = torch.tensor(numbers, dtype=torch.float64, device=beside.device)
    return torch.cat([fixed, beside.detach().to(torch.float64).reshape(1)])


def _constants(low: bool, bias: bool, centred: bool, tile: Tile) -> dict[str, object]:
    return {
        "LOW": low,
        "BIAS": bias,
        "CENTRED": centred,
        "ROWS": tile.rows,
        "OUTPUTS": tile.columns,
        "DEPTH": tile.depth,
        "PIECE": PIECE,
        "GROUP": GROUP,
    }


def check(
    name: str,
    x: torch.Tensor,
    high: torch.Tensor,
    low: torch.Tensor | None,
    columns: tuple[torch.Tensor, ...],
    bias: bool,
    centre: torch.Tensor | None,
) -> None:
    """Raises TypeError or ValueError for arguments that the launcher `name` does not take."""
    if x.dtype not in DTYPES:
        raise TypeError(f"{name}: expected one of {DTYPES}, got {x.dtype}.")
    rest = [t for t in (high, low, *columns, centre) if t is not None]
    shapes = [tuple(t.shape) for t in (x, *rest)]
    fit = x.ndim == 2 and high.ndim == 2 and high.shape[0] == x.shape[1] + int(bias)
    fit = fit and (low is None or low.shape == high.shape) and (centre is None or centre.shape == x.shape[1:])
    if not fit or any(t.shape != high.shape[1:] for t in columns):
        raise ValueError(f"{name}: expected [n, F], [F + {int(bias)}, C], [C] and perhaps [F], got {shapes}.")
    runs_on = "cpu" if INTERPRETED else "cuda"
    if any(t.device != x.device or t.device.type != runs_on for t in (x, *rest)):
        raise ValueError(f"{name}: expected one {runs_on} device, got {[str(t.device) for t in (x, *rest)]}.")


def variants(architecture: str = "sm_90") -> tuple[Variant, ...]:
    """Every pinned tile, with a bias: with what is centred and without, with the low part and without; ragged too."""
    return tuple(
        _variant(dtype, outputs, low, centred, ragged)
        for dtype in DTYPES
        if dtype == loaded_dtype(dtype, "float64")
        for outputs in _WIDTHS
        for low, centred in ((False, False), (False, True), (True, False), (True, True))
        for ragged in (False, True)
    )


def _variant(dtype: torch.dtype, outputs: int, low: bool, centred: bool, ragged: bool) -> Variant:
    names = ("high", "low", "centre", "limits", "update", "rounding", "constant")
    pointers = {"x": POINTER[dtype], **dict.fromkeys((*names, "value", "bound", "norms", "distances"), "*fp64")}
    integers = dict.fromkeys(("samples", "features", "outputs", "x_row"), "i32")
    tile = pinned_tile(outputs, low)
    words = [str(dtype).removeprefix("torch."), f"{outputs} outputs", "low" * low, "centred" * centred]
    return Variant(
        name=" ".join(filter(None, ("drift", *words, "ragged" * ragged))),
        kernel=drift_kernel,
        signature={**pointers, **integers},
        constexprs=_constants(low, True, centred, tile),
        warps=tile.warps,
        stages=tile.stages,
        divisible=tuple(pointers) if ragged else (*pointers, "features", "outputs", "x_row"),
        instruction=INSTRUCTION,
        mode="float64",
        all_registers=True,
    )
