"""`B^T (I (x) G) B v`, the kernel of a linear head under cross-entropy, from features and the roots of probabilities.

G = x x^T (+ 1 with a bias) is never formed, by associativity, and u = B v neither:

    sums_i = q_i . s_i           `softmax_rows`: one pass over v, outputs in blocks
    z = x^T u                    `features_times_changed`: u is formed from v as the rows are walked
    w = x z, and B^T w           `features_times_inner`; B^T in the same program where a tile holds all outputs, else by
                                 `softmax_rows` in place, for its sums are over all outputs

so C may be anything from 1 on.  Mode "ieee" works in float32, "float64" in float64; nothing is added atomically.

Error: `softmax_tiles.py`.  Underflow: at most 16 C operations in an entry of a product with B, and two in each term
of the other two, lose `tiny` times what they are multiplied with.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton

from csrc_triton.normal_matmul import sum_of_parts
from csrc_triton.rows import loaded, loaded_dtype
from csrc_triton.softmax_kernels import features_times_changed, features_times_inner, softmax_rows
from csrc_triton.softmax_tiles import (
    GROUP,
    LONGEST,
    MODES,
    PIECE,
    ROW_WARPS,
    ROWS_AT_ONCE,
    SPAN,
    WIDTHS,
    WORKING,
    fitted,
    levels,
    row_share,
)
from csrc_triton.tiles import INTERPRETED, NUMBER, POINTER, Tile, Variant, architecture, options

_INSTRUCTION = {
    "ieee": {"sm_80": "FFMA", "sm_90": "FFMA", "sm_100": "FFMA|FMUL", "gfx942": "v_mfma_f32"},
    "float64": {"sm_80": "DMMA", "sm_90": "DMMA", "sm_100": "DFMA|DMMA", "gfx942": "v_mfma_f64"},
}


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
        [n, C, m], dense, of the mode's type; error: `softmax_tiles.py`.  NaN and infinities propagate.

    Raises:
        TypeError: a mode that does not take this dtype.
        ValueError: an unknown mode, other shapes, two devices, or a device on which Triton does not run here.

    Cost: `4 n F C m` operations and a workspace of `(2 parts + 1) F C m` and `n C m` numbers; rows of x that are not
    dense are copied, and v where the outputs of a sample are not next to each other.  Deterministic: see the package.
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
    if v.stride(1) != 1:
        v = v.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    top = top.to(torch.int32).contiguous()
    name = architecture(x.device)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        inner = _inner(x, roots, top, v, bias, mode, name)
        tile = fitted(mode, outputs, name)
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
    tile = fitted(mode, outputs, name)
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
    softmax_rows[(triton.cdiv(n, ROWS_AT_ONCE), columns)](
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
        **options(ROW_WARPS, 1, architecture(v.device), all_registers=True),
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
    return {"TRANSPOSED": transposed, "ROWS": ROWS_AT_ONCE, "OUTPUTS": 1 << depth, "LEVELS": depth}


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
    found: list[Variant] = []
    for mode, dtypes in MODES.items():
        for dtype in (d for d in dtypes if d == loaded_dtype(d, mode)):
            for ragged in (False, True):
                kind = (mode, dtype, ragged, architecture)
                found.extend(_inner_variant(outputs, *kind) for outputs in WIDTHS)
                found.extend(_outer_variant(outputs, *kind) for outputs in WIDTHS)
        found.extend(_row_variant(mode, outputs, False) for outputs in sorted({1, 2, 4, 8, 16, LONGEST, LONGEST + 1}))
        found.append(_row_variant(mode, LONGEST + 1, True))
    return tuple(found)


def _inner_variant(outputs: int, mode: str, dtype: torch.dtype, ragged: bool, architecture: str) -> Variant:
    working = POINTER[WORKING[mode]]
    pointers = {"x": POINTER[dtype], **dict.fromkeys(("v", "roots"), working), "top": "*i32"}
    pointers |= {"shift": working, "sums": working, "partial": "*fp64"}
    integers = dict.fromkeys(
        ("samples", "share", "features", "outputs", "columns", "x_row", "v_row", "v_column"), "i32"
    )
    tile = fitted(mode, outputs, architecture)
    return _variant(
        f"softmax_gram inner {mode} {_name(dtype)} {outputs} outputs",
        features_times_changed,
        {**pointers, **integers},
        {"v_output": 1, **_inner_constants(mode, True, tile)},
        tile,
        mode,
        [*pointers, "share"] if ragged else [*pointers, "share", "features", "outputs", "x_row", "v_row"],
        ragged,
    )


def _outer_variant(outputs: int, mode: str, dtype: torch.dtype, ragged: bool, architecture: str) -> Variant:
    working = POINTER[WORKING[mode]]
    pointers = {"x": POINTER[dtype], "inner": working, "roots": working, "top": "*i32", "out": working}
    integers = dict.fromkeys(("samples", "features", "outputs", "x_row"), "i32")
    tile = fitted(mode, outputs, architecture)
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
        warps=ROW_WARPS,
        stages=1,
        divisible=tuple(pointers),
        mode=mode,
        all_registers=True,
    )
