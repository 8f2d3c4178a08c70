"""Compiles kernel variants for a named target, in a process of its own, and says what came out: one line of JSON each.

Started by `ahead_of_time`.  It prints the list of the variants of the modules in its arguments, and then answers every
line `{"module": ..., "variant": ..., "target": ...}` from its standard input.  Triton's interpreter must be off here.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from csrc_triton.tiles import SHARED_MEMORY, Variant, options

TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
# Names, kernels and expectations of the variants are the same for all targets, and are listed for this one.
DEFAULT = "sm_90"
# An opcode that makes up less of the program than this is left out of the mix, unless it is judged.
LEAST_SHARE = 0.01
MATRIX = re.compile(r"[BDHIOQ]G?MMA$|UTC\w*MMA$|v_s?mfma")
# Triton 3.9 multiplies and adds apart on sm_100, where it adds two numbers in one instruction.
SCALAR = re.compile(r"[DF](FMA|MUL)2?$|v_(pk_)?fma")
SPILL = re.compile(r"(STL|LDL)$|scratch_(load|store)")


def main(modules: list[str]) -> None:
    """Answers until the input ends.  What the compiler itself prints goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # The fields of the programs' answers are read from their English.
    os.environ["LC_ALL"] = "C"
    found = {name: variants_of(name, DEFAULT) for name in modules}
    listed = [
        {
            "module": name,
            "variant": variant.name,
            "kernel": variant.kernel.__name__,
            "instruction": variant.instruction,
            "mode": variant.mode,
            "tile": [value for value in variant.constexprs.values() if type(value) is int],
            "switches": sum(value is True for value in variant.constexprs.values()),
            "arguments": len(variant.signature) - len(variant.divisible),
        }
        for name, variants in found.items()
        for variant in variants.values()
    ]
    print(json.dumps({"triton": triton.__version__, "variants": listed}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        variant = variants_of(request["module"], request["target"])[request["variant"]]
        print(json.dumps(answer(variant, request["target"])), file=answers)


@cache
def variants_of(name: str, target: str) -> dict[str, Variant]:
    """Every pinned configuration of one module of kernels by its name, as it is on the target."""
    module: ModuleType = importlib.import_module(name)
    variants = module.variants(target)
    repeated = [name for name, count in Counter(variant.name for variant in variants).items() if count > 1]
    if repeated:
        raise ValueError(f"{name}: the names {repeated} stand for more than one variant")
    return {variant.name: variant for variant in variants}


def answer(variant: Variant, target: str) -> dict[str, Any]:
    """What the compiler made of the variant, or what it said instead."""
    start = time.perf_counter()
    try:
        made = compiled(variant, target)
        usage = amd_usage(made.asm["amdgcn"]) if "amdgcn" in made.asm else nvidia_usage(made.asm["cubin"])
    except Exception as error:  # whatever a compiler raises is this variant's result, and is shown
        said = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")
        return {"error": said[-600:], "seconds": time.perf_counter() - start}
    if "cubin" in made.asm:
        # All threads of a program have theirs at once, in units of 8: ptxas allows more where it is told to.
        usage["threads_registers"] = -(-usage["registers"] // 8) * 8 * 32 * int(made.metadata.num_warps)
    shared = {"shared": int(made.metadata.shared), "shared_limit": SHARED_MEMORY[target]}
    return {**usage, **shared, "seconds": time.perf_counter() - start}


def compiled(variant: Variant, target: str) -> Any:
    """The compiled kernel of a variant for a target that need not be here."""
    names = variant.kernel.arg_names
    if set(names) != {*variant.signature, *variant.constexprs}:
        raise ValueError(f"the kernel takes {names}, the variant gives {[*variant.signature, *variant.constexprs]}")
    signature = {name: variant.signature.get(name, "constexpr") for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in variant.divisible}
    source = ASTSource(variant.kernel, signature, dict(variant.constexprs), attributes)
    chosen = options(variant.warps, variant.stages, target, all_registers=variant.all_registers)
    return triton.compile(source, target=GPUTarget(*TARGETS[target]), options=chosen)


def nvidia_usage(cubin: bytes) -> dict[str, Any]:
    """Registers, stack and opcodes of a compiled kernel, as cuobjdump reads them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage, assembly = (cuobjdump(option, path) for option in ("-res-usage", "-sass"))
    fields = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    # "/*0040*/   @!P0 HGMMA.64x64x16.F32.BF16 R24, ..." : an address, perhaps a predicate, the opcode.
    opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", assembly)
    return {"registers": fields["REG"], "stack": fields["STACK"] + fields["LOCAL"], **mix(opcodes)}


def cuobjdump(option: str, path: Path) -> str:
    """What Triton's own cuobjdump says; it needs the nvdisasm that lies beside it."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [str(tools / "cuobjdump"), option, str(path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def amd_usage(assembly: str) -> dict[str, Any]:
    """Registers, scratch memory and opcodes of a compiled kernel, from the compiler's own listing."""
    fields = {name: int(value) for name, value in re.findall(r"^\s*-?\s*\.(\w+):\s+(\d+)$", assembly, re.MULTILINE)}
    opcodes = re.findall(r"^\s+([a-z]+_\w+)(?=\s|$)", assembly, re.MULTILINE)
    # What moves to accumulation registers and to lanes of other registers is called a spill too, but never leaves them.
    return {"registers": fields["vgpr_count"], "stack": fields["private_segment_fixed_size"], **mix(opcodes)}


def mix(opcodes: list[str]) -> dict[str, Any]:
    """How often the common opcodes, the products and the spills occur, most frequent first."""
    counts = Counter(opcodes)
    if not counts:
        raise ValueError("no instruction was found in the disassembly")
    kept = {
        name: count
        for name, count in counts.most_common()
        if count >= LEAST_SHARE * len(opcodes) or any(kind.match(name) for kind in (MATRIX, SCALAR, SPILL))
    }
    return {
        "instructions": len(opcodes),
        "opcodes": kept,
        "matrix": [name for name in kept if MATRIX.match(name)],
        "products": [name for name in kept if MATRIX.match(name) or SCALAR.match(name)],
        "spills": sum(count for name, count in counts.items() if SPILL.match(name)),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
