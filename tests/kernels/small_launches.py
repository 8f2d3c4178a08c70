"""Every kernel on small ragged shapes, for a tool that watches memory: `python -m tests.kernels.small_launches`.

With `--planted` it runs a kernel that writes behind the end of its memory instead, which such a tool must notice.
"""

from __future__ import annotations

import sys

import torch
import triton
import triton.language as tl

from csrc_triton import integer_gram, softmax_tiles, split_gram
from csrc_triton.drift import drift
from csrc_triton.drift_summary import drift_summary
from csrc_triton.gram import MODES, gram, pinned_tile
from csrc_triton.layer_ntk import layer_ntk
from csrc_triton.normal_matmul import normal_matmul
from csrc_triton.planes import split
from csrc_triton.softmax_gram import softmax_gram
from csrc_triton.split_layer import split_layer
from csrc_triton.tiles import architecture
from tests.kernels.draws import DEVICE, factors, formula, whole
from tests.kernels.softmax_problems import as_written, exact_roots, tops


def launch_all() -> int:
    """Launches each kernel in each mode where tiles are ragged; how many results were the exact ones: all of them."""
    launched = 0
    for mode, dtypes in MODES.items():
        dtype, tile = dtypes[0], pinned_tile(mode)
        x = whole(tile.rows + 1, tile.depth + 1, dtype=dtype)
        y = whole(3, tile.depth + 1, seed=1, dtype=dtype)
        for other in (None, y):
            right = x if other is None else other
            _expect(gram(x, other, bias=True, mode=mode), x.double() @ right.double().T + 1)
            launched += 1
        a, d = factors(5, 3, 2, 17, 3, dtype=dtype)
        mask = torch.ones(a.shape[:2], dtype=torch.bool, device=DEVICE)
        _expect(layer_ntk([a], [d], (), (), [mask], mode=mode), formula(a, d, a, d))
        _expect(layer_ntk([a], [d], [a[:2]], [d[:2, :1]], mode=mode), formula(a, d, a[:2], d[:2, :1]))
        launched += 2
    for mode in ("ieee", "float64"):
        for n, features, columns in ((37, 5, 3), (3, 300, 33)):
            x, w = whole(n, features, most=3), whole(features + 1, columns, seed=1, most=3)
            design = torch.cat([x, torch.ones_like(x[:, :1])], 1).double()
            _expect(normal_matmul(x, w, bias=True, mode=mode), design.T @ (design @ w.double()))
            launched += 1
    return launched + launch_split() + launch_integers() + launch_heads()


def launch_split() -> int:
    """The same of the mode "split": rows that fall back, the last of a tile and of the matrix, among them."""
    tile = split_gram.pinned_tile(architecture(torch.device(DEVICE)))
    x, y = whole(2 * tile.rows + 1, tile.depth + 1), whole(3, tile.depth + 1, seed=1)
    x[-1], x[tile.rows - 1] = 0.0, 0.0
    x[-1, 0] = x[tile.rows - 1, 1] = torch.finfo(torch.float32).tiny / 2
    zeros = x.double()
    zeros[-1], zeros[tile.rows - 1] = 0.0, 0.0
    for other in (None, y):
        right = zeros if other is None else other.double()
        planes = None if other is None else split(other)
        _expect(split_gram.split_gram(split(x), planes, bias=True), zeros @ right.T + 1)
    a, d = factors(5, 3, 2, 17, 3)
    for other in ((), (a[:2], d[:2, :1])):
        computed, _ = split_layer([a], [d], *([x] for x in other))
        _expect(computed, formula(a, d, *(other or (a, d))))
    return 4


def launch_integers() -> int:
    """Planes of integers, two windows' worth of levels, where both tiles are ragged."""
    n, features = integer_gram.pinned_tile().rows + 1, 2 * integer_gram.PADDING
    x, y = (whole(2, rows, features, seed=rows, most=integer_gram.LARGEST).to(torch.int8) for rows in (n, 3))
    for other in (None, y):
        right = x if other is None else other
        digits, carry = integer_gram.integer_gram(x, other, [[(0, 0)], [(0, 1), (1, 0)], [(1, 1)]])
        left, right = (z[0].double() + 2.0**7 * z[1].double() for z in (x, right))
        _expect(digits + (carry << integer_gram.WINDOW_BITS), left @ right.T)
    return 2


def launch_heads() -> int:
    """The kernels of softmax heads and of drifts: rows that fit a tile of outputs, and longer ones."""
    for mode in softmax_tiles.MODES:
        for outputs in (5, softmax_tiles.LONGEST + 1):
            x, v = whole(37, 19, most=3), whole(37, outputs, 2, seed=1, most=3)
            roots = exact_roots(37, outputs)
            _expect(softmax_gram(x, roots, tops(roots), v, bias=True, mode=mode), as_written(x, roots, v, True))
    x, change = whole(37, 19), whole(20, 33, seed=1, dtype=torch.float64)
    moved, zeros = torch.cat([x, torch.ones_like(x[:, :1])], 1).double() @ change, torch.zeros_like(change[0])
    _expect(drift(x, change, None, zeros, zeros, zeros, bias=True).value, moved.cpu())
    found = drift_summary(x, change, zeros, zeros, zeros, bias=True, before=moved, before_bound=moved.abs())
    _expect(found.row_squares, moved.square().sum(1))
    _expect(found.column_squares, moved.square().sum(0))
    return 7


def _expect(computed: torch.Tensor, exact: torch.Tensor) -> None:
    if not torch.equal(computed.cpu().double(), exact.cpu()):
        raise SystemExit(f"a result of shape {tuple(computed.shape)} is wrong")


@triton.jit
def _beyond_the_end(out, size: tl.constexpr):
    tl.store(out + size + tl.arange(0, size), tl.zeros((size,), tl.float32))


def plant() -> None:
    """Writes behind the end of a tensor that is the last in its memory."""
    _beyond_the_end[(1,)](torch.empty(128, dtype=torch.float32, device=DEVICE), size=128)
    torch.cuda.synchronize()


if __name__ == "__main__":
    if "--planted" in sys.argv[1:]:
        plant()
    else:
        print(launch_all(), "results, all exact")
