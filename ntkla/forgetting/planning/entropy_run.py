"""A plan under cross-entropy: every point is an optimum of its own, found from that of the next larger ridge.

There is no closed form, so a point costs a search by Newton's method (`linalg/entropy`); the optimum for one ridge is a
good start for the next smaller one.  The loss of a task is the mean over its samples of `-<y, log softmax(z)>`: with
outputs that are off by d_i in each entry of row i it is off by at most the mean of `2 s_i d_i`, s_i the total of y_i,
because the gradient `s p - y` has an absolute sum of at most 2 s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch

from ntkla.forgetting.penalties.weight import row_weight
from ntkla.forgetting.planning.columns import Table, before
from ntkla.forgetting.planning.effects import Effects, effects
from ntkla.forgetting.planning.grid import Setting
from ntkla.forgetting.planning.joint import Standing, parts_for
from ntkla.forgetting.planning.leading_modes import LeadingModes, leading_modes
from ntkla.forgetting.planning.points import PlanPoints
from ntkla.forgetting.planning.problem import Group
from ntkla.forgetting.planning.result import Plan
from ntkla.forgetting.planning.run import Run
from ntkla.forgetting.planning.updates import Updates
from ntkla.forgetting.planning.watched import Part, Watched
from ntkla.forgetting.shared_head import outputs_of
from ntkla.linalg.arithmetic.accurate import accurate_outputs
from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.arithmetic.products import pieced_gamma
from ntkla.linalg.design import widened
from ntkla.linalg.entropy.quadratic import Quadratic
from ntkla.linalg.entropy.solve import EntropySolve, prepare_entropy
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_lower, norm_upper, ratio
from ntkla.linalg.solve.inexact_rows import InexactRows


class EntropyRun(Run):
    """One plan under cross-entropy."""

    def result(self) -> Plan:
        """Everything, from the tasks to the points; without a joint optimum."""
        problem, grid = self.problem, self.grid
        most = max(setting.modes for setting in grid.settings)
        self.total = len(grid) + (len(problem.olds) if most else 0)
        with self._timed("total"):
            with self._timed("modes"):
                protection = dict(self._protection(most)) if most else {}
            tables = self.tables(len(grid))
            with self._timed("points"):
                bounds = self._solved(tables, protection)
        new, test, olds = self._named([table.columns for table in tables])
        kept = self._kept(protection, [self._group(tuple(protection))])
        limits = torch.full_like(bounds, torch.inf)
        points = PlanPoints(grid, kept, new, test, olds, bounds, limits, problem.tolerance)
        return Plan(points, self._standing(), None, problem.tolerance, self.seconds)

    def _protection(self, most: int) -> Iterator[tuple[str, LeadingModes]]:
        """What can be protected of each old task that shares outputs with the new one."""
        for name, task in self.problem.olds.items():
            features = self.problem.probes.get(name, task.features)
            outputs = outputs_of(task, self.problem.head)
            if bool(torch.isin(outputs, self.problem.trained).any()):
                yield name, leading_modes(self.problem.design_of(features), outputs.shape[0], most)
            self._advance()

    def _group(self, members: tuple[str, ...]) -> Group:
        """All outputs that are trained."""
        trained = self.problem.trained
        return Group(torch.arange(trained.shape[0], device=trained.device), trained, members)

    def _solved(self, tables: list[Table], protection: Mapping[str, LeadingModes]) -> torch.Tensor:
        """Fills the tables, each protection from the largest ridge down; bounds of the relative errors."""
        bounds = torch.full_like(tables[0].columns.drift, torch.inf)
        group, prepare = self._group(()), self._prepared()
        for place, setting in enumerate(self.grid.settings):
            terms = tuple(self._term(one, name, setting) for name, one in protection.items() if one.kept(setting.modes))
            start = None
            for step, ridge in reversed(list(enumerate(self.grid.ridges))):
                solve = prepare(ridge=ridge, quadratics=terms if setting.protects else (), start=start)
                solve.reach_tolerance()
                start, number = solve.x, place * self.grid.each + step
                bounds[number] = ratio(solve.error, norm_lower(start))
                for table in tables:
                    parts = parts_for(table.watched, [(group, _updates(solve))])
                    found = _with_loss(effects(table.watched, parts, 1), table.watched, parts)
                    table.fill(torch.tensor([number], device=bounds.device), found)
                self._advance()
        return bounds

    def _prepared(self) -> Callable[..., EntropySolve]:
        """`prepare_entropy` with all that the points share: what the head says is computed once."""
        problem, targets = self.problem, self.new.targets
        assert targets is not None, "a new task has targets"
        weights, wanted = problem.weights_of(problem.new), widened(targets)
        head = problem.head.select(problem.new.outputs).stacked()
        return partial(
            prepare_entropy,
            problem.design,
            wanted,
            head=head,
            base=accurate_outputs(problem.design, head, torch.zeros_like(wanted)),
            free_bias=problem.free_bias,
            weights=None if weights is None else weights.values,
            tolerance=problem.tolerance,
        )

    def _term(self, one: LeadingModes, name: str, setting: Setting) -> Quadratic:
        """The penalty on one old task: its rows as stored are the penalty, and the head as it stands has no error."""
        shared = torch.isin(self.problem.trained, outputs_of(self.problem.olds[name], self.problem.head))
        places = shared.nonzero().flatten()
        rows = one.rows[: one.kept(setting.modes)]
        zeros = rows.new_zeros((rows.shape[0], places.shape[0]))
        weight = (setting.strength, 0.0)
        if setting.strength == 0:
            weight = row_weight(setting.weight, one.outputs * rows.shape[0])
        known = InexactRows(Doubled(rows, torch.zeros_like(rows)), Doubled(zeros, zeros), weight, 0.0, zeros.sum(0))
        return Quadratic(known, places)

    def _standing(self) -> Standing:
        scores = [before(one, _with_loss(effects(one, [], 1), one, [])) for one in self.all_watched]
        new, test, olds = self._named(scores)
        return Standing(new, test, olds)


def _updates(solve: EntropySolve) -> Updates:
    """One optimum as a basis of one update."""
    x = solve.x
    sizes = norm_upper(x, dim=0)
    errors = torch.full_like(sizes, solve.error)
    return Updates(x[:, :, None], x.new_ones((1, 1)), sizes[:, None], errors[None], sizes[None] / SHORT_CHAIN**2)


def _with_loss(found: Effects, watched: Watched, parts: list[Part]) -> Effects:
    """The same, the loss being the mean cross-entropy."""
    if watched.targets is None:
        return found
    targets = widened(watched.targets)
    z, slope = watched.base.clone(), 0.0
    for places, update in parts:
        z[:, places] += watched.design.matmul(update.basis[:, :, 0])
        rounding = pieced_gamma(watched.design.columns) * float(update.sizes.max()) + 8 * z.shape[1] * TINY64
        slope = max(slope, (float(update.errors.max()) + rounding) * SHORT_CHAIN)
    largest, totals = z.abs().amax(1), targets.sum(1)
    off = watched.norms * slope + watched.offsets + 4 * U64 * largest
    evaluated = gamma(4 * z.shape[1] + 32) * (2.0 * largest + z.shape[1])
    rows = totals * z.logsumexp(1) - (targets * z).sum(1)
    value = rows.mean()
    error = (totals * (2.0 * off + evaluated)).mean() + gamma(rows.shape[0] + 8) * rows.abs().mean()
    return found._replace(loss=value[None], loss_error=error[None] * SHORT_CHAIN)
