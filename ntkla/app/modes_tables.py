"""The modes of features as a table for a terminal, at most 100 columns wide."""

from __future__ import annotations

from rich.console import Console

from ntkla.app.modes_run import Found
from ntkla.app.screen import shortened, table, titled
from ntkla.app.words import count
from ntkla.forgetting.ranks import Rank

_MOST_ROWS = 30


def show(console: Console, found: Found, name: str) -> None:
    """Prints the table of the leading modes, and below it the ranks and what was proved."""
    modes, shares = found.modes, found.cumulative.tolist()
    total = modes.values.shape[0]
    title = f"Modes of {shortened(name)}" + (f" (the first {_MOST_ROWS} of {total})" if total > _MOST_ROWS else "")
    columns = ("mode", "eigenvalue", "proved within", "residual", "share %", "cumulative %", "not told apart")
    made = table(*columns, left=0)
    together = {j: c for c in modes.clusters if len(c) > 1 for j in range(c.start, min(c.stop, total))}
    numbers = zip(modes.values.tolist(), modes.value_error.tolist(), modes.residual_norms.tolist(), strict=True)
    for j, (value, error, residual) in enumerate(numbers):
        if j == _MOST_ROWS:
            break
        cluster = together.get(j)
        made.add_row(
            str(j + 1),
            f"{value:.6g}",
            *(f"{bound:.1e}" for bound in (error, residual)),
            *(f"{100 * share:.1f}" for share in (shares[j] - (shares[j - 1] if j else 0.0), shares[j])),
            "" if cluster is None else f"{cluster.start + 1}-{cluster.stop}",
        )
    console.print(titled(title, made))
    for line in _lines(found):
        console.print(line, markup=False)


def _lines(found: Found) -> list[str]:
    modes, ranks = found.modes, found.ranks
    proof = "proved: none larger was missed" if modes.complete else "not proved: a larger one may have been missed"
    others = ", ".join(f"{kind} {_number(ranks[kind])}" for kind in ("participation", "intrinsic", "entropy"))
    return [
        f"\nk_G = {count(ranks['k_G'])} modes hold {100 * float(ranks['k_G'].q or 0):.3g} % of the trace; "
        f"k* = {count(ranks['k_star'])} for all outputs",
        f"other effective ranks: {others}",
        "k*: the same count for the kernel of all outputs of the head, k_G each; participation: T^2 / sum s^2; "
        "intrinsic: T / s_1; entropy: exp(-sum p log p); s: eigenvalues, s_1 the largest, T their sum, p = s / T",
        str(modes.spectrum),
        f"complete: {proof}; the next one is at most {modes.next_value_bound:.3g}",
        str(modes.status),
    ]


def _number(rank: Rank) -> str:
    low, high = f"{rank.low:.4g}", f"{rank.high:.4g}"
    return low if low == high else f"{low} to {high}"
