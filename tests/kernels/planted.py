"""Kernels with planted faults: what `ahead_of_time` must see.  They are compiled, never run."""

from __future__ import annotations

from dataclasses import replace

import triton
import triton.language as tl

from csrc_triton.tiles import Variant


@triton.jit
def product(x, y, out, n, BLOCK: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr):
    """out = x y^T for one tile of [BLOCK, n] operands."""
    rows, columns = tl.arange(0, BLOCK), tl.arange(0, DEPTH)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, n, DEPTH):
        left = tl.load(x + rows[:, None] * n + start + columns[None, :])
        right = tl.load(y + rows[:, None] * n + start + columns[None, :])
        total = tl.dot(left, right.T, total, input_precision=PRECISION)
    tl.store(out + rows[:, None] * BLOCK + rows[None, :], total)


@triton.jit
def wrong(x, BLOCK: tl.constexpr):
    """Does not compile: a block's length must be a power of two."""
    tl.store(x + tl.arange(0, BLOCK), 1.0)


def variant(name: str, dtype: str, block: int, depth: int, expected: str, **options: object) -> Variant:
    """One variant of `product`, judged on sm_90."""
    return Variant(
        name=name,
        kernel=product,
        signature={"x": f"*{dtype}", "y": f"*{dtype}", "out": "*fp32", "n": "i32"},
        constexprs={"BLOCK": block, "DEPTH": depth, "PRECISION": options.get("precision", "ieee")},
        warps=int(str(options.get("warps", 4))),
        stages=int(str(options.get("stages", 2))),
        divisible=("x", "y", "out", "n"),
        instruction={"sm_90": expected},
    )


def variants(architecture: str = "sm_90") -> tuple[Variant, ...]:
    """One that is well, and one for each fault."""
    return (
        variant("well", "bf16", 64, 32, "HGMMA"),
        variant("well in float32", "fp32", 16, 16, "FFMA"),
        variant("spills", "bf16", 128, 32, "HMMA", warps=1),
        variant("takes tf32", "fp32", 64, 32, "FFMA", precision="tf32"),
        variant("misses its instruction", "fp32", 16, 16, "HGMMA"),
        replace(variant("too many registers", "fp32", 128, 32, "FFMA", warps=32), all_registers=True),
        variant("too much shared memory", "bf16", 128, 128, "HGMMA", stages=6),
        Variant("does not compile", wrong, {"x": "*fp32"}, {"BLOCK": 48}, warps=4, stages=1),
    )
