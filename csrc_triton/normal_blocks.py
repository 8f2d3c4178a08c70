"""The pinned blocks of `normal_matmul`: what a program holds on chip, and how rows and columns are shared out.

A program keeps in registers w and the float64 accumulators, `features x columns` numbers of each, and a block of rows
of x.  The product of the three lengths is bounded so that nothing spills, dense rows provided: with a stride between
the features their addresses take the registers.

Why 4096 features and no more: one pass means that a whole row stays on chip between its two products, and with it the
program's w and sums.  One column of 8192 features fits too while rows are 16-byte aligned, but not otherwise, and
spills then take ptxas minutes.  A row in parts would be read twice, which is what torch's two products do: they run
above.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton

from csrc_triton.tiles import INTERPRETED, legal

MODES = {"ieee": torch.float32, "float64": torch.float64}

MOST_FEATURES = 4096
MOST_HELD = 8192  # features x columns
LEAST_FEATURES = 256
MOST_COLUMNS = 32
MOST_ROWS = 16

# Two for each of the 132 multiprocessors of an H100.  A constant: bits do not depend on the device that is there.
PROGRAMS = 264


@dataclass(frozen=True)
class Block:
    """What a program holds: a block of `rows` x `features` of x and `features` x `columns` of w and of the result.

    Attributes:
        rows, features, columns: powers of two.
        warps: warps of a program.
        stages: blocks of x under way at once, the one that is being multiplied included.
    """

    rows: int
    features: int
    columns: int
    warps: int
    stages: int

    def fitted(self, element_bytes: int, architecture: str) -> Block:
        """This block with as many of its stages as the architecture's shared memory holds, and at least one."""
        block = self
        while block.stages > 1 and not legal(block.shared_bytes(element_bytes), architecture):
            block = replace(block, stages=block.stages - 1)
        return block

    def shared_bytes(self, element_bytes: int) -> int:
        """Shared memory for the blocks of x under way, and for what the warps exchange in a sum over the features."""
        exchanged = self.rows * self.columns * self.warps * 8
        return (self.stages - 1) * self.rows * self.features * element_bytes + exchanged


def columns_per_pass(features: int, mode: str = "ieee", element_bytes: int = 8) -> int:
    """How many columns of w one program takes with so many features; 0 when it cannot hold even one.

    Up to this many columns x is read once; ceil(m / columns_per_pass) programs read it side by side for more.
    """
    # Numbers of 16 bits on their way to 64 take registers too: with all of MOST_HELD they spill under Triton 3.9.
    most = MOST_HELD // 2 if mode == "float64" and element_bytes == 2 else MOST_HELD
    return 0 if features > MOST_FEATURES else min(MOST_COLUMNS, most // _power_of_two(features))


def chosen_block(features: int, columns: int, mode: str, element_bytes: int = 8) -> Block:
    """The pinned block for `columns` columns of w, at least one, and numbers of so many bytes in x."""
    width = _power_of_two(features)
    taken = min(triton.next_power_of_2(columns), columns_per_pass(features, mode, element_bytes))
    held = width * taken
    # Rows of x share the registers with w and the accumulators, and a number in float64 takes two of them.
    narrow = 2 if mode == "ieee" else 1
    rows = narrow * min(MOST_ROWS // 2, MOST_HELD // held)
    return Block(rows, width, taken, warps=min(8, narrow * held // 128), stages=3)


def row_share(rows: int, groups: int, block: Block) -> int:
    """Rows that each program owns, a multiple of the block's: programs number PROGRAMS in all, or less, or `groups`."""
    programs = 4 if INTERPRETED.value else PROGRAMS
    share = triton.cdiv(triton.cdiv(rows, max(1, programs // groups)), block.rows) * block.rows
    return min(share, 1 << 30)  # a program counts its rows in 32 bits


def pinned(mode: str, element_bytes: int = 8) -> tuple[Block, ...]:
    """Every block that `chosen_block` can return for numbers of so many bytes."""
    widths = [LEAST_FEATURES << i for i in range((MOST_FEATURES // LEAST_FEATURES).bit_length())]
    counts = [1 << i for i in range(MOST_COLUMNS.bit_length())]
    return tuple(
        chosen_block(f, m, mode, element_bytes)
        for f in widths
        for m in counts
        if m <= columns_per_pass(f, mode, element_bytes)
    )


def _power_of_two(features: int) -> int:
    return max(LEAST_FEATURES, triton.next_power_of_2(features))
