"""What every kernel states of its pinned configurations, and what compiling ahead of time rests on."""

from __future__ import annotations

import importlib
import re

import pytest

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton.tiles import SHARED_MEMORY, Variant
from tests.kernels.ahead_of_time import TARGETS, kernel_modules
from tests.kernels.compile_process import ROOT


def all_variants(architecture: str) -> list[Variant]:
    return [v for name in kernel_modules() for v in importlib.import_module(name).variants(architecture)]


@pytest.mark.parametrize("architecture", SHARED_MEMORY)
def test_every_variant_is_complete_and_has_a_name_of_its_own(architecture):
    made = all_variants(architecture)
    assert len({variant.name for variant in made}) == len(made)
    for variant in made:
        assert {*variant.signature, *variant.constexprs} == set(variant.kernel.arg_names), variant.name
        assert set(variant.divisible) <= set(variant.signature), variant.name


def test_every_kernel_that_is_launched_states_variants():
    """Or it would neither be compiled ahead of time nor looked at above."""
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "csrc_triton").glob("*.py"))
    launched = set(re.findall(r"^ +(\w+)\[\(.*\)\]\($", sources, re.MULTILINE))
    assert launched
    assert launched <= {variant.kernel.__name__ for variant in all_variants("sm_90")}


def test_the_targets_that_are_judged_are_known():
    assert set(TARGETS) <= set(SHARED_MEMORY)
