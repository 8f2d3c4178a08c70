"""The joint optimum of all tasks, the reference line of a plan: what training on everything at once would reach.

    1/2 sum_T ||D_T^1/2 (Phi_T W^T - Y_T)||_F^2 + ridge/2 ||W||_F^2

over the old tasks and the new one.  It needs only the sums of their normal matrices and of their `Phi^T D Y`: there is
no order, no earlier head, and nothing to forget.  An output is held by the tasks that use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ntkla.forgetting.planning.columns import Scores, Table
from ntkla.forgetting.planning.decomposed import decomposed
from ntkla.forgetting.planning.effects import effects
from ntkla.forgetting.planning.engine import held_by, relative_bounds
from ntkla.forgetting.planning.filter_bank import filters
from ntkla.forgetting.planning.leading_modes import weighted_sum
from ntkla.forgetting.planning.problem import Group, Problem, groups
from ntkla.forgetting.planning.updates import Gradient, Updates, updates
from ntkla.forgetting.planning.watched import Part, Watched
from ntkla.forgetting.shared_head import outputs_of
from ntkla.forgetting.tasks import Task, positions
from ntkla.linalg.arithmetic.accurate import accurate_adjoint
from ntkla.linalg.design import widened
from ntkla.linalg.precision import U64, norm_upper, rounded_up
from ntkla.linalg.results import Result
from ntkla.linalg.solve.normal import BoundedMatrix

NEW = "new"


@dataclass(frozen=True)
class Standing(Result):
    """How well one head does every task.

    Attributes:
        new, new_test: on the new task's training samples, and on its test samples or None.
        old: on each old task, by name.
    """

    new: Scores
    new_test: Scores | None
    old: Mapping[str, Scores]

    def __str__(self) -> str:
        lines = [f"  {'new task':<14}{self.new}"]
        lines += [] if self.new_test is None else [f"  {'new test':<14}{self.new_test}"]
        return "\n".join([*lines, *(f"  {name:<14}{scores}" for name, scores in self.old.items())])


@dataclass(frozen=True)
class JointOptimum(Standing):
    """The head that is best for all tasks together at one ridge, which here pulls towards zero.

    Attributes:
        ridge: absolute.
        relative_bound: proved of the head, `||error||_F / ||W||_F`.
    """

    ridge: float
    relative_bound: float

    def __str__(self) -> str:
        return f"JointOptimum: ridge {self.ridge:.4g}\n{super().__str__()}"


@dataclass(eq=False)
class JointSum:
    """The sums over tasks, one normal matrix for each group of outputs.

    Attributes:
        problem: every task of it has targets.
        groups: all outputs that are used, by the tasks that use them.
    """

    problem: Problem
    groups: Sequence[Group]
    _normals: list[BoundedMatrix | None]
    _gradient: torch.Tensor
    _errors: torch.Tensor

    @classmethod
    def empty(cls, problem: Problem) -> JointSum:
        """Of no task yet."""
        head = problem.head
        covering = {name: outputs_of(task, head) for name, task in tasks_of(problem).items()}
        used = torch.unique(torch.cat(list(covering.values())))
        found = groups(used, covering)
        shape = problem.design.columns, used.shape[0]
        gradient = torch.zeros(shape, dtype=torch.float64, device=used.device)
        return cls(problem, found, [None] * len(found), gradient, torch.zeros_like(gradient[0]))

    def add(self, name: str, normal: BoundedMatrix) -> None:
        """Adds a task whose normal matrix is known.  Cost: 6 n K C operations."""
        task = tasks_of(self.problem)[name]
        assert task.targets is not None, "the joint optimum needs targets of every task"
        design = self.problem.design_of(task.features)
        moved = accurate_adjoint(design, -widened(task.targets), [], self.problem.weights_of(task))
        used = torch.cat([group.outputs for group in self.groups])
        order = torch.cat([group.columns for group in self.groups])
        columns = order[positions(outputs_of(task, self.problem.head), used)]
        self._gradient[:, columns] += moved.value
        rounding = U64 * norm_upper(self._gradient[:, columns], dim=0)
        self._errors[columns] = rounded_up(self._errors[columns] + moved.error + rounding)
        for number, group in enumerate(self.groups):
            if name in group.members:
                base = self._normals[number]
                self._normals[number] = normal if base is None else weighted_sum(base, 1.0, normal)

    def solve(self, ridges: Sequence[float], watched: Sequence[Watched], tables: Sequence[Table]) -> torch.Tensor:
        """Fills the tables, one row a ridge, and gives the bounds of the relative errors.

        Cost: one eigendecomposition, or one for each ridge where the bias is not penalised.
        """
        shifts = not self.problem.free_bias
        bounds = []
        for places in [list(range(len(ridges)))] if shifts else [[n] for n in range(len(ridges))]:
            some = [ridges[n] for n in places]
            parts = [(group, self._updates(n, group, some, shifts)) for n, group in enumerate(self.groups)]
            points = torch.tensor(places, device=self._gradient.device)
            for task, table in zip(watched, tables, strict=True):
                table.fill(points, effects(task, parts_for(task, parts), len(places)))
            bounds.append(relative_bounds([update for _, update in parts]))
        return torch.cat(bounds)

    def _updates(self, number: int, group: Group, ridges: Sequence[float], shifts: bool) -> Updates:
        normal = self._normals[number]
        assert normal is not None, "every group has a task"
        found = decomposed(normal if shifts else held_by(normal, ridges[0]))
        bank = filters(found, [(ridge if shifts else 0.0, None) for ridge in ridges])
        none = torch.zeros_like(self._errors[group.columns])
        gradient = Gradient(self._gradient[:, group.columns], self._errors[group.columns], none)
        return updates(found, bank, gradient, self.problem.tolerance)


def tasks_of(problem: Problem) -> dict[str, Task]:
    """The tasks that are trained on together; the new one under a name that no old one has."""
    name = NEW
    while name in problem.olds:
        name += " task"
    return {**problem.olds, name: problem.new}


def parts_for(watched: Watched, parts: Sequence[tuple[Group, Updates]]) -> list[Part]:
    """What of some updates a task sees: those of its own outputs."""
    found = []
    for group, update in parts:
        seen = torch.isin(group.outputs, watched.outputs).nonzero()[:, 0]
        if seen.numel():
            found.append(Part(positions(group.outputs[seen], watched.outputs), update.of(seen)))
    return found
