"""The tangent kernel of any module, matrix-free: `K v = J (J^T v)` by one backward and one forward-mode product.

J is the Jacobian of all outputs for all samples in the chosen parameters.  It is never formed: `J^T v` is a
vector-Jacobian product, `J u` a Jacobian-vector product (`torch.func`).  For an operation that knows no forward mode,
J u is the transpose of the linear map `v -> J^T v`: two backward passes.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError, DeviceError, DtypeError
from ntkla.linalg.linear_operator import LinearOperator
from ntkla.models.batches import one_batch
from ntkla.models.pooling import rows
from ntkla.models.undisturbed import arithmetic, evaluating, generators_kept, home

Weights = dict[str, torch.Tensor]


class EmpiricalNTK(LinearOperator):
    """The empirical tangent kernel `J J^T` of a module at its present weights, [nC, nC].

    Args:
        model: any module whose output is [n, C], [n], or [n, ...] (flattened to C outputs a sample), or holds one such
            tensor.  It runs in evaluation mode, without autocast; its training flags, buffers and gradients are
            afterwards what they were.
        inputs: the samples: a tensor, a tuple of positional arguments, or a mapping of keyword arguments (its labels
            are left out), where the model lies.
        params: names as in `model.named_parameters()`; None for every parameter that requires a gradient.  A parameter
            that is used under several names is one.
        order: `"class"`: position `c n + i` of a vector belongs to sample i and output c; `"sample"`: `i C + c`.

    Products are computed, and rounded, in the type of the parameters: nothing is known of the rounding inside a module,
    so `error_bound` is infinite and results from this operator are conditional.  `trace()` is None.  Model and inputs
    are not copied: leave them as they are while the operator is in use.

    Cost of a product with [nC, m]: a forward pass, and m times a backward pass and a forward-mode pass (two backward
    passes where there is no forward mode), over all samples at once, whose activations are held meanwhile.
    `to_dense()` is such a product with all nC columns.  Deterministic as far as the module is.

    Raises:
        ArgumentError: no module, no such parameter, or none to differentiate in; inputs in another form.
        DtypeError, ShapeError, DeviceError, NonFiniteError: parameters of several types, or an output that is not as
            above.
        What the module and torch's derivatives of it raise passes through.

    Example:
        >>> import torch, ntkla
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
        >>> kernel = ntkla.EmpiricalNTK(model, torch.ones(5, 3, dtype=torch.float64), ["2.weight"])
        >>> kernel
        EmpiricalNTK(10 x 10)
        >>> (kernel @ torch.ones(10, dtype=torch.float64)).shape
        torch.Size([10])
    """

    def __init__(
        self, model: torch.nn.Module, inputs: Any, params: Sequence[str] | None = None, *, order: str = "class"
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise ArgumentError(f"model: expected a torch.nn.Module, got {type(model).__name__}.")
        self.order = checks.choice("order", order, ("class", "sample"))
        place = home(model)
        self._model, self._batch = model, one_batch("inputs", inputs)
        self._weights = _chosen(model, params)
        self._forward_mode = True
        dtype = _one_type(self._weights)
        if self._batch.device() != place:
            raise DeviceError(f"inputs: expected them on {place}, where the model lies, got {self._batch.device()}.")
        with self._undisturbed():
            outputs = self._outputs(self._weights)
        if outputs.dtype != dtype:
            raise DtypeError(f"model: expected an output in the type of its parameters, {dtype}, got {outputs.dtype}.")
        checks.matrix("the model's output", outputs, rows=self._batch.samples)
        self.samples, self.outputs = outputs.shape[0], outputs.shape[1]
        super().__init__((outputs.numel(), outputs.numel()), dtype, outputs.device, psd=True)

    @property
    def T(self) -> LinearOperator:
        """Itself: the matrix is symmetric."""
        return self

    def output_layout(self) -> tuple[int, str]:
        """C and the order of entries."""
        return self.outputs, self.order

    def trace(self) -> None:
        """None: as long as the Jacobian is not formed the trace is not known."""

    def _matmat(self, v: torch.Tensor) -> torch.Tensor:
        # One column after another: not every module can be batched by torch.func.vmap.
        with self._undisturbed():
            backward = torch.func.vjp(self._outputs, self._weights)[1]
            columns = [self._forward(backward(self._by_sample(column))[0]) for column in v.T]
        product = torch.stack([self._ordered(column) for column in columns], dim=1)
        return checks.matrix(f"{self} @ v", product)

    def _error_bound(self, v: torch.Tensor) -> torch.Tensor:
        return torch.full((v.shape[1],), math.inf, dtype=torch.float64, device=self.device)

    def _outputs(self, weights: Weights) -> torch.Tensor:
        """The model's output [n, C] with these in the place of its own parameters."""
        # Copies, which the module may write to while it is differentiated.
        buffers = {name: x.clone() for name, x in self._model.named_buffers()}
        output = torch.func.functional_call(
            self._model, {**weights, **buffers}, self._batch.arguments, self._batch.keywords
        )
        if isinstance(output, torch.Tensor) and output.ndim == 1:
            return output[:, None]
        return rows("the model's output", output, "flatten", None)

    def _forward(self, u: Weights) -> torch.Tensor:
        """J u, [n, C]."""
        if self._forward_mode:
            try:
                return torch.func.jvp(self._outputs, (self._weights,), (u,))[1]  # type: ignore[no-any-return]
            except NotImplementedError:
                self._forward_mode = False  # an operation without one: what follows needs backward passes only

        def backward(v: torch.Tensor) -> Weights:
            return torch.func.vjp(self._outputs, self._weights)[1](v)[0]  # type: ignore[no-any-return]

        zero = torch.zeros((self.samples, self.outputs), dtype=self.dtype, device=self.device)
        return torch.func.vjp(backward, zero)[1](u)[0]  # type: ignore[no-any-return]

    def _by_sample(self, v: torch.Tensor) -> torch.Tensor:
        """[nC] in the operator's order -> [n, C]."""
        if self.order == "sample":
            return v.reshape(self.samples, self.outputs)
        return v.reshape(self.outputs, self.samples).T.contiguous()

    def _ordered(self, v: torch.Tensor) -> torch.Tensor:
        """[n, C] -> [nC] in the operator's order."""
        return (v if self.order == "sample" else v.T).reshape(-1)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """The model as the kernel is defined, and it and the process afterwards as they were."""
        place = self._batch.device()
        with (
            torch.inference_mode(False),
            generators_kept(place),
            evaluating(self._model, None),
            arithmetic(place, None),
            sdpa_kernel(SDPBackend.MATH),  # fused attention has no forward mode, and no second backward pass
        ):
            yield


def _chosen(model: torch.nn.Module, params: object) -> Weights:
    """The parameters by name, detached.

    Raises:
        ArgumentError: an unknown name, one parameter twice, or none at all.
    """
    if params is None:
        found = {name: x.detach() for name, x in model.named_parameters() if x.requires_grad}
        if not found:
            raise ArgumentError("params: no parameter of the model requires a gradient. Name those that are meant.")
        return found
    if isinstance(params, (str, bytes)) or not isinstance(params, Sequence) or not params:
        raise ArgumentError(f"params: expected a sequence of names, such as ['head.weight'], got {params!r}.")
    known = dict(model.named_parameters(remove_duplicate=False))
    for name in params:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=5, cutoff=0.4) or list(known)[-5:]
            raise ArgumentError(
                f"params: expected names of model.named_parameters(), got {name!r}. Near ones: {', '.join(near)}."
            )
    if len({id(known[name]) for name in params}) < len(params):
        raise ArgumentError(f"params: expected each parameter once, got {list(params)!r}.")
    return {name: known[name].detach() for name in params}


def _one_type(weights: Weights) -> torch.dtype:
    """The type that all parameters share."""
    dtypes = {x.dtype for x in weights.values()}
    if len(dtypes) > 1 or not dtypes <= set(checks.FLOATING):
        raise DtypeError(
            "params: expected parameters of one type, float64, float32, bfloat16 or float16, got "
            f"{', '.join(sorted(map(str, dtypes)))}. Convert the model, or name parameters of one type."
        )
    return dtypes.pop()
