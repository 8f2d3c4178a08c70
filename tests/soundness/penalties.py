"""Problems whose new task is trained under penalties that protect old tasks, and their judge."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from hypothesis import strategies as st

import ntkla
from ntkla.forgetting.descent.training import GradientDescent, GradientFlow
from ntkla.forgetting.drifts import Forgetting
from ntkla.linalg.precision import gamma
from ntkla.testing import (
    DTYPES,
    Comparison,
    Exact,
    FeatureSpec,
    PenaltyTerm,
    Problem,
    compare,
    compare_columns,
    drift_of,
    feature_specs,
    gradient_descent,
    gradient_flow,
    head_update,
    mean_eigenvalue,
    problems,
    update_with_bias,
    with_bias,
)
from ntkla.testing.spectra import normal


@dataclass(frozen=True)
class Guard:
    """One penalty in words.

    Attributes:
        probes: their features.
        share: which share of the modes that are certain it protects, at least one.
        strength: the largest eigenvalue of what it adds to the normal matrix, in mean eigenvalues of the new task.
        outputs: the outputs that it covers; None for all.
        reference: "kept" (what the head says, in float64), "rounded" (in float32), "other" or "none" (no head given).
        kronecker: modes of `I_C (x) G`, one more than whole rows of them.
    """

    probes: FeatureSpec
    share: float = 1.0
    strength: float = 1.0
    outputs: tuple[int, ...] | None = None
    reference: str = "kept"
    kronecker: bool = False

    def protection(self, problem: Problem, head: ntkla.LinearHead) -> ntkla.Protection | None:
        """The module and its probes' features; None where no mode is certain."""
        features, bias = self.probes.tensor, problem.bias
        outputs = list(range(problem.outputs)) if self.outputs is None else list(self.outputs)
        gram = ntkla.GramOperator(features, bias=bias)
        modes = ntkla.eigenmodes(gram, min(features.shape))
        certain = int((modes.values > modes.value_error).sum())
        if certain == 0:
            return None
        k = max(1, round(self.share * certain))
        if self.kronecker:
            copies = min(k * len(outputs) + 1, certain * len(outputs))
            modes = ntkla.eigenmodes(ntkla.KroneckerGram(gram, len(outputs)), copies)
            if not bool((modes.values > modes.value_error).all()):
                return None
        else:
            modes = ntkla.eigenmodes(gram, k)
        said = head(features)[:, outputs]
        if self.reference == "other":
            said = said + normal(*said.shape, self.probes.seed) * float(said.abs().max())
        elif self.reference == "rounded":
            said = said.to(torch.float32)
        penalty = ntkla.SpectralPenalty(modes, said, 1.0, columns=outputs)
        size = float(modes.values[0]) or 1.0
        mean = mean_eigenvalue(problem.features_new, bias, problem.weights)
        penalty.weight = self.strength * mean * penalty.count / (2 * size)
        return ntkla.Protection(penalty, features)


@dataclass(frozen=True)
class Guarded:
    """A problem and its penalties."""

    problem: Problem
    guards: tuple[Guard, ...]

    @cached_property
    def head(self) -> ntkla.LinearHead:
        """The old head, that of the problem where it has one."""
        p = self.problem
        if p.head_weight is not None:
            return ntkla.LinearHead(p.head_weight, p.head_bias)
        bias = normal(1, p.outputs, p.seed + 2)[0] if p.bias else None
        return ntkla.LinearHead(normal(p.outputs, p.new.features, p.seed + 1), bias)

    @property
    def compared(self) -> bool:
        """Whether a head is given to compare references with."""
        return all(guard.reference != "none" for guard in self.guards) or self.problem.weight_decay > 0

    @cached_property
    def protections(self) -> list[ntkla.Protection]:
        """All that protect a mode."""
        found = [guard.protection(self.problem, self.head) for guard in self.guards]
        return [one for one in found if one is not None]

    @property
    def terms(self) -> list[PenaltyTerm]:
        """The same for the exact references."""
        return [PenaltyTerm.of(one.penalty, one.features, compared=self.compared) for one in self.protections]

    def forecast(self, **options: object) -> Forgetting:
        """The library's answer."""
        given = {"head": self.head} if self.compared else {}
        return ntkla.predict_forgetting(**{**self.problem.arguments(), **given}, penalty=self.protections, **options)

    def largest_eigenvalue(self) -> float:
        """About that of any output's normal matrix, not below."""
        p = self.problem
        design = with_bias(p.features_new) if p.bias else p.features_new.to(torch.float64)
        if p.weights is not None:
            design = design * p.weights.to(torch.float64).sqrt()[:, None]
        added = sum(guard.strength for guard in self.guards) * mean_eigenvalue(p.features_new, p.bias, p.weights)
        largest = float(torch.linalg.matrix_norm(design, 2)) ** 2 + p.ridge + p.weight_decay + added
        return largest * (1 + gamma(1000 * design.numel()))

    def exact(self, training: GradientDescent | GradientFlow | None = None) -> Exact:
        """dW^T."""
        p, weight, bias = self.problem, self.head.weight, self.head.bias
        arrays = (p.features_new, p.residual_new)
        if training is None:
            decay = {"ridge": p.ridge, "weight_decay": p.weight_decay, "weights": p.weights, "bias": p.bias}
            return head_update(*arrays, head_weight=weight, head_bias=bias, protected=self.terms, **decay)
        start = weight.T if bias is None else torch.cat([weight.T, bias[None]])
        shared = {"bias": p.bias, "penalties": p.ridge, "decays": p.weight_decay, "weights": p.weights, "start": start}
        run = gradient_flow if isinstance(training, GradientFlow) else gradient_descent
        return run(*arrays, **dataclasses.asdict(training), **shared, protected=self.terms)

    def judged(self, found: Forgetting, training: GradientDescent | GradientFlow | None = None) -> list[Comparison]:
        """The verdicts on the drift's and on the update's bounds."""
        exact = self.exact(training)
        drift = drift_of(self.problem.features_old, exact, bias=self.problem.bias)
        return [
            compare(found.drift, found.error_bound, drift, "drift"),
            compare_columns(update_with_bias(found), found.update_error_bound, exact, "update"),
        ]


@st.composite
def guarded_problems(draw: st.DrawFn, most: int = 7, **options: object) -> Guarded:
    """Problems of every kind but a free bias, with one to three penalties."""
    problem = replace(draw(problems(most=most, **options)), penalize_bias=True)
    guards = []
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        probes = draw(
            feature_specs(features=problem.new.features, most=most, dtype=draw(st.sampled_from(list(DTYPES))))
        )
        order = draw(st.permutations(range(problem.outputs)))
        covered = draw(st.none() | st.integers(1, problem.outputs).map(lambda n, order=order: tuple(order[:n])))
        guards.append(
            Guard(
                probes,
                draw(st.sampled_from([0.0, 0.5, 1.0])),
                draw(st.sampled_from([1e-4, 1.0, 1e3, 1e8])),
                covered,
                draw(st.sampled_from(["kept", "rounded", "other", "none"])),
                draw(st.booleans()),
            )
        )
    return Guarded(problem, tuple(guards))
