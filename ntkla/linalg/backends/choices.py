"""From which size on a Triton kernel or cuBLAS is taken instead of torch: a table, and what it says of a call.

A row holds only after it was measured on the device that it names; until then torch runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

NEVER = math.inf
ANY = "any"
_NOT_MEASURED = "not measured on a device yet"
_WIDE, _SINGLE, _HALF = (torch.float64,), (torch.float32,), (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Choice:
    """One row of the table.

    Attributes:
        primitive: its name, or `ANY`.
        device: "cpu", "cuda" for any CUDA device, or how the names of some begin, such as "NVIDIA H100".
        dtypes: element types of the inputs.
        mode: the arithmetic: "ieee", "split", "bf16", "float64" or "exact"; or `ANY`.
        least_work: multiplications from which the kernel runs; `NEVER` for torch always.
        why: what the number rests on.
        most_features: the longest rows that the kernel takes.
        implementation: what runs then: "triton", or "cublas" for symmetric Gram matrices.
    """

    primitive: str
    device: str
    dtypes: tuple[torch.dtype, ...]
    mode: str
    least_work: float
    why: str
    most_features: float = math.inf
    implementation: str = "triton"


# Of each implementation the first row that fits a call decides; the first in the table that says yes runs, else torch.
CHOICES = (
    Choice(ANY, "cpu", _WIDE + _SINGLE + _HALF, ANY, NEVER, "Triton makes no code for processors"),
    Choice("drift", "cuda", _WIDE + _SINGLE + _HALF, "float64", NEVER, _NOT_MEASURED),
    Choice("gram", "cuda", _WIDE, "float64", NEVER, _NOT_MEASURED),
    Choice("gram", "cuda", _SINGLE, "ieee", NEVER, _NOT_MEASURED),
    Choice("gram", "cuda", _SINGLE, "split", NEVER, _NOT_MEASURED),
    Choice("gram", "cuda", _SINGLE, "float64", NEVER, _NOT_MEASURED),
    Choice("gram", "cuda", _HALF, "bf16", NEVER, _NOT_MEASURED),
    Choice("gram", "cuda", _HALF, "ieee", NEVER, _NOT_MEASURED),
    Choice("gram", "cuda", _HALF, "float64", NEVER, _NOT_MEASURED),
    Choice("gram", "cuda", _WIDE + _SINGLE + _HALF, "float64", NEVER, _NOT_MEASURED, implementation="cublas"),
    Choice("gram", "cuda", _SINGLE, "ieee", NEVER, _NOT_MEASURED, implementation="cublas"),
    Choice("gram", "cuda", _WIDE + _SINGLE + _HALF, "exact", NEVER, _NOT_MEASURED),
    Choice("exact_normal", "cuda", _WIDE + _SINGLE + _HALF, "exact", NEVER, _NOT_MEASURED),
    Choice("layer_ntk", "cuda", _WIDE, "float64", NEVER, _NOT_MEASURED),
    Choice("layer_ntk", "cuda", _SINGLE, "ieee", NEVER, _NOT_MEASURED),
    Choice("layer_ntk", "cuda", _SINGLE, "split", NEVER, _NOT_MEASURED),
    Choice("layer_ntk", "cuda", _SINGLE, "float64", NEVER, _NOT_MEASURED),
    Choice("layer_ntk", "cuda", _HALF, "bf16", NEVER, _NOT_MEASURED),
    Choice("layer_ntk", "cuda", _HALF, "ieee", NEVER, _NOT_MEASURED),
    Choice("layer_ntk", "cuda", _HALF, "float64", NEVER, _NOT_MEASURED),
    Choice("normal_matmul", "cuda", _WIDE, "float64", NEVER, _NOT_MEASURED, most_features=4096),
    Choice("normal_matmul", "cuda", _SINGLE + _HALF, "ieee", NEVER, _NOT_MEASURED, most_features=4096),
    Choice("normal_matmul", "cuda", _SINGLE + _HALF, "float64", NEVER, _NOT_MEASURED, most_features=4096),
    Choice("softmax_gram", "cuda", _WIDE, "float64", NEVER, _NOT_MEASURED),
    Choice("softmax_gram", "cuda", _SINGLE + _HALF, "ieee", NEVER, _NOT_MEASURED),
    Choice("softmax_gram", "cuda", _SINGLE + _HALF, "float64", NEVER, _NOT_MEASURED),
)


def preferred(
    primitive: str,
    device: torch.device,
    dtype: torch.dtype,
    mode: str,
    features: int,
    work: float,
    *,
    without: tuple[str, ...] = (),
) -> str:
    """What the table prefers for a call of so many multiplications: "triton", "cublas" or "torch", `without` some."""
    asked = set(without)
    for row in CHOICES:
        if row.primitive not in (primitive, ANY) or row.mode not in (mode, ANY) or row.implementation in asked:
            continue
        if dtype in row.dtypes and _is(device, row):
            if work >= row.least_work and features <= row.most_features:
                return row.implementation
            asked.add(row.implementation)
    return "torch"


def takes_kernel(
    primitive: str, device: torch.device, dtype: torch.dtype, mode: str, features: int, work: float
) -> bool:
    """True when the table prefers the Triton kernel to torch for a call of so many multiplications."""
    return preferred(primitive, device, dtype, mode, features, work, without=("cublas",)) == "triton"


def ever_taken(primitive: str, mode: str, dtype: torch.dtype) -> bool:
    """True when the table takes the kernel of a primitive in this mode for some call on some device."""
    return any(
        row.primitive == primitive and row.mode == mode and dtype in row.dtypes and row.least_work < NEVER
        for row in CHOICES
    )


def most_features(primitive: str) -> float:
    """The longest rows that the kernel of a primitive takes, wherever it runs."""
    return min((row.most_features for row in CHOICES if row.primitive == primitive), default=math.inf)


def _is(device: torch.device, row: Choice) -> bool:
    if row.device in ("cpu", "cuda"):
        return device.type == row.device
    return device.type == "cuda" and torch.cuda.get_device_name(device).startswith(row.device)
