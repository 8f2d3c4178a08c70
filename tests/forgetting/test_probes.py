"""A penalty sees whether probes are its own: by a loader asked twice, by features, and by outputs at the start."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch

import ntkla
from ntkla import ArgumentError, NonFiniteError, ShapeError, SpectralPenalty
from ntkla.linalg.precision import UNIT_ROUNDOFF
from ntkla.testing.spectra import normal

PROBES, WIDTH, OUTPUTS = 40, 6, 3
IMAGES = normal(PROBES, WIDTH, 0).float()


def network() -> torch.nn.Sequential:
    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, 5), torch.nn.ReLU(), torch.nn.Linear(5, OUTPUTS))
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=draw))
    return model


MODEL = network()
HIDDEN, NOW = MODEL[:2](IMAGES).detach(), MODEL(IMAGES).detach()
REVERSED = torch.arange(PROBES - 1, -1, -1)


class Loader:
    """Batches of the images with what `change` makes of each, called anew every time."""

    def __init__(self, change):
        self.change = change

    def __iter__(self):
        return iter([self.change(part) for part in IMAGES.split(16)])


def penalty(**options) -> SpectralPenalty:
    return SpectralPenalty.from_model(MODEL, IMAGES.split(16), options.pop("k", 4), layer="1", **options)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 1e-3 * torch.randn(x.shape),
        lambda x: x[torch.randperm(len(x))],
        lambda x: x * float(np.random.uniform(0.9, 1.1)),  # noqa: NPY002 (as users do)
        lambda x: x * random.uniform(0.9, 1.1),
    ],
    ids=["augments", "shuffles within", "numpy", "random"],
)
def test_a_loader_that_gives_other_inputs_is_refused_and_no_generator_moves(change):
    before = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002
    with pytest.raises(ArgumentError, match="same inputs in the same order"):
        SpectralPenalty.from_model(MODEL, Loader(change), 2, layer="1")
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_equal(np.random.get_state(legacy=False), before[1])  # noqa: NPY002
    assert before[2] == random.getstate()
    assert not MODEL._forward_pre_hooks


def test_a_loader_with_a_generator_of_its_own_that_shuffles_without_torchs_sampler_is_refused():
    class Shuffled(torch.utils.data.Sampler):
        def __init__(self):
            self.draw = torch.Generator().manual_seed(0)

        def __iter__(self):
            return iter(torch.randperm(PROBES, generator=self.draw).tolist())

        def __len__(self):
            return PROBES

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(IMAGES), batch_size=16, sampler=Shuffled())
    with pytest.raises(ArgumentError, match="same inputs in the same order"):
        SpectralPenalty.from_model(MODEL, loader, 2, layer="1")


def test_inputs_of_every_kind_are_compared():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = torch.nn.Linear(WIDTH, 5), torch.nn.Linear(5, OUTPUTS)

        def forward(self, pixels, gate):
            return self.head(self.body(pixels) * gate)

    gates = normal(PROBES, 5, 3).float()
    batches = [{"pixels": x, "gate": g} for x, g in zip(IMAGES.split(16), gates.split(16), strict=True)]
    model = Model()
    assert SpectralPenalty.from_model(model, batches, 2, layer="body").count == 2 * OUTPUTS

    class Gated:
        def __iter__(self):
            return iter([b | {"gate": b["gate"] + torch.rand(())} for b in batches])

    with pytest.raises(ArgumentError, match="same inputs in the same order"):
        SpectralPenalty.from_model(model, Gated(), 2, layer="body")


def test_the_reference_is_recognised_in_other_batches_and_after_a_round_trip():
    made = penalty()
    made.check_reference(MODEL(IMAGES))
    made.check_reference(torch.cat([MODEL(part) for part in IMAGES.split(7)]))
    made.check_reference(MODEL(IMAGES).bfloat16())
    other = SpectralPenalty(ntkla.eigenmodes(HIDDEN, 4, bias=True), torch.zeros_like(NOW))
    with pytest.raises(ArgumentError, match="differ by more than rounding"):
        other.check_reference(NOW)
    other.load_state_dict(made.state_dict())
    other.check_reference(NOW)
    other.check_probes(HIDDEN)


def test_another_order_of_outputs_is_named_with_what_helps():
    with pytest.raises(ArgumentError, match=r"in another order.*shuffle=False"):
        penalty().check_reference(NOW[REVERSED])


@pytest.mark.parametrize("row", [0, PROBES - 1])
def test_one_row_that_moved_is_found_at_the_documented_size(row):
    allowed = UNIT_ROUNDOFF[torch.float32] ** 0.5
    sizes = torch.linalg.vector_norm(NOW.double(), dim=1)
    scale = float(torch.maximum(sizes[row], sizes.square().mean().sqrt()))
    for share, refused in ((0.5, False), (2.0, True)):
        moved = NOW.clone()
        moved[row, 1] += share * allowed * scale
        if refused:
            with pytest.raises(ArgumentError, match=f"got 1 of {PROBES} rows.*row {row}, .*before the training"):
                penalty().check_reference(moved)
            penalty().check_reference(moved, tol=4.0 * allowed)
        else:
            penalty().check_reference(moved)


def test_a_model_that_was_trained_since_is_named():
    trained = copy.deepcopy(MODEL)
    with torch.no_grad():
        trained[2].bias += 0.1
    with pytest.raises(ArgumentError, match="before the training"):
        penalty().check_reference(trained(IMAGES))


def test_columns_of_a_shared_head_are_checked_alone():
    made = penalty(columns=[2, 0])
    changed = NOW.clone()
    changed[:, 1] += 1.0
    made.check_reference(changed)
    changed[:, 2] += 1.0
    with pytest.raises(ArgumentError, match="rows that differ"):
        made.check_reference(changed)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel", ["gram", "kronecker", "kronecker cut"])
def test_features_are_recognised_and_other_orders_or_probes_refused(kernel, bias):
    operator = ntkla.GramOperator(HIDDEN, bias=bias)
    whole = ntkla.KroneckerGram(operator, OUTPUTS)
    modes = {
        "gram": lambda: ntkla.eigenmodes(operator, 4),
        "kronecker": lambda: ntkla.eigenmodes(whole, 4 * OUTPUTS),
        "kronecker cut": lambda: ntkla.eigenmodes(whole, 4 * OUTPUTS - 1),
    }[kernel]()
    made = SpectralPenalty(modes, NOW)
    for same in (HIDDEN, HIDDEN.double(), HIDDEN.bfloat16(), torch.cat([MODEL[:2](x) for x in IMAGES.split(7)])):
        made.check_probes(same)
    swapped = torch.arange(PROBES)
    swapped[:2] = torch.tensor([1, 0])
    for other in (HIDDEN[REVERSED], HIDDEN[swapped], normal(PROBES, 5, 9).float(), HIDDEN * 2):
        with pytest.raises(ArgumentError, match="same probes, in the same order"):
            made.check_probes(other)


def test_an_order_that_passes_leaves_the_penalty_as_it_is():
    """What the check of features promises: rows that may be exchanged have equal rows of the modes."""
    twins = torch.cat([HIDDEN, HIDDEN[:1]])
    modes, order = ntkla.eigenmodes(twins, 4), torch.arange(PROBES + 1)
    order[0], order[-1] = PROBES, 0
    outputs = torch.cat([NOW, NOW[:1]])
    made = SpectralPenalty(modes, outputs.double())
    made.check_probes(twins[order])
    moved = outputs.double() + normal(PROBES + 1, OUTPUTS, 4)
    apart = float((made(moved) - made(moved[order] - outputs[order] + outputs)).abs())
    assert apart <= UNIT_ROUNDOFF[torch.float32] ** 0.5 * float(made(moved))


def test_modes_of_another_kernel_say_that_they_do_not_know_their_features():
    operator = ntkla.SoftmaxGram(ntkla.GramOperator(HIDDEN), NOW.softmax(1))
    made = SpectralPenalty(ntkla.eigenmodes(operator, 3), NOW)
    with pytest.raises(ArgumentError, match="check_reference"):
        made.check_probes(HIDDEN)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ArgumentError, "k: expected an integer >= 1", lambda: penalty(k=0)),
        (ArgumentError, "certainly positive, got 6 of 8", lambda: penalty(k=8)),
        (ArgumentError, "k: expected", lambda: penalty(k=PROBES + 1)),
        (ArgumentError, "weight: expected a number >= 0", lambda: penalty(weight=-1.0)),
        (ArgumentError, "weight: expected a finite number", lambda: penalty(weight=float("nan"))),
        (ArgumentError, "once only", lambda: SpectralPenalty.from_model(MODEL, iter(IMAGES.split(16)), 2, layer="1")),
        (ArgumentError, "expected a torch.nn.Module", lambda: SpectralPenalty.from_model(print, [], 2, layer="1")),
        (NonFiniteError, "outputs", lambda: penalty().check_reference(NOW * float("nan"))),
        (NonFiniteError, "Lower the learning rate", lambda: penalty(weight=0.0)(NOW * float("nan"))),
        (ShapeError, "in their order", lambda: penalty().check_reference(NOW[1:])),
        (ShapeError, "40 rows", lambda: penalty().check_probes(HIDDEN[1:])),
        (ArgumentError, "tol", lambda: penalty().check_reference(NOW, tol=0.0)),
    ],
)
def test_bad_input_is_named(error, words, call):
    with pytest.raises(error, match=words):
        call()


def test_no_weight_is_no_penalty_but_still_knows_its_probes():
    made = penalty(weight=0.0)
    assert float(made(NOW + 1.0)) == 0.0
    with pytest.raises(ArgumentError, match="rows that differ"):
        made.check_reference(NOW + 1.0)


def test_a_forecast_refuses_probes_that_are_not_those_of_the_penalty():
    made = penalty()
    assert ntkla.Protection(made, HIDDEN).features.shape == HIDDEN.shape
    with pytest.raises(ArgumentError, match="same probes, in the same order"):
        ntkla.Protection(made, HIDDEN[REVERSED])
    new, residual = normal(20, 5, 7).float(), normal(20, OUTPUTS, 8)
    with pytest.raises(ArgumentError, match="same probes, in the same order"):
        ntkla.predict_forgetting(HIDDEN[REVERSED], new, residual, ridge=1.0, penalty=made)


def test_a_penalty_owns_what_it_was_made_of():
    modes = ntkla.eigenmodes(HIDDEN, 2)
    kept, first, second = modes.basis.clone(), SpectralPenalty(modes, NOW), SpectralPenalty(modes, NOW)
    first.load_state_dict(SpectralPenalty(ntkla.eigenmodes(HIDDEN[REVERSED], 2), NOW).state_dict())
    assert torch.equal(modes.basis, kept)
    second.check_probes(HIDDEN)


def test_a_penalty_made_in_inference_mode_can_be_trained_with():
    with torch.inference_mode():
        made = SpectralPenalty(ntkla.eigenmodes(HIDDEN, 2), NOW)
    outputs = NOW.clone().requires_grad_()
    made(outputs + 1.0).backward()
    assert outputs.grad is not None


def test_a_penalty_whose_numbers_left_their_type_is_told():
    modes = ntkla.eigenmodes(HIDDEN * 1e5, 2)
    with pytest.raises(NonFiniteError, match="eigenvalues have left the range"):
        SpectralPenalty(modes, NOW).half().check_probes(HIDDEN * 1e5)
    with pytest.raises(NonFiniteError, match="reference has left the range"):
        SpectralPenalty(modes, NOW * 1e6).half().check_reference(NOW.double())


def test_eigenvalues_beyond_the_reference_s_type_are_kept():
    huge = (HIDDEN * 1e25).double()
    made = SpectralPenalty(ntkla.eigenmodes(huge, 2), NOW)
    made.check_probes(huge)
    with pytest.raises(ArgumentError, match="got others"):
        made.check_probes(huge[REVERSED])


@pytest.mark.parametrize("outputs", [NOW.to_sparse(), NOW.to("meta"), NOW.to(torch.float8_e4m3fn)])
def test_outputs_that_cannot_be_multiplied_are_named(outputs):
    made = SpectralPenalty(ntkla.eigenmodes(HIDDEN, 2), NOW)
    with pytest.raises((ntkla.DtypeError, ntkla.DeviceError), match="outputs: expected"):
        made(outputs)
