"""The tangent kernel of a layer from planes of its float32 factors: the mode "split" of `layer_ntk`.

The order is that of `layer_ntk`: a program holds one tile of the result, and for each pair of positions it multiplies
the deltas' inner products by the activations'.  Each inner product is that of `split_gram`: three half-precision
products in blocks of its depth, two totals, one sum, and its scale taken out, so that what meets is float32.

Positions that do not count are made zero before they are split: they add zeros.  Samples of which a row falls back, in
any factor at any position that counts, are computed in mode "ieee" of `layer_ntk` and put in.

Error, entry by entry: `|error| <= gamma K~`, K~ the kernel of |a| and |d|, plus what underflows, with

    1 + gamma = (1 + gamma_a) (1 + gamma_d) (1 + gamma_k),    k = 1 + T T' + parameters,

gamma_a and gamma_d those of `split_gram` for the lengths of a and of d and the depth of these tiles (one rounding too
many, for there is no bias), and k the roundings of the product, of the sum over positions and of that over parameters.
Mode "ieee" is covered, for `split_error` covers its inner products, which are those of `gram`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import triton

from csrc_triton.layer_ntk import check, layer_ntk
from csrc_triton.layer_tiles import GROUP, outputs_together
from csrc_triton.planes import RowPlanes
from csrc_triton.planes_kernel import split_rows
from csrc_triton.split_gram import MODE, split_error
from csrc_triton.split_layer_kernel import split_layer_kernel
from csrc_triton.tiles import INTERPRETED, Tile, Variant, architecture, options

# Square, for a tile and its mirror image are one; no spills.  Large where operands come from shared memory.
TILE = Tile(rows=64, columns=64, depth=32, warps=8, stages=3)
_SMALL_TILE = Tile(rows=32, columns=32, depth=32, warps=4, stages=3)
_HOLDS_LARGE = ("sm_90", "sm_100")

_UNIT_ROUNDOFF = 2.0**-24
_PLANE_BYTES = 4  # high and low
_INSTRUCTION = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "gfx942": "v_mfma_f32"}
# Activations of few samples take HMMA where deltas take HGMMA; on sm_100 the two have no common name.
_SEVERAL_OUTPUTS = {"sm_80": "HMMA", "sm_90": "H", "gfx942": "v_mfma_f32"}

_Several = Sequence[torch.Tensor]
_Side = tuple[_Several, _Several, _Several]


def split_layer(
    a: _Several, d: _Several, a2: _Several = (), d2: _Several = (), masks: _Several = (), masks2: _Several = ()
) -> tuple[torch.Tensor, int]:
    """The kernel [n, C, n2, C2] of all parameters' factors by Triton, from planes made here.

    Args:
        a, d, a2, d2, masks, masks2: as for `layer_ntk.layer_ntk`, float32.

    Returns:
        float32, dense, exactly symmetric without a right side, error: `split_layer_error`; and how many samples fell
        back.  What is not finite comes out as it does in torch; positions that do not count are never used.

    Raises:
        TypeError, ValueError: as from `layer_ntk.layer_ntk`.

    Cost: three times the operations of `layer_ntk`, in half precision; making the planes, which are kept for the call;
    and, for k samples that fell back, that of `layer_ntk` for k rows and columns of samples in float32.
    Deterministic: the bits depend on the values, the shapes and the device model only.
    """
    symmetric = not a2
    left: _Side = (a, d, masks)
    right: _Side = left if symmetric else (a2, d2, masks2)
    check(*left, *right, mode="ieee")
    out = torch.empty((*d[0].shape[:2], *right[1][0].shape[:2]), dtype=torch.float32, device=a[0].device)
    planes = [_planes(*left)]
    planes.append(planes[0] if symmetric else _planes(*right))
    for parameter in range(len(a) if out.numel() else 0):
        one, other = ([*side[parameter][0][:3], *side[parameter][1][:3]] for side, _ in planes)
        shapes = (tuple(d[parameter].shape), tuple(right[1][parameter].shape))
        _launch(out, one, other, shapes, symmetric=symmetric, added=parameter > 0)
    fallen, fallen2 = (torch.tensor(sorted(which), device=out.device, dtype=torch.int64) for _, which in planes)
    _put_fallen(out, left, None if symmetric else right, fallen, fallen2)
    return out, len(fallen) + (0 if symmetric else len(fallen2))


def _planes(a: _Several, d: _Several, masks: _Several) -> tuple[list[tuple[RowPlanes, RowPlanes]], set[int]]:
    """The planes of each parameter's activations and deltas, one row a position, and which samples fell back."""
    found: list[tuple[RowPlanes, RowPlanes]] = []
    fallen: set[int] = set()
    for parameter, (x, y) in enumerate(zip(a, d, strict=True)):
        if masks:
            skipped = ~masks[parameter]
            x, y = x.masked_fill(skipped[:, :, None], 0.0), y.masked_fill(skipped[:, None, :, None], 0.0)
        pair = split_rows(x.flatten(0, -2)), split_rows(y.flatten(0, -2))
        for planes, rows in zip(pair, (x.shape[1], y.shape[1] * y.shape[2]), strict=True):
            fallen.update((planes.fallen // max(rows, 1)).tolist())
        found.append(pair)
    return found, fallen


def _put_fallen(
    out: torch.Tensor, left: _Side, right: _Side | None, fallen: torch.Tensor, fallen2: torch.Tensor
) -> None:
    """Writes the rows and columns of `out` that belong to samples that fell back."""
    if len(fallen):
        some, other = _taken(left, fallen), left if right is None else right
        rows = layer_ntk(some[0], some[1], other[0], other[1], some[2], other[2], mode="ieee")
        if right is None:
            # Where two of them meet one half decides, as everywhere.
            rows[:, :, fallen] = layer_ntk(some[0], some[1], (), (), some[2], mode="ieee")
            out[:, :, fallen] = rows.permute(2, 3, 0, 1)
        out[fallen] = rows
    if right is not None and len(fallen2):
        some = _taken(right, fallen2)
        out[:, :, fallen2] = layer_ntk(left[0], left[1], some[0], some[1], left[2], some[2], mode="ieee")


def _taken(side: _Side, samples: torch.Tensor) -> _Side:
    a, d, masks = ([x[samples] for x in part] for part in side)
    return a, d, masks


def _launch(
    out: torch.Tensor,
    left: _Several,
    right: _Several,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    *,
    symmetric: bool,
    added: bool,
) -> None:
    name = architecture(out.device)
    tile = pinned_tile(name)
    (n, c, t, _), (n2, c2, t2, _) = shapes
    compiled = _constants(tile, c, c2, symmetric=symmetric)
    height = triton.cdiv(n, compiled["SAMPLES"]) * triton.cdiv(c, compiled["OUTPUTS"])
    width = triton.cdiv(n2, compiled["SAMPLES2"]) * triton.cdiv(c2, compiled["OUTPUTS2"])
    programs = height * (height + 1) // 2 if symmetric else height * width
    lengths = (n, c, t, n2, c2, t2, left[0].shape[1], left[3].shape[1])
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        split_layer_kernel[(programs,)](
            *left,
            *right,
            out,
            *lengths,
            ADDED=added,
            **compiled,
            **options(tile.warps, tile.stages, name, all_registers=True),
        )


def pinned_tile(architecture: str) -> Tile:
    """The tile on an architecture, in the interpreter's size where kernels are interpreted; one depth for all."""
    tile = TILE if architecture in _HOLDS_LARGE else _SMALL_TILE
    return (tile.interpreted() if INTERPRETED else tile).fitted(_PLANE_BYTES, architecture)


def variants(architecture: str = "sm_90") -> tuple[Variant, ...]:
    """Every pinned configuration: one output, two and four, with and without a right side."""
    cases = ((True, 1, False), (True, 2, True), (False, 4, True), (True, 4, False))
    return tuple(_variant(symmetric, outputs, added, architecture) for symmetric, outputs, added in cases)


def _variant(symmetric: bool, outputs: int, added: bool, architecture: str) -> Variant:
    tile = pinned_tile(architecture)
    names = [name for name in split_layer_kernel.arg_names if name.islower()]
    pointers = {name: "*i32" if name.endswith("exponents") else "*fp16" for name in names if "_" in name}
    pointers["out"] = "*fp32"
    return Variant(
        name=f"split_layer {'symmetric' if symmetric else 'cross'} outputs {outputs}{' added' if added else ''}",
        kernel=split_layer_kernel,
        signature={name: pointers.get(name, "i32") for name in names},
        constexprs={"ADDED": added, **_constants(tile, outputs, outputs, symmetric=symmetric)},
        warps=tile.warps,
        stages=tile.stages,
        divisible=(*pointers, "inputs", "deltas"),
        instruction=_INSTRUCTION if outputs == 1 else _SEVERAL_OUTPUTS,
        mode=MODE,
        all_registers=True,
    )


def split_layer_error(positions: int, positions2: int, inputs: int, deltas: int, parameters: int) -> float:
    """The gamma of `|error| <= gamma K~`, rounded up; infinite where the sums are too long for a bound."""
    share = (1 + positions * positions2 + parameters) * _UNIT_ROUNDOFF
    if share >= 1.0:
        return math.inf
    inner, outer = (split_error(length, pinned_tile("sm_90").depth) for length in (inputs, deltas))
    # What is rounded here, in float64 on numbers of order one, is made up for.
    return (1.0 + inner) * (1.0 + outer) / (1.0 - share) - 1.0 + 2.0**-48


def _constants(tile: Tile, outputs: int, outputs2: int, *, symmetric: bool) -> dict[str, int]:
    together, together2 = outputs_together(outputs), outputs_together(outputs2)
    return {
        "DRAIN": tile.depth,
        "SYMMETRIC": symmetric,
        "SAMPLES": tile.rows // together,
        "OUTPUTS": together,
        "SAMPLES2": tile.columns // together2,
        "OUTPUTS2": together2,
        "DEPTH": tile.depth,
        "GROUP": GROUP,
    }
