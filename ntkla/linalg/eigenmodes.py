"""The leading eigenpairs of a positive semidefinite operator, with what is proved about them: the door and its routes.

- features, or operators made of them: a direct decomposition of the smaller side (`full_modes.py`) or Lanczos on it
  (`feature_lanczos.py`), whichever `eigen_cost.py` says is cheaper; Lanczos that takes longer than the other would have
  gives way to it.  Both routes are judged by the same product with the features.
- a Kronecker kernel is solved through its factor: an eigenvalue of G counts once for each output.
- any other operator: Lanczos on its products, or all of them where it is small (`operator_modes.py`).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from ntkla.linalg import checks
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.completeness import PROOFS
from ntkla.linalg.eigen.eigen_cost import ROUTES, eigen_cost, feature_lanczos_memory, full_memory, lanczos_memory
from ntkla.linalg.eigen.feature_lanczos import FeatureLanczos
from ntkla.linalg.eigen.foreign import as_operator
from ntkla.linalg.eigen.full_modes import full_modes
from ntkla.linalg.eigen.lanczos_search import Progress, basis_columns, default_block, has_room, patience
from ntkla.linalg.eigen.modes import Eigenmodes, Spectrum
from ntkla.linalg.eigen.operator_modes import dense_modes, lanczos_modes
from ntkla.linalg.eigen.small_side import small_side
from ntkla.linalg.errors import ArgumentError, DtypeError
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.linear_operator import LinearOperator
from ntkla.linalg.operators import GramOperator
from ntkla.linalg.precision import DEFAULT_TOLERANCE
from ntkla.linalg.softmax import SoftmaxGram

if TYPE_CHECKING:
    from scipy.sparse import sparray, spmatrix
    from scipy.sparse.linalg import LinearOperator as ScipyOperator

# An operator of at most this many times the vectors that Lanczos would hold is multiplied with the whole identity.
_DENSE = 4


@dataclasses.dataclass(frozen=True)
class _Wish:
    """The checked options of `eigenmodes`."""

    tolerance: float
    block: int | None
    prove: str | None
    seed: int
    progress: Progress | None
    route: str


def eigenmodes(
    operator_or_features: torch.Tensor | LinearOperator | ScipyOperator | sparray | spmatrix,
    k: int,
    *,
    bias: bool = False,
    tol: float | None = None,
    block_size: int | None = None,
    prove: str | None = "trace",
    seed: int = 0,
    progress: Progress | None = None,
    route: str = "auto",
    strict: bool = False,
) -> Eigenmodes:
    """The k largest eigenvalues of a positive semidefinite operator, counted with multiplicity, and their eigenvectors.

    Args:
        operator_or_features: features [n, F] (float64, float32, bfloat16 or float16, any strides) of
            G = Phi Phi^T; or a `GramOperator`; or a `KroneckerGram` of one, which is decomposed through its factor:
            an eigenvalue of G counts once for each output; or any other operator with `psd=True`; or an operator or
            sparse matrix of scipy, which is then taken to be positive semidefinite.  A tensor is always features: a
            dense kernel matrix K goes in as `FunctionOperator(K.__matmul__, K.shape, K.dtype, K.device, psd=True)`.
        k: how many, 1 <= k <= N.
        bias: with features: whether to append a constant feature 1.  An operator has its own.
        tol: the value errors and residuals wanted, relative to the largest eigenvalue; 1e-10 when None.  It decides
            the status and how long Lanczos goes on.
        block_size: columns that Lanczos multiplies at once; None picks 16, or 32 for k > 32.  It finds that many copies
            of an eigenvalue at once, and more by looking again.
        prove: how Lanczos proves that none larger was missed: `"trace"`, free and sharp where the spectrum decays;
            `"inertia"`, which forms the matrix (the smaller side of features, m x m; all of another operator, by
            products with the identity) and factors what the modes leave of it, up to three times, m^3 / 3 each; None.
            A direct decomposition has proved it anyway.
        seed: of Lanczos' start vectors; torch's own generators are not touched.
        progress: called as `progress(passes, residual)` with the number of products so far and the worst residual
            of the k pairs relative to the largest value, after every step on a CPU and every restart on a GPU.
        route: `"full"` or `"lanczos"`; `"auto"` takes what `eigen_cost` picks for features, and for another operator
            Lanczos where the operator is large beside the basis.  Where the basis has no room it is `"full"`.
        strict: whether a status that is not certified raises `NotCertifiedError` instead of being returned.

    Returns:
        float64 on the operator's device; every bound is an actual upper bound for the features as stored, or for the
        operator as its `error_bound` describes it.  Inputs are detached.

    Raises:
        DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError, ArgumentError, MemoryEstimateError,
        NotCertifiedError

    Cost: full, with m = min(n, columns): n m columns to form the small side, about 15 m^3 to decompose and certify it,
    and 4 n k (columns + k) for the vectors.  Lanczos: 4 n columns for each column multiplied, of which 5 (k + block)
    are typical, and vectors of length m for a basis of 2 k + 9 blocks.  Deterministic for fixed inputs, seed, versions
    and thread count.
    """
    strict = checks.flag("strict", strict)
    wish = _wish(tol, block_size, prove, seed, progress, route)
    operator = as_operator(operator_or_features)
    if isinstance(operator, LinearOperator) and not _of_features(operator):
        if bias:
            raise ArgumentError(_BIAS)
        modes = _operator_modes(operator, k, wish)
    else:
        design, outputs, order = design_of(operator, bias)
        k = checks.integer("k", k, least=1, most=design.rows * outputs)
        modes = _feature_modes(design, -(-k // outputs), wish)
        modes = modes if order is None else _repeated(modes, k, outputs, order)
    modes.status.require(strict)
    return modes


def spectrum_of(operator_or_features: torch.Tensor | LinearOperator, *, bias: bool = False) -> Spectrum:
    """All eigenvalues of a Gram operator with their enclosures; arguments and errors as for `eigenmodes`."""
    design, outputs, _ = design_of(operator_or_features, bias)
    checks.memory("eigenmodes", full_memory(design.rows, design.columns, 0), design.device)
    return dataclasses.replace(small_side(design)[0], multiplicity=outputs)


_BIAS = "bias: expected False beside an operator. Build it in: GramOperator(features, bias=True)."


def design_of(operator_or_features: object, bias: bool) -> tuple[DesignMatrix, int, str | None]:
    """The features behind the argument of `eigenmodes`, the number of outputs, and a Kronecker kernel's order."""
    if not isinstance(operator_or_features, LinearOperator):
        return DesignMatrix(checks.matrix("features", operator_or_features), checks.flag("bias", bias)), 1, None
    if bias:
        raise ArgumentError(_BIAS)
    outputs, order, gram = 1, None, operator_or_features
    if isinstance(gram, KroneckerGram):
        outputs, order, gram = gram.outputs, gram.order, gram.gram
    if not isinstance(gram, GramOperator):
        raise DtypeError(
            f"eigenmodes: expected features, a GramOperator or a KroneckerGram of one, got {operator_or_features}."
        )
    return gram.design, outputs, order


def _of_features(operator: LinearOperator) -> bool:
    return isinstance(operator.gram if isinstance(operator, KroneckerGram) else operator, GramOperator)


def _wish(
    tol: float | None, block_size: int | None, prove: str | None, seed: int, progress: Progress | None, route: str
) -> _Wish:
    return _Wish(
        DEFAULT_TOLERANCE if tol is None else checks.positive("tol", tol),
        None if block_size is None else checks.integer("block_size", block_size, least=1),
        None if prove is None else checks.choice("prove", prove, PROOFS),
        checks.integer("seed", seed, least=0, most=2**63 - 1),
        checks.progress(progress, "passes and residual"),
        checks.choice("route", route, ROUTES),
    )


def _feature_modes(design: DesignMatrix, k: int, wish: _Wish) -> Eigenmodes:
    size = min(design.rows, design.columns)
    block = wish.block or default_block(k, size)
    cost = eigen_cost(design.rows, design.columns, k, block, wish.route)
    if cost.route == "lanczos":
        if not has_room(k, block, size):
            raise ArgumentError(_no_room(k, block, size))
        squares = wish.prove == "inertia"
        checks.memory("eigenmodes", feature_lanczos_memory(design, k, block, squares=squares), design.device)
        modes = FeatureLanczos(
            design,
            k,
            block=block,
            tolerance=wish.tolerance,
            prove=wish.prove,
            seed=wish.seed,
            most_columns=cost.most_columns if wish.route == "auto" else patience(k, block),
            gives_way=wish.route == "auto",
            progress=wish.progress,
        ).modes()
        if modes is not None:
            return modes
    checks.memory("eigenmodes", full_memory(design.rows, design.columns, k), design.device)
    return full_modes(design, k, wish.tolerance)


def _no_room(k: int, block: int, size: int) -> str:
    return (
        f"route 'lanczos': {k} modes in blocks of {block} need a basis of {basis_columns(k, block)} vectors, more than "
        f"the {size} dimensions that there are. Pass route='auto', or a smaller block_size."
    )


def _operator_modes(operator: LinearOperator, k: int, wish: _Wish) -> Eigenmodes:
    if isinstance(operator, KroneckerGram):
        k = checks.integer("k", k, least=1, most=operator.shape[0])
        factor = _operator_modes(operator.gram, -(-k // operator.outputs), wish)
        return _repeated(factor, k, operator.outputs, operator.order)
    operator._square("eigenmodes")
    if not operator.psd:
        raise ArgumentError(
            f"eigenmodes: expected a positive semidefinite operator, got {operator}, which does not say that it is. "
            "Make it with psd=True if it is one."
        )
    size = operator.shape[0]
    k = checks.integer("k", k, least=1, most=size)
    block = wish.block or default_block(k, size)
    room = has_room(k, block, size)
    if wish.route == "lanczos" and not room:
        raise ArgumentError(_no_room(k, block, size))
    small = wish.route == "auto" and size <= _DENSE * basis_columns(k, block)
    if wish.route == "full" or not room or small:
        checks.memory("eigenmodes", 8 * 12 * size**2, operator.device)
        modes = dense_modes(operator, k, tolerance=wish.tolerance)
    else:
        squares = wish.prove == "inertia"
        checks.memory("eigenmodes", lanczos_memory(size, k, block, squares=squares), operator.device)
        modes = lanczos_modes(
            operator,
            k,
            block=block,
            tolerance=wish.tolerance,
            prove=wish.prove,
            seed=wish.seed,
            progress=wish.progress,
        )
    softmax = operator if isinstance(operator, SoftmaxGram) else None
    outputs, order = operator.output_layout() or (None, None)
    return dataclasses.replace(modes, outputs=outputs, order=order, softmax=softmax)


def _repeated(factor: Eigenmodes, k: int, outputs: int, order: str) -> Eigenmodes:
    """The modes of I_C (x) G from those of G: every eigenvalue counts once for each output."""
    index = torch.arange(k, dtype=torch.int64, device=factor.values.device)
    mode, output = index // outputs, index % outputs
    whole = output == outputs - 1
    inside = float(factor.spectrum.upper[mode[-1]]) if mode[-1] < factor.spectrum.values.shape[0] else 0.0
    clusters = tuple(dataclasses.replace(c, start=c.start * outputs, stop=c.stop * outputs) for c in factor.clusters)
    return dataclasses.replace(
        factor,
        values=factor.values[mode],
        value_error=factor.value_error[mode],
        residual_norms=factor.residual_norms[mode],
        angle_bound=torch.where(whole, factor.angle_bound[mode], 1.0),
        clusters=clusters,
        cut=clusters[-1].stop > k,
        next_value_bound=factor.next_value_bound if bool(whole[-1]) else inside,
        spectrum=dataclasses.replace(factor.spectrum, multiplicity=outputs),
        factor=factor,
        output_index=output,
        order=order,
    )
