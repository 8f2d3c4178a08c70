"""The kernels compile for a GPU that need not be here, lean and with the right instructions; and faults are seen."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from tests.kernels import ahead_of_time, compiled

WHY_NOT = ahead_of_time.why_not()
compiles = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
PATIENT = 60.0  # seconds for what takes one on an idle machine


@compiles
def test_one_variant_of_each_kernel_and_mode_is_as_its_author_expects():
    results = ahead_of_time.compile_all(ahead_of_time.kernel_modules(), ["sm_90"], one_per_mode=True, timeout=PATIENT)
    assert results
    assert [(result.variant, result.problems) for result in results if result.problems] == []
    assert all(result.expected is not None for result in results)


FAULTS = {
    "well": "",
    "well in float32": "",
    "spills": "spills: [1-9]",
    "takes tf32": "expected FFMA to multiply, found HGMMA",
    "misses its instruction": "expected HGMMA to multiply, found FFMA",
    "too many registers": "needs [0-9]+ registers of the 65536",
    "too much shared memory": "needs [0-9]+ bytes of shared memory of 232448",
    "does not compile": "CompilationError: .*power of 2",
}


@compiles
def test_every_planted_fault_is_seen():
    results = ahead_of_time.compile_all(["tests.kernels.planted"], ["sm_90"], timeout=PATIENT, workers=1)
    assert [result.variant for result in results] == list(FAULTS)
    for result in results:
        problems = " | ".join(result.problems)
        assert len(result.problems) == bool(FAULTS[result.variant]), (result.variant, problems)
        assert re.search(FAULTS[result.variant], problems), (result.variant, problems)


@compiles
def test_a_compilation_that_hangs_or_dies_takes_only_its_variant_with_it():
    results = ahead_of_time.compile_all(["tests.kernels.planted_endless"], ["sm_90"], timeout=4.0, workers=1)
    found = {result.variant: result.problems for result in results}
    assert found == {
        "takes minutes": ("no answer within 4 s",),
        "ends its process": ("the compiler's process ended with 3: ",),
        "well after both": (),
    }


@compiles
def test_modules_that_cannot_be_listed_are_named(tmp_path):
    with pytest.raises(
        RuntimeError, match=r"tests.kernels.no_such_module: the compiler's process ended with 1: .*No mod"
    ):
        ahead_of_time.compile_all(["tests.kernels.no_such_module"], ["sm_90"])


@compiles
def test_the_command_says_what_is_wrong_and_fails(monkeypatch, capsys):
    monkeypatch.setattr(ahead_of_time, "kernel_modules", lambda: ("tests.kernels.planted",))
    assert ahead_of_time.main(["--target", "gfx942", "--one-per-mode"]) == 1
    printed = capsys.readouterr().out
    assert "v_mfma_f32" in printed
    assert "does not compile for gfx942: CompilationError" in printed
    assert "2 compiled" in printed
    assert re.search("too much shared memory for gfx942: needs [0-9]+ bytes", printed)
    assert "2 problems" in printed


MADE = {
    "registers": 61,
    "stack": 0,
    "spills": 0,
    "shared": 16384,
    "shared_limit": 232448,
    "instructions": 216,
    "opcodes": {"HGMMA": 2, "IMAD": 30},
    "products": ["HGMMA"],
    "matrix": ["HGMMA"],
    "seconds": 0.5,
}
GOOD = compiled.Compiled("csrc_triton.gram", "kernel", "gram bf16", "sm_90", "3.6.0", "HGMMA", MADE)


@pytest.mark.parametrize(
    ("expected", "made", "problem"),
    [
        (None, {}, None),
        ("HGMMA", {}, None),
        ("DMMA|HGMMA", {}, None),
        ("DMMA|FFMA", {}, "expected DMMA|FFMA to multiply, found HGMMA 2"),
        ("", {}, "expected no matrix instruction to multiply, found HGMMA 2"),
        ("", {"matrix": []}, None),
        ("", {"products": [], "matrix": []}, None),
        ("FFMA", {}, "expected FFMA to multiply, found HGMMA 2"),
        ("HGMMA", {"products": [], "matrix": []}, "expected HGMMA to multiply, found no product"),
        ("HGMMA", {"stack": 8}, "spills: 0 instructions, 8 bytes of stack"),
        ("HGMMA", {"spills": 1}, "spills: 1 instructions"),
        ("HGMMA", {"shared": 232449}, "needs 232449 bytes"),
        ("HGMMA", {"error": "ptxas fell over"}, "ptxas fell over"),
    ],
)
def test_what_the_compiler_made_is_judged(expected, made, problem):
    problems = replace(GOOD, expected=expected, made=MADE | made).problems
    assert len(problems) == (problem is not None)
    assert problem is None or problems[0].startswith(problem)


def test_the_table_on_the_page_is_made_from_the_newest_record_of_each_triton(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{compiled.BEGIN}\nold\n{compiled.END}\nafter\n")
    bad = replace(GOOD, triton="3.9.0", variant="gram spilt", made=MADE | {"spills": 4})
    first = compiled.write([GOOD], tmp_path / "records", page)
    compiled.write([bad], tmp_path / "records", page)
    text = page.read_text()
    assert text.startswith(f"before\n{compiled.BEGIN}\n#### Triton 3.6.0\n")
    assert "| kernel |  | sm_90 | 1 | 61 | 16384 | HGMMA |" in text
    assert "none spills" in text.split("3.9.0")[0]
    assert "1 are not as expected" in text.split("3.9.0")[1]
    assert "- gram spilt for sm_90: spills: 4 instructions, 0 bytes of stack" in text.split("3.9.0")[1]
    assert [compiled.Compiled(**row) for row in json.loads(first.read_text())["rows"]] == [GOOD]


def test_the_variant_that_asks_most_stands_for_its_kernel_and_mode():
    def listed(
        name: str, mode: str, tile: list[int], switches: int, arguments: int, *targets: str
    ) -> dict[str, object]:
        return {
            "module": "m",
            "kernel": "gram",
            "variant": name,
            "mode": mode,
            "tile": tile,
            "switches": switches,
            "arguments": arguments,
            "instruction": dict.fromkeys(targets, "HGMMA"),
        }

    variants = [
        listed("small", "bf16", [64, 64], 2, 9, "sm_90"),
        listed("large", "bf16", [128, 0, 128], 1, 2, "sm_90"),
        listed("large with switches", "bf16", [128, 128], 2, 1, "sm_90"),
        listed("large with switches and odd lengths", "bf16", [128, 128], 2, 3, "sm_90"),
        listed("as large", "bf16", [128, 128], 2, 3, "sm_90"),
        listed("larger, not judged", "bf16", [256, 256], 2, 3),
        listed("other", "ieee", [64], 0, 0),
    ]
    asked = "large with switches and odd lengths"
    assert [v["variant"] for v in ahead_of_time.telling(variants, "sm_90")] == [asked, "other"]
    assert [v["variant"] for v in ahead_of_time.telling(variants, "sm_80")] == ["larger, not judged", "other"]


@pytest.mark.parametrize(
    ("platform", "reason"), [("darwin", "Linux only, and this is darwin"), ("linux", "not installed")]
)
def test_a_machine_that_cannot_compile_says_why(platform, reason, monkeypatch, capsys):
    monkeypatch.setattr(ahead_of_time.sys, "platform", platform)
    monkeypatch.setattr(ahead_of_time.importlib.util, "find_spec", lambda name: None)
    assert reason in str(ahead_of_time.why_not())
    assert ahead_of_time.main([]) == 0
    assert capsys.readouterr().out.startswith("skipped: Triton")
