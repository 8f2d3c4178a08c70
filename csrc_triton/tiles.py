"""What the kernels share: pinned tiles, the predicate that says one is legal, and which tile a program computes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import triton
import triton.language as tl

# Read once, as triton itself does: True when kernels run in Triton's interpreter, on CPU tensors.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))

# Bytes of shared memory that one program may use.
SHARED_MEMORY = {
    "sm_75": 64 << 10,
    "sm_80": 163 << 10,
    "sm_86": 99 << 10,
    "sm_89": 99 << 10,
    "sm_90": 227 << 10,
    "sm_100": 227 << 10,
    "sm_120": 99 << 10,
    "gfx942": 64 << 10,
}
# Where Triton multiplies from registers only, and shared memory holds no more than the blocks that are on their way.
_MULTIPLIES_REGISTERS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120")

# Triton's names of the types that features come in: as pointers in a signature, and as numbers in a kernel.
POINTER = {torch.float64: "*fp64", torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
NUMBER = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


def legal(shared_bytes: int, architecture: str) -> bool:
    """True when a program that needs so much shared memory can run; an unknown architecture counts as the smallest."""
    return shared_bytes <= SHARED_MEMORY.get(architecture, min(SHARED_MEMORY.values()))


def architecture(device: torch.device) -> str:
    """The name of a device's architecture, such as "sm_90" or "gfx942"; the interpreter passes for an sm_90."""
    if device.type != "cuda":
        return "sm_90"
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


# What a thread can have on an NVIDIA device.
_MOST_REGISTERS = 255


def options(warps: int, stages: int, architecture: str, *, all_registers: bool = False) -> dict[str, int]:
    """The options that a kernel is compiled with, by its launcher and ahead of time.

    Left to itself ptxas may stop at 128 or 168 registers and spill the rest; allowed `all_registers`, it may take so
    many in long kernels that it spills where it did not.  So each kernel says which.
    """
    registers = {"maxnreg": _MOST_REGISTERS} if all_registers and architecture.startswith("sm_") else {}
    return {"num_warps": warps, "num_stages": stages, **registers}


@dataclass(frozen=True)
class Tile:
    """The part of a matrix product that one program holds: `rows` x `columns` of it, `depth` of the sum at a time.

    Attributes:
        rows, columns, depth: powers of two.
        warps: warps of a program.
        stages: blocks of the operands under way at once, the one that is being multiplied included.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def shared_bytes(self, element_bytes: int, architecture: str) -> int:
        """Shared memory for the operands: at most what Triton 3.6 takes for them."""
        buffers = max(1, self.stages - 1) if architecture in _MULTIPLIES_REGISTERS else self.stages
        return buffers * (self.rows + self.columns) * self.depth * element_bytes

    def fitted(self, element_bytes: int, architecture: str) -> Tile:
        """This tile with as many of its stages as the architecture's shared memory holds, and at least one."""
        tile = self
        while tile.stages > 1 and not legal(tile.shared_bytes(element_bytes, architecture), architecture):
            tile = replace(tile, stages=tile.stages - 1)
        return tile

    def interpreted(self) -> Tile:
        """This tile in the interpreter's size, where small shapes already have several tiles and ragged edges."""
        return Tile(max(16, self.rows // 8), max(16, self.columns // 8), max(16, self.depth // 8), self.warps, 1)


@dataclass(frozen=True)
class Variant:
    """One pinned configuration of a kernel, with all that compiling it ahead of time takes.

    Attributes:
        name: unique among all kernels, such as "gram symmetric ieee float32".
        kernel: the `triton.jit` function.
        signature: Triton's type of every argument that is no compile-time constant, such as {"x": "*fp32", "n": "i32"}.
        constexprs: the value of every compile-time constant, and of arguments that are compiled in (a stride of 1).
        warps, stages, all_registers: see `options`.
        divisible: arguments known to be multiples of 16 (pointers: 16-byte aligned), as the launcher's usually are.
        instruction: how the multiplying instruction in the machine code starts, for each architecture that is judged;
            "DFMA|DMMA" where it depends on Triton's version.  No matrix instruction may be there when it is empty.
        mode: the arithmetic, where a kernel has several: where not all variants are compiled, one of each is.
    """

    name: str
    kernel: triton.runtime.JITFunction
    signature: dict[str, str]
    constexprs: dict[str, object]
    warps: int
    stages: int
    divisible: tuple[str, ...] = ()
    instruction: dict[str, str] = field(default_factory=dict)
    mode: str = ""
    all_registers: bool = False


@triton.jit
def operand(x, dtype: tl.constexpr):
    """A loaded block in the type the product takes; widened in the interpreter, which multiplies bfloat16 wrongly."""
    if INTERPRETED and dtype.primitive_bitwidth < 32:
        return x.to(tl.float32)
    return x.to(dtype)


@triton.jit
def triangle_tile(index):
    """Row and column of entry `index` of a lower triangle (diagonal included) that is numbered row by row."""
    row = ((tl.sqrt(8.0 * index.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    # The float32 root is off by at most one row; below 2^15 rows of tiles nothing here passes 2^31.
    row -= (row * (row + 1) // 2 > index).to(tl.int32)
    row += ((row + 1) * (row + 2) // 2 <= index).to(tl.int32)
    return row, index - row * (row + 1) // 2


@triton.jit
def grouped_triangle_tile(index, height, GROUP: tl.constexpr):
    """As `triangle_tile`, walked in bands of GROUP rows, column by column: programs that run together share operands.

    Args:
        index: which tile, from 0.
        height: rows of the triangle.
    """
    row, column = triangle_tile(index)
    first = row // GROUP * GROUP
    band = tl.minimum(GROUP, height - first)
    local = index - first * (first + 1) // 2
    corner_row, corner_column = triangle_tile(tl.maximum(local - first * band, 0))
    in_corner = local >= first * band
    row = first + tl.where(in_corner, corner_row, local % band)
    column = tl.where(in_corner, first + corner_column, local // band)
    return row, column


@triton.jit
def grouped_tile(index, height, width, GROUP: tl.constexpr):
    """Row and column of tile `index` of a `height` x `width` grid walked in bands of GROUP rows, column by column."""
    first = index // (GROUP * width) * GROUP
    band = tl.minimum(GROUP, height - first)
    local = index - first * width
    return first + local % band, local // band
