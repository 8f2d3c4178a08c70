"""The shapes and types that the public door promises, written as jaxtyping contracts and checked by beartype.

Inside one contract a letter is one length: `samples`, `old`, `features`, `outputs`, `modes`.
"""

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, Float32, Float64, TypeCheckError, jaxtyped
from torch import Tensor

import ntkla

contract = jaxtyped(typechecker=beartype)


@contract
def gram(x: Float[Tensor, "samples features"], bias: bool) -> Float32[Tensor, "samples samples"]:
    return ntkla.gram(x, bias=bias)


@contract
def cross_gram(
    x: Float[Tensor, "samples features"], y: Float[Tensor, "old features"], bias: bool
) -> Float64[Tensor, "samples old"]:
    return ntkla.gram(x, y, bias=bias, precision="float64")


@contract
def normal_matmul(
    x: Float[Tensor, "samples features"], w: Float[Tensor, "features columns"], weights: Float[Tensor, " samples"]
) -> Float32[Tensor, "features columns"]:
    return ntkla.normal_matmul(x, w, weights=weights)


@contract
def softmax_gram(
    x: Float[Tensor, "samples features"],
    p: Float[Tensor, "samples outputs"],
    v: Float[Tensor, "samples outputs columns"],
) -> tuple[Float32[Tensor, "samples outputs columns"], Float64[Tensor, " columns"], Float64[Tensor, "samples outputs"]]:
    single = ntkla.softmax_gram(x, p, v[:, :, 0], precision="float64")
    return ntkla.softmax_gram(x, p, v), ntkla.softmax_gram_error(x, p, v), single


@contract
def summary(
    x: Float[Tensor, "samples features"], forgetting: ntkla.Forgetting, outputs: int
) -> tuple[Float64[Tensor, " samples"], Float64[Tensor, " samples"], Float64[Tensor, " outputs"]]:
    found = ntkla.drift_summary(x, forgetting)
    assert found.output_norms.shape == (outputs,)
    return found.norms, found.norm_errors, found.output_errors


@contract
def exact(
    x: Float[Tensor, "samples features"], y: Float[Tensor, "old features"], bias: bool
) -> tuple[Float64[Tensor, "samples old"], Float64[Tensor, "samples old"], Float64[Tensor, "samples old"]]:
    found = ntkla.exact_gram(x, y, bias=bias)
    assert torch.equal(found.high, ntkla.gram(x, y, bias=bias, precision="exact"))
    return found.high, found.low, found.error_bound


@contract
def sums(
    x: Float[Tensor, "samples features"], targets: Float[Tensor, "samples outputs"]
) -> tuple[Float64[Tensor, "features features"], Float64[Tensor, "features outputs"]]:
    square, right = ntkla.ExactNormal.of(x, targets).rounded()
    return square, right


@contract
def operator(
    x: Float[Tensor, "samples features"], y: Float[Tensor, "old features"], v: Float[Tensor, "old columns"]
) -> tuple[Float64[Tensor, "samples columns"], Float64[Tensor, " columns"], Float64[Tensor, " samples"]]:
    cross = ntkla.CrossGram(x, y)
    return cross @ v, cross.error_bound(v), cross @ v[:, 0]


@contract
def ridge(
    x: Float[Tensor, "samples features"], targets: Float[Tensor, "samples outputs"], bias: bool
) -> tuple[
    Float64[Tensor, "features outputs"],
    Float64[Tensor, "features outputs"],
    Float64[Tensor, " outputs"] | None,
    Float64[Tensor, " outputs"] | None,
]:
    found = ntkla.ridge_solve(x, targets, ridge=0.5, bias=bias)
    assert (found.bias is not None) == (found.bias_error_bound is not None) == bias
    return found.solution, found.error_bound, found.bias, found.bias_error_bound


@contract
def forgetting(
    old: Float[Tensor, "old features"],
    new: Float[Tensor, "samples features"],
    residual: Float[Tensor, "samples outputs"],
    bias: bool,
    training: object,
) -> tuple[
    Float64[Tensor, "old outputs"],
    Float64[Tensor, "old outputs"],
    Float64[Tensor, "outputs features"],
    Float64[Tensor, " outputs"],
    Float64[Tensor, " outputs"] | None,
]:
    found = ntkla.predict_forgetting(old, new, residual, ridge=0.5, bias=bias, training=training)
    assert (found.bias_update is not None) == bias
    return found.drift, found.error_bound, found.head_update, found.update_error_bound, found.bias_update


@contract
def modes(
    x: Float[Tensor, "samples features"], drift: Float64[Tensor, "samples outputs"], k: int
) -> tuple[
    Float64[Tensor, " modes"], Float64[Tensor, " modes"], Float64[Tensor, "samples modes"], Float64[Tensor, " modes"]
]:
    found = ntkla.eigenmodes(x, k)
    assert found.values.shape == (k,)
    return found.values, found.value_error, found.vectors, ntkla.decompose(drift, found).energy


@contract
def overlap(
    old: Float[Tensor, "old features"], new: Float[Tensor, "samples features"], k_old: int, k_new: int
) -> tuple[Float64[Tensor, " angles"], Float64[Tensor, " angles"], Float64[Tensor, "k_old k_new"]]:
    found = ntkla.task_overlap(old, new, k_old=k_old, k_new=k_new)
    assert found.overlap.shape == (found.k_old, found.k_new)
    return found.cosines, found.cosine_error, found.overlap


def normal(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("samples", "old", "features", "outputs"), [(7, 5, 3, 2), (3, 2, 6, 4), (1, 1, 1, 1)])
def test_the_promised_shapes_and_types(samples, old, features, outputs, dtype, bias):
    x, y = normal(samples, features, seed=0, dtype=dtype), normal(old, features, seed=1, dtype=dtype)
    w, residual = normal(features, 4, seed=2, dtype=dtype), normal(samples, outputs, seed=3, dtype=dtype)
    assert gram(x, bias).shape == (samples, samples)
    assert cross_gram(x, y, bias).shape == (samples, old)
    assert exact(x, y, bias)[0].shape == (samples, old)
    assert sums(x, residual)[1].shape == (features, outputs)
    assert normal_matmul(x, w, x[:, 0]).shape == (features, 4)
    p = torch.softmax(residual.float(), 1)
    assert softmax_gram(x, p, residual[:, :, None].expand(-1, -1, 2))[0].shape == (samples, outputs, 2)
    solved = ntkla.predict_forgetting(y, x, residual, ridge=0.5, bias=bias)
    assert summary(x, solved, outputs)[0].shape == (samples,)
    assert operator(x, y, normal(old, 4, seed=4, dtype=dtype))[0].shape == (samples, 4)
    assert ridge(x, residual, bias)[0].shape == (features, outputs)
    for training in (None, ntkla.GradientDescent(lr=1e-3, steps=3), ntkla.GradientFlow(time=0.1)):
        drift = forgetting(y, x, residual, bias, training)[0]
        assert drift.shape == (old, outputs)
    assert modes(y, drift, min(2, old))[2].shape == (old, min(2, old))
    assert overlap(y, x, 1, 1)[0].shape == (1,)


def test_a_broken_contract_is_seen():
    @contract
    def turned(x: Float[Tensor, "samples features"]) -> Float[Tensor, "features features"]:
        return ntkla.gram(x)

    @contract
    def narrow(x: Float[Tensor, "samples features"]) -> Float64[Tensor, "samples samples"]:
        return ntkla.gram(x)

    for wrong in (turned, narrow):
        with pytest.raises(TypeCheckError):
            wrong(torch.ones(3, 2, dtype=torch.float32))
