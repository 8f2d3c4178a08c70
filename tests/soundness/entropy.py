"""Softmax regressions in words, for the soundness suite, and the judge of their bounds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import torch
from hypothesis import strategies as st

import ntkla
from ntkla.linalg.checks import LEAST_PENALTY
from ntkla.testing import Exact, FeatureSpec, compare_columns, feature_specs, lengths, mean_eigenvalue, sample_weights
from ntkla.testing.ball_entropy import softmax_optimum
from ntkla.testing.samples import WEIGHTINGS
from ntkla.testing.spectra import normal

TARGETS = ("labels", "one_class", "smoothed", "class_weights", "soft", "counts", "two_answers")
RIDGES = (1.0, 1e-3, 1e-6, 1e-1, 1e3, 1e-9, 1e-12)
HEADS = (None, 1.0, 1e-3, 30.0, 1e3)


@dataclass(frozen=True)
class SoftmaxProblem:
    """A softmax regression: `arguments()` is the call.

    Attributes:
        design: the features.
        classes: C.
        targets_kind: one of `TARGETS`.
        ridge_relative: ridge over the mean eigenvalue of Phi^T Phi.
        bias, penalize_bias, tol: passed on.
        head: the size of the old head's outputs, or None without a head.
        weighting: see `ntkla.testing.sample_weights`.
        seed: of everything.
    """

    design: FeatureSpec
    classes: int = 2
    targets_kind: str = "labels"
    ridge_relative: float = 1e-3
    bias: bool = False
    penalize_bias: bool = True
    head: float | None = None
    weighting: str = "none"
    tol: float = 1e-7
    seed: int = 0

    @cached_property
    def targets(self) -> torch.Tensor:
        """y, [n, C]."""
        n, c = self.design.n, self.classes
        generator = torch.Generator().manual_seed(self.seed)
        labels = torch.randint(0, c, (n,), generator=generator)
        if self.bias and not self.penalize_bias:
            labels[: min(n, c)] = torch.arange(min(n, c))
        uniform = torch.rand(n, c, generator=generator, dtype=torch.float64)
        hard = ntkla.cross_entropy_targets(labels, c)
        made = {
            "labels": hard,
            "one_class": ntkla.cross_entropy_targets(torch.zeros_like(labels), c),
            "smoothed": ntkla.cross_entropy_targets(labels, c, label_smoothing=0.1),
            "class_weights": ntkla.cross_entropy_targets(labels, c, class_weights=0.1 + uniform[0]),
            "soft": uniform / uniform.sum(1, keepdim=True),
            "counts": torch.floor(5.0 * uniform) + hard,
            "two_answers": 0.5 * hard + 0.5 * hard.roll(1, 0),
        }
        return made[self.targets_kind]

    @cached_property
    def old_head(self) -> ntkla.LinearHead | None:
        """W_A."""
        if self.head is None:
            return None
        features = self.design.tensor
        size = float(torch.linalg.vector_norm(features.to(torch.float64), dim=1).amax()) or 1.0
        size = max(size, 2.0**-200)  # features at the lower end of the range would ask for a head beyond the upper
        weight = normal(self.classes, features.shape[1], self.seed + 7) * (self.head / size)
        return ntkla.LinearHead(weight, normal(1, self.classes, self.seed + 8)[0] * self.head if self.bias else None)

    @cached_property
    def weights(self) -> torch.Tensor | None:
        """Of the samples."""
        return sample_weights(self.weighting, self.design.n, seed=self.seed)

    @property
    def ridge(self) -> float:
        """Absolute."""
        return max(self.ridge_relative * mean_eigenvalue(self.design.tensor, self.bias, self.weights), LEAST_PENALTY)

    def solve(self, **changes) -> ntkla.SoftmaxRegression:
        """The library's answer."""
        options = {"tol": self.tol, "head": self.old_head, "weights": self.weights, "ridge": self.ridge} | changes
        return ntkla.softmax_regression(
            self.design.tensor, self.targets, bias=self.bias, penalize_bias=self.penalize_bias, **options
        )

    def exact(self, found: ntkla.SoftmaxRegression) -> Exact:
        """The optimal update, exactly, [F (+ 1), C]."""
        head = self.old_head
        return softmax_optimum(
            self.design.tensor,
            self.targets,
            ridge=self.ridge,
            bias=self.bias,
            penalize_bias=self.penalize_bias,
            weights=self.weights,
            head_weight=None if head is None else head.weight,
            head_bias=None if head is None else head.bias,
            near=update_of(found),
        )


def update_of(found: ntkla.SoftmaxRegression) -> torch.Tensor:
    """[F, C], or [F + 1, C] with the bias as last row."""
    update = found.head_update.T
    return update if found.bias_update is None else torch.cat([update, found.bias_update[None]])


def judge(problem: SoftmaxProblem, found: ntkla.SoftmaxRegression) -> float:
    """Every promise that a result makes; returns the error over its bound."""
    update = update_of(found)
    assert bool(torch.isfinite(update).all())
    exact = problem.exact(found)

    def flat():
        return type(matrix := exact.compute())(matrix.nrows() * matrix.ncols(), 1, matrix.entries())

    bound = torch.tensor([found.update_error_bound], dtype=torch.float64)
    verdict = compare_columns(update.reshape(-1, 1), bound, Exact(flat), "update")
    assert verdict.sound, f"{problem}\n{found}\n{verdict}"
    assert found.error_bound >= found.update_error_bound
    if found.status.certified:
        assert found.relative_bound <= problem.tol
    return verdict.largest_ratio


@st.composite
def softmax_problems(draw: st.DrawFn, extreme: bool = False) -> SoftmaxProblem:
    """Small and hostile ones."""
    classes = draw(lengths(4))
    bias, penalize = draw(st.sampled_from([(False, True), (True, True), (True, False)]))
    free = bias and not penalize
    design = draw(feature_specs(most=5, extreme=extreme))
    if free:
        design = dataclasses.replace(design, n=max(design.n, classes))
    return SoftmaxProblem(
        design=design,
        classes=classes,
        targets_kind=draw(st.sampled_from([kind for kind in TARGETS if not (free and kind == "one_class")])),
        ridge_relative=draw(st.sampled_from(RIDGES)),
        bias=bias,
        penalize_bias=penalize,
        head=draw(st.sampled_from(HEADS)),
        # A free bias needs a sample of every class whose weight is not zero.
        weighting=draw(st.sampled_from([kind for kind in WEIGHTINGS if not (free and kind in ("zeros", "one_only"))])),
        tol=draw(st.sampled_from([1e-7, 1e-3, 1e-12])),
        seed=draw(st.integers(0, 2**20)),
    )
