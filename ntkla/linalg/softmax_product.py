"""The primitive `softmax_gram`: the product with the kernel of a linear head under cross-entropy, from its features.

What the operator `SoftmaxGram` is, its root B and the rounding of B: `softmax.py`, `softmax_root.py`.  The matrix is
symmetric, so the gradient in v is the product with the gradient of the result, g.  With u = B v and h = B g the result
depends on x through `<h, x x^T u>`, so its gradient in x is `h (x^T u)^T + u (x^T h)^T`.

Its error bound is that of `softmax.py`, with the norms of `B v` bounded by those of v instead of computed: from the
counts below, which hold for the Triton kernel and for torch, which multiplies in float64 and rounds once at the end.
"""

from __future__ import annotations

import math

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.products import pieced_gamma
from ntkla.linalg.backends import kernels
from ntkla.linalg.backends.dispatch import Call, kernel_wanted, run
from ntkla.linalg.backends.freivalds import Expected
from ntkla.linalg.backends.primitive import accumulation_dtype, chosen_precision, primitive_input, same_kind
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.errors import ArgumentError, ShapeError
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma, norm_upper, rounded_up
from ntkla.linalg.softmax_root import SoftmaxRoot

# In float32: roundings of a product with B (two of each root of five, three of a sum), and of `x^T u` beyond its rows.
_LOCAL32, _ROWS32 = 5 * 2 + 8 + 5, 80


def softmax_gram(
    x: torch.Tensor, probabilities: torch.Tensor, v: torch.Tensor, *, bias: bool = False, precision: str = "auto"
) -> torch.Tensor:
    """The product `B^T (I_C (x) G) B v` with the kernel of a linear head under cross-entropy; G = x x^T (+ 1).

    Neither G nor a matrix of nC rows is formed: `B^T (x (x^T (B v)))`, any number of outputs in blocks.  The operator
    with this product, for solvers, is `SoftmaxGram`.

    Args:
        x: [n, F], float64, float32, bfloat16 or float16, any strides.
        probabilities: p [n, C], any of these types, the softmax of the outputs, on the device of `x`.  Rows are divided
            by their exact sums, so they need not be 1; confident rows lose nothing to cancellation.
        v: [n, C] or [n, C, m], dtype and device of `x`.
        bias: appends a constant feature 1 to `x`, which adds 1 to every entry of G.
        precision: `"auto"`, `"ieee"`, `"bf16"` or `"float64"`, as for `gram`; `"bf16"` is the same as `"ieee"` here.

    Returns:
        Like `v`; float64 for float64 inputs or `precision="float64"`, else float32, never rounded to less in between.
        Each column is within `softmax_gram_error` of the exact one in 2-norm.  NaN and infinities of x and v propagate
        (with one output the kernel's result is 0, whatever they are).

    Raises:
        DtypeError, ShapeError, DeviceError, BackendError
        NonFiniteError, ScaleError: in the probabilities.
        ArgumentError: a negative probability, a row of zeros, or probabilities that require a gradient.

    Differentiable in `x` and `v`, once; the probabilities are constants (at 0 their roots have no derivative): detach
    them.  Cost: 4 n F C m operations, about 12 n C m more, and arrays of n C m and F C m numbers; torch works in
    float64.  Deterministic for fixed inputs (strides included), versions and thread count.
    """
    checks.flag("bias", bias)
    _check(x, probabilities, v, precision)
    columns = v if v.ndim == 3 else v[:, :, None]
    result: torch.Tensor = torch.ops.ntkla.softmax_gram(x, probabilities, columns, bias, precision)
    return result if v.ndim == 3 else result[:, :, 0]


def softmax_gram_error(
    x: torch.Tensor, probabilities: torch.Tensor, v: torch.Tensor, *, bias: bool = False, precision: str = "auto"
) -> torch.Tensor:
    """Upper bounds of the rounding error of `softmax_gram` with the same arguments: the 2-norm of each column's error.

    Returns:
        float64, [m] or a scalar for v [n, C]; infinite where a sum is too long for the type, and where numbers on the
        way may leave its range.

    Raises:
        As `softmax_gram`, and NonFiniteError or ScaleError for `x`.

    Cost: a few passes over the arguments.
    """
    checks.flag("bias", bias)
    _check(x, probabilities, v, precision)
    # No feature is as good as one that is 0.
    features = x if x.shape[1] else x.new_zeros((x.shape[0], 1))
    design, root = DesignMatrix(checks.matrix("x", features), bias), _root(x, probabilities)
    given = widened(v.detach() if v.ndim == 3 else v.detach()[:, :, None])
    bound = _bound(design, root, norm_upper(given, dim=1), accumulation_dtype(x.dtype, precision))
    return bound if v.ndim == 3 else bound[0]


def _bound(design: DesignMatrix, root: SoftmaxRoot, norms: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    """For the norms of the rows of v, [n, m]; beta, g, E, s and D as in `softmax.py`."""
    n, k, unit, tiny = design.rows, design.columns, UNIT_ROUNDOFF[wide], float(torch.finfo(wide).tiny)
    inner, outer = gamma(design.summands), pieced_gamma(k)
    local = root.relative_rounding
    if wide == torch.float32:
        # The counts of `pieced_gamma`, and those of the kernel; a product's own rounding is one of both.
        inner, outer = gamma(min(n, _ROWS32) + 2, unit), gamma(min(k, 128) + -(-k // 128) + 2, unit)
        local = gamma(_LOCAL32, unit)
    beta, g, frobenius = root.norms, design.row_norms(), design.frobenius()

    def through_root(weighted: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        return rounded_up(3.0 * local * weighted + 16 * root.outputs**2 * tiny * (1.0 + size))

    # A sum of n non-negative products is at most 1 / (1 - gamma_n) <= 1 + gamma_2n times what was computed.
    slack, underflow = 1.0 + gamma(2 * n + 8), 2 * n * tiny
    first = g @ through_root(beta[:, None] * norms, norms) * slack + underflow
    reached = (g * beta) @ norms * slack + underflow + first
    ends = (4 * n * math.sqrt(k) + 4 * math.sqrt(n * k) * (1.0 + frobenius)) * (frobenius + k) * math.sqrt(root.outputs)
    sizes = 1.0 + beta @ norms * slack
    product = (inner + outer + inner * outer) * frobenius * reached + tiny * ends * rounded_up(sizes)
    weight, largest = norm_upper(beta * g), root.norms.max()
    before = weight * first + largest * product
    after = math.sqrt(n) + norm_upper(g) * reached + product
    bound = rounded_up(before + through_root(weight * reached + largest * product, after))
    # By the Cauchy-Schwarz inequality nothing on the way, partial sums included, is larger than eight times these.
    peak = torch.stack([norms.amax(0), reached, g.max() * reached + product]).amax(0)
    return torch.where(8.0 * peak < torch.finfo(wide).max, bound, math.inf)


def _check(x: object, probabilities: object, v: object, precision: str) -> None:
    """What can be said of the arguments without a look at their values."""
    features = primitive_input("x", x)
    chosen_precision(precision, features)
    p = primitive_input("probabilities", probabilities)
    vectors = primitive_input("v", v, ndim=v.ndim if isinstance(v, torch.Tensor) and v.ndim in (2, 3) else 3)
    same_kind("x", features, "v", vectors)
    checks.one_device(x=features, probabilities=p)
    n = features.shape[0]
    if n == 0 or p.shape[0] != n or p.shape[1] == 0 or vectors.shape[:2] != p.shape:
        raise ShapeError(
            "softmax_gram: expected x [n, F], probabilities [n, C] and v [n, C] or [n, C, m] with n and C at least 1, "
            f"got {tuple(features.shape)}, {tuple(p.shape)} and {tuple(vectors.shape)}."
        )
    if p.requires_grad and torch.is_grad_enabled():
        raise ArgumentError(
            "probabilities: expected constants, got a tensor that requires a gradient, which softmax_gram does not "
            "give. Pass probabilities.detach()."
        )


def _root(x: torch.Tensor, probabilities: torch.Tensor) -> SoftmaxRoot:
    return SoftmaxRoot(checks.matrix("probabilities", probabilities, rows=x.shape[0]))


def kernel_call(x: torch.Tensor, outputs: int, columns: int, wide: torch.dtype) -> Call:
    """A product with [n, C, m], as far as the choice of its implementation depends on it."""
    mode = "float64" if wide == torch.float64 else "ieee"
    return Call("softmax_gram", x, x.shape[1], mode, work=2.0 * x.shape[0] * x.shape[1] * outputs * columns)


def kernel_takes(design: DesignMatrix, root: SoftmaxRoot, columns: int) -> bool:
    """Whether a kernel is wanted for the product of an operator with so many columns."""
    return kernel_wanted(kernel_call(design.features, root.outputs, columns, torch.float64))


def product(design: DesignMatrix, root: SoftmaxRoot, v: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    """The product with v [n, C, m], in the type `wide`, by the kernel or by torch in float64.

    Raises:
        BackendError: Triton is forced and cannot run.
    """
    x, call = design.features, kernel_call(design.features, root.outputs, v.shape[2], wide)

    def by_kernel() -> torch.Tensor:
        return kernels.softmax_gram(x, root.roots, root.confident_place(), v, design.bias, call.mode)

    def body() -> torch.Tensor:
        inner = root.times(widened(v))
        with torch.autocast(x.device.type, enabled=False):
            middle = design.matmul(design.rmatmul(inner.view(design.rows, -1)))
        return root.transposed_times(middle.view(inner.shape)).to(wide)

    def reference(signs: torch.Tensor) -> Expected:
        # The rows of B^T mix the outputs, so only the whole product says what the result is.
        with torch.autocast(x.device.type, enabled=False):
            whole = body().to(torch.float64).flatten(1)
            value = whole @ signs
        # A column is within its bound in 2-norm, and so the sum of C of its entries within sqrt(C) times that.
        norms = norm_upper(widened(v), dim=1)
        off = (
            2.0 * _bound(design, root, norms, wide).sum() * math.sqrt(root.outputs) * (1.0 + gamma(signs.shape[0] + 8))
        )
        own = 4.0 * gamma(signs.shape[0] + 8) * math.sqrt(signs.shape[0])
        allowed = rounded_up(off + own * (norm_upper(whole) + off))
        return Expected(value, torch.where(torch.isfinite(allowed), allowed, math.inf).expand(design.rows, 1))

    return run(call, kernel=by_kernel, body=body, working=torch.float64, reference=reference)


@torch.library.custom_op("ntkla::softmax_gram", mutates_args=())
def _softmax_gram(
    x: torch.Tensor, probabilities: torch.Tensor, v: torch.Tensor, bias: bool, precision: str
) -> torch.Tensor:
    wide, root = accumulation_dtype(x.dtype, precision), _root(x, probabilities)
    if v.shape[2] == 0 or x.shape[1] + int(bias) == 0:
        return torch.zeros(v.shape, dtype=wide, device=v.device)
    return product(DesignMatrix(x.detach().resolve_neg(), bias), root, v.detach(), wide)


@_softmax_gram.register_fake
def _(x: torch.Tensor, probabilities: torch.Tensor, v: torch.Tensor, bias: bool, precision: str) -> torch.Tensor:
    return v.new_empty(v.shape, dtype=accumulation_dtype(x.dtype, precision))


@torch.library.custom_op("ntkla::softmax_gram_features_gradient", mutates_args=())
def _features_gradient(
    x: torch.Tensor, probabilities: torch.Tensor, v: torch.Tensor, grad: torch.Tensor
) -> torch.Tensor:
    root, wide = _root(x, probabilities), widened(x.detach())
    u, h = (root.times(widened(t.detach())).view(x.shape[0], -1) for t in (v, grad))
    with torch.autocast(x.device.type, enabled=False):
        return (h @ (u.T @ wide) + u @ (h.T @ wide)).to(x.dtype)


@_features_gradient.register_fake
def _(x: torch.Tensor, probabilities: torch.Tensor, v: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape)


def _context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, probabilities, v, ctx.bias, ctx.precision = inputs
    ctx.save_for_backward(x, probabilities, v)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    x, p, v = ctx.saved_tensors
    grad_x = torch.ops.ntkla.softmax_gram_features_gradient(x, p, v, grad) if ctx.needs_input_grad[0] else None
    grad_v = None
    if ctx.needs_input_grad[2]:
        grad_v = torch.ops.ntkla.softmax_gram(x, p, grad, ctx.bias, ctx.precision).to(v.dtype)
    return grad_x, None, grad_v, None, None


_softmax_gram.register_autograd(_backward, setup_context=_context)
