"""What the demo says of its plan, of the training at its choice, and of how many modes a sequence needs."""

from __future__ import annotations

from typing import Any

from rich.console import Group

from ntkla.app.demo.planned import Planned
from ntkla.app.demo.protection import ProtectionCurve
from ntkla.app.reports.plan_compared import best_joint, unprotected
from ntkla.app.reports.screen import table, titled
from ntkla.app.reports.strict_json import plain
from ntkla.app.reports.words import percent
from ntkla.forgetting.planning.columns import Scores
from ntkla.linalg.decisions import Decision


def document(planned: Planned, curve: ProtectionCurve) -> dict[str, Any]:
    """Both as plain Python values: `plan` and `protection` of the demo's report."""
    outputs, point = planned.outputs, planned.choice.point
    bare, joint = unprotected(planned.plan), best_joint(planned.plan)
    return {
        "plan": {
            "points": len(planned.plan.points),
            "seconds": planned.plan.seconds["total"],
            "mean_eigenvalue": planned.mean_eigenvalue,
            "max_forgetting": planned.choice.max_forgetting,
            "forgotten": plain(planned.choice.forgotten),
            "choice": plain(point),
            "without_protection": plain(bare),
            "all_tasks_together": plain(joint),
            "before": plain(planned.plan.before),
            "accuracy_forecast": plain(planned.forecast),
            "accuracy_after": dict(planned.accuracy),
            "max_difference": float(outputs.difference.max()),
            "bound": float(outputs.bound.max()),
            "training_unfinished": float(outputs.unfinished.max()),
            "holds": planned.holds,
            "seconds_training": outputs.seconds,
        },
        "protection": plain(curve),
    }


def tables(planned: Planned, curve: ProtectionCurve) -> Group:
    """Two tables: each task at the plan's choice, and the curve."""
    return Group(_choice(planned), "", _curve(curve))


def _choice(planned: Planned) -> Group:
    made = table("accuracy %", "before", "without\nprotection", "planned", "trained", "all tasks\ntogether")
    bare, joint, before, point = _compared(planned)
    for name, trained in planned.accuracy.items():
        cells = (_of(before, name), _of(bare, name), _of(point, name), Decision(trained, trained), _of(joint, name))
        made.add_row(name, *(percent(cell) for cell in cells))
    return titled("The last task, taught to a head that knows the others: accuracy on held-out images", made)


def _compared(planned: Planned) -> tuple[Any, Any, Any, Any]:
    found = planned.plan
    return unprotected(found), best_joint(found), found.before, planned.choice.point


def _of(standing: Any, name: str) -> Decision | None:
    """The accuracy of a task, of the new one on its held-out images; None where there is nothing to tell."""
    if standing is None:
        return None
    scores: Scores = standing.old.get(name, standing.new_test)
    return scores.accuracy


def _curve(curve: ProtectionCurve) -> Group:
    made = table("modes protected, each task", "final accuracy %", "mean forgetting %")
    for row in curve.rows:
        made.add_row(str(row.modes) if row.modes else "none", percent(row.final_accuracy), percent(row.forgetting))
    made.add_row("all tasks together", percent(curve.joint_accuracy), "-")
    return titled("The same five tasks, learned one after another in closed form", made)


def conclusion(planned: Planned, curve: ProtectionCurve) -> str:
    """What a person should take home; one line a paragraph, for the console to wrap."""
    point, outputs = planned.choice.point, planned.outputs
    bare = unprotected(planned.plan)
    lost = "" if bare is None else f" Without a penalty the old tasks end at {_worst(bare)} at worst."
    return f"""
{len(planned.plan.points)} ways of training were worked out in {planned.plan.seconds["total"]:.2g} s, none of them \
trained. The choice, so that no old task loses more than {100 * planned.choice.max_forgetting:.3g} points: a ridge of \
{point.ridge / planned.mean_eigenvalue:.3g} mean eigenvalues, each old task protected with {point.protection}.{lost} \
Then it was really trained ({outputs.seconds:.2g} s of LBFGS): \
{"every accuracy came out as planned" if planned.holds else "the plan did NOT hold"}, and the outputs on the held-out \
images differ from their forecast by at most {float(outputs.difference.max()):.1e}. LBFGS stopped that short of the \
optimum (its gradient leaves room for {float(outputs.unfinished.max()):.1e}); the forecast itself is proved to be \
within {float(outputs.bound.max()):.1e}.

No image of an old task is needed for this: {max(point.modes_kept.values())} modes of each are. {_needed(curve)}
"""


def _worst(standing: Any) -> str:
    return percent(min((s.accuracy for s in standing.old.values()), key=lambda accuracy: accuracy.low), " %")


def _needed(curve: ProtectionCurve) -> str:
    first, last = curve.rows[0], curve.rows[-1]
    return (
        f"Over the whole sequence of five tasks the final accuracy rises from {percent(first.final_accuracy, ' %')} "
        f"without protection to {percent(last.final_accuracy, ' %')} with {last.modes} modes a task; training on all "
        f"tasks together reaches {percent(curve.joint_accuracy, ' %')}."
    )
