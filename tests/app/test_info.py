"""`ntkla info`: why a primitive runs as it does, and how much memory there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ntkla.app.command_line import info
from ntkla.linalg.backends import choices


@pytest.fixture
def lowered():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def described() -> str:
    return " ".join(info.describe().split())


def test_each_type_says_why_it_is_multiplied_in_which():
    said = described()
    assert "gram cpu float64 torch:gram:float64 (float64 stays float64)" in said
    assert "gram cpu bfloat16 torch:gram:float32 (what is narrower than float64 is summed in float32)" in said


def test_a_lowered_precision_is_the_reason_for_float64(lowered):
    assert "torch:gram:float64 (float32 products are lowered here, so float64 is taken)" in described()


def test_what_chooses_the_implementation(monkeypatch):
    monkeypatch.delenv("NTKLA_BACKEND", raising=False)
    assert "for every size (NTKLA_BACKEND is not set)" in described()
    monkeypatch.setenv("NTKLA_BACKEND", "torch")
    assert "for every size (NTKLA_BACKEND=torch)" in described()


@pytest.mark.parametrize(("limit", "wanted"), [(None, "none"), (8_000_000_000, "8.0 GB")])
def test_the_limit_of_a_container(limit, wanted, monkeypatch):
    monkeypatch.setattr(info, "container_limit", lambda: limit)
    assert f"limit of the container {wanted} " in described()


def test_the_table_of_kernels_shows_every_row_and_what_hinders_them(monkeypatch):
    lines = info.describe_kernels().splitlines()
    named = [row.primitive for row in choices.CHOICES]
    assert [line.split()[0] for line in lines if line.split()[0] in named] == named
    assert any(line.split()[:6] == ["gram", "cuda", "float32", "ieee", "triton", "never"] for line in lines)
    assert any(line.startswith("normal_matmul ") and "never, F <= " in line for line in lines)
    monkeypatch.setattr(info.kernels, "why_not", lambda *_: "no Triton")
    assert "Triton on cpu: no Triton" in info.describe_kernels()


def test_a_row_that_was_measured_shows_in_both(monkeypatch):
    row = next(row for row in choices.CHOICES if row.primitive == "gram")
    measured = replace(row, device="NVIDIA H100", least_work=2e9, why="a record")
    monkeypatch.setattr(choices, "CHOICES", (measured,))
    table = info.describe_kernels()
    assert "NVIDIA H100  float64  float64     triton  2e+09 products  a record" in table
    assert "torch, Triton or cuBLAS, by device, type and size" in described()
