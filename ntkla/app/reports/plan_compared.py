"""What the choice of a plan is held against: the best without a penalty, and all tasks learned together."""

from __future__ import annotations

from ntkla.forgetting.planning.columns import Scores
from ntkla.forgetting.planning.joint import JointOptimum
from ntkla.forgetting.planning.points import PlanPoint
from ntkla.forgetting.planning.result import Plan


def unprotected(plan: Plan) -> PlanPoint | None:
    """The best point for the new task without a penalty; None where the grid has none that does not diverge."""
    bare = [point for point in plan.points if point.weight == 0 and point.largest_stable_lr is None]
    return max(bare, key=lambda point: _low(plan.judged.scores(point.number)), default=None)


def best_joint(plan: Plan) -> JointOptimum | None:
    """The joint optimum whose worst task is best, over the ridges of the grid; None where there is none."""
    return max(plan.joint or (), key=_worst, default=None)


def _worst(one: JointOptimum) -> float:
    return min(_low(scores) for scores in (one.new_test or one.new, *one.old.values()))


def _low(scores: Scores) -> float:
    return 0.0 if scores.accuracy is None else scores.accuracy.low
