"""`B^T (I (x) G) B v`, the kernel of a linear head under cross-entropy, from features and the roots of probabilities.

G = x x^T (+ 1 with a bias) is never formed, by associativity, and u = B v neither:

    sums_i = q_i . s_i           `softmax_rows`: one pass over v, outputs in blocks
    z = x^T u                    `features_times_changed`: u is formed from v as the rows are walked
    w = x z, and B^T w           `features_times_inner`; B^T in the same program where a tile holds all outputs, else by
                                 `softmax_rows` in place, for its sums are over all outputs

so C may be anything from 1 on.  Mode "ieee" works in float32, "float64" in float64; nothing is added atomically.

Error.  With u the unit roundoff of the mode, `gamma(r, u) = r u / (1 - r u)`, beta_i a bound of ||B_i|| and the roots
given within `root` roundings each (`ntkla.linalg.softmax_root` derives the factor 3 and the 5 roots of a path):

- either product with B is off by at most `3 gamma(local, u) beta ||input||` in 2-norm, `local = 5 root + 8 + d`, d the
  roundings of a sum over outputs.  One block of them is added in pairs: `d = ceil(log2 C)`.  Several blocks are added
  first, in float64 with the error of each addition kept (Knuth's two-sum): what that loses is below the one rounding
  of adding those errors at the end, so d is the logarithm of the block and two.  In "ieee" the float64 sum is rounded
  to float32 once: at most 2, or d inside a tile.  The roots are rounded to float32 then: `root = 2`.
- `|w - G u| <= (a + b + a b) |x| |x|^T |u|` (+ bias), `a = gamma(r, u)` and `b = gamma(r', u)` from r roundings in
  x^T u, r' in x z.  r: min(n, D) in a block of D rows, one for each further block of a span, for each further span,
  for each further part; in "ieee" the last two kinds are float64, and one rounding to float32 follows.
  r': min(F, 128), one for each further piece of 128, and the bias.  Neither is more than torch's in float64.

Underflow: at most 16 C operations in an entry of a product with B, and two in each term of the other two, lose
`tiny` times what they are multiplied with.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch
import triton

from csrc_triton.normal_matmul import sum_of_parts
from csrc_triton.rows import loaded, loaded_dtype
from csrc_triton.softmax_kernels import features_times_changed, features_times_inner, softmax_rows
from csrc_triton.tiles import INTERPRETED, NUMBER, POINTER, Tile, Variant, architecture, options

MODES = {
    "ieee": (torch.float32,),
    "float64": (torch.float64, torch.float32, torch.bfloat16, torch.float16),
}
WORKING = {"ieee": torch.float32, "float64": torch.float64}
_UNIT_ROUNDOFF = {"ieee": 2.0**-24, "float64": 2.0**-53}

# Widths of a tile in outputs.
_WIDTHS = (16,) if INTERPRETED.value else (16, 32, 64)
# The longest rows that B^T takes where w is formed.  Longer ones go through B in blocks of half of that, so that two
# roundings more of a sum in blocks are no more than the logarithm of C has.
LONGEST = 16 if INTERPRETED.value else 32
TILES = {
    "ieee": Tile(rows=64, columns=_WIDTHS[-1], depth=16, warps=8, stages=2),
    "float64": Tile(rows=64, columns=_WIDTHS[-1], depth=16, warps=8, stages=2),
}
_MOST_HELD = 2048
_ROWS_AT_ONCE, _ROW_WARPS = 16, 4
GROUP = 8

# Rows whose products are summed in the working type, and the fewest rows of a part.
SPAN = 32 if INTERPRETED.value else 1024
LEAST_SHARE = 16 if INTERPRETED.value else 256
# Features whose products are added one after another.
PIECE = 32 if INTERPRETED.value else 128
# Two for each of the 132 multiprocessors of an H100.  A constant: bits do not depend on the device that is there.
PROGRAMS = 4 if INTERPRETED.value else 264

_INSTRUCTION = {
    "ieee": {"sm_80": "FFMA", "sm_90": "FFMA", "sm_100": "FFMA|FMUL", "gfx942": "v_mfma_f32"},
    "float64": {"sm_80": "DMMA", "sm_90": "DMMA", "sm_100": "DFMA|DMMA", "gfx942": "v_mfma_f64"},
}


class Roundings(NamedTuple):
    """How many roundings a term meets at most: see the head of this file.

    Attributes:
        local: in a product with B or B^T.
        inner: in x^T u.
        outer: in x z.
    """

    local: int
    inner: int
    outer: int


def roundings(samples: int, features: int, outputs: int, mode: str, *, root: int, bias: bool = False) -> Roundings:
    """The counts for n samples, F features and C outputs, and roots that come within `root` roundings of their own."""
    depth = pinned_tile(mode, outputs).depth
    added = levels(outputs) + 2 * (outputs > LONGEST)
    inner = min(samples, depth) + triton.cdiv(min(samples, SPAN), depth) - 1
    # s / SPAN + n / s, for the s of a part, is largest for the shortest; one more covers what does not come out even.
    spans = triton.cdiv(samples, LEAST_SHARE) + 1 if samples > LEAST_SHARE else 0
    if mode == "ieee":
        # The float64 additions, fewer than 2^29 of them, are less than one rounding together.
        root, added, spans = 2, max(2, levels(outputs)), 2
    outer = min(features, PIECE) + max(0, triton.cdiv(features, PIECE) - 1) + int(bias)
    return Roundings(5 * root + 8 + added, inner + spans, outer)


def gamma_of(count: int, mode: str) -> float:
    """Upper bound of gamma(count, u); infinite where there is none."""
    share = count * _UNIT_ROUNDOFF[mode]
    return share / (1.0 - share) * (1.0 + 2.0**-48) if share < 1.0 else math.inf


def levels(outputs: int) -> int:
    """The logarithm of the block of outputs that is added in pairs."""
    return ((outputs if outputs <= LONGEST else LONGEST // 2) - 1).bit_length()


def pinned_tile(mode: str, outputs: int) -> Tile:
    """The tile of a mode for rows of so many outputs, in the interpreter's size where kernels are interpreted."""
    tile = TILES[mode]
    columns = max(16, min(_WIDTHS[-1], triton.next_power_of_2(outputs)))
    if INTERPRETED.value:
        return Tile(16, columns, 16, tile.warps, 1)
    # More spills: the sums over the outputs of a tile, and B of what is on its way, take registers beside the tile.
    return Tile(min(tile.rows, _MOST_HELD // columns), columns, tile.depth, tile.warps, tile.stages)


def _fitted(mode: str, outputs: int, architecture: str) -> Tile:
    """The tile as a device takes it; loads that are under way take registers, which sm_100 has not left."""
    tile = pinned_tile(mode, outputs).fitted(WORKING[mode].itemsize, architecture)
    return replace(tile, rows=min(tile.rows, 32), stages=1) if architecture == "sm_100" else tile


def row_share(samples: int, features: int, outputs: int, columns: int, mode: str) -> int:
    """Rows of a part of x^T u: as few parts as fill `PROGRAMS`, none shorter than `LEAST_SHARE` but a last one."""
    tile = pinned_tile(mode, outputs)
    tiles = triton.cdiv(features, tile.rows) * triton.cdiv(outputs, tile.columns) * columns
    share = triton.cdiv(samples, max(1, PROGRAMS // max(1, tiles)))
    return min(max(LEAST_SHARE, triton.cdiv(share, tile.depth) * tile.depth), 1 << 30)


def softmax_gram(
    x: torch.Tensor, roots: torch.Tensor, top: torch.Tensor, v: torch.Tensor, *, bias: bool = False, mode: str
) -> torch.Tensor:
    """The product `B^T (I (x) (x x^T + bias)) B v`.

    Args:
        x: [n, F], of a dtype of `MODES[mode]`, any strides; on a CUDA device, or on the CPU in the interpreter.
        roots: [n, C], q: roots of probabilities, of norm 1 in each row; any dtype, rounded to the mode's.
        top: int [n]: where a row has a root whose square is above 1/2, else -1.
        v: [n, C, m], any strides; converted to the mode's type.
        bias: whether a constant feature 1 is appended.
        mode: "ieee" or "float64".

    Returns:
        [n, C, m], dense, of the mode's type; error: at the head of this file.  NaN and infinities propagate.

    Raises:
        TypeError: a mode that does not take this dtype.
        ValueError: an unknown mode, other shapes, two devices, or a device on which Triton does not run here.

    Cost: `4 n F C m` operations and a workspace of `(2 parts + 1) F C m` and `n C m` numbers; rows of x that are not
    dense are copied.  Deterministic: see the package.
    """
    _check(x, roots, top, v, mode)
    working = WORKING[mode]
    (n, outputs, columns), features = v.shape, x.shape[1]
    out = torch.empty((columns, n, outputs), dtype=working, device=x.device)
    if out.numel() == 0 or (features == 0 and not bias):
        return out.zero_().permute(1, 2, 0).contiguous()
    x = loaded(x, mode)
    x = x if x.stride(1) == 1 else x.contiguous()
    v, roots = v.detach().resolve_neg().to(working), roots.to(working).contiguous()
    top = top.to(torch.int32).contiguous()
    name = architecture(x.device)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        inner = _inner(x, roots, top, v, bias, mode, name)
        tile = _fitted(mode, outputs, name)
        tiles = triton.cdiv(n, tile.rows) * triton.cdiv(outputs, tile.columns)
        features_times_inner[(tiles, columns)](
            x,
            inner,
            roots,
            top,
            out,
            n,
            features,
            outputs,
            x.stride(0),
            **_outer_constants(mode, outputs, bias, tile),
            **options(tile.warps, tile.stages, name, all_registers=True),
        )
        if outputs > LONGEST:
            _rows(out.permute(1, 2, 0), roots, top, out, out, transposed=True)
    return out.permute(1, 2, 0).contiguous()


def _inner(
    x: torch.Tensor, roots: torch.Tensor, top: torch.Tensor, v: torch.Tensor, bias: bool, mode: str, name: str
) -> torch.Tensor:
    """x^T B v, [m, F (+ 1), C] in the working type."""
    (n, outputs, columns), features = v.shape, x.shape[1]
    marked = top.clamp(min=0).long()[:, None]
    largest = v.gather(1, marked[:, :, None].expand(-1, 1, columns))[:, 0]
    shift = torch.where(top[:, None] >= 0, largest / roots.gather(1, marked), 0.0).contiguous()
    sums = torch.empty((columns, n), dtype=v.dtype, device=v.device)
    _rows(v, roots, top, shift, sums, transposed=False)
    tile = _fitted(mode, outputs, name)
    share = row_share(n, features, outputs, columns, mode)
    parts = triton.cdiv(n, share)
    partial = torch.empty((parts, columns, features + int(bias), outputs), dtype=torch.float64, device=x.device)
    tiles = max(1, triton.cdiv(features, tile.rows)) * triton.cdiv(outputs, tile.columns)
    features_times_changed[(tiles, columns, parts)](
        x,
        v,
        roots,
        top,
        shift,
        sums,
        partial,
        n,
        share,
        features,
        outputs,
        columns,
        x.stride(0),
        *v.stride(),
        **_inner_constants(mode, bias, tile),
        **options(tile.warps, tile.stages, name, all_registers=True),
    )
    inner = torch.empty(partial.shape[1:], dtype=v.dtype, device=x.device)
    sum_of_parts(partial, inner)
    return inner


def _rows(
    v: torch.Tensor, roots: torch.Tensor, top: torch.Tensor, shift: torch.Tensor, sums: torch.Tensor, transposed: bool
) -> None:
    n, outputs, columns = v.shape
    softmax_rows[(triton.cdiv(n, _ROWS_AT_ONCE), columns)](
        v,
        roots,
        top,
        shift,
        sums,
        n,
        outputs,
        columns,
        *v.stride(),
        **_row_constants(levels(outputs), transposed),
        num_warps=_ROW_WARPS,
    )


def _check(x: torch.Tensor, roots: torch.Tensor, top: torch.Tensor, v: torch.Tensor, mode: str) -> None:
    shapes = [tuple(t.shape) for t in (x, roots, top, v)]
    if mode not in MODES:
        raise ValueError(f"softmax_gram: expected a mode of {sorted(MODES)}, got {mode!r}.")
    if x.dtype not in MODES[mode]:
        raise TypeError(f"softmax_gram: mode {mode!r} takes {MODES[mode]}, got {x.dtype}.")
    fit = x.ndim == 2 and v.ndim == 3 and shapes[1] == shapes[3][:2] and shapes[2] == shapes[0][:1] == shapes[3][:1]
    if not fit:
        raise ValueError(f"softmax_gram: expected [n, F], [n, C], [n] and [n, C, m], got {shapes}.")
    runs_on = "cpu" if INTERPRETED else "cuda"
    if any(t.device != x.device or t.device.type != runs_on for t in (x, roots, top, v)):
        raise ValueError(f"softmax_gram: expected one {runs_on} device, got {[str(t.device) for t in (x, v)]}.")


def _row_constants(depth: int, transposed: bool) -> dict[str, object]:
    return {"TRANSPOSED": transposed, "ROWS": _ROWS_AT_ONCE, "OUTPUTS": 1 << depth, "LEVELS": depth}


def _inner_constants(mode: str, bias: bool, tile: Tile) -> dict[str, object]:
    return {
        "WIDE": NUMBER[WORKING[mode]],
        "BIAS": bias,
        "FEATURES": tile.rows,
        "OUTPUTS": tile.columns,
        "DEPTH": tile.depth,
        "SPAN": SPAN,
        "GROUP": GROUP,
    }


def _outer_constants(mode: str, outputs: int, bias: bool, tile: Tile) -> dict[str, object]:
    return {
        "WIDE": NUMBER[WORKING[mode]],
        "BIAS": bias,
        "WHOLE": outputs <= LONGEST,
        "ROWS": tile.rows,
        "OUTPUTS": tile.columns,
        "DEPTH": tile.depth,
        "PIECE": PIECE,
        "LEVELS": (tile.columns - 1).bit_length(),
        "GROUP": GROUP,
    }


def variants(architecture: str = "sm_90") -> tuple[Variant, ...]:
    """Every pinned tile of every mode and loaded dtype, on aligned sizes and on others; and the passes over rows."""
    found = []
    for mode, dtypes in MODES.items():
        for dtype in (d for d in dtypes if d == loaded_dtype(d, mode)):
            for ragged in (False, True):
                kind = (mode, dtype, ragged, architecture)
                found.extend(_inner_variant(outputs, *kind) for outputs in _WIDTHS)
                found.extend(_outer_variant(outputs, *kind) for outputs in _WIDTHS)
        found.extend(_row_variant(mode, outputs, False) for outputs in sorted({1, 2, 4, 8, 16, LONGEST, LONGEST + 1}))
        found.append(_row_variant(mode, LONGEST + 1, True))
    return tuple(found)


def _inner_variant(outputs: int, mode: str, dtype: torch.dtype, ragged: bool, architecture: str) -> Variant:
    working = POINTER[WORKING[mode]]
    pointers = {"x": POINTER[dtype], **dict.fromkeys(("v", "roots"), working), "top": "*i32"}
    pointers |= {"shift": working, "sums": working, "partial": "*fp64"}
    integers = dict.fromkeys(("samples", "share", "features", "outputs", "columns", "x_row", "v_row"), "i32")
    tile = _fitted(mode, outputs, architecture)
    return _variant(
        f"softmax_gram inner {mode} {_name(dtype)} {outputs} outputs",
        features_times_changed,
        {**pointers, **integers},
        {"v_output": 1, "v_column": 1, **_inner_constants(mode, True, tile)},
        tile,
        mode,
        [*pointers, "share"] if ragged else [*pointers, "share", "features", "outputs", "x_row", "v_row"],
        ragged,
    )


def _outer_variant(outputs: int, mode: str, dtype: torch.dtype, ragged: bool, architecture: str) -> Variant:
    working = POINTER[WORKING[mode]]
    pointers = {"x": POINTER[dtype], "inner": working, "roots": working, "top": "*i32", "out": working}
    integers = dict.fromkeys(("samples", "features", "outputs", "x_row"), "i32")
    tile = _fitted(mode, outputs, architecture)
    return _variant(
        f"softmax_gram outer {mode} {_name(dtype)} {outputs} outputs",
        features_times_inner,
        {**pointers, **integers},
        _outer_constants(mode, outputs, True, tile),
        tile,
        mode,
        [*pointers] if ragged else [*pointers, "features", "outputs", "x_row"],
        ragged,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _variant(
    name: str, kernel: triton.runtime.JITFunction, signature: dict[str, str], constexprs: dict[str, object], tile: Tile,
    mode: str, divisible: list[str], ragged: bool,
) -> Variant:  # fmt: skip
    return Variant(
        name=name + " ragged" * ragged,
        kernel=kernel,
        signature=signature,
        constexprs=constexprs,
        warps=tile.warps,
        stages=tile.stages,
        divisible=tuple(divisible),
        instruction=_INSTRUCTION[mode],
        mode=mode,
        all_registers=True,
    )


def _row_variant(mode: str, outputs: int, transposed: bool) -> Variant:
    working = POINTER[WORKING[mode]]
    pointers = {"v": working, "roots": working, "top": "*i32", "shift": working, "sums": working}
    integers = dict.fromkeys(("samples", "outputs", "columns", "v_row", "v_column"), "i32")
    return Variant(
        name=f"softmax_gram {'B^T' if transposed else 'B'} {mode} {outputs} outputs",
        kernel=softmax_rows,
        signature={**pointers, **integers},
        constexprs={"v_output": 1, **_row_constants(levels(outputs), transposed)},
        warps=_ROW_WARPS,
        stages=3,
        divisible=tuple(pointers),
        mode=mode,
    )
