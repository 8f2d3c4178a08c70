"""Who protects what in a forecast: names, outputs of a shared head, what a report tells, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

import ntkla
from ntkla.testing.spectra import normal

OUTPUTS, F = 4, 6
HEAD = ntkla.LinearHead(normal(OUTPUTS, F, 1), normal(1, OUTPUTS, 2)[0])


def task(seed: int, outputs: list[int] | None = None, samples: int = 12) -> ntkla.Task:
    among = torch.tensor(range(OUTPUTS) if outputs is None else outputs)
    labels = among[torch.arange(samples) % len(among)]
    return ntkla.Task.from_labels(normal(samples, F, seed), labels, OUTPUTS, outputs=outputs)


def penalty(old: ntkla.Task, weight: float = 3.0, modes: int = 3, **options: object) -> ntkla.SpectralPenalty:
    outputs = range(OUTPUTS) if old.outputs is None else old.outputs.tolist()
    said = HEAD(old.features)[:, list(outputs)]
    return ntkla.SpectralPenalty(ntkla.eigenmodes(old.features, modes, bias=True), said, weight, **options)


FIRST, SECOND, NEW = task(3), task(4, [2, 1]), task(5)
OLDS = {"first": FIRST, "second": SECOND}


def agree(left: ntkla.ForgettingReports, right: ntkla.ForgettingReports) -> None:
    for name in left:
        one, other = left[name], right[name]
        assert bool(((one.drift - other.drift).abs() <= one.error_bound + other.error_bound).all())


def test_a_mapping_and_protections_say_the_same():
    pair = {"first": penalty(FIRST), "second": penalty(SECOND, 10.0)}
    named = ntkla.forecast(OLDS, NEW, HEAD, ridge=0.1, penalty=pair)
    listed = [
        ntkla.Protection(penalty(FIRST), FIRST.features),
        ntkla.Protection(penalty(SECOND, 10.0, columns=[2, 1]), SECOND.features),
    ]
    agree(named, ntkla.forecast(OLDS, NEW, HEAD, ridge=0.1, penalty=listed))
    without = ntkla.forecast(OLDS, NEW, HEAD, ridge=0.1)
    assert named.status.certified
    for name in OLDS:
        assert named[name].drift_rms < without[name].drift_rms
    # Each output feels what covers it: those of the second task both penalties.
    only = ntkla.forecast(OLDS, NEW, HEAD, ridge=0.1, penalty={"first": penalty(FIRST)})
    same = (only["first"].drift - named["first"].drift).abs() <= only["first"].error_bound + named["first"].error_bound
    assert same.all(0).tolist() == [True, False, False, True]


def test_a_bare_penalty_protects_the_only_old_task():
    alone = ntkla.forecast(SECOND, NEW, HEAD, ridge=0.1, penalty=penalty(SECOND))
    named = ntkla.forecast({"second": SECOND}, NEW, HEAD, ridge=0.1, penalty={"second": penalty(SECOND)})
    assert torch.equal(alone.drift, named["second"].drift)


def test_outputs_that_are_not_trained_stay_whatever_protects_them():
    new = task(5, [0, 1])
    free = ntkla.forecast(OLDS, new, HEAD, ridge=0.1)
    guarded = ntkla.forecast(OLDS, new, HEAD, ridge=0.1, penalty={"first": penalty(FIRST), "second": penalty(SECOND)})
    assert not guarded["first"].drift[:, 2:].any()
    assert not guarded["second"].drift[:, 0].any()
    assert guarded["first"].drift_rms < free["first"].drift_rms
    apart = task(4, [2, 3])
    reports = ntkla.forecast({"apart": apart}, new, HEAD, ridge=0.1, penalty={"apart": penalty(apart)})
    assert torch.equal(reports["apart"].forgetting.head_update, free["first"].forgetting.head_update)
    # The penalty's modes are counted over all outputs that it covers, trained or not.
    whole = ntkla.forecast(FIRST, NEW, HEAD, ridge=0.1, penalty=penalty(FIRST))
    part = ntkla.forecast(
        FIRST, ntkla.Task(NEW.features, NEW.targets[:, :2], outputs=[0, 1]), HEAD, ridge=0.1, penalty=penalty(FIRST)
    )
    assert bool(((whole.drift - part.drift).abs() <= whole.error_bound + part.error_bound)[:, :2].all())


def test_what_a_report_tells():
    pair = {"first": penalty(FIRST), "second": penalty(SECOND, 0.0)}
    reports = ntkla.forecast(OLDS, NEW, HEAD, ridge=0.1, penalty=pair, training=ntkla.GradientDescent(1e-3, 5))
    told = ntkla.ProtectedModes("first", 3, 12, (0, 1, 2, 3), 3.0)
    assert reports.protected == reports["second"].protected == (told,)
    assert "3 modes of first on 12 probes protected with weight 3" in reports.training
    assert "3 modes of first" in " ".join(str(reports["first"]).split())
    assert json.loads(json.dumps(reports.to_dict()))["protected"] == [
        {"name": "first", "modes": 3, "probes": 12, "outputs": [0, 1, 2, 3], "weight": 3.0}
    ]
    alone = ntkla.forecast(FIRST, NEW, HEAD, ridge=0.1, penalty=penalty(FIRST))
    assert "3 modes on 12 probes protected with weight 3" in alone.training
    assert "3 modes" not in ntkla.forecast(FIRST, NEW, HEAD, ridge=0.1).training


def test_a_penalty_follows_its_module():
    """A weight that was changed since, and buffers that were cast, are what counts."""
    heavy = penalty(FIRST)
    heavy.weight = 50.0
    expected = ntkla.forecast(FIRST, NEW, HEAD, ridge=0.1, penalty=penalty(FIRST, 50.0))
    assert torch.equal(ntkla.forecast(FIRST, NEW, HEAD, ridge=0.1, penalty=heavy).drift, expected.drift)
    narrow = ntkla.forecast(FIRST, NEW, HEAD, ridge=0.1, penalty=heavy.to(torch.float32))
    assert narrow.status.certified
    assert 0 < float((narrow.drift - expected.drift).abs().max()) < 2.0**-16


SOFTMAX = ntkla.SoftmaxGram(ntkla.GramOperator(FIRST.features, bias=True), HEAD(FIRST.features).softmax(1))


@pytest.mark.parametrize(
    ("given", "settings", "error", "message"),
    [
        (3, {}, ntkla.ArgumentError, "expected an ntkla.SpectralPenalty, an ntkla.Protection or several, got int"),
        ([penalty(FIRST), "x"], {}, ntkla.ArgumentError, "got str"),
        ("first", {}, ntkla.ArgumentError, "got str"),
        ({"third": penalty(FIRST)}, {}, ntkla.ArgumentError, r"names among \['first', 'second'\], got \['third'\]"),
        ({"first": None}, {}, ntkla.ArgumentError, "got NoneType"),
        (penalty(FIRST), {}, ntkla.ArgumentError, "which of the old tasks"),
        ({"first": penalty(task(3, samples=9))}, {}, ntkla.ShapeError, "of 9 probes, and 12 samples came"),
        ({"first": penalty(task(7))}, {}, ntkla.ArgumentError, "those that the modes were made of"),
        ({"first": penalty(SECOND)}, {}, ntkla.ArgumentError, "those that the modes were made of"),
        ({"first": penalty(FIRST)}, {"penalize_bias": False}, ntkla.ArgumentError, "penalize_bias: with a penalty"),
        (
            {"first": ntkla.SpectralPenalty(ntkla.eigenmodes(FIRST.features, 2), HEAD(FIRST.features)[:, :3])},
            {},
            ntkla.ShapeError,
            "its reference has 3 outputs",
        ),
        (
            {"first": penalty(FIRST, columns=[0, 1, 2, 4])},
            {},
            ntkla.ShapeError,
            "and the head has 4",
        ),
        (
            {"first": ntkla.SpectralPenalty(ntkla.eigenmodes(SOFTMAX, 3), HEAD(FIRST.features))},
            {},
            ntkla.ArgumentError,
            "which couple the outputs",
        ),
        ({"first": penalty(FIRST, 1e-280)}, {}, ntkla.ArgumentError, "a weight of 0, or from"),
        ({"first": penalty(FIRST, 1e200)}, {}, ntkla.ArgumentError, "a weight of 0, or from"),
    ],
)
def test_what_is_refused(given, settings, error, message):
    with pytest.raises(error, match=message):
        ntkla.forecast(OLDS, NEW, HEAD, ridge=0.1, penalty=given, **settings)


def test_a_protection_checks_what_it_is_made_of():
    module = penalty(FIRST)
    with pytest.raises(ntkla.ArgumentError, match=r"expected an ntkla\.SpectralPenalty"):
        ntkla.Protection("no", FIRST.features)
    with pytest.raises(ntkla.DtypeError):
        ntkla.Protection(module, [1.0])
    narrow = normal(12, F - 1, 3)
    other = ntkla.SpectralPenalty(ntkla.eigenmodes(narrow, 2), HEAD(FIRST.features))
    with pytest.raises(ntkla.ShapeError, match="penalty's features: expected 6 columns"):
        ntkla.forecast(FIRST, NEW, HEAD, ridge=0.1, penalty=ntkla.Protection(other, narrow))
    assert "12 modes on 12 probes" in str(ntkla.Protection(module, FIRST.features))


def test_a_head_that_does_not_fit_is_named():
    other = ntkla.LinearHead(HEAD.weight)
    with pytest.raises(ntkla.ArgumentError, match="no bias"):
        ntkla.predict_forgetting(
            FIRST.features, NEW.features, NEW.targets, ridge=1.0, bias=True, head=other, penalty=penalty(FIRST)
        )
