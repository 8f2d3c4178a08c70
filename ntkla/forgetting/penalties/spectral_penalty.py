"""The regulariser that protects only the directions of the old task's outputs that carry its forgetting.

With u_1, ..., u_k the leading modes of the old task's kernel K on n probes, f the outputs now and f_ref those to keep,

    penalty = weight / k  *  sum_{j <= k} (u_j^T vec(f - f_ref))^2

(arXiv 2606.18024).  For the kernel `I_C (x) G` of a linear head k_G modes U of G stand for k = C k_G modes of K, and
none is expanded: the sum is `||U^T (f - f_ref)||_F^2`.  For a linear head on features Phi of the probes the penalty's
effect is closed form: it adds `(2 weight / (C k_G)) Phi^T U U^T Phi` to the normal matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ntkla.forgetting.penalties.columns import column_numbers, within
from ntkla.forgetting.penalties.probes import later, probes_and_outputs, require_reference, require_same_probes
from ntkla.linalg import checks
from ntkla.linalg.eigen.modes import Eigenmodes
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.errors import ArgumentError, DeviceError, DtypeError, NonFiniteError, ShapeError
from ntkla.models.digest import inputs_of
from ntkla.models.extraction import features


class SpectralPenalty(torch.nn.Module):
    """`penalty(outputs)` for any training loop: how far the outputs on the probes moved along the protected modes.

    It is `weight / k sum_j (u_j^T vec(f - f_ref))^2`, a sum over probes: for k_G modes U of G and C outputs
    `weight / (C k_G) ||U^T (f - f_ref)||_F^2`.  For a linear head on features Phi of the probes it adds
    `(2 weight / (C k_G)) Phi^T U U^T Phi` to the normal matrix, whose largest eigenvalue is
    `2 weight values[0] / (C k_G)`: gradient descent stays stable while its learning rate times that, with what the loss
    itself adds, is below 2 (`2 (1 + momentum)` with momentum).  Beside a loss that is a mean over n samples divide the
    weight by n.

    Args:
        modes: of the probes' kernel: `eigenmodes(features, k_G)`; or of a `KroneckerGram` with C outputs; or of any
            other kernel over probes and outputs (`LayerNTK`, `EmpiricalNTK`); or of a `SoftmaxGram`, whose metric `B^T`
            is then applied to what the outputs moved by.
        reference: the outputs to keep, [n, C], one row a probe in the order of the modes' features.  Detached.
        weight: >= 0.
        columns: the columns of the model's outputs that the reference has, in its order, for a head that several tasks
            share; None for all.

    Attributes:
        count: k, the modes of the whole kernel that are protected.

    A module without parameters: `basis`, `values` and `reference` are buffers, so `.to()`, `state_dict` and
    `load_state_dict` treat them as those of any module.  Several old tasks: one penalty each, added.  Differentiable in
    the outputs; works under `torch.compile` and under autocast, where it computes in float32 at least.

    The outputs do not show whose they are: probes in another order give a finite penalty, of something else.  Before a
    training call `penalty.check_reference(model(probes))`; `check_probes(features)` does the same by features.

    Raises:
        DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError
        ArgumentError: a mode whose eigenvalue cannot be told from 0 (any direction would do), or columns given twice.

    Cost of a call: 2 n k_G C operations.
    """

    basis: torch.Tensor
    values: torch.Tensor
    reference: torch.Tensor
    roots: torch.Tensor | None

    def __init__(
        self,
        modes: Eigenmodes,
        reference: torch.Tensor,
        weight: float = 1.0,
        *,
        columns: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(modes, Eigenmodes):
            raise DtypeError(f"modes: expected the result of eigenmodes(...), got {type(modes).__name__}.")
        probes, outputs = probes_and_outputs(modes)
        kept = checks.matrix("reference", reference, rows=probes, columns=outputs)
        checks.one_device(modes=modes.basis, reference=kept)
        if float(modes.values[-1]) <= float(modes.value_error[-1]):
            certain = int((modes.values > modes.value_error).sum())
            remedy = f"ask eigenmodes for {certain}" if certain else "the features vanish"
            raise ArgumentError(
                f"modes: expected eigenvalues that are certainly positive, got {certain} of {len(modes.values)} only. "
                f"The others name no direction: {remedy}."
            )
        dtype = torch.promote_types(kept.dtype, torch.float32)
        self.weight = checks.number("weight", weight)
        if self.weight < 0:
            raise ArgumentError(f"weight: expected a number >= 0, got {weight!r}.")
        self.columns = None if columns is None else column_numbers(columns)
        if self.columns is not None and len(self.columns) != kept.shape[1]:
            raise ArgumentError(f"columns: expected {kept.shape[1]}, as the reference has, got {self.columns}.")
        expanded = modes.output_index is not None or modes.outputs is not None
        self.count = len(modes.values) * (1 if expanded else kept.shape[1])
        # A cut through the copies of the last mode leaves some outputs of its row unprotected.
        self.last = len(modes.values) % kept.shape[1] if modes.output_index is not None else 0
        self.order, self.stacked = modes.order, modes.outputs is not None
        self.copies = 1 if modes.output_index is None else modes.spectrum.multiplicity
        roots = None if modes.softmax is None else modes.softmax.root.roots
        # Copies of their own, which a state_dict may overwrite; and none that autograd could not use later.
        with torch.inference_mode(False):
            self.register_buffer("basis", modes.basis.to(dtype, copy=True))
            self.register_buffer("values", modes.values.to(torch.float64, copy=True))
            self.register_buffer("reference", kept.detach().to(dtype, copy=True))
            self.register_buffer("roots", None if roots is None else roots.to(dtype, copy=True))

    @classmethod
    def from_model(
        cls,
        model: torch.nn.Module,
        loader: Iterable[Any],
        k: int,
        *,
        layer: str,
        weight: float = 1.0,
        bias: bool = True,
        columns: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> SpectralPenalty:
        """The penalty that keeps what a model says now about a loader's probes.

        Args:
            model: returns outputs [n, C]; it is run twice, undisturbed, as `ntkla.models.features` says.
            loader: of probes, in an order that stays: it must give the same inputs again, whatever random numbers were
                drawn between, and every call of the penalty takes the outputs on all of them.
            k: k_G, how many modes of the probes' Gram matrix are protected, each for all outputs.
            layer: name of the submodule whose output is the input of the linear head.
            weight, columns: as above.
            bias: whether the head has a bias that is trained.
            dtype: of the features.

        Raises:
            ArgumentError: a loader that shuffles, or gave other inputs the second time.  Else as
                `ntkla.models.features` and `ntkla.eigenmodes`.
        """
        samplers = [getattr(x, "sampler", None) for x in (loader, getattr(loader, "batch_sampler", None))]
        if any(isinstance(sampler, torch.utils.data.RandomSampler) for sampler in samplers):
            raise ArgumentError("loader: expected one that keeps its order, got one that shuffles. Pass shuffle=False.")
        if not isinstance(model, torch.nn.Module):
            raise ArgumentError(f"model: expected a torch.nn.Module, got {type(model).__name__}.")
        with inputs_of(model) as first:
            probes = features(model, loader, layer=layer, dtype=dtype)
        with inputs_of(model) as second, later(probes.features.device):
            now = features(model, loader, dtype=dtype).features
        if first != second:
            raise ArgumentError(
                "loader: expected the same inputs in the same order each time, got others the second time. "
                "Leave out what shuffles or augments at random; for probes at hand pass x.split(256)."
            )
        kept = now if columns is None else now[:, within(column_numbers(columns), now)]
        return cls(eigenmodes(probes.features, k, bias=bias), kept, weight, columns=columns)

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        """The penalty, a scalar, for the model's outputs on all probes, [n, C] (or all columns of a shared head).

        Raises:
            DtypeError, ShapeError: no matrix, or other probes than the modes were made of.
            NonFiniteError: the sum is NaN or infinite, because an output is, or is so large that its square overflows.
                A GPU has to be waited for to see that; while torch compiles it is not looked for.
        """
        selected = self._selected(outputs)
        wide = torch.promote_types(selected.dtype, torch.promote_types(self.reference.dtype, torch.float32))
        with torch.autocast(selected.device.type, enabled=False):
            moved = selected.to(wide) - self.reference.to(wide)
            total = self._coefficients(moved).square().sum() * (self.weight / self.count)
        if not torch.compiler.is_compiling() and not bool(torch.isfinite(total.detach())):
            raise NonFiniteError(
                "outputs: the penalty is NaN or infinite; an output is, or its square is. "
                "Lower the learning rate, or the weight."
            )
        return total

    def check_reference(self, outputs: torch.Tensor, *, tol: float | None = None) -> None:
        """Passes when the outputs are those of the reference: once before the training, when nothing has moved yet.

        Args:
            outputs: of the model that the reference was made by, as `forward` takes them.
            tol: how far a row may be off, relative to its norm or the root mean square of all rows' norms, whichever is
                larger; None: half of the digits of the type, `sqrt(u)`, 2.4e-4 for float32.

        Raises:
            ArgumentError: some rows differ by more: other probes, another order, or a model that was trained since.
            DtypeError, ShapeError, NonFiniteError, ScaleError
        """
        selected = checks.matrix("outputs", self._selected(outputs))
        checks.one_device(outputs=selected, penalty=self.reference)
        require_reference(selected, self.reference, tol)

    def check_probes(self, features: torch.Tensor) -> None:
        """Passes when the protected modes are modes of these features' Gram matrix, with a bias or without.

        Args:
            features: [n, F], of the probes in their order.  Half of the digits of their type must agree.

        Raises:
            ArgumentError: they are others, or the same in an order that matters; or the modes are those of another
                kernel, which does not tell its features.
            DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError
        """
        if self.stacked:
            raise ArgumentError("features: the modes are not those of a Gram matrix of features. Use check_reference.")
        require_same_probes(features, self.basis, self.values[:: self.copies])

    def _selected(self, outputs: torch.Tensor) -> torch.Tensor:
        """The columns that count, of outputs that fit the reference."""
        if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
            came = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
            raise ShapeError(f"outputs: expected a tensor [n, C], one row a probe, got {came}.")
        if outputs.dtype not in checks.FLOATING or outputs.layout != torch.strided:
            raise DtypeError(
                "outputs: expected a dense tensor of float64, float32, bfloat16 or float16, got "
                f"{outputs.dtype}, {outputs.layout}."
            )
        if outputs.device != self.reference.device:
            raise DeviceError(
                f"outputs: expected them on {self.reference.device}, as the penalty, got {outputs.device}. Move the "
                "penalty with .to(device)."
            )
        selected = outputs if self.columns is None else outputs[:, within(self.columns, outputs)]
        if selected.shape != self.reference.shape:
            raise ShapeError(
                f"outputs: expected {tuple(self.reference.shape)}, the probes and outputs of the reference, got "
                f"{tuple(selected.shape)}. Pass the model's outputs for exactly those probes, in their order."
            )
        return selected

    def _coefficients(self, moved: torch.Tensor) -> torch.Tensor:
        """`U^T (f - f_ref)`, in the metric of cross-entropy where the modes are."""
        basis = self.basis.to(moved.dtype)
        if not self.stacked:
            found = basis.T @ moved
            return found if self.last == 0 else torch.cat([found[:-1].flatten(), found[-1, : self.last]])
        if self.roots is None:
            return basis.T @ (moved.T if self.order == "class" else moved).reshape(-1)
        roots = self.roots.to(moved.dtype)
        half = roots * (moved - (roots.square() * moved).sum(1, keepdim=True))
        return basis.T @ (half.T if self.order == "class" else half).reshape(-1)

    def extra_repr(self) -> str:
        """What `print` shows of the module."""
        return f"{self.count} modes on {self.reference.shape[0]} probes, weight={self.weight:g}"
