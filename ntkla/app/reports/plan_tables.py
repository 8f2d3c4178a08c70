"""The plan as tables for a terminal, at most 100 columns wide."""

from __future__ import annotations

from rich.console import Console, Group
from rich.text import Text

from ntkla.app.reports.plan_compared import best_joint, unprotected
from ntkla.app.reports.plan_outcome import PlanOutcome
from ntkla.app.reports.screen import shortened, table, titled
from ntkla.app.reports.words import opening, percent, way
from ntkla.forgetting.planning.columns import Scores
from ntkla.forgetting.planning.points import PlanPoint

_MOST_ROWS = 16
_LEGEND = (
    "ridge: in mean eigenvalues of NEW; modes: protected of each old task; weight: of SpectralPenalty; lost: accuracy "
    "that an old task loses, in points; *: the choice"
)
_SEEN = (
    "without protection: the best for the new task without a penalty, whatever it forgets; accuracies are of the "
    "samples given, which training sees, but for those that are held out (--old-test, --new-test)"
)


def show(console: Console, outcome: PlanOutcome) -> None:
    """Prints the points that no other beats, what the choice does to each task, and the answer in words."""
    plan, new = outcome.plan, outcome.files.new.name
    console.print(opening(new, outcome.tasks.new, outcome.tasks.head), markup=False)
    console.print(f"{plan.points}, worked out in {plan.seconds['total']:.2g} s; none was trained.\n", markup=False)
    console.print(_front(outcome), _LEGEND)
    console.print("", _tasks(outcome), _SEEN)
    console.print(f"\n{answer(outcome)}", markup=False)


def _front(outcome: PlanOutcome) -> Group:
    front, chosen = outcome.plan.front(outcome.options.on), outcome.choice.point
    every = -(-len(front) // _MOST_ROWS)
    shown = [p for place, p in enumerate(front) if place % every == 0 or p.number == chosen.number or p is front[-1]]
    if all(point.number != chosen.number for point in shown):
        shown.append(chosen)
    worst, mean = (outcome.plan.forgotten(on) for on in ("worst", "mean"))
    columns = ("ridge", "modes", "weight", "steps", "new task\naccuracy %", "worst\nlost", "mean\nlost")
    made = table("", *columns)
    for point in shown:
        made.add_row(
            "*" if point.number == chosen.number else "",
            f"{point.ridge / outcome.settings.mean_eigenvalue:.3g}" if outcome.settings.mean_eigenvalue else "0",
            _range([str(kept) for kept in sorted({k for k in point.modes_kept.values() if k}) or [0]]),
            _range([f"{weight:.4g}" for weight in sorted({w for w in point.weights.values() if w}) or [0.0]]),
            "optimum" if point.training is None else str(getattr(point.training, "steps", "flow")),
            percent(judged(outcome, point).accuracy),
            *(f"{100 * float(lost[point.number]):.1f}" for lost in (worst, mean)),
        )
    title = f"{len(front)} of {len(outcome.plan.points)} points are not beaten in both"
    return titled(title + ("" if len(shown) >= len(front) else f" ({len(shown)} are shown)"), made)


def _tasks(outcome: PlanOutcome) -> Group:
    """Every task as it stands, without protection, at the choice, and under the joint optimum."""
    point, bare, joint = outcome.choice.point, unprotected(outcome.plan), best_joint(outcome.plan)
    made = table("accuracy %", "samples", "before", "without\nprotection", "the choice", "all tasks\ntogether")

    def row(name: str, samples: int, *scores: Scores | None) -> None:
        made.add_row(Text(shortened(name)), str(samples), *("-" if s is None else percent(s.accuracy) for s in scores))

    before = outcome.plan.before
    for name, columns in outcome.plan.points.old.items():
        held = (None if bare is None else bare.old[name], point.old[name], None if joint is None else joint.old[name])
        told = f"{name} (held out)" if name in outcome.old_tests else name
        row(told, columns.samples, before.old[name], *held)
    new, columns = outcome.files.new.name, outcome.plan.judged
    tested = columns is outcome.plan.points.new_test
    scores = [None if p is None else (p.new_test if tested else p.new) for p in (before, bare, point, joint)]
    row(f"{new} (held out)" if tested else new, columns.samples, *scores)
    return titled("What becomes of each task", made)


def judged(outcome: PlanOutcome, point: PlanPoint) -> Scores:
    """How well a point does the new task, on the samples that the choice goes by."""
    return outcome.plan.judged.scores(point.number)


def answer(outcome: PlanOutcome) -> str:
    """What to do, in a few sentences."""
    point, choice, new = outcome.choice.point, outcome.choice, outcome.files.new.name
    allowed = f"{100 * choice.max_forgetting:.3g} points of accuracy"
    whose = "any old task" if choice.on == "worst" else "the old tasks on average"
    lost = f"{100 * choice.forgotten:.1f} points at most"
    if choice.satisfied:
        opened = f"To keep {whose} from losing more than {allowed}, train on {new} with {described(outcome, point)}."
    else:
        opened = (
            f"No point of this grid keeps {whose} from losing more than {allowed}; the closest is "
            f"{described(outcome, point)}. Add larger --strengths, --modes or ridges."
        )
    reached = f"It reaches {percent(judged(outcome, point).accuracy, ' %')} on {new}."
    reached += f" {whose[0].upper()}{whose[1:]} loses {lost}." if choice.forgotten > 0 else " Nothing is lost."
    return f"{opened} {reached} Proved, for the modes as computed: {point.status}"


def _range(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{texts[0]}-{texts[-1]}"


def described(outcome: PlanOutcome, point: PlanPoint) -> str:
    """A point as it is typed into a training."""
    unit = outcome.settings.mean_eigenvalue
    ridge = f"a ridge of {point.ridge:.6g}" + (f" ({point.ridge / unit:.3g} mean eigenvalues)" if unit > 0 else "")
    kept = {name: k for name, k in point.modes_kept.items() if k}
    pairs = {(k, point.weights[name]) for name, k in kept.items()}
    held = "; ".join(f"{k} modes of {name}, weight {point.weights[name]:.6g}" for name, k in kept.items())
    if len(kept) > 1 and len(pairs) == 1:
        held = f"{point.protection.split(' on ')[1]} of each old task, weight {point.weight:.6g}"
    held = f"SpectralPenalty on {held}" if kept else "without a penalty"
    loss = ", cross-entropy" if outcome.settings.loss == "cross_entropy" else ""
    how = way(point.training)
    return f"{ridge}, {held}, {how}{loss}"
