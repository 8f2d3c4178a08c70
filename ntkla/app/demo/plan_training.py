"""Training at the choice of a plan as a person would write it, and every output beside what was said beforehand.

`torch.optim.LBFGS` in float64 minimises half the summed squared loss, the ridge, and one `ntkla.SpectralPenalty` an old
task.  How far it was from the end: the ridge makes the objective strongly convex, so with its gradient g there, in the
weights and biases of one output, no prediction of that output is off by more than `||g|| / ridge ||[phi, 1]||`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ntkla.app.demo.data import SplitTask
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.penalties.protection import Protection
from ntkla.forgetting.penalties.spectral_penalty import SpectralPenalty
from ntkla.forgetting.planning.points import PlanPoint
from ntkla.forgetting.predict import predict_forgetting
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.precision import SHORT_CHAIN, gamma


@dataclass(frozen=True, eq=False)
class Outputs:
    """The outputs on the held-out images of all tasks, [n, C], after training at the choice.

    Attributes:
        forecast, bound: as `predict_forgetting` said before, and its proved error bound.
        trained: as the trained head says.
        unfinished: how far the trained head's outputs can be from the optimum's, by its gradient.
        seconds: wall time of the training.
    """

    forecast: torch.Tensor
    bound: torch.Tensor
    trained: torch.Tensor
    unfinished: torch.Tensor
    seconds: float

    @property
    def difference(self) -> torch.Tensor:
        """|forecast - trained|, [n, C]."""
        return (self.forecast - self.trained).abs()

    @property
    def holds(self) -> bool:
        """Whether no output differs by more than what was proved beforehand and what the training left undone."""
        return bool((self.difference <= self.bound + self.unfinished).all())


def train_and_compare(tasks: Sequence[SplitTask], head: LinearHead, point: PlanPoint, iterations: int) -> Outputs:
    """Forecasts every output at a point of a plan, then trains there.

    Args:
        tasks: the old ones, which the point protects, and the new one last.
        head: before.
        point: of the plan for these tasks, its ridge above 0.
        iterations: of LBFGS.
    """
    *olds, new = tasks
    tested = torch.cat([task.test_features for task in tasks])
    targets = torch.nn.functional.one_hot(new.train_labels, head.outputs).double()
    protected = [_protected(old, head, point) for old in olds if point.modes_kept[old.name]]
    said = predict_forgetting(
        tested,
        new.train_features,
        head(new.train_features) - targets,
        ridge=point.ridge,
        bias=True,
        head=head,
        penalty=protected or None,
    )
    before, rounding = head.predict(tested)
    layer, gradient, seconds = _train(new.train_features.double(), targets, head, protected, point.ridge, iterations)
    with torch.no_grad():
        trained = layer(tested.double())
    sizes = torch.cat([tested.double(), torch.ones_like(before[:, :1])], dim=1)
    lengths = torch.linalg.vector_norm(sizes, dim=1)
    weights = torch.linalg.vector_norm(torch.cat([layer.weight, layer.bias[:, None]], dim=1), dim=1)
    own = gamma(sizes.shape[1]) * torch.outer(lengths, weights.detach())
    unfinished = torch.outer(lengths, gradient / point.ridge) * SHORT_CHAIN + own + rounding
    return Outputs(before + said.drift, said.error_bound, trained, unfinished, seconds)


def _protected(old: SplitTask, head: LinearHead, point: PlanPoint) -> Protection:
    features = old.train_features
    modes = eigenmodes(features, point.modes_kept[old.name], bias=True)
    return Protection(SpectralPenalty(modes, head(features), point.weights[old.name]), features)


def _train(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    head: LinearHead,
    protected: Sequence[Protection],
    ridge: float,
    iterations: int,
) -> tuple[torch.nn.Linear, torch.Tensor, float]:
    """The layer that LBFGS leaves, the norms of its gradient, one an output, [C], and the seconds that it took."""
    layer = torch.nn.Linear(inputs.shape[1], head.outputs, dtype=torch.float64, device=inputs.device)
    layer.load_state_dict({"weight": head.weight, "bias": head.bias})
    start = [x.detach().clone() for x in layer.parameters()]
    probes = [one.features.double() for one in protected]
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=iterations, history_size=50, tolerance_grad=0.0, line_search_fn="strong_wolfe"
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        total: torch.Tensor = (layer(inputs) - targets).square().sum() / 2
        for now, before in zip(layer.parameters(), start, strict=True):
            total = total + ridge / 2 * (now - before).square().sum()
        for one, x in zip(protected, probes, strict=True):
            total = total + one.penalty(layer(x))
        total.backward()  # type: ignore[no-untyped-call]
        return total

    began = time.perf_counter()
    optimizer.step(objective)  # type: ignore[no-untyped-call]
    seconds = time.perf_counter() - began
    objective()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    gradient = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], dim=1)
    return layer, torch.linalg.vector_norm(gradient, dim=1), seconds
