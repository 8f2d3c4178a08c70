"""What a change of the head does to many samples, without an array of samples by outputs: norms, and what flips.

The product and its bound are those of `drift.py`, tile by tile, in the same order.  Of each tile remain the sums of the
squares of both, along the rows and along the columns, added in float64 in a fixed order.  With the outputs before, each
with its bound, a class is possible where `value + reach >= max (value - reach)`, before and after: the tiles are
computed twice, once for the maximum and once to compare with it.

A sum of N squares is off by at most `gamma_{N+2}` of itself and `2 N tiny`, in any order.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import triton

from csrc_triton.drift import DTYPES, INSTRUCTION, PIECE, check, limits_of, pinned_tile
from csrc_triton.drift_kernels import summary_kernel
from csrc_triton.normal_matmul import sum_of_parts
from csrc_triton.rows import loaded, loaded_dtype
from csrc_triton.tiles import POINTER, Tile, Variant, architecture, options

# Wider tiles spill: what is known of each row takes registers beside them.
_WIDEST = 32


class Summed(NamedTuple):
    """Sums over the outputs [n], and over the samples [C], float64, of the squares of the values and of their bounds.

    `flags`, int32 [n], or None where no outputs were given: bit 0, a class is possible before and after; bit 1, one is
    possible at one time only; from bit 2 and bit 4 on, how many are possible before and after, 2 for more; bits 6 and
    7, the label is possible before and after.
    """

    row_squares: torch.Tensor
    row_errors: torch.Tensor
    column_squares: torch.Tensor
    column_errors: torch.Tensor
    flags: torch.Tensor | None


def drift_summary(
    x: torch.Tensor,
    high: torch.Tensor,
    update: torch.Tensor,
    rounding: torch.Tensor,
    constant: torch.Tensor,
    *,
    bias: bool = False,
    before: torch.Tensor | None = None,
    before_bound: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
) -> Summed:
    """The sums, and with the outputs before what is possible then and after.

    Args:
        x, high, update, rounding, constant, bias: as for `drift`, whose distances are from 0 here.
        before, before_bound: float64 [n, C], C at least 1, the outputs before and what they may be off by; or None.
        labels: int [n], the column of each sample's label, or None.

    Raises:
        TypeError, ValueError: as `drift`.

    Cost: 2 n F C operations, 4 n F C with `before`, and `n C / 16` numbers.  Deterministic: see the package.
    """
    _check(x, high, (update, rounding, constant), bias, (before, before_bound))
    (n, features), outputs = x.shape, high.shape[1]
    kind: dict[str, Any] = {"dtype": torch.float64, "device": x.device}
    x = loaded(x, "float64")
    x = x if x.stride(1) == 1 else x.contiguous()
    name = architecture(x.device)
    tile = _tile(outputs, name)
    partial = [torch.empty((triton.cdiv(n, tile.rows), outputs), **kind) for _ in range(2)]
    rows = [torch.empty(n, **kind) for _ in range(2)]
    columns = [torch.zeros(outputs, **kind) for _ in range(2)]
    flags = None if before is None else torch.empty(n, dtype=torch.int32, device=x.device)
    if n == 0 or outputs == 0:
        return Summed(rows[0].zero_(), rows[1].zero_(), columns[0], columns[1], flags)
    known = [partial[0] if t is None else t.contiguous() for t in (before, before_bound)]
    told = torch.full((n,), -1, dtype=torch.int32, device=x.device) if labels is None else labels.to(torch.int32)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        summary_kernel[(partial[0].shape[0],)](
            x,
            high.detach().resolve_neg().to(torch.float64).contiguous(),
            limits_of(features, torch.zeros((), **kind)),
            *(t.contiguous() for t in (update, rounding, constant)),
            *known,
            told.contiguous(),
            *rows,
            told if flags is None else flags,
            *partial,
            n,
            features,
            outputs,
            x.stride(0),
            **_constants(bias, before is not None, tile),
            **options(tile.warps, tile.stages, name, all_registers=True),
        )
        for part, column in zip(partial, columns, strict=True):
            sum_of_parts(part, column)
    return Summed(rows[0], rows[1], columns[0], columns[1], flags)


def _check(
    x: torch.Tensor,
    high: torch.Tensor,
    columns: tuple[torch.Tensor, ...],
    bias: bool,
    known: tuple[torch.Tensor | None, ...],
) -> None:
    check("drift_summary", x, high, None, columns, bias, None)
    shape = (x.shape[0], high.shape[1])
    if any(t is not None and t.shape != shape for t in known):
        raise ValueError(f"drift_summary: expected outputs and bounds of shape {shape}.")


def _tile(outputs: int, architecture: str) -> Tile:
    """As that of `drift`, no wider than `_WIDEST`; loads under way take registers, which sm_100 has not left."""
    tile = pinned_tile(min(outputs, _WIDEST), crowded=True)
    return replace(tile, stages=1) if architecture == "sm_100" else tile


def _constants(bias: bool, known: bool, tile: Tile) -> dict[str, object]:
    return {
        "BIAS": bias,
        "KNOWN": known,
        "ROWS": tile.rows,
        "OUTPUTS": tile.columns,
        "DEPTH": tile.depth,
        "PIECE": PIECE,
    }


def variants(architecture: str = "sm_90") -> tuple[Variant, ...]:
    """Every pinned tile, with outputs that are known and without, on aligned sizes and on others."""
    return tuple(
        _variant(dtype, outputs, known, ragged, architecture)
        for dtype in DTYPES
        if dtype == loaded_dtype(dtype, "float64")
        for outputs in (16, _WIDEST)
        for known in (False, True)
        for ragged in (False, True)
    )


def _variant(dtype: torch.dtype, outputs: int, known: bool, ragged: bool, architecture: str) -> Variant:
    wide = ("high", "limits", "update", "rounding", "constant", "before", "before_bound")
    results = ("row_squares", "row_errors", "column_squares", "column_errors")
    pointers = {"x": POINTER[dtype], **dict.fromkeys((*wide, *results), "*fp64"), "labels": "*i32", "flags": "*i32"}
    integers = dict.fromkeys(("samples", "features", "outputs", "x_row"), "i32")
    tile = _tile(outputs, architecture)
    words = [str(dtype).removeprefix("torch."), f"{outputs} outputs", "known" * known, "ragged" * ragged]
    return Variant(
        name=" ".join(filter(None, ("drift_summary", *words))),
        kernel=summary_kernel,
        signature={**pointers, **integers},
        constexprs=_constants(True, known, tile),
        warps=tile.warps,
        stages=tile.stages,
        divisible=tuple(pointers) if ragged else (*pointers, "features", "outputs", "x_row"),
        instruction=INSTRUCTION,
        mode="float64",
        all_registers=True,
    )
