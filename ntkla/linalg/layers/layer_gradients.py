"""The gradient of a layer's tangent kernel in its factors, for one side of one parameter, by either route.

With g the gradient in the kernel, `M_je = A_j^T D_je` and `N_ic = sum_{j,e} g[ic,je] M_je` [F_a, F_d],

    d/d a_it = sum_c N_ic d_ict,      d/d d_ict = N_ic^T a_it;

by Gram products the same sums run over pairs of positions, and no M is formed.  In the symmetric case both sides move
together: g + g^T takes the place of g.  Ordinary torch operations, so gradients can be differentiated again.
"""

from __future__ import annotations

import torch

from ntkla.linalg.layers.layer_blocks import all_gradients
from ntkla.linalg.layers.layer_cost import column_slices, tile_edges
from ntkla.linalg.layers.layer_factors import Factors


def left_gradients(left: Factors, right: Factors, grad: torch.Tensor, route: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients in `left.a` and `left.d`, in the working type.

    Args:
        left, right: factors in their working type.
        grad: [n, C, n2, C2], the gradient in the kernel.
        route: "gram" or "materialised".
    """
    grads = torch.zeros_like(left.a), torch.zeros_like(left.d)
    (_by_grams if route == "gram" else _by_gradients)(*grads, left, right, grad)
    return grads


def _by_grams(grad_a: torch.Tensor, grad_d: torch.Tensor, left: Factors, right: Factors, grad: torch.Tensor) -> None:
    columns = tile_edges(*right.d.shape[:3])
    for samples, rows in tile_edges(*left.d.shape[:3]):
        a, d = left.activations(samples), left.deltas(samples, rows)
        for samples2, rows2 in columns:
            a2, d2 = right.activations(samples2), right.deltas(samples2, rows2)
            g = grad[samples, rows, samples2, rows2][:, :, None, :, :, None]
            m, c, t, m2, c2, t2 = (*d.shape[:3], *d2.shape[:3])
            deltas = (d.flatten(0, 2) @ d2.flatten(0, 2).T).view(m, c, t, m2, c2, t2)
            pulled = (g * deltas).sum(dim=(1, 4)).flatten(2, 3).flatten(0, 1)
            grad_a[samples] += (pulled @ a2.flatten(0, 1)).view_as(a)
            activations = (a.flatten(0, 1) @ a2.flatten(0, 1).T).view(m, 1, t, m2, 1, t2)
            pulled = (g * activations).reshape(m * c * t, m2 * c2 * t2)
            grad_d[samples, rows] += (pulled @ d2.flatten(0, 2)).view_as(d)


def _by_gradients(
    grad_a: torch.Tensor, grad_d: torch.Tensor, left: Factors, right: Factors, grad: torch.Tensor
) -> None:
    flat = grad.flatten(2, 3).flatten(0, 1)
    everyone = slice(0, left.d.shape[0])
    for inputs, deltas in column_slices(sum(flat.shape), left.a.shape[2], left.d.shape[3]):
        pulled = flat @ all_gradients(right, (inputs, deltas))
        pulled = pulled.view(*left.d.shape[:2], inputs.stop - inputs.start, deltas.stop - deltas.start)
        d = left.deltas(everyone, columns=deltas)
        grad_a[:, :, inputs] += torch.einsum("icfg,ictg->itf", pulled, d)
        grad_d[..., deltas] += left.activations(everyone, inputs)[:, None] @ pulled
