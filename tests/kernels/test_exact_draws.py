"""A thousand ways to compute one exact Gram matrix, tiles, cuts, layouts, orders, sources: the same bits."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
import torch

from ntkla.linalg.arithmetic.fixed_point import FixedPoint
from ntkla.linalg.arithmetic.integer_slices import exponent_of
from ntkla.linalg.arithmetic.nearest import nearest
from ntkla.linalg.exact_products import Tiling, products
from ntkla.linalg.solve import exact_sums
from tests.kernels.draws import DEVICE, normal

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton import integer_gram


@dataclass(frozen=True)
class Problem:
    """`x y^T + bias`, y None for x; the exact matrix, in float64 and as a whole, and its nearest float64 one."""

    x: torch.Tensor
    y: torch.Tensor | None
    bias: bool
    exact: FixedPoint
    whole: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor, y: torch.Tensor | None, bias: bool) -> Problem:
        tops = exponent_of(x), exponent_of(x if y is None else y)
        ((_, _, exact),) = products(x, y, bias, Tiling(False, 2**10), tops)
        return cls(x, y, bias, exact, nearest(exact))

    def part(self, rows: slice, columns: slice) -> FixedPoint:
        """The exact entries of a block."""
        limbs = self.exact.limbs[:, rows, columns].contiguous()
        return FixedPoint(limbs, self.exact.lowest) - FixedPoint.zeros(*limbs.shape[1:], limbs.device)


@dataclass(frozen=True)
class Way:
    """How a Gram matrix is computed: everything that must not matter.

    Attributes:
        by_kernel: whether the integer kernel multiplies.
        edge: rows and columns of a block of the result.
        tile, padding, group, drain: of the kernel; the features between two drains of its int32 sums.
        pieces: lengths into which the features are cut, each summed up alone.
        block: features in a launch, or in a float64 block's sum.
        order: of the features.
        layout: of the arrays in memory.
    """

    by_kernel: bool
    edge: int
    tile: tuple[int, int]
    padding: int
    group: int
    drain: int
    pieces: list[int]
    block: int
    order: list[int]
    layout: str


LAYOUTS = {
    "dense": lambda x: x,
    "transposed": lambda x: x.T.contiguous().T,
    "spread": lambda x: torch.stack([x, x + 1], 2).repeat_interleave(2, 0)[::2, :, 0],
    "offset": lambda x: torch.cat([x[:1], x])[1:],
}


def drawn(chance: random.Random, rows: int, features: int, by_kernel: bool) -> Way:
    cut = chance.randint(0, features)
    edge = chance.choice((16, 32))
    return Way(
        by_kernel,
        edge=chance.choice((rows, rows - 1, (rows + 1) // 2)),
        tile=(edge, edge),
        padding=chance.choice((16, 32, 64)),
        group=chance.choice((1, 2, 8)),
        drain=chance.choice((64, 128, 2**19 - 1)),
        pieces=[length for length in (cut, features - cut) if length] if chance.random() < 0.5 else [features],
        block=chance.choice(((features + 1) // 2, 2**13)),
        order=chance.sample(range(features), features),
        layout=chance.choice(list(LAYOUTS)),
    )


def computed(problem: Problem, way: Way, monkeypatch: pytest.MonkeyPatch) -> list[tuple[slice, slice, FixedPoint]]:
    """The exact blocks, each summed up over the pieces."""
    tile = integer_gram.pinned_tile()
    with monkeypatch.context() as patched:
        patched.setattr(integer_gram, "GROUP", way.group)
        patched.setattr(integer_gram, "MOST_SUMMANDS", way.drain)
        patched.setattr(integer_gram, "PADDING", way.padding)
        chosen = replace(tile, rows=way.tile[0], columns=way.tile[1], depth=way.padding)
        patched.setattr(integer_gram, "pinned_tile", lambda: chosen)
        patched.setattr(exact_sums, "KERNEL_ROWS", way.block)
        patched.setattr(exact_sums, "MOST_SUMMANDS", way.block)
        sides = [z if z is None else LAYOUTS[way.layout](z[:, way.order]) for z in (problem.x, problem.y)]
        start, found = 0, []
        for length in way.pieces:
            left, right = (z if z is None else z[:, start : start + length] for z in sides)
            tops = exponent_of(left), exponent_of(left if right is None else right)
            tiling = Tiling(way.by_kernel, way.edge)
            found.append(list(products(left, right, problem.bias and start == 0, tiling, tops)))
            start += length
    return [(blocks[0][0], blocks[0][1], sum_of([b[2] for b in blocks])) for blocks in zip(*found, strict=True)]


def sum_of(parts: list[FixedPoint]) -> FixedPoint:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def problems() -> list[Problem]:
    few, many = normal(5, 9, dtype=torch.bfloat16).relu(), normal(18, 3, seed=1, dtype=torch.bfloat16)
    return [Problem.of(few, None, True), Problem.of(many[:5], many[3:], False), Problem.of(many, None, False)]


def assert_same(problem: Problem, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = 0
    for rows, columns, exact in computed(problem, way, monkeypatch):
        tile = nearest(exact)
        assert torch.equal(tile.view(torch.int64), problem.whole[rows, columns].view(torch.int64)), way
        assert (exact - problem.part(rows, columns)).limbs.shape[0] == 0, way
        entries += tile.numel() * (2 if problem.y is None and rows != columns else 1)
    assert entries == problem.whole.numel()


def run(count: int, by_kernel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many ways, the first of them by the kernel."""
    chance, some = random.Random(7), problems()
    for number in range(count):
        problem = some[number % len(some)]
        way = drawn(chance, max(problem.whole.shape), problem.x.shape[1], number < by_kernel)
        assert_same(problem, way, monkeypatch)


def test_a_thousand_ways_have_the_same_bits(monkeypatch):
    """Most of them in float64, where they cost little; all by the kernel when the slow tests run."""
    run(1000, 20, monkeypatch)


@pytest.mark.slow
def test_a_thousand_ways_by_the_kernel_have_the_same_bits(monkeypatch):
    run(1000, 1000, monkeypatch)


def test_a_way_that_loses_a_feature_is_noticed(monkeypatch):
    """The planted error: what a wrong cut would do."""
    problem = problems()[0]
    features = problem.x.shape[1]
    way = drawn(random.Random(1), len(problem.x), features, False)
    assert bool((problem.x[:, way.order[-1]] != 0).any())
    with pytest.raises(AssertionError):
        assert_same(problem, replace(way, pieces=[features - 1], edge=len(problem.x)), monkeypatch)


def test_the_draws_differ():
    chance = random.Random(7)
    ways = [drawn(chance, 9, 40, True) for _ in range(100)]
    assert len({(way.edge, way.tile, way.padding, way.group, way.drain, way.block, way.layout) for way in ways}) > 80
    assert DEVICE == "cuda" or {way.layout for way in ways} == set(LAYOUTS)
