"""Kernels whose compilation takes minutes or ends its process, and one that is well: nothing but time tells them."""

from __future__ import annotations

import os
from dataclasses import replace

from csrc_triton.tiles import Variant
from tests.kernels.planted import variant


class Deadly(dict[str, str]):
    """Ends the process that reads it, as an assertion inside a compiler does."""

    def get(self, *_: object) -> str:  # type: ignore[override]
        os._exit(3)


def variants(architecture: str = "sm_90") -> tuple[Variant, ...]:
    """IEEE products of large blocks unroll into hundreds of thousands of instructions."""
    well = variant("well", "fp32", 16, 16, "FFMA")
    return (
        variant("takes minutes", "fp32", 256, 256, "FFMA"),
        replace(well, name="ends its process", signature=Deadly(well.signature)),
        replace(well, name="well after both"),
    )
