"""The digest of what a module is called with: it tells values, types, shapes and order apart, and nothing else."""

from __future__ import annotations

import pytest
import torch

from ntkla.models.digest import Digest, inputs_of

X = torch.arange(6, dtype=torch.float32).reshape(2, 3)


def of(*parts: torch.Tensor) -> Digest:
    digest = Digest()
    for part in parts:
        digest.take(part)
    return digest


@pytest.mark.parametrize(
    "other",
    [
        (X.flip(0),),
        (X.double(),),
        (X.reshape(3, 2),),
        (X.view(torch.int32),),
        (torch.nextafter(X, X + 1),),
        (X[:1], X[1:]),
        (X, X),
        (),
    ],
    ids=["order", "type", "shape", "bits", "last digit", "batches", "more", "none"],
)
def test_other_inputs_have_another_digest(other):
    assert of(*other) != of(X)


@pytest.mark.parametrize(
    "same",
    [X.clone(), X.T.contiguous().T, X.to_sparse(), torch.nn.Parameter(X.clone()), -(-X).clone()],
    ids=["copy", "strides", "sparse", "parameter", "negated twice"],
)
def test_the_same_values_have_the_same_digest(same):
    assert of(same) == of(X)


@pytest.mark.parametrize(
    "x",
    [torch.tensor(2.0), torch.ones(0, 3), torch.tensor([True, False]), torch.view_as_complex(X.reshape(3, 2)).conj()],
    ids=["no dimension", "empty", "bool", "complex"],
)
def test_every_kind_of_tensor_is_taken(x):
    assert of(x) == of(x.clone())
    assert of(x) != of(X)


def test_a_call_is_seen_with_all_of_its_inputs_and_the_module_is_left_alone():
    class Adds(torch.nn.Module):
        def forward(self, pair, *, third):
            return pair[0] + pair[1]["x"] + third

    def seen(*changes):
        parts = [x + c for x, c in zip((X, X, X), changes, strict=True)]
        with inputs_of(module) as digest:
            module((parts[0], {"x": parts[1]}), third=parts[2])
        return digest

    module = Adds()
    assert seen(0, 0, 0) == seen(0, 0, 0)
    assert all(seen(*(int(i == j) for j in range(3))) != seen(0, 0, 0) for i in range(3))
    jagged = torch.nested.nested_tensor([X, X[:1]], layout=torch.jagged)
    with inputs_of(torch.nn.Identity()) as empty, inputs_of(torch.nn.Identity()) as other:
        assert empty == other
    with pytest.raises(ZeroDivisionError), inputs_of(module):
        1 / 0  # noqa: B018
    assert not module._forward_pre_hooks
    identity = torch.nn.Identity()
    with inputs_of(identity) as first:
        identity(jagged)
    assert first == of(X, X[:1])
