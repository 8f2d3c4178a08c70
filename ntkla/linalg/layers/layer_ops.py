"""The primitive `layer_ntk`: the public wrapper, and the registration of its torch body with PyTorch.

For a parameter matrix W used as `z = W a`, position by position, a sample's gradient of output c is
`dF_ic/dW = sum_t d_ict a_it^T`, so the tangent kernel is a product of two Gram matrices and needs no Jacobian:

    K[(i,c),(j,e)] = sum over parameters, t and s of <a_it, a_js> <d_ict, d_jes>.

Positions are all uses of the parameter: places in a sequence, patches of a convolution, layers that share it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ntkla.linalg import checks
from ntkla.linalg.backends import kernels
from ntkla.linalg.backends.dispatch import Call, add_to_record, at_best, record, resolve, run
from ntkla.linalg.backends.freivalds import Expected
from ntkla.linalg.backends.primitive import accumulation_dtype, arithmetic, chosen_precision, working_dtype
from ntkla.linalg.layers.layer_blocks import add_gram_products, add_materialised, mirror, shape_of
from ntkla.linalg.layers.layer_cost import ROUTES, layer_cost, layer_memory
from ntkla.linalg.layers.layer_factors import Factors, Given, GivenMask, Parameters, layer_factors
from ntkla.linalg.layers.layer_gradients import left_gradients
from ntkla.linalg.layers.layer_reference import layer_reference


def layer_ntk(
    a: Given,
    d: Given,
    a2: Given | None = None,
    d2: Given | None = None,
    *,
    mask: GivenMask = None,
    mask2: GivenMask = None,
    precision: str = "auto",
    route: str = "auto",
) -> torch.Tensor:
    """A block of the empirical tangent kernel, from the factors of the per-sample gradients; no Jacobian is stored.

    Args:
        a: [n, T, F_in], what entered the parameter at each position; [n, F_in] without positions.  For several
            parameters a sequence of such tensors, T and F_in may differ; their kernels are added.
        d: [n, C, T, F_out] or [n, C, F_out], the derivative of each output in what left the parameter.  A use's scale
            (LoRA's alpha / r) enters once, through a or d.
        a2, d2: the same for n2 other samples, with T2 and C2; None for the kernel of the samples with themselves.
        mask, mask2: bool [n, T] and [n2, T2], True where a position counts (ragged lengths); what the others hold,
            NaN included, is never used.  One for every parameter, or one (or None) each.
        precision: as for `gram`.  `"split"` makes planes of the factors for this call, as large as they are; samples
            with a row that cannot be split are multiplied as in `"ieee"`, and `last_dispatch()` then ends in
            `"split+ieee"`.
        route: `"gram"` multiplies Gram matrices of a and d pair by pair, `"materialised"` forms per-sample gradients
            `A_i^T D_ic` in slices of their columns; `"auto"` takes what costs less, parameter by parameter: above
            `T* = sqrt(F_in F_out / (F_in / C^2 + F_out + 1))` positions the second.  The Triton kernel, where it is
            forced or the table prefers it, multiplies Gram matrices.

    All tensors share one dtype (float64, float32, bfloat16 or float16, any strides) and one device.

    Returns:
        [n, C, n2, C2], or [n, C, n, C] that is exactly symmetric; float64 for float64 inputs or `precision="float64"`,
        else float32.  Each entry is within `layer_ntk_error` of the exact one.  NaN, infinities and overflow
        propagate as they do in torch.

    Raises:
        DtypeError, ShapeError, DeviceError, ArgumentError, BackendError
        MemoryEstimateError: before anything is computed, when the result does not fit.

    Differentiable in a, d, a2 and d2.  Cost, for each pair of samples: `T T2 (F_in + C C2 (F_out + 1))`
    multiplications or `C C2 F_in F_out`; half for the symmetric case.  Beside the result about 150 MiB.
    Deterministic for fixed inputs (strides included), versions and thread count.
    """
    checks.choice("route", route, ROUTES)
    left, right = layer_factors(a, d, a2, d2, mask, mask2)
    chosen_precision(precision, left.a[0], also=("split",))
    other = Parameters([], [], []) if right is None else right
    arguments = (left.a, left.d, other.a, other.d, left.masks, other.masks, precision, route)
    result: torch.Tensor = torch.ops.ntkla.layer_ntk(*arguments)
    return result


@torch.library.custom_op("ntkla::layer_ntk", mutates_args=())
def _layer_ntk(
    a: Sequence[torch.Tensor],
    d: Sequence[torch.Tensor],
    a2: Sequence[torch.Tensor],
    d2: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor],
    masks2: Sequence[torch.Tensor],
    precision: str,
    route: str,
) -> torch.Tensor:
    wide = accumulation_dtype(a[0].dtype, precision)
    working = working_dtype(wide)
    pairs = _paired(a, d, a2, d2, masks, masks2, working)
    shapes = [shape_of(*pair) for pair in pairs]
    costs = [layer_cost(shape, route) for shape in shapes]
    checks.memory("layer_ntk", layer_memory(shapes, working, wide, symmetric=not a2), a[0].device)

    def body() -> torch.Tensor:
        n, outputs, n2, outputs2 = shapes[0].block
        out = torch.zeros((n * outputs, n2 * outputs2), dtype=working, device=a[0].device)
        with torch.autocast(a[0].device.type, enabled=False):
            for pair, cost in zip(pairs, costs, strict=True):
                (add_gram_products if cost.route == "gram" else add_materialised)(out, *pair)
        if not a2:
            mirror(out)
        return out.view(n, outputs, n2, outputs2).to(wide)

    if route == "materialised":
        record("layer_ntk", resolve("layer_ntk"), working)
        return body()
    mode = arithmetic(a[0].dtype, precision)
    # The kernel multiplies Grams: where torch would form gradients it takes too long, so for the table it has no work.
    work = sum(cost.gram for cost in costs) if all(cost.route == "gram" for cost in costs) else 0.0
    longest = max(max(shape.inputs, shape.deltas) for shape in shapes)
    call = at_best(Call("layer_ntk", a[0], longest, mode, work), precision)
    sides = (a, d, a2, d2, masks, masks2)

    def reference(v: torch.Tensor) -> Expected:
        left = Parameters(a, d, masks).factors(torch.float64)
        right = Parameters(a2, d2, masks2).factors(torch.float64) if a2 else None
        return layer_reference(left, right, a[0].dtype, precision, wide, v)

    fallen: list[int] = []

    def kernel() -> torch.Tensor:
        if call.mode != "split":
            return kernels.layer_ntk(sides, mode)
        out, count = kernels.split_layer(sides)
        fallen.append(count)
        return out

    result = run(call, kernel=kernel, body=body, working=working, reference=reference)
    add_to_record(call, "+ieee" if any(fallen) else "")
    return result


def _paired(
    a: Sequence[torch.Tensor],
    d: Sequence[torch.Tensor],
    a2: Sequence[torch.Tensor],
    d2: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor],
    masks2: Sequence[torch.Tensor],
    working: torch.dtype,
) -> list[tuple[Factors, Factors | None]]:
    """(left, right) of each parameter; no right side in the symmetric case."""
    left = Parameters(a, d, masks).factors(working)
    right: list[Factors] | list[None] = Parameters(a2, d2, masks2).factors(working) if a2 else [None] * len(left)
    return list(zip(left, right, strict=True))


@_layer_ntk.register_fake
def _(a, d, a2, d2, masks, masks2, precision, route):  # type: ignore[no-untyped-def]
    other = d2[0] if d2 else d[0]
    shape = (*d[0].shape[:2], *other.shape[:2])
    return d[0].new_empty(shape, dtype=accumulation_dtype(d[0].dtype, precision))


def _context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *lists, _, ctx.route = inputs
    ctx.lengths = [len(part) for part in lists]
    ctx.save_for_backward(*(x for part in lists for x in part))


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    saved = iter(ctx.saved_tensors)
    a, d, a2, d2, masks, masks2 = ([next(saved) for _ in range(length)] for length in ctx.lengths)
    with torch.autocast(grad.device.type, enabled=False):
        grads = _gradients([a, d, a2, d2], masks, masks2, grad, ctx.route)
    return (*grads, [None] * len(masks), [None] * len(masks2), None, None)


def _gradients(
    factors: list[list[torch.Tensor]],
    masks: list[torch.Tensor],
    masks2: list[torch.Tensor],
    grad: torch.Tensor,
    route: str,
) -> list[list[torch.Tensor]]:
    """The gradients in the lists a, d, a2 and d2, each in its tensor's own type."""
    a, d, a2, d2 = ([x.to(grad.dtype) for x in part] for part in factors)
    turned = grad.permute(2, 3, 0, 1)
    grads: list[list[torch.Tensor]] = [[], [], [], []]
    for left, right in _paired(a, d, a2, d2, masks, masks2, grad.dtype):
        chosen = layer_cost(shape_of(left, right), route).route
        found = list(left_gradients(left, right or left, grad if right else grad + turned, chosen))
        if right is not None:
            found.extend(left_gradients(right, left, turned, chosen))
        for part, gradient in zip(grads, found, strict=False):  # two of them without a right side
            part.append(gradient)
    return [[g.to(x.dtype) for g, x in zip(*both, strict=True)] for both in zip(grads, factors, strict=True)]


_layer_ntk.register_autograd(_backward, setup_context=_context)
