"""The penalty of a sequence: what it is for torch, and when it is the joint optimum."""

from __future__ import annotations

import math

import pytest
import torch

from ntkla.forgetting.descent.training import GradientDescent
from ntkla.forgetting.penalties.spectral_penalty import SpectralPenalty
from ntkla.forgetting.sequences.preparing import prepared
from ntkla.forgetting.sequences.sequence import TaskSequence
from ntkla.forgetting.tasks import Task
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.precision import U64, gamma, norm_upper
from tests.forgetting.sequences.curricula import CLASSES, F, learned, some_head, task

RIDGE = 0.1


class Trainer:
    """A linear layer trained by torch, task after task, with `SpectralPenalty` modules on all earlier ones."""

    def __init__(self, head, *, modes: int, weight: float, weight_decay: float) -> None:
        self.layer = torch.nn.Linear(F, CLASSES, dtype=torch.float64)
        with torch.no_grad():
            self.layer.weight.copy_(head.weight)
            self.layer.bias.copy_(head.bias)
        self.modes, self.weight, self.decay = modes, weight, weight_decay
        self.penalties: list[tuple[SpectralPenalty, torch.Tensor]] = []

    def loss(self, one: Task, start: list[torch.Tensor]) -> torch.Tensor:
        x = one.features.to(torch.float64)
        wrong = (self.layer(x) - one.targets).square().sum(1)
        total = (wrong if one.weights is None else one.weights * wrong).sum() / 2
        for p, q in zip(self.layer.parameters(), start, strict=True):
            total = total + RIDGE / 2 * (p - q).square().sum() + self.decay / 2 * p.square().sum()
        return total + sum(penalty(self.layer(probes)) for penalty, probes in self.penalties)

    def learn(self, one: Task, probes: torch.Tensor) -> torch.Tensor:
        """L-BFGS to the optimum; the norm of the gradient that is left, for each output."""
        start = [p.detach().clone() for p in self.layer.parameters()]

        def closure() -> torch.Tensor:
            for p in self.layer.parameters():
                p.grad = None
            loss = self.loss(one, start)
            loss.backward()
            return loss

        # A line search compares losses, and stops at the root of their rounding; the last steps go by gradients alone.
        for search in ("strong_wolfe", None):
            parameters, rest = self.layer.parameters(), {"tolerance_grad": 0, "tolerance_change": 0}
            torch.optim.LBFGS(parameters, max_iter=100, history_size=60, line_search_fn=search, **rest).step(closure)
        closure()
        gradient = torch.cat([self.layer.weight.grad, self.layer.bias.grad[:, None]], 1)
        self.remember(probes)
        return torch.linalg.vector_norm(gradient, dim=1)

    def descend(self, one: Task, probes: torch.Tensor, training: GradientDescent) -> None:
        """Full-batch SGD, as many steps as it says."""
        start = [p.detach().clone() for p in self.layer.parameters()]
        optimiser = torch.optim.SGD(
            self.layer.parameters(), lr=training.lr, momentum=training.momentum, nesterov=training.nesterov
        )
        for _ in range(training.steps):
            optimiser.zero_grad()
            self.loss(one, start).backward()
            optimiser.step()
        self.remember(probes)

    @torch.no_grad()
    def remember(self, probes: torch.Tensor) -> None:
        """Protects the modes of these probes, at the outputs of now, in all that follows."""
        seen, modes = probes.to(torch.float64), eigenmodes(probes, self.modes, bias=True)
        self.penalties.append((SpectralPenalty(modes, self.layer(seen), self.weight), seen))
        root = math.sqrt(2 * self.weight / (CLASSES * self.modes))
        self.rows = root * modes.basis.T @ torch.cat([seen, torch.ones_like(seen[:, :1])], 1)

    @property
    def stacked(self) -> torch.Tensor:
        return torch.cat([self.layer.weight.T, self.layer.bias[None]]).detach()


@pytest.mark.parametrize("weight", [5.0, 200.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_torch_trains_to_the_same_heads(weight, weight_decay):
    """Three tasks, each to its optimum by L-BFGS from where torch itself stood, all earlier ones penalised.

    An error of torch is at most its gradient over the ridge, and is handed on as that of any head (`step.py`): in the
    energy norm it starts at `||gradient|| / sqrt(ridge)` and grows by the reach of every anchor.
    """
    settings = {"modes": 3, "weight": weight, "weight_decay": weight_decay}
    tasks, rows = [task(0), task(1, weighted=True), task(2)], torch.arange(0, 20, 2)
    trainer, sequence = Trainer(some_head(), **settings), TaskSequence(some_head(), ridge=RIDGE, **settings)
    energy = handed_on = torch.zeros(CLASSES, dtype=torch.float64)
    for one in tasks:
        ready = prepared("x", one, rows, sequence._carried.settings, sequence.head)
        gradient = trainer.learn(one, one.features[rows])
        sequence.learn(one, probes=rows)
        rounding = gradient_rounding(trainer, one)
        energy = torch.hypot(energy, handed_on) + (gradient + rounding) / math.sqrt(RIDGE)
        errors = energy / math.sqrt(RIDGE)
        handed_on = torch.hypot(handed_on, ready.anchor.reach(energy, (errors, errors), ready.moments.least_weight))
        distance = torch.linalg.vector_norm(trainer.stacked - sequence.head.stacked(), dim=0)
        assert bool((distance <= errors + sequence.current.error_bound + sequence.current.bias_error_bound).all())
        # The tolerance says something: it is far below what a forgotten penalty would do.
        unprotected = TaskSequence(some_head(), ridge=RIDGE, weight_decay=weight_decay)
        for other in tasks[: len(sequence.tasks)]:
            unprotected.learn(other)
        apart = torch.linalg.vector_norm(unprotected.head.stacked() - sequence.head.stacked(), dim=0)
        assert len(sequence.tasks) == 1 or bool((errors < apart.max() * U64**0.25).all())


def gradient_rounding(trainer: Trainer, one: Task) -> float:
    """What float64 may lose in torch's gradient, and in Z as the sequence stores it: gamma of all that is added up."""
    x = trainer.stacked
    mass = float(norm_upper(one.features.to(torch.float64))) ** 2 + RIDGE + trainer.decay
    for penalty, probes in trainer.penalties:
        mass += 2 * penalty.weight / penalty.count * float(norm_upper(probes)) ** 2
    count = 20 + F + CLASSES + 8 * len(trainer.penalties)
    return 8 * gamma(count) * mass * (float(norm_upper(x)) + float(norm_upper(one.targets)))


def distance_to_joint(weight_factor: float, ridge: float = RIDGE) -> tuple[float, float, float]:
    """How far B's head is from the joint optimum, the bound of that, and how far it is without a penalty."""
    a, b = task(0, 30), task(1)
    rank = F + 1
    settings = {"modes": rank, "weight": weight_factor * CLASSES * rank / 2, "ridge": ridge}
    sequence, states, rows = learned([a, b], **settings)
    joint = sequence.joint()
    x, x_a = sequence.head.stacked(), states[0].current.head.stacked()
    # (S_A + S_B + ridge) (X - X_joint) = (S_A - Z^T Z) (X - X_A), and the matrix is at least the ridge.
    apart = float(norm_upper(rows[0].T @ rows[0] - _square(a)))
    apart += 2 * gamma(len(rows[0]) + 30) * float(norm_upper(rows[0])) ** 2
    bound = apart * float(norm_upper(x - x_a)) / ridge + 4 * U64 * float(norm_upper(x))
    plain, *_ = learned([a, b], ridge=ridge)
    without = float(torch.linalg.vector_norm(plain.head.stacked() - joint.head.stacked()))
    return float(torch.linalg.vector_norm(x - joint.head.stacked())), bound, without


def _square(one: Task) -> torch.Tensor:
    x = torch.cat([one.features.to(torch.float64), torch.ones((len(one.features), 1), dtype=torch.float64)], 1)
    return x.T @ x


@pytest.mark.parametrize("ridge", [10.0, RIDGE, 1e-2])
def test_the_penalty_is_the_joint_optimum(ridge):
    """W_A the exact ridge optimum of A, probes all of A, all nonzero modes, weight C k / 2: then c = 1, Z^T Z = S_A.

    From `S_A X_A = B_A - ridge (X_A - X_0)` follows, for the task B with its ridge towards X_A,
    `(S_B + S_A + ridge) X = B_B + S_A X_A + ridge X_A = B_B + B_A + ridge X_0`: the ridge counts once.
    """
    distance, bound, without = distance_to_joint(1.0, ridge)
    assert distance <= bound
    assert bound <= math.sqrt(U64) * without


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_another_weight_is_not(factor):
    """The planted error: half or twice the weight, as a factor 1/2 that is lost would make it."""
    distance, _, without = distance_to_joint(factor)
    _, bound, _ = distance_to_joint(1.0)
    assert distance > max(bound, without * math.sqrt(U64))


def test_more_modes_than_there_are_protect_all_of_them_and_are_told():
    """k beyond the rank is cut to what is certain: the penalty then shares its weight among those."""
    thin = Task(task(0).features[:3], task(0).targets[:3])
    sequence, _, rows = learned([thin], modes=40)
    told = sequence.tasks[0]
    assert (told.modes, told.modes_wanted, told.probes) == (3, 40, 3)
    assert rows[0].shape[0] == 3
    assert "3 modes" in str(told)
    assert "40 wanted" in str(told)


def test_probes_that_vanish_protect_nothing():
    nothing = Task(torch.zeros((4, F)), torch.ones((4, CLASSES)))
    sequence, *_ = learned([nothing], head=type(some_head())(torch.zeros((CLASSES, F))), modes=2)
    assert sequence.tasks[0].modes == 0


@pytest.mark.parametrize("off", [{"modes": 0}, {"modes": 4, "weight": 0.0}])
def test_no_modes_or_no_weight_is_no_penalty(off):
    tasks = [task(0), task(1)]
    plain, *_ = learned(tasks)
    other, *_ = learned(tasks, **off)
    assert torch.equal(other.head.weight, plain.head.weight)
    assert [one.modes for one in other.tasks] == [0, 0]
