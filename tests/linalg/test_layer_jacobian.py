"""The layer kernel against Jacobians: `torch.func.jacrev` of small modules, their factors caught by hooks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

import ntkla
from ntkla.linalg.precision import gamma
from tests.linalg.layer_reference import normal

OUTPUTS, POSITIONS, WIDTH = 3, 4, 5


@pytest.fixture(autouse=True)
def _torch_body():
    """Both routes are torch's; the kernel has tests of its own."""
    with ntkla.backend("torch"):
        yield


class Mixer(nn.Module):
    """A sequence model with a layer at every position, one that is used twice, a low-rank adapter, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = linear(WIDTH, 6, 1)
        self.twice = linear(6, 6, 2)
        self.down, self.up, self.scale = linear(6, 2, 3), linear(2, 6, 4), 0.25
        self.head = linear(6, OUTPUTS, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(x))
        hidden = torch.tanh(self.twice(hidden))
        hidden = torch.softmax(hidden @ hidden.mT, -1) @ hidden
        hidden = self.twice(hidden) + self.scale * self.up(self.down(hidden))
        return self.head(torch.tanh(hidden).mean(-2))


class Convolution(nn.Module):
    """A convolution is a linear map of patches, used at every place of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 2, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.convolution.weight.copy_(normal(3, 2, 2, 2, seed=6))
        self.head = linear(3, OUTPUTS, 7)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.convolution(image)).mean((-2, -1)))


def linear(inputs: int, outputs: int, seed: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        layer.weight.copy_(normal(outputs, inputs, seed=seed))
    return layer


def factors_of(module: nn.Module, layer: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """a [n, T, F_in] and d [n, C, T, F_out] of one layer, T over all its uses: what enters, and output derivatives."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = layer.register_forward_hook(lambda _, args, out: seen.append((args[0].detach(), out.detach())))
    rows = []
    for sample in inputs:
        seen.clear()
        module(sample)
        uses = list(seen)

        rows.append((uses, jacrev(partial(moved, module, layer, sample))([torch.zeros_like(out) for _, out in uses])))
    hook.remove()
    a = torch.stack([torch.cat([positions(layer, x) for x, _ in uses]) for uses, _ in rows])
    d = torch.stack([torch.cat([deltas(layer, x) for x in jacobians], 1) for _, jacobians in rows])
    return a, d


def moved(module: nn.Module, layer: nn.Module, x: torch.Tensor, shifts: list[torch.Tensor]) -> torch.Tensor:
    """The outputs with a shift added to what leaves each use of the layer."""
    remaining = iter(shifts)
    hook = layer.register_forward_hook(lambda _, args, out: out + next(remaining))
    try:
        return module(x)
    finally:
        hook.remove()


def positions(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """[T, F_in] of what entered: patches of an image."""
    if isinstance(layer, nn.Conv2d):
        return nn.functional.unfold(x[None], layer.kernel_size)[0].T
    return x.reshape(-1, x.shape[-1])


def deltas(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """[C, T, F_out]."""
    return x.flatten(2).mT if isinstance(layer, nn.Conv2d) else x.reshape(OUTPUTS, -1, x.shape[-1])


def jacobian(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """[n C, parameters]."""
    weights = {name: x.detach() for name, x in module.named_parameters()}
    rows = [jacrev(lambda w, x=x: functional_call(module, w, (x,)))(weights) for x in inputs]
    return torch.stack([torch.cat([part.flatten(1) for part in row.values()], 1) for row in rows]).flatten(0, 1)


CASES = [(Mixer(), normal(4, POSITIONS, WIDTH, seed=8)), (Convolution(), normal(4, 2, 4, 4, seed=9))]


@pytest.mark.parametrize("route", ["gram", "materialised"])
@pytest.mark.parametrize(("module", "inputs"), CASES, ids=["mixer", "convolution"])
def test_the_kernel_of_a_module_is_that_of_its_jacobian(module, inputs, route):
    layers = [layer for layer in module.children() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    pairs = [factors_of(module, layer, inputs) for layer in layers]
    computed = ntkla.layer_ntk(*map(list, zip(*pairs, strict=True)), route=route).reshape(4 * OUTPUTS, 4 * OUTPUTS)
    full = jacobian(module, inputs)
    # Both Jacobians went through fewer operations than this module has in all, and neither cancels much.
    slack = gamma(2**14) * full.norm(dim=1)[:, None] * full.norm(dim=1)
    assert ((computed - full @ full.T).abs() <= slack).all()

    operator = ntkla.LayerNTK(pairs, order="sample")
    v = normal(4 * OUTPUTS, 2, seed=3)
    assert ((operator @ v - full @ (full.T @ v)).norm(dim=0) <= gamma(2**14) * full.norm() ** 2 * v.norm(dim=0)).all()
    assert ((operator.diagonal() - full.square().sum(1)).abs() <= slack.diagonal()).all()


def test_a_linear_head_is_the_kronecker_product_of_its_gram_matrix():
    features, outputs = normal(6, 5), 3
    deltas_of_a_head = torch.eye(outputs, dtype=torch.float64).expand(6, outputs, outputs)
    operator = ntkla.LayerNTK([(features, deltas_of_a_head)])
    kronecker = ntkla.KroneckerGram(ntkla.GramOperator(features), outputs)
    difference = operator.to_dense() - kronecker.to_dense()
    assert (difference.abs() <= gamma(2 * 5 + outputs + 4) * features.norm() ** 2).all()


def test_one_missing_use_of_a_shared_layer_is_seen():
    module, inputs = CASES[0]
    pairs = [factors_of(module, layer, inputs) for layer in module.children()]
    a, d = pairs[1]
    pairs[1] = a[:, :POSITIONS], d[:, :, :POSITIONS]
    full = jacobian(module, inputs)
    computed = ntkla.layer_ntk(*map(list, zip(*pairs, strict=True))).reshape(4 * OUTPUTS, 4 * OUTPUTS)
    slack = gamma(2**14) * full.norm(dim=1)[:, None] * full.norm(dim=1)
    assert ((computed - full @ full.T).abs() > slack).any()
