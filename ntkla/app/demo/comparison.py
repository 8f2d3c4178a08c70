"""One forecast beside what happened: the arrays, the verdict entry by entry, and the row of the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntkla.app.demo.demo_report import Count, Row
from ntkla.app.demo.pairs import Array

OPTIMUM, SGD = "optimum", "sgd"


@dataclass(frozen=True)
class Ranks:
    """How many directions carry the drift, and how many there are: see `Row`."""

    r50: Count
    r90: Count
    k_gram: Count
    k_star: Count


@dataclass(frozen=True)
class Comparison:
    """The drift of an old task's held-out samples under one way of training on a new task, forecast and observed.

    Attributes:
        old, new: numbers of the tasks in the sequence, from 1.
        training: `"optimum"` or `"sgd"`.
        labels: int64 [n], of the held-out samples.
        before: predictions before the training, [n, C].
        forecast, bound: the drift that was forecast and its proven error bound, [n, C].
        fact, rounding: the drift that happened and the rounding error of that training, [n, C].
        eigenvalues: of G_AA, descending, [k]; `energy`: of the forecast drift in their modes, [k].
        ranks: of the drift and of G_AA.
        overlap_bound: upper bound of the exact drift's Frobenius norm from the overlap of the tasks.
        seconds_forecast, seconds_training: wall time.
    """

    old: int
    new: int
    training: str
    labels: NDArray[np.int64]
    before: Array
    forecast: Array
    bound: Array
    fact: Array
    rounding: Array
    eigenvalues: Array
    energy: Array
    ranks: Ranks
    overlap_bound: float
    seconds_forecast: float
    seconds_training: float

    @property
    def difference(self) -> Array:
        """|forecast - fact|, entry by entry, [n, C]."""
        return np.abs(self.forecast - self.fact)

    @property
    def holds(self) -> bool:
        """True when every single entry differs by no more than its own bound and the training's rounding in it."""
        return bool((self.difference <= self.bound + self.rounding).all())

    def accuracy(self, drift: Array) -> float:
        """The share of the samples whose largest prediction after this drift is at their label."""
        return float(((self.before + drift).argmax(axis=1) == self.labels).mean())

    def row(self) -> Row:
        """The row of the report: every array as its largest entry."""
        forecast, fact = np.linalg.norm(self.forecast), np.linalg.norm(self.fact)
        return Row(
            old=self.old,
            new=self.new,
            training=self.training,
            cosine=min(1.0, float(np.vdot(self.forecast, self.fact) / (forecast * fact))),
            norm_ratio=float(forecast / fact),
            max_difference=float(self.difference.max()),
            bound=float(self.bound.max()),
            training_rounding=float(self.rounding.max()),
            drift_norm=float(fact),
            overlap_bound=self.overlap_bound,
            accuracy_before=self.accuracy(np.zeros_like(self.fact)),
            accuracy_forecast=self.accuracy(self.forecast),
            accuracy_after=self.accuracy(self.fact),
            r50=self.ranks.r50,
            r90=self.ranks.r90,
            k_G=self.ranks.k_gram,
            k_star=self.ranks.k_star,
            seconds_forecast=self.seconds_forecast,
            seconds_training=self.seconds_training,
        )
