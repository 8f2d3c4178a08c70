"""What the suites of single primitives share: ntkla's own contenders, compiled code, products in numpy, inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ntkla import backend
from ntkla.linalg.backends import kernels
from perf.harness import Contender, Skip, Work

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
# What a precision of ntkla multiplies in, and how many such products it takes at least; what is exact is compared with
# one product in float64.
ARITHMETIC = {"float64": "float64", "exact": "float64", "ieee": "float32", "split": "bfloat16", "bf16": "bfloat16"}
PRODUCTS = {"split": 3.0}
RESULT = {
    "float64": torch.float64, "exact": torch.float64,
    "ieee": torch.float32, "split": torch.float32, "bf16": torch.float32,
}  # fmt: skip
# Modes that kernels of some primitives have beside "ieee" and "float64"; in torch they are the same as "ieee".
_FASTER = {
    (primitive, dtype): (mode,)
    for primitive in ("gram", "layer_ntk")
    for dtype, mode in ((torch.float32, "split"), (torch.bfloat16, "bf16"))
}
_EXACT = ("gram",)
PATIENCE = 4.0  # seconds for each of many cases' many contenders
COMPILED = "torch.compile, inductor"


def precisions(primitive: str, dtype: torch.dtype, implementation: str) -> tuple[str, ...]:
    """The precisions of a primitive that differ for inputs of a type, in torch or in its kernels ("triton")."""
    faster = _FASTER.get((primitive, dtype), ()) if implementation == "triton" else ()
    exact = ("exact",) if primitive in _EXACT else ()
    return ("float64", *exact) if dtype == torch.float64 else (*faster, "ieee", "float64", *exact)


def ours(
    primitive: str,
    call: Callable[[str], torch.Tensor],
    x: torch.Tensor,
    kind: str,
    work: Callable[[str], Work],
    digits: Callable[[str], float],
) -> tuple[list[Contender], dict[str, str]]:
    """A primitive under each implementation and precision; a kernel that cannot run here is skipped with its reason.

    Args:
        primitive: its name.
        call: computes it in a precision.
        x: an input, for its type, its device and the length of its rows.
        kind: "cpu" or "cuda".
        work: the least work in an arithmetic.
        digits: the stated bound of a precision, relative to the magnitude of an entry.
    """
    reason: str | None = "Triton makes no code for processors"
    if kind == "cuda":
        reason = kernels.why_not(primitive, x.device, x.shape[-1])
    found, skipped = [], {}
    for implementation in ("triton", "torch"):
        for precision in precisions(primitive, x.dtype, implementation):
            name = f"ntkla {implementation}, {precision}"
            if implementation == "triton" and reason is not None:
                skipped[name] = reason
                continue
            with backend(implementation):  # on which the stated bound may depend
                allowed = digits(precision)
            run = partial(_under, implementation, call, precision)
            least = work(ARITHMETIC[precision])
            least = replace(least, operations=least.operations * PRODUCTS.get(precision, 1.0))
            found.append(Contender(name, run, least, ours=True, digits=allowed, compiles=implementation == "triton"))
    return found, skipped


def _under(implementation: str, call: Callable[[str], torch.Tensor], precision: str) -> torch.Tensor:
    with backend(implementation):
        return call(precision)


def compiled(function: Callable[..., torch.Tensor], arguments: tuple[Any, ...], work: Work, digits: float) -> Contender:
    """Eager code through `torch.compile`; skipped with the compiler's word where it cannot compile."""
    torch._dynamo.reset()  # else the shapes of earlier cases count, and from the eighth on nothing is compiled
    fast = torch.compile(function, dynamic=False)
    compiled_before: list[bool] = []

    def call() -> torch.Tensor:
        try:
            answer = fast(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the compiler raises, the reason stands in the table
            if compiled_before:
                raise
            said = (str(error).strip() or "nothing said").splitlines()[0]
            raise Skip(f"it does not compile here: {type(error).__name__}: {said}") from error
        compiled_before.append(True)
        return answer

    return Contender(COMPILED, call, work, digits=digits, compiles=True)


def in_numpy(x: torch.Tensor) -> np.ndarray:
    """A CPU tensor as numpy sees it without a copy; bfloat16, which numpy lacks, is widened."""
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()


def drawn(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int, mean: float) -> torch.Tensor:
    """Normal entries around a mean, in blocks: a large input needs no second copy in a wider type."""
    generator = torch.Generator(device=device).manual_seed(seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    out = torch.empty(shape, dtype=dtype, device=device)
    for part in out.view(shape[0], -1).split(2**14):
        part.copy_(torch.randn(part.shape, generator=generator, dtype=wide, device=device) + mean)
    return out


def gigabytes(numbers: float, dtype: torch.dtype) -> float:
    """The memory of so many numbers of a type."""
    return numbers * dtype.itemsize / 1e9


def most_gigabytes(device: torch.device) -> float:
    """What one contender's largest array may take: 3 GB on a processor, a third of a graphics card."""
    if device.type != "cuda":
        return 3.0
    return torch.cuda.get_device_properties(device).total_memory / 3e9
