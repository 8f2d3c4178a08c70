"""The tangent kernel of a layer by Gram products: `sum_{t,s} <a_it, a_js> <d_ict, d_jes>`, no gradient formed.

    mode      inputs              arithmetic
    ieee      float32             float32 multiply-adds, result float32
    bf16      bfloat16, float16   products exact, summed in float32 on the tensor cores, result float32
    float64   all four            widened exactly, float64 multiply-adds, result float64

A program holds one tile of the result: some samples times some of their outputs, on both sides.  For each pair of
positions it forms the deltas' Gram matrix of the tile and the activations' of its samples, which all their outputs
share, multiplies the two, and adds the product to the tile.  Several parameters take one launch each, which adds
to what the one before left.  Without a right side each tile on or below the diagonal is computed once.

Order of the arithmetic.  Both inner products run in blocks of the tile's depth D as in `gram`: in `ieee` and `bf16` a
block is summed from zero and added outside the matrix unit.  Then pairs (t, s) are added one after another, s fastest.

Error, entry by entry: `|error| <= gamma K~`, K~ the kernel of |a| and |d|, plus what underflows, with
`gamma = r u / (1 - r u)` and r the roundings that a product of four factors meets (Higham, Accuracy and Stability of
Numerical Algorithms, section 3.1): those of two inner products (`gram` counts them, less the one for a bias), 1 where
they meet, T T' additions, and 1 for each parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import triton

from csrc_triton.gram import MODES
from csrc_triton.layer_kernel import layer_ntk_kernel
from csrc_triton.layer_tiles import chosen_tile, constants, result_dtype, takes_all_registers
from csrc_triton.rows import loaded, loaded_dtype
from csrc_triton.tiles import (
    INTERPRETED,
    POINTER,
    Variant,
    architecture,
    options,
)

_INSTRUCTION = {
    "ieee": {"sm_80": "FFMA", "sm_90": "FFMA", "sm_100": "FFMA", "gfx942": "v_mfma_f32"},
    "bf16": {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "gfx942": "v_mfma_f32"},
    "float64": {"sm_80": "DMMA", "sm_90": "DMMA", "sm_100": "DFMA|DMMA", "gfx942": "v_mfma_f64"},
}


def layer_ntk(
    a: Sequence[torch.Tensor],
    d: Sequence[torch.Tensor],
    a2: Sequence[torch.Tensor] = (),
    d2: Sequence[torch.Tensor] = (),
    masks: Sequence[torch.Tensor] = (),
    masks2: Sequence[torch.Tensor] = (),
    *,
    mode: str,
) -> torch.Tensor:
    """The kernel [n, C, n2, C2] of all parameters' factors by Triton.

    Args:
        a: [n, T, F_a] of each parameter, on a CUDA device (on the CPU in Triton's interpreter), of a dtype of
            `MODES[mode]`, any strides.
        d: [n, C, T, F_d] of each, same dtype and device.
        a2, d2: the same of the right side; empty for the kernel of the samples with themselves.
        masks, masks2: bool [n, T] of each, True where a position counts; empty when all do.
        mode: "ieee", "bf16" or "float64", see above.

    Returns:
        Dense; float64 in mode "float64", else float32; exactly symmetric without a right side.  Error:
        `layer_tiles.layer_ntk_error`.  NaN, infinities and overflow propagate; what lies at positions that do not
        count is never used.

    Raises:
        TypeError: a mode that does not take this dtype, or two dtypes.
        ValueError: an unknown mode, other shapes, two devices, or a device on which Triton does not run here.

    Cost: `2 T T2 (F_d + F_a / 16)` operations an entry with four outputs or more, `F_d + F_a / 4` with two, `F_d + F_a`
    with one; half the entries without a right side.  Fastest where features are dense and lengths multiples of 16.
    Deterministic: the bits depend on the values, the shapes and the device model only.
    """
    symmetric = not a2
    right = (a, d, masks) if symmetric else (a2, d2, masks2)
    check(a, d, masks, *right, mode)
    n, outputs, n2, outputs2 = *d[0].shape[:2], *right[1][0].shape[:2]
    out = torch.empty((n, outputs, n2, outputs2), dtype=result_dtype(mode), device=a[0].device)
    if out.numel() == 0:
        return out
    for parameter in range(len(a)):
        left, other = (_ready(*side, parameter, mode) for side in ((a, d, masks), right))
        _launch(out, left, other, symmetric=symmetric, added=parameter > 0, mode=mode)
    return out


_Several = Sequence[torch.Tensor]
_Side = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


def _launch(out: torch.Tensor, left: _Side, right: _Side, *, symmetric: bool, added: bool, mode: str) -> None:
    (a, d, mask), (a2, d2, mask2) = left, right
    name = architecture(a.device)
    tile = chosen_tile(mode, a.dtype, name)
    compiled = constants(
        mode, a.dtype, tile, d.shape[1], d2.shape[1], symmetric=symmetric, masked=(mask is not None, mask2 is not None)
    )
    launched = options(tile.warps, tile.stages, name, all_registers=takes_all_registers(mode))
    height = triton.cdiv(d.shape[0], compiled["SAMPLES"]) * triton.cdiv(d.shape[1], compiled["OUTPUTS"])
    width = triton.cdiv(d2.shape[0], compiled["SAMPLES2"]) * triton.cdiv(d2.shape[1], compiled["OUTPUTS2"])
    programs = height * (height + 1) // 2 if symmetric else height * width
    strides = [
        stride
        for x, y, flags in (left, right)
        for stride in (*x.stride(), *y.stride(), *((0, 0) if flags is None else flags.stride()))
    ]
    pointers = (a, d, a if mask is None else mask, a2, d2, a2 if mask2 is None else mask2)
    lengths = (*d.shape[:3], *d2.shape[:3], a.shape[2], d.shape[3])
    with torch.cuda.device(a.device) if a.is_cuda else nullcontext():
        layer_ntk_kernel[(programs,)](*pointers, out, *lengths, *strides, ADDED=added, **compiled, **launched)


def variants(architecture: str = "sm_90") -> tuple[Variant, ...]:
    """Every pinned configuration, as the launcher runs it on factors that lie dense and 16-byte aligned."""
    return tuple(
        _variant(mode, dtype, symmetric, outputs, masked, architecture)
        for mode, dtypes in MODES.items()
        for dtype in dtypes
        if dtype == loaded_dtype(dtype, mode)
        for symmetric, outputs, masked in ((True, 1, False), (True, 2, True), (False, 4, True), (True, 4, False))
    )


def _variant(mode: str, dtype: torch.dtype, symmetric: bool, outputs: int, masked: bool, architecture: str) -> Variant:
    tile = chosen_tile(mode, dtype, architecture)
    unit = ("a_feature", "d_feature", "a2_feature", "d2_feature", "mask_position", "mask2_position")
    names = [name for name in layer_ntk_kernel.arg_names if name.islower()]
    pointers = {**dict.fromkeys(("a", "d", "a2", "d2"), POINTER[dtype]), "out": POINTER[result_dtype(mode)]}
    pointers |= dict.fromkeys(("mask", "mask2"), "*u8" if masked else POINTER[dtype])
    integers = [name for name in names if name not in pointers and name not in unit]
    compiled = constants(mode, dtype, tile, outputs, outputs, symmetric=symmetric, masked=(masked, masked))
    return Variant(
        name=f"layer_ntk {'symmetric' if symmetric else 'cross'} {mode} {str(dtype).removeprefix('torch.')} "
        f"outputs {outputs}{' masked' if masked else ''}",
        kernel=layer_ntk_kernel,
        signature={name: pointers.get(name, "i32") for name in names if name not in unit},
        constexprs={**dict.fromkeys(unit, 1), "ADDED": masked, **compiled},
        warps=tile.warps,
        stages=tile.stages,
        divisible=(*pointers, "inputs", "deltas", *(n for n in integers if "_" in n and "mask" not in n)),
        instruction=_expected(mode, outputs),
        mode=mode,
        all_registers=takes_all_registers(mode),
    )


def _expected(mode: str, outputs: int) -> dict[str, str]:
    """Activations of few samples take HMMA where deltas take HGMMA; on sm_100 the two have no common name."""
    if mode != "bf16" or outputs == 1:
        return _INSTRUCTION[mode]
    return {**{name: _INSTRUCTION[mode][name] for name in ("sm_80", "gfx942")}, "sm_90": "H"}


def check(a: _Several, d: _Several, masks: _Several, a2: _Several, d2: _Several, masks2: _Several, mode: str) -> None:
    """Raises TypeError or ValueError for factors that the kernels do not take."""
    if mode not in MODES:
        raise ValueError(f"layer_ntk: expected a mode of {sorted(MODES)}, got {mode!r}.")
    runs_on = "cpu" if INTERPRETED else "cuda"
    for x in (*a, *d, *a2, *d2):
        if x.dtype not in MODES[mode] or x.dtype != a[0].dtype:
            raise TypeError(f"layer_ntk: mode {mode!r} takes one dtype of {MODES[mode]}, got {x.dtype}.")
        if x.device != a[0].device or x.device.type != runs_on:
            raise ValueError(f"layer_ntk: expected tensors on one {runs_on} device, got {x.device}.")
    if not len(a) == len(d) == len(a2) == len(d2) or not all(len(m) in (0, len(a)) for m in (masks, masks2)):
        raise ValueError("layer_ntk: expected as many activations, deltas and masks on both sides.")
    for x, y, x2, y2 in zip(a, d, a2, d2, strict=True):
        shapes = [tuple(part.shape) for part in (x, y, x2, y2)]
        fits = [u.shape[:2] == (v.shape[0], v.shape[2]) for u, v in ((x, y), (x2, y2))]
        if not all(fits) or x.shape[2:] != x2.shape[2:] or y.shape[3:] != y2.shape[3:]:
            raise ValueError(
                f"layer_ntk: expected [n, T, F], [n, C, T, G], [n2, T2, F], [n2, C2, T2, G], got {shapes}."
            )


def _ready(a: _Several, d: _Several, masks: _Several, parameter: int, mode: str) -> _Side:
    """One parameter's factors as the kernel reads them."""
    x, y = (loaded(part[parameter], mode) for part in (a, d))
    return x, y, masks[parameter].view(torch.uint8) if masks else None
