"""Suite `penalty`: a network of ResNet-18's size, a judge that sees a wrong penalty, and one command for all."""

from __future__ import annotations

import json

import pytest
import torch

from perf import __main__ as command
from perf import tables
from perf.suites import penalty
from perf.suites.penalty_judge import penalised
from perf.suites.penalty_network import resnet18

CPU = torch.device("cpu")
CASE = penalty.build(penalty._SMALL[0], CPU)
BY_NAME = {contender.name: contender for contender in CASE.contenders}


def test_the_network_is_resnet_18():
    network = resnet18(1000, torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in network.parameters()) == 11_689_512  # as torchvision counts its own
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)


def test_the_work_of_a_pass_is_that_of_its_convolutions():
    """1.81e9 multiply-adds for a picture of 224 x 224, as He et al. say (1.8e9)."""
    setting = penalty.Setting(4, 224, 20, 5, 1000)
    products = penalty._products(resnet18(1000, torch.Generator().manual_seed(0)), setting)
    assert round(products / 4 / 1e9, 2) == 1.81


@pytest.mark.parametrize("fault", [1.0, 1.1, 1.001, float("inf"), float("nan")])
@pytest.mark.parametrize("name", list(BY_NAME))
def test_the_judge_sees_a_wrong_total(name, fault):
    answer = BY_NAME[name].call()
    wrong = answer._replace(total=answer.total * fault)
    assert CASE.judge(BY_NAME[name], wrong).right == (fault == 1.0)


@pytest.mark.parametrize("share", [0.0, 0.9, 2.0])
def test_the_judge_sees_a_step_whose_penalty_is_left_out_or_another(share):
    contender = BY_NAME[penalty.WITH_PENALTY]
    answer = contender.call()
    added = penalised(CASE.judge.penalty, answer.outputs).value
    assert added > 0.0
    assert not CASE.judge(contender, answer._replace(total=answer.total + (share - 1.0) * added)).right


def test_a_step_trains_the_network_and_the_penalty_alone_only_its_outputs():
    network_grads = [BY_NAME[name].call().total.requires_grad for name in (penalty.BASELINE, penalty.WITH_PENALTY)]
    assert network_grads == [True, True]
    with_penalty, without = (BY_NAME[name].call().total.detach() for name in (penalty.WITH_PENALTY, penalty.BASELINE))
    assert float(with_penalty) > float(without)


def test_one_command_records_every_contender(tmp_path):
    assert command.main(["penalty", "--size", "small", "--device", "cpu", "--output", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert {row["contender"] for row in record["rows"]} == set(BY_NAME)
    alone = next(row for row in record["rows"] if row["contender"] == penalty.PENALTY)
    assert alone["ratios"][penalty.BASELINE] > 0.0
    assert "the probes' own" in tables.long([record])
