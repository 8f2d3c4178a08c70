"""The modes of features as a table for a terminal, at most 100 columns wide."""

from __future__ import annotations

from rich.console import Console

from ntkla.app.reports.modes_run import Found
from ntkla.app.reports.screen import shortened, table, titled
from ntkla.app.reports.words import as_options, count
from ntkla.forgetting.spectrum.ranks import Rank
from ntkla.linalg.eigen.modes import Cluster, Eigenmodes

_MOST_ROWS = 30


def show(console: Console, found: Found, name: str) -> None:
    """Prints the table of the leading modes, and below it the ranks and what was proved."""
    modes, total = found.modes, found.modes.values.shape[0]
    title = f"Modes of {shortened(name)}" + (f" (the first {_MOST_ROWS} of {total})" if total > _MOST_ROWS else "")
    columns = ("mode", "eigenvalue", "proved within", "residual", "angle", "share %", "cumulative %", "not told apart")
    made = table(*columns, left=0)
    together = {j: c for c in modes.clusters if len(c) > 1 for j in range(c.start, min(c.stop, total))}
    bounds = (modes.value_error, modes.residual_norms, modes.angle_bound)
    numbers = zip(modes.values.tolist(), *(bound.tolist() for bound in bounds), _shares(found), strict=True)
    for j, (value, error, residual, angle, shares) in enumerate(numbers):
        if j == _MOST_ROWS:
            break
        made.add_row(
            str(j + 1),
            f"{value:.6g}",
            *(f"{bound:.1e}" for bound in (error, residual)),
            f"{angle:.1e}" if angle < 1.0 else "-",
            *shares,
            _places(together[j], modes) if j in together else "",
        )
    console.print(titled(title, made))
    for line in _lines(found):
        console.print(line, markup=False)


def _shares(found: Found) -> list[tuple[str, str]]:
    """The share of each mode and of those up to it, in percent; dashes where the trace is not known."""
    if found.cumulative is None:
        return [("-", "-")] * found.modes.values.shape[0]
    summed = found.cumulative.tolist()
    each = [above - below for above, below in zip(summed, [0.0, *summed], strict=False)]
    return [(f"{100 * one:.1f}", f"{100 * up_to:.1f}") for one, up_to in zip(each, summed, strict=True)]


def _places(cluster: Cluster, modes: Eigenmodes) -> str:
    """The modes of a cluster, counted from 1; of the last one the end is not always known."""
    ends = modes.spectrum.rest == 0.0 or cluster.stop < modes.spectrum.size
    return f"{cluster.start + 1}-{cluster.stop}" if ends else f"{cluster.start + 1}-?"


def _lines(found: Found) -> list[str]:
    modes, ranks = found.modes, found.ranks
    others = ", ".join(f"{kind} {_number(ranks[kind])}" for kind in ("participation", "intrinsic", "entropy"))
    passes = "1 pass" if modes.passes == 1 else f"{modes.passes} passes"
    way = f"Lanczos, {passes} over the features" if modes.passes else "decomposed in full"
    cut = f"; the cut at {modes.values.shape[0]} runs through modes that cannot be told apart" if modes.cut else ""
    open_ranks = modes.passes and ranks["k_G"].value is None
    decided = f" (from {modes.values.shape[0]} eigenvalues; --route full knows them all)" if open_ranks else ""
    return [
        "angle: at most that is the sine of the angle between the modes up to this one and the exact ones; "
        "-: the next eigenvalue may be too close to say",
        f"\nk_G = {count(ranks['k_G'])} modes hold {100 * float(ranks['k_G'].q or 0):.3g} % of the trace; "
        f"k* = {count(ranks['k_star'])} for all outputs{decided}",
        f"other effective ranks: {others}",
        "k*: the same count for the kernel of all outputs of the head, k_G each; participation: T^2 / sum s^2; "
        "intrinsic: T / s_1; entropy: exp(-sum p log p); s: eigenvalues, s_1 the largest, T their sum, p = s / T",
        str(modes.spectrum),
        f"{way}{cut}; vectors orthonormal within {modes.orthogonality:.1e}",
        f"complete: {_complete(modes)}; the next one is at most {modes.next_value_bound:.6g}",
        *_without_direction(modes),
        as_options(str(modes.status)),
    ]


def _without_direction(modes: Eigenmodes) -> list[str]:
    """That some of the modes may be any direction at all, where that is so."""
    zeros = int((modes.values <= modes.value_error).sum())
    if not zeros:
        return []
    certain = modes.values.shape[0] - zeros
    return [f"only {certain} eigenvalues are certainly above 0: the other {zeros} that are listed name no direction"]


def _complete(modes: Eigenmodes) -> str:
    if modes.complete:
        by = "the whole spectrum" if modes.proof == "full" else modes.proof
        return f"proved: none larger was missed (by {by})"
    return (
        "not proved: a larger one may have been missed; in any case there are so many eigenvalues, one within each "
        "proved error"
    )


def _number(rank: Rank) -> str:
    low, high = f"{rank.low:.4g}", f"{rank.high:.4g}"
    return low if low == high else f"{low} to {high}"
