"""The spectral penalty: the paper's normalisation, its closed form for linear heads, and what a training loop needs."""

from __future__ import annotations

import pytest
import torch

import ntkla
from ntkla import (
    ArgumentError,
    GramOperator,
    KroneckerGram,
    LayerNTK,
    NonFiniteError,
    ShapeError,
    SoftmaxGram,
    SpectralPenalty,
)
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma
from ntkla.testing.spectra import normal

PROBES, FEATURES, OUTPUTS, KEPT, WEIGHT = 12, 7, 3, 4, 2.5
PHI, NOW, REFERENCE = normal(PROBES, FEATURES, 0), normal(PROBES, OUTPUTS, 1), normal(PROBES, OUTPUTS, 2)


def within(value, expected, magnitude, dtype=torch.float64, operations=200):
    assert float((value - expected).detach().abs().max()) <= gamma(operations, UNIT_ROUNDOFF[dtype]) * float(magnitude)


def kernel(order="class"):
    return KroneckerGram(GramOperator(PHI), OUTPUTS, order)


def flattened(x, order="class"):
    return (x.T if order == "class" else x).reshape(-1)


@pytest.mark.parametrize("order", ["class", "sample"])
@pytest.mark.parametrize("k", [1, KEPT * OUTPUTS, KEPT * OUTPUTS - 1])
def test_it_is_the_papers_sum_over_modes_of_the_whole_kernel(order, k):
    modes = ntkla.eigenmodes(kernel(order), k)
    penalty = SpectralPenalty(modes, REFERENCE, WEIGHT)
    expected = WEIGHT / k * (modes.vectors.T @ flattened(NOW - REFERENCE, order)).square().sum()
    assert penalty.count == k
    within(penalty(NOW), expected, WEIGHT * (NOW - REFERENCE).square().sum())


def test_modes_of_the_factor_stand_for_all_outputs():
    factor = SpectralPenalty(ntkla.eigenmodes(PHI, KEPT), REFERENCE, WEIGHT)
    whole = SpectralPenalty(ntkla.eigenmodes(kernel(), KEPT * OUTPUTS), REFERENCE, WEIGHT)
    assert factor.count == whole.count == KEPT * OUTPUTS
    within(factor(NOW), whole(NOW), WEIGHT * (NOW - REFERENCE).square().sum())


def test_the_gradient_vanishes_at_the_closed_form():
    """What the module's docstring says the penalty adds to the normal matrix of a linear head."""
    new, targets, before, ridge = normal(9, FEATURES, 3), normal(9, OUTPUTS, 4), normal(OUTPUTS, FEATURES, 5), 0.3
    modes = ntkla.eigenmodes(PHI, KEPT)
    penalty = SpectralPenalty(modes, PHI @ before.T, WEIGHT)
    protected = modes.vectors.T @ PHI
    added = 2 * WEIGHT / (OUTPUTS * KEPT) * protected.T @ protected
    matrix = new.T @ new + ridge * torch.eye(FEATURES, dtype=torch.float64) + added
    update = torch.linalg.solve(matrix, -new.T @ (new @ before.T - targets))
    weight = (before + update.T).requires_grad_()
    loss = 0.5 * (new @ weight.T - targets).square().sum() + ridge / 2 * (weight - before).square().sum()
    (loss + penalty(PHI @ weight.T)).backward()
    scale = torch.linalg.matrix_norm(matrix) * torch.linalg.matrix_norm(update) + torch.linalg.matrix_norm(
        new
    ) * torch.linalg.matrix_norm(targets)
    within(weight.grad, 0.0, scale, operations=10 * FEATURES * OUTPUTS)


def test_the_metric_of_cross_entropy():
    operator = SoftmaxGram(GramOperator(PHI), NOW.softmax(1))
    modes = ntkla.eigenmodes(operator, 5)
    expected = WEIGHT / 5 * (modes.vectors.T @ operator.flattened(operator.half(NOW - REFERENCE)[0])).square().sum()
    within(
        SpectralPenalty(modes, REFERENCE, WEIGHT)(NOW),
        expected,
        WEIGHT * (NOW - REFERENCE).square().sum(),
        operations=900,
    )


@pytest.mark.parametrize("order", ["class", "sample"])
def test_modes_of_a_kernel_that_is_no_kronecker_product(order):
    kernel = LayerNTK([(PHI, normal(PROBES, OUTPUTS * 4, 6).reshape(PROBES, OUTPUTS, 4))], order=order)
    modes = ntkla.eigenmodes(kernel, 5)
    moved = modes.vectors.T @ flattened(NOW - REFERENCE, order)
    penalty = SpectralPenalty(modes, REFERENCE, WEIGHT)
    within(penalty(NOW), WEIGHT / 5 * moved.square().sum(), WEIGHT * (NOW - REFERENCE).square().sum())
    spread = ntkla.decompose(NOW - REFERENCE, modes)
    within(spread.energy, moved.square(), (NOW - REFERENCE).square().sum())


def test_columns_of_a_shared_head_are_the_only_ones_that_count():
    penalty = SpectralPenalty(ntkla.eigenmodes(PHI, KEPT), REFERENCE[:, :2], columns=[2, 0])
    outputs = torch.cat([REFERENCE[:, 1:2], NOW[:, :1], REFERENCE[:, :1]], 1).requires_grad_()
    penalty(outputs).backward()
    assert float(penalty(outputs.detach())) == 0.0
    changed = outputs.detach().clone()
    changed[:, 1] += 1.0
    assert float(penalty(changed)) == 0.0
    changed[:, 0] += 1.0
    assert float(penalty(changed)) > 0.0


def test_it_goes_through_autocast_compile_and_a_state_dict():
    modes = ntkla.eigenmodes(PHI.float(), KEPT)
    penalty = SpectralPenalty(modes, REFERENCE.float(), WEIGHT)
    expected = penalty(NOW.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(penalty(NOW.float()), expected)
    assert penalty(NOW.bfloat16()).dtype == torch.float32
    compiled = torch.compile(penalty, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(NOW.float()), expected)
    other = SpectralPenalty(modes, torch.zeros_like(REFERENCE.float()), WEIGHT)
    other.load_state_dict(penalty.state_dict())
    assert torch.equal(other(NOW.float()), expected)
    assert penalty.double()(NOW).dtype == torch.float64
    assert not list(penalty.parameters())


def test_from_a_model_in_one_line():
    draw = torch.Generator().manual_seed(0)
    images = torch.randn((40, 6), generator=draw)
    body, head = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh()), torch.nn.Linear(5, 4)
    with torch.no_grad():
        for p in [*body.parameters(), *head.parameters()]:
            p.copy_(torch.randn(p.shape, generator=draw))
    model = torch.nn.Sequential(body, head)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=16)
    penalty = SpectralPenalty.from_model(model, loader, 3, layer="0", weight=WEIGHT)
    assert penalty.count == 3 * 4
    within(penalty(model(images)), 0.0, WEIGHT, torch.float32)
    with torch.no_grad():
        head.weight += 1.0
    modes = ntkla.eigenmodes(body(images).detach(), 3, bias=True)
    expected = SpectralPenalty(modes, model(images).detach() - body(images).detach().sum(1, keepdim=True), WEIGHT)
    found = penalty(model(images))
    # Outputs rounded in float32 are off by a share of their size, twice in each difference.
    size = 2 * float(torch.linalg.matrix_norm(model(images).detach()))
    within(found, expected(model(images)), WEIGHT / penalty.count * size**2, torch.float32)


@pytest.mark.parametrize("batches", [False, True])
def test_a_loader_that_shuffles_is_refused(batches):
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4))
    images = torch.utils.data.TensorDataset(torch.zeros(4, 6))
    sampler = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(images), 2, drop_last=False)
    given = {"batch_sampler": sampler} if batches else {"shuffle": True}
    loader = torch.utils.data.DataLoader(images, **given)
    with pytest.raises(ArgumentError, match="shuffle=False"):
        SpectralPenalty.from_model(model, loader, 1, layer="0")


def test_the_learning_rate_of_the_docstring_is_the_stable_one():
    modes, outputs = ntkla.eigenmodes(PHI, KEPT), 1
    penalty = SpectralPenalty(modes, torch.zeros((PROBES, outputs), dtype=torch.float64), WEIGHT)
    curvature = 2 * WEIGHT * float(modes.values[0]) / penalty.count
    sizes = []
    for share in (1.9, 2.1):
        weight = torch.ones((FEATURES, outputs), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=share / curvature)
        first = float(penalty(PHI @ weight).detach())
        for _ in range(200):
            optimizer.zero_grad()
            penalty(PHI @ weight).backward()
            optimizer.step()
        sizes.append(float(penalty(PHI @ weight).detach()) / first)
    assert sizes[0] < 1 < sizes[1]


@pytest.mark.parametrize("moved", [float("nan"), float("inf")])
def test_outputs_that_blow_up_are_named(moved):
    penalty = SpectralPenalty(ntkla.eigenmodes(PHI, KEPT), REFERENCE)
    with pytest.raises(NonFiniteError, match="Lower the learning rate, or the weight"):
        penalty(REFERENCE + moved)


def test_no_weight_is_no_penalty():
    outputs = NOW.clone().requires_grad_()
    penalty = SpectralPenalty(ntkla.eigenmodes(PHI, KEPT), REFERENCE, 0.0)(outputs)
    penalty.backward()
    assert float(penalty.detach()) == 0.0
    assert not outputs.grad.any()


MODES = ntkla.eigenmodes(PHI, KEPT)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ShapeError, "rows", lambda: SpectralPenalty(MODES, REFERENCE[:5])),
        (ShapeError, "in their order", lambda: SpectralPenalty(MODES, REFERENCE)(NOW[:5])),
        (ArgumentError, "weight: expected a number >= 0", lambda: SpectralPenalty(MODES, REFERENCE, -1.0)),
        (ArgumentError, "got 7 of 9", lambda: SpectralPenalty(ntkla.eigenmodes(PHI, 9), REFERENCE)),
        (ArgumentError, "each once", lambda: SpectralPenalty(MODES, REFERENCE, columns=[0, 1, 1])),
        (ArgumentError, "expected 3, as the reference has", lambda: SpectralPenalty(MODES, REFERENCE, columns=[0, 1])),
        (ShapeError, "numbers below 3", lambda: SpectralPenalty(MODES, REFERENCE, columns=[0, 1, 9])(NOW)),
        (ArgumentError, "at least one", lambda: SpectralPenalty(MODES, REFERENCE, columns=[])),
        (TypeError, "got torch.complex128", lambda: SpectralPenalty(MODES, REFERENCE)(NOW.to(torch.complex128))),
        (TypeError, "column numbers", lambda: SpectralPenalty(MODES, REFERENCE, columns=2)),
        (ShapeError, "one row a probe", lambda: SpectralPenalty(MODES, REFERENCE)(NOW[0])),
        (ShapeError, "got list", lambda: SpectralPenalty(MODES, REFERENCE)([1.0])),
        (TypeError, "eigenmodes", lambda: SpectralPenalty(PHI, REFERENCE)),
    ],
)
def test_bad_input_is_named(error, words, call):
    with pytest.raises(error, match=words):
        call()
