"""What a ridge solve costs, before it runs: operations by route, and the memory it needs.

The route is chosen by this table and nothing else.  Counted are float64 operations in matrix products and
factorisations (n samples, K columns, C outputs; one correction assumed); what both routes share is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from ntkla.linalg import checks
from ntkla.linalg.design import Design

ROUTES = ("auto", "primal", "dual")
_FLOAT64 = 8


@dataclass(frozen=True)
class RouteCost:
    """Operations of the two routes, and the route that was picked."""

    primal: float
    dual: float
    route: str


def route_cost(rows: int, columns: int, outputs: int, route: str = "auto") -> RouteCost:
    """Compares the two routes; `route` other than "auto" overrides the comparison.

    primal: `n K^2 + K^3 / 3` to form and factor the K x K normal matrix, `2 n K C` for its right side,
    `4 K^2 C` for two solves.  dual: `n^2 K + n^3 / 3`, `2 n K C` to return to the columns, `4 n^2 C`, and `4 n K C`
    more for the correction.
    """
    checks.choice("route", route, ROUTES)
    n, k, c = float(rows), float(columns), float(outputs)
    primal = n * k * k + k**3 / 3 + 2 * n * k * c + 4 * k * k * c
    dual = n * n * k + n**3 / 3 + 6 * n * k * c + 4 * n * n * c
    picked = ("primal" if primal <= dual else "dual") if route == "auto" else route
    return RouteCost(primal, dual, picked)


def memory_estimate(
    design: Design,
    outputs: int,
    route: str,
    *,
    targets_copied: bool,
    rows_predicted: int = 0,
    weighted: bool = False,
) -> int:
    """Bytes that a solve allocates at its peak, beside its inputs.

    Three squares (the matrix, its mirror image while it is formed, its factor), eighteen arrays of the solution's size
    (solution, residual and correction, each with what its slices need), one block of rows (five arrays of its size, and
    twenty-four of its outputs' for their slices and partial products), for the dual route two arrays of the targets'
    size, and for `rows_predicted` old samples their drift and its bound.  Weights add what is kept of each sample, one
    block scaled by them, six blocks of outputs, and for the dual route two more arrays of the targets' size.
    """
    n, k, c, m = design.rows, design.columns, outputs, design.block_rows
    edge = k if route == "primal" else n
    squares = 3 * edge * edge
    solutions = 18 * k * c
    blocks = min(m, n) * (5 * k + 24 * c)
    outputs_sized = n * c * (int(targets_copied) + (2 if route == "dual" else 0)) + 2 * rows_predicted * c
    weights = 6 * n + min(m, n) * (k + 6 * c) + (2 * n * c if route == "dual" else 0)
    return _FLOAT64 * (squares + solutions + blocks + outputs_sized + (weights if weighted else 0))
