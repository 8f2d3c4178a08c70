"""The picture of a plan: what every point of the grid gains and loses, and what the choice does to each task."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from ntkla.app.pictures import canvas
from ntkla.app.pictures.axes import Floats, array, heading, interval, legend_below, middle, plain
from ntkla.app.pictures.canvas import BLACK, BLUE, GREY, VERMILION
from ntkla.app.reports.plan_compared import best_joint, unprotected
from ntkla.forgetting.planning.columns import Scores
from ntkla.forgetting.planning.points import PlanPoint
from ntkla.forgetting.planning.result import Plan, Recommendation
from ntkla.linalg.decisions import Decision

_INCHES = (7.6, 4.2)
_DOTS_PER_INCH = 200
_CHARACTERS_WIDE = 104
_MOST_TASKS = 12


def write_plan_picture(path: Path, plan: Plan, choice: Recommendation, title: str = "") -> Path:
    """Writes a plan whose tasks have labels as PNG.

    (a) every point: the new task's accuracy against what the worst old task loses; the points that no other beats; the
    choice; the joint optimum; (b) each task before, at the choice, and under the joint optimum.

    Args:
        path: of the file, in a folder that is there; replaced in one step.
        plan: every task of it with labels.
        choice: what it recommends.
        title: above the picture; none when empty.

    Raises:
        MissingPackageError: without matplotlib.  OutputError: when the file cannot be written.

    Deterministic: same plan and versions, same bytes.
    """
    with canvas.style(**{"axes.axisbelow": True}):
        figure = canvas.figure(_INCHES)
        left, right = figure.subfigures(1, 2, width_ratios=(1.2, 1.0), wspace=0.03)
        _points(left, plan, choice)
        _tasks(right, plan, choice.point)
        if title:
            figure.suptitle(plain(title, 90), fontsize=10)
        figure.supxlabel(_caption(plan, choice), fontsize=8, x=0.01, ha="left")
        return canvas.save(figure, path, _DOTS_PER_INCH)


def _points(part: Any, plan: Plan, choice: Recommendation) -> None:
    axis = part.subplots()
    lost, gained = array(plan.forgotten("worst")), _gained(plan)
    stable = ~plan.points.diverges.cpu().numpy()
    front = [point.number for point in plan.front(choice.on)]
    bare = stable & (array(plan.points.weight) == 0)
    axis.plot(lost[stable & ~bare], gained[stable & ~bare], ".", color=GREY, markersize=4, mew=0, label="penalty")
    axis.plot(lost[bare], gained[bare], "x", color=VERMILION, markersize=4.5, label="no penalty")
    axis.plot(lost[front], gained[front], "-", color=BLUE, linewidth=1, label="not beaten")
    if plan.joint is not None:
        sides = [(_most_lost(plan, one.old), _accuracy(one.new_test or one.new)) for one in plan.joint]
        axis.plot(*np.transpose(sides), "D", color=BLACK, mfc="none", markersize=5, label="all together, one a ridge")
    number = choice.point.number
    axis.plot(lost[number], gained[number], "o", color=BLUE, markersize=7, label="the choice")
    axis.axvline(choice.max_forgetting, color=GREY, linestyle=":", linewidth=1)
    axis.set_xlabel("accuracy lost on the old task that loses most")
    axis.set_ylabel("accuracy on the new task")
    heading(part, "(a) What each point gains and loses")
    legend_below(part, axis)


def _tasks(part: Any, plan: Plan, point: PlanPoint) -> None:
    """One line a task, the old ones that lose most and the new one."""
    axis = part.subplots()
    olds = sorted(point.old, key=lambda name: _accuracy(plan.before.old[name]) - _accuracy(point.old[name]))
    shown = olds[-_MOST_TASKS:]
    new = (point.new_test or point.new, plan.before.new_test or plan.before.new)
    after = [new[0], *(point.old[name] for name in shown)]
    before = [new[1], *(plan.before.old[name] for name in shown)]
    places = range(len(after))
    for place, old, now in zip(places, before, after, strict=True):
        axis.plot([_accuracy(old), _accuracy(now)], [place, place], "-", color=GREY, linewidth=1)
    axis.plot([_accuracy(one) for one in before], places, "o", color=GREY, markersize=4, label="before")
    axis.plot([_accuracy(one) for one in after], places, "o", color=BLUE, markersize=6, label="the choice")
    bare, joint = unprotected(plan), best_joint(plan)
    marks = ((bare, "x", VERMILION, "no penalty"), (joint, "D", BLACK, "all together"))
    for one, mark, colour, label in marks:
        if one is not None:
            scores = [one.new_test or one.new, *(one.old[name] for name in shown)]
            axis.plot([_accuracy(x) for x in scores], places, mark, color=colour, mfc="none", markersize=5, label=label)
    axis.set_yticks(list(places), ["new task", *(plain(name, 16) for name in shown)])
    axis.set_xlim(-0.03, 1.03)
    axis.set_xlabel("accuracy")
    many = "" if len(shown) == len(olds) else f", the {len(shown)} that lose most of {len(olds)}"
    heading(part, f"(b) Task by task{many}")
    legend_below(part, axis)


def _gained(plan: Plan) -> Floats:
    low = plan.judged.accuracy_low
    assert low is not None, "the new task of the picture has labels"
    return array(low)


def _most_lost(plan: Plan, old: Any) -> float:
    return max(_accuracy(plan.before.old[name]) - _accuracy(scores) for name, scores in old.items())


def _accuracy(scores: Scores) -> float:
    return middle(scores.accuracy) if scores.accuracy is not None else math.nan


def _caption(plan: Plan, choice: Recommendation) -> str:
    lost, gained = choice.forgotten, plan.judged.scores(choice.point.number).accuracy
    reached = "" if gained is None else f", accuracy {interval(gained)} on the new task"
    said = (
        f"{len(plan.points)} points in {plan.seconds['total']:.2g} s, none trained. The choice: "
        f"{plain(choice.point.settings, 200)}{reached}; it loses {interval(Decision(lost, lost))} at most "
        f"(dotted: {choice.max_forgetting:g})."
    )
    return "\n".join(textwrap.wrap(said, _CHARACTERS_WIDE))
