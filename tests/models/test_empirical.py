"""The tangent kernel of a module: the Jacobian's, for any parameters, and the module left as it was."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
from torch import nn

import ntkla
from ntkla.linalg import checks, errors
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma
from ntkla.models import empirical
from ntkla.testing.ambient import hostile_states
from tests.models.modules import Images, assert_as_before, state_of

# Roundings of float64 in these small modules: sums of at most a few hundred terms, layer after layer, three times.
ROUNDINGS = 10_000


def made(build, *arguments: object, dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return build(*arguments).to(dtype)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Adapted(nn.Module):
    """A frozen layer with a low-rank update, used twice, as LoRA does it."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(5, 2))
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        for _ in range(2):
            x = torch.tanh(self.frozen(x) + 0.5 * x @ self.a.T @ self.b.T)
        return {"logits": self.head(x)}


class Tied(nn.Module):
    """An embedding that is also the decoder, with attention between."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.decoder = nn.Linear(4, 7, bias=False)
        self.decoder.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        return self.decoder(x + self.attention(x, x, x, need_weights=False)[0])


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3))


MODELS = {
    "perceptron": (perceptron, normal(5, 4), None),
    "some parameters": (perceptron, normal(5, 4), ["3.weight", "0.bias"]),
    "convolution": (Images, normal(4, 1, 6, 6), None),
    "low rank": (Adapted, normal(5, 5), None),
    "frozen parameters by name": (Adapted, (normal(5, 5),), ["frozen.weight", "a"]),
    "tied weights": (Tied, {"ids": torch.arange(6).view(3, 2)}, None),
    "the other name of tied weights": (Tied, torch.arange(6).view(3, 2), ["decoder.weight"]),
    "one output": (lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), normal(5, 4), None),
}


def jacobian(model: nn.Module, inputs: object, params: list[str] | None) -> torch.Tensor:
    """[n, C, parameters] by torch.func.jacrev, in evaluation mode."""
    known = dict(model.named_parameters(remove_duplicate=False))
    names = [name for name, x in model.named_parameters() if x.requires_grad] if params is None else params
    training = [part.training for part in model.modules()]
    model.eval()

    def outputs(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        keywords = inputs if isinstance(inputs, dict) else {}
        arguments = () if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)
        buffers = {name: x.clone() for name, x in model.named_buffers()}
        found = torch.func.functional_call(model, {**weights, **buffers}, arguments, keywords)
        found = found["logits"] if isinstance(found, dict) else found
        return found.reshape(found.shape[0], -1)

    parts = torch.func.jacrev(outputs)({name: known[name].detach() for name in names})
    for part, flag in zip(model.modules(), training, strict=True):
        part.training = flag
    return torch.cat([part.flatten(2) for part in parts.values()], 2)


def within(found: torch.Tensor, j: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether `found` is `J J^T v` but for rounding."""
    slack = gamma(ROUNDINGS, UNIT_ROUNDOFF[found.dtype]) * (j.abs() @ (j.abs().T @ v.abs()))
    return bool(((found - j @ (j.T @ v)).abs() <= slack).all())


@pytest.mark.parametrize("order", ["class", "sample"])
@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_the_jacobian(name, order):
    build, inputs, params = MODELS[name]
    model = made(build)
    kernel = ntkla.EmpiricalNTK(model, inputs, params, order=order)
    j = jacobian(model, inputs, params)
    n, outputs = j.shape[:2]
    assert (kernel.samples, kernel.outputs, tuple(kernel.shape)) == (n, outputs, (n * outputs, n * outputs))
    j = (j if order == "sample" else j.transpose(0, 1)).reshape(n * outputs, -1)
    v = normal(n * outputs, 2, seed=1)
    assert within(kernel @ v, j, v)
    assert within(kernel @ v[:, 0], j, v[:, 0])
    assert within(kernel.to_dense(), j, torch.eye(n * outputs, dtype=torch.float64))


def test_an_operation_without_forward_mode_takes_two_backward_passes(monkeypatch):
    model, x = made(perceptron), normal(5, 4)
    v = normal(15, 2, seed=1)
    calls = []

    def refused(*arguments: object) -> None:
        calls.append(arguments)
        raise NotImplementedError("Trying to use forward AD with this that does not support it")

    by_forward = ntkla.EmpiricalNTK(model, x, order="sample") @ v
    monkeypatch.setattr(torch.func, "jvp", refused)
    by_backward = ntkla.EmpiricalNTK(model, x, order="sample") @ v
    assert len(calls) == 1
    j = jacobian(model, x, None).flatten(0, 1)
    assert within(by_backward, j, v)
    assert within(by_forward, j, v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_works_in_the_type_of_the_model(dtype):
    model, x = made(perceptron, dtype=dtype), normal(5, 4, dtype=dtype)
    kernel = ntkla.EmpiricalNTK(model, x, order="sample")
    v = normal(15, seed=1, dtype=dtype)
    product = kernel @ v
    assert kernel.dtype == product.dtype == dtype
    j = jacobian(made(perceptron, dtype=dtype).double(), x.double(), None).flatten(0, 1)
    slack = gamma(30, UNIT_ROUNDOFF[dtype]) * (j.abs() @ (j.abs().T @ v.double().abs()))
    assert bool(((product.double() - j @ (j.T @ v.double())).abs() <= slack).all())


def test_a_linear_layer_is_a_layer_ntk():
    model, x = made(nn.Linear, 4, 3), normal(6, 4)
    d = torch.eye(3, dtype=torch.float64).expand(6, 3, 3)
    factors = [(x, d), (torch.ones(6, 1, dtype=torch.float64), d)]
    layer, kernel = ntkla.LayerNTK(factors), ntkla.EmpiricalNTK(model, x)
    v = normal(18, 2, seed=1)
    difference = torch.linalg.vector_norm(kernel @ v - layer @ v, dim=0)
    size = float(ntkla.LayerNTK([(a.abs(), e) for a, e in factors]).trace())
    assert bool((difference <= layer.error_bound(v) + gamma(100) * size * torch.linalg.vector_norm(v, dim=0)).all())


def test_what_it_knows_and_does_not():
    model, x = made(perceptron), normal(5, 4)
    kernel = ntkla.EmpiricalNTK(model, x)
    assert kernel.psd
    assert kernel.T is kernel
    assert kernel.trace() is None
    assert kernel.error_bound(torch.ones(15, dtype=torch.float64)) == math.inf
    assert str(kernel) == "EmpiricalNTK(15 x 15)"
    modes = ntkla.eigenmodes(kernel, 2)
    assert modes.status.code == "conditional"
    dense = kernel.to_dense()
    slack = gamma(ROUNDINGS) * float(dense.trace())
    assert abs(float(modes.values[0]) - float(torch.linalg.eigvalsh((dense + dense.T) / 2)[-1])) <= slack


def test_the_module_and_the_process_are_left_as_they_were():
    model = made(Images).train()
    model.body[1].eval()
    x, before, around = normal(4, 1, 6, 6), state_of(model), torch.get_rng_state()
    kernel = ntkla.EmpiricalNTK(model, x)
    product = kernel @ torch.ones(12, dtype=torch.float64)
    assert_as_before(model, before)
    assert not product.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), around)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("state", hostile_states())
def test_under_every_hostile_state_the_same_bits(state):
    model, x = made(perceptron, dtype=torch.float32), normal(5, 4, dtype=torch.float32)
    v = normal(15, 2, seed=1, dtype=torch.float32)
    plain = ntkla.EmpiricalNTK(model, x) @ v
    with hostile_states()[state]():
        assert torch.equal(ntkla.EmpiricalNTK(model, x) @ v, plain)


def test_a_dense_matrix_beyond_the_memory_is_refused_before_it_is_tried(monkeypatch):
    kernel = ntkla.EmpiricalNTK(made(perceptron), normal(5, 4))
    monkeypatch.setattr(checks, "available_memory", lambda device: 100)
    with pytest.raises(errors.MemoryEstimateError, match=r"EmpiricalNTK.*to_dense"):
        kernel.to_dense()


X = normal(3, 4)
MODEL = made(perceptron)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ntkla.EmpiricalNTK(torch.tanh, X), errors.ArgumentError, r"model: expected a torch.nn.Module"),
        (lambda: ntkla.EmpiricalNTK(MODEL, 3), errors.ArgumentError, "inputs: expected a tensor"),
        (lambda: ntkla.EmpiricalNTK(MODEL, X, ["0.weigth"]), errors.ArgumentError, r"'0.weigth'\. Near ones: 0.weight"),
        (lambda: ntkla.EmpiricalNTK(MODEL, X, "0.weight"), errors.ArgumentError, "a sequence of names"),
        (lambda: ntkla.EmpiricalNTK(MODEL, X, []), errors.ArgumentError, "a sequence of names"),
        (lambda: ntkla.EmpiricalNTK(MODEL, X, ["0.bias"] * 2), errors.ArgumentError, "each parameter once"),
        (lambda: ntkla.EmpiricalNTK(MODEL, X, order="rows"), errors.ArgumentError, "order"),
        (
            lambda: ntkla.EmpiricalNTK(made(perceptron).requires_grad_(False), X),
            errors.ArgumentError,
            "no parameter of the model requires a gradient",
        ),
        (lambda: ntkla.EmpiricalNTK(MODEL, X.to("meta")), errors.DeviceError, "inputs: "),
        (lambda: ntkla.EmpiricalNTK(MODEL, X * math.inf), errors.NonFiniteError, "the model's output"),
        (
            lambda: ntkla.EmpiricalNTK(nn.Sequential(nn.Linear(4, 2).double(), nn.Linear(2, 2)), X),
            errors.DtypeError,
            "torch.float32, torch.float64",
        ),
        (lambda: ntkla.EmpiricalNTK(MODEL, X) @ torch.ones(4), errors.ShapeError, "expected 9 rows"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_example_in_the_docstring():
    assert doctest.testmod(empirical).failed == 0
