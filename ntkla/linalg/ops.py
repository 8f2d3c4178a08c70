"""The primitives `gram` and `normal_matmul`: public wrappers, torch bodies, and their registration with PyTorch.

Each primitive is a `torch.library` custom operator (`torch.ops.ntkla.gram`, `torch.ops.ntkla.normal_matmul`) with an
implementation (a Triton kernel or torch, see `dispatch`), a fake one for tracing, and autograd, so it works under
`torch.compile`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from ntkla.linalg import checks
from ntkla.linalg.backends import kernels
from ntkla.linalg.backends.dispatch import Call, add_to_record, at_best, run
from ntkla.linalg.backends.primitive import (
    accumulation_dtype,
    arithmetic,
    chosen_precision,
    converted,
    primitive_input,
    same_kind,
    working_dtype,
)
from ntkla.linalg.backends.references import gram_by_cublas, gram_reference, normal_reference
from ntkla.linalg.errors import ShapeError
from ntkla.linalg.exact_products import gram_values
from ntkla.linalg.planes import Planes, gram_by_planes, planes_gram


def gram(
    x: torch.Tensor | Planes, y: torch.Tensor | Planes | None = None, *, bias: bool = False, precision: str = "auto"
) -> torch.Tensor:
    """The Gram matrix `x y^T` of the rows of `x` and `y` (of `x` with itself when `y` is None).

    Args:
        x: [n, F], float64, float32, bfloat16 or float16, any strides; or `Planes` of float32 features.
        y: [m, F], same dtype and device as `x`, or None; `Planes` where `x` is.
        bias: adds 1 to every entry: the Gram matrix of the features with a constant feature appended.
        precision: `"ieee"` accumulates float64 inputs in float64 and everything narrower in float32, `"float64"`
            accumulates, and returns, float64 for every input.  `"bf16"`, for bfloat16 and float16 inputs only, lets
            their exact products be summed in float32 on tensor cores.  `"auto"` is `"bf16"` for those two, else
            `"ieee"`.  `"exact"` returns in float64 the exact value, rounded once, to nearest and even: the same bits
            for any layout, order of the features, thread count and device (`exact_gram` returns the rest as well).
            `"split"`, for float32 inputs and `Planes` only, lets tensor cores multiply them as two half-precision
            numbers each; rows that cannot be split (`Planes.rows_fallen_back`) are multiplied as in `"ieee"`, and
            `last_dispatch()` then ends in `"split+ieee"`.  `"auto"` takes it for float32 where the table says so.

    Returns:
        [n, n] (exactly symmetric) or [n, m]; float64 for float64 inputs or `precision="float64"`, else float32.  Never
        rounded in between: `|error| <= gamma_r (|x| |y|^T + bias)` in the returned type's unit roundoff, plus what
        underflows there; `r = F + 1`, where tensor cores may sum `max(F + 1, min(3 F, 320) + 8)`, and with `"split"`,
        `Planes`, or `"auto"` on float32 once the table takes `"split"`, `max(F + 5, min(3 F, 160) + F / 64 + 15)`.
        NaN, infinities and overflow propagate as they do in torch, but for `"exact"`.

    Raises:
        DtypeError, ShapeError, DeviceError, ArgumentError, BackendError; with `"exact"` also NonFiniteError, ScaleError
        (an entry beyond float64's range) and MemoryEstimateError, for an exact value has no NaN and no infinity.

    Differentiable in `x` and `y`.  Cost: 2 n m F operations (half for the symmetric case on two or more blocks); with
    `"exact"` `s^2` times as many, for s slices of 20 bits (two for bfloat16, three or four for float32).
    Deterministic for fixed inputs (strides included), versions and thread count.
    """
    if isinstance(x, Planes) or isinstance(y, Planes):
        return planes_gram(x, y, bias, precision)
    primitive_input("x", x)
    chosen_precision(precision, x, also=("exact", "split"))
    if y is not None:
        primitive_input("y", y)
        same_kind("x", x, "y", y)
        if x.shape[1] != y.shape[1]:
            raise ShapeError(
                f"gram: expected x and y with the same number of features, got {x.shape[1]} and {y.shape[1]}."
            )
    result: torch.Tensor = torch.ops.ntkla.gram(x, y, checks.flag("bias", bias), precision)
    return result


def normal_matmul(
    x: torch.Tensor,
    w: torch.Tensor,
    *,
    weights: torch.Tensor | None = None,
    bias: bool = False,
    precision: str = "auto",
) -> torch.Tensor:
    """The normal-matrix product `x^T (weights * (x w))`, without forming `x^T x`.

    Args:
        x: [n, F], float64, float32, bfloat16 or float16, any strides.
        w: [F, m] or [F + 1, m] with `bias`, same dtype and device as `x`.
        weights: [n], one factor a sample, same dtype and device, or None for ones.
        bias: appends a constant feature 1 to `x`; the last row of `w` and of the result belong to it.
        precision: `"auto"`, `"ieee"`, `"bf16"` or `"float64"`, as for `gram`; `"bf16"` is the same as `"ieee"` here.

    Returns:
        [F (+ 1), m]; float64 for float64 inputs or `precision="float64"`, else float32.  Never rounded in between:
        `|error| <= gamma_{n+F+4} |x|^T |weights| |x| |w|` in the returned type's unit roundoff, plus what underflows
        there.  NaN, infinities and overflow propagate as they do in torch.

    Raises:
        DtypeError, ShapeError, DeviceError, ArgumentError, BackendError

    Differentiable in `x`, `w` and `weights`.  Cost: 4 n F m operations.
    Deterministic for fixed inputs (strides included), versions and thread count.
    """
    checks.flag("bias", bias)
    primitive_input("x", x)
    chosen_precision(precision, x)
    primitive_input("w", w)
    same_kind("x", x, "w", w)
    if w.shape[0] != x.shape[1] + int(bias):
        raise ShapeError(
            f"normal_matmul: expected w with {x.shape[1] + int(bias)} rows "
            f"(features{' and bias' if bias else ''}), got {w.shape[0]}."
        )
    if weights is not None:
        primitive_input("weights", weights, ndim=1)
        same_kind("x", x, "weights", weights)
        if weights.shape[0] != x.shape[0]:
            raise ShapeError(f"normal_matmul: expected {x.shape[0]} weights, one a sample, got {weights.shape[0]}.")
    result: torch.Tensor = torch.ops.ntkla.normal_matmul(x, w, weights, bias, precision)
    return result


@torch.library.custom_op("ntkla::gram", mutates_args=())
def _gram(x: torch.Tensor, y: torch.Tensor | None, bias: bool, precision: str) -> torch.Tensor:
    wide = accumulation_dtype(x.dtype, precision)
    working = working_dtype(wide)
    mode = arithmetic(x.dtype, precision)

    def body() -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            left = converted(x, working)
            out = _symmetric(left) if y is None else left @ converted(y, working).T
        return (out.add_(1.0) if bias else out).to(wide)

    (n, features), m = x.shape, x.shape[0] if y is None else y.shape[0]
    call = at_best(Call("gram", x, features, mode, float(n) * m * features, symmetric=y is None), precision)
    reference = gram_reference(x, y, bias, precision)
    if precision == "exact":
        by = [partial(gram_values, x, y, bias, by_kernel) for by_kernel in (True, False)]
        return run(replace(call, mode="exact"), kernel=by[0], body=by[1], working="exact", reference=reference)
    fallen: list[int] = []
    result = run(
        call,
        kernel=(lambda: gram_by_planes(x, y, bias, fallen))
        if call.mode == "split"
        else lambda: kernels.gram(x, y, bias, mode),
        body=body,
        working=working,
        library=None if y is not None else gram_by_cublas(x, bias, working, wide),
        reference=reference,
    )
    add_to_record(call, "+ieee" if any(fallen) else "")
    return result


def _symmetric(x: torch.Tensor) -> torch.Tensor:
    """x x^T with each block below the diagonal computed once: 5/8 of the operations with four blocks."""
    n = x.shape[0]
    out = torch.empty((n, n), dtype=x.dtype, device=x.device)
    edge = max(64, -(-n // 4))
    for start in range(0, n, edge):
        rows = slice(start, min(start + edge, n))
        left = x[rows] @ x[: rows.stop].T
        out[rows, : rows.stop] = left
        out[: rows.start, rows] = left[:, : rows.start].T
        # The diagonal block came from one product whose two halves may differ by a rounding: one half decides.
        diagonal = out[rows, rows]
        diagonal.copy_(diagonal.tril() + diagonal.tril(-1).T)
    return out


@_gram.register_fake
def _(x: torch.Tensor, y: torch.Tensor | None, bias: bool, precision: str) -> torch.Tensor:
    other = x if y is None else y
    return x.new_empty((x.shape[0], other.shape[0]), dtype=accumulation_dtype(x.dtype, precision))


def _gram_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, y, _, _ = inputs
    ctx.save_for_backward(x, y)


def _gram_backward(ctx, grad):  # type: ignore[no-untyped-def]
    x, y = ctx.saved_tensors
    with torch.autocast(grad.device.type, enabled=False):
        if y is None:
            return ((grad + grad.T) @ x.to(grad.dtype)).to(x.dtype), None, None, None
        return (grad @ y.to(grad.dtype)).to(x.dtype), (grad.T @ x.to(grad.dtype)).to(y.dtype), None, None


_gram.register_autograd(_gram_backward, setup_context=_gram_context)


@torch.library.custom_op("ntkla::normal_matmul", mutates_args=())
def _normal_matmul(
    x: torch.Tensor, w: torch.Tensor, weights: torch.Tensor | None, bias: bool, precision: str
) -> torch.Tensor:
    wide = accumulation_dtype(x.dtype, precision)
    working = working_dtype(wide)
    # The second product's factors are no 16-bit numbers, so there is no "bf16".
    mode = "float64" if wide == torch.float64 else "ieee"

    def body() -> torch.Tensor:
        factors = None if weights is None else converted(weights, working)
        with torch.autocast(x.device.type, enabled=False):
            return _normal(converted(x, working), converted(w, working), factors, bias).to(wide)

    (n, features), columns = x.shape, w.shape[1]
    call = Call("normal_matmul", x, features, mode, work=2.0 * n * features * columns)
    return run(
        call,
        kernel=lambda: kernels.normal_matmul(x, w, weights, bias, mode),
        body=body,
        working=working,
        reference=normal_reference(x, w, weights, bias, precision),
    )


def _normal(x: torch.Tensor, w: torch.Tensor, weights: torch.Tensor | None, bias: bool) -> torch.Tensor:
    """x^T (weights * (x w)) in the inputs' own type; the last row of w and of the result are the bias's."""
    features = x.shape[1]
    outputs = x @ w[:features]
    if bias:
        outputs = outputs + w[features]
    if weights is not None:
        outputs = weights[:, None] * outputs
    result = x.T @ outputs
    return torch.cat([result, outputs.sum(0, keepdim=True)]) if bias else result


@_normal_matmul.register_fake
def _(x: torch.Tensor, w: torch.Tensor, weights: torch.Tensor | None, bias: bool, precision: str) -> torch.Tensor:
    return x.new_empty((x.shape[1] + int(bias), w.shape[1]), dtype=accumulation_dtype(x.dtype, precision))


def _normal_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, w, weights, bias, _ = inputs
    ctx.save_for_backward(x, w, weights)
    ctx.bias = bias


def _normal_backward(ctx, grad):  # type: ignore[no-untyped-def]
    x, w, weights = ctx.saved_tensors
    with torch.autocast(grad.device.type, enabled=False):
        return (*_normal_gradients(x, w, weights, ctx.bias, grad), None, None)


def _normal_gradients(
    x: torch.Tensor, w: torch.Tensor, weights: torch.Tensor | None, bias: bool, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """With a = x w, b = x g: d/dw = x^T (d b), d/dd = sum(a b), d/dx = (d a) g^T + (d b) w^T, bias rows dropped."""
    wide = grad.dtype
    x_wide, w_wide = x.to(wide), w.to(wide)
    features = x.shape[1]
    a, b = x_wide @ w_wide[:features], x_wide @ grad[:features]
    if bias:
        a, b = a + w_wide[features], b + grad[features]
    weights_wide = None if weights is None else weights.to(wide)
    da, db = (a, b) if weights_wide is None else (weights_wide[:, None] * a, weights_wide[:, None] * b)
    grad_x = (da @ grad[:features].T + db @ w_wide[:features].T).to(x.dtype)
    grad_w = _normal(x_wide, grad, weights_wide, bias).to(w.dtype)
    grad_weights = None if weights is None else (a * b).sum(1).to(weights.dtype)
    return grad_x, grad_w, grad_weights


_normal_matmul.register_autograd(_normal_backward, setup_context=_normal_context)
