"""Hypothesis strategies for features, ridge regressions and forgetting problems.

They draw the spectrum, the seed, the element type, the storage layout and the scale, never single entries: a failing
example is one readable line and rebuilds the same bits.  Degenerate cases (zero, rank one, exact copies, one sample,
one feature, one output, twelve decades up and down) are always in the pool.  Simple choices come first, so that
hypothesis shrinks towards them.  No profile is loaded here.
"""

from __future__ import annotations

from hypothesis import strategies as st

from ntkla.testing.samples import RESIDUALS, WEIGHTINGS
from ntkla.testing.specs import FeatureSpec, Problem, RidgeProblem
from ntkla.testing.spectra import DTYPES, LAYOUTS, SPECTRUM_NAMES, TWISTS

SCALES = (1.0, 1e-3, 1e3, 1e-6, 1e6, 1e-12, 1e12)
# Their squares overflow in float32 or underflow in float64; 1e-40 is subnormal in float32 and bfloat16.
EXTREME_SCALES = (1e28, 1e-40, 1e-160, 1e-300)
CONDITIONS = (1.0, 1e2, 1e6, 1e10, 1e15)
# Ridges over the mean eigenvalue: the range in which a relative bound of 1e-10 is promised, and what lies below it.
CERTIFIED_RIDGES = (1.0, 1e-3, 1e-6, 1e-5, 1e-1, 1e3)
WEAK_RIDGES = (1e-8, 1e-10, 1e-12, 1e-15, 1e-20)


def scales(extreme: bool = False) -> st.SearchStrategy[float]:
    """Scales from 1e-12 to 1e12; `extreme` adds those at the ends of the exponent range."""
    return st.sampled_from(SCALES + EXTREME_SCALES if extreme else SCALES)


def ridges(weak: bool = False) -> st.SearchStrategy[float]:
    """Ridges relative to the mean eigenvalue, 1e-6 and above; `weak` adds smaller ones, down to 1e-20."""
    return st.sampled_from(CERTIFIED_RIDGES + WEAK_RIDGES if weak else CERTIFIED_RIDGES)


def lengths(most: int) -> st.SearchStrategy[int]:
    """A number of samples, features or outputs from 1 to `most`, the ends drawn often."""
    return st.one_of(st.sampled_from((1, 2, most)), st.integers(1, most))


@st.composite
def feature_specs(
    draw: st.DrawFn,
    *,
    n: int | None = None,
    features: int | None = None,
    dtype: str | None = None,
    most: int = 9,
    extreme: bool = False,
) -> FeatureSpec:
    """Feature matrices; what is given stays, the rest is drawn.

    Args:
        draw: hypothesis.
        n, features, dtype: fixed values, or None.
        most: the largest number of samples and of features drawn.
        extreme: also scales at the ends of the exponent range (see `EXTREME_SCALES`).
    """
    return FeatureSpec(
        n=draw(lengths(most)) if n is None else n,
        features=draw(lengths(most)) if features is None else features,
        spectrum=draw(st.sampled_from(SPECTRUM_NAMES)),
        condition=draw(st.sampled_from(CONDITIONS)),
        seed=draw(st.integers(0, 2**20)),
        dtype=draw(st.sampled_from(tuple(DTYPES))) if dtype is None else dtype,
        layout=draw(st.sampled_from(LAYOUTS)),
        scale=draw(scales(extreme)),
        twist=draw(st.sampled_from(TWISTS)),
    )


@st.composite
def ridge_problems(
    draw: st.DrawFn,
    *,
    ridge: st.SearchStrategy[float] | None = None,
    most: int = 9,
    extreme: bool = False,
    weighted: bool = False,
) -> RidgeProblem:
    """Ridge regressions.

    Args:
        draw: hypothesis.
        ridge: ridges relative to the mean eigenvalue; None draws `ridges()`.
        most: the largest number of samples and of features.
        extreme: also scales at the ends of the exponent range.
        weighted: with weights of the samples.
    """
    bias, penalize_bias, route = draw(_biases_and_routes())
    weighting, weights_dtype = draw(_weightings()) if weighted else ("none", "float64")
    return RidgeProblem(
        design=draw(feature_specs(most=most, extreme=extreme)),
        outputs=draw(lengths(4)),
        targets_kind=draw(st.sampled_from(RESIDUALS)),
        targets_scale=draw(scales(extreme)),
        targets_dtype=draw(st.sampled_from(tuple(DTYPES))),
        seed=draw(st.integers(0, 2**20)),
        ridge_relative=draw(ridges() if ridge is None else ridge),
        bias=bias,
        penalize_bias=penalize_bias,
        route=route,
        weighting=weighting,
        weights_dtype=weights_dtype,
    )


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    ridge: st.SearchStrategy[float] | None = None,
    weight_decay: bool = True,
    most: int = 9,
    extreme: bool = False,
    weighted: bool = False,
) -> Problem:
    """Forgetting problems.

    Args:
        draw: hypothesis.
        ridge: ridges relative to the mean eigenvalue of the new task; None draws `ridges()`.
        weight_decay: also draws problems with weight decay and a head (they take the primal route).
        most: the largest number of samples of a task and of features.
        extreme: also scales at the ends of the exponent range.
        weighted: with weights of the new samples.
    """
    new = draw(feature_specs(most=most, extreme=extreme))
    bias, penalize_bias, route = draw(_biases_and_routes())
    weighting, weights_dtype = draw(_weightings()) if weighted else ("none", "float64")
    decay = draw(st.sampled_from((0.0, 1e-3, 1.0))) if weight_decay else 0.0
    return Problem(
        old=draw(feature_specs(features=new.features, dtype=new.dtype, most=most, extreme=extreme)),
        new=new,
        outputs=draw(lengths(4)),
        residual_kind=draw(st.sampled_from(RESIDUALS)),
        residual_scale=draw(scales(extreme)),
        residual_dtype=draw(st.sampled_from(tuple(DTYPES))),
        seed=draw(st.integers(0, 2**20)),
        ridge_relative=draw(ridges() if ridge is None else ridge),
        weight_decay_relative=decay,
        head_scale=draw(scales()) if decay else 1.0,
        bias=bias,
        penalize_bias=penalize_bias,
        route="auto" if decay else route,
        weighting=weighting,
        weights_dtype=weights_dtype,
    )


def _weightings() -> st.SearchStrategy[tuple[str, str]]:
    """(weighting, weights_dtype): every kind of weights."""
    return st.tuples(st.sampled_from(WEIGHTINGS[1:]), st.sampled_from(tuple(DTYPES)))


def _biases_and_routes() -> st.SearchStrategy[tuple[bool, bool, str]]:
    """(bias, penalize_bias, route); an unpenalised bias leaves the route to the library."""
    penalized = [(bias, True, route) for bias in (False, True) for route in ("auto", "primal", "dual")]
    return st.sampled_from([*penalized, (True, False, "auto")])
