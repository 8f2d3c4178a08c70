"""Features of a frozen backbone: any torch module and a loader in, one row a sample out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from ntkla.linalg.results import Result
from ntkla.models.batches import Batch, batches, samples_in
from ntkla.models.collected import Collected
from ntkla.models.pooling import POOLINGS, Pooling, rows
from ntkla.models.undisturbed import arithmetic, device_named, evaluating, generators_kept, home, listening

_PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, eq=False)
class Features(Result):
    """What a backbone makes of a loader's samples, in the loader's order.

    Attributes:
        features: [n, F].
        labels: int64 [n] on the same device, or None when the batches hold none.
    """

    features: torch.Tensor
    labels: torch.Tensor | None

    def __str__(self) -> str:
        n, f = self.features.shape
        kind = f"{str(self.features.dtype).removeprefix('torch.')} on {self.features.device}"
        if self.labels is None:
            return f"Features: {n} samples, {f} features, {kind}, without labels"
        low, high, found = int(self.labels.min()), int(self.labels.max()), len(set(self.labels.tolist()))
        return f"Features: {n} samples, {f} features, {kind}, with {found} labels from {low} to {high}"

    __repr__ = __str__


def features(
    backbone: torch.nn.Module,
    loader: Iterable[Any],
    *,
    layer: str | None = None,
    pooling: str | Pooling = "auto",
    dtype: torch.dtype = torch.float32,
    precision: str | None = None,
    device: torch.device | str | None = None,
    output_device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Features:
    """The features that a backbone, or one of its layers, gives for every sample of a loader.

    Args:
        backbone: any module.  It runs in evaluation mode and without gradients; afterwards, also after an error, its
            training flags, device, hooks and buffers are what they were.
        loader: an iterable of batches: a tensor; `(inputs, labels, ...)`; or a mapping, which is passed as keyword
            arguments but for `labels` or `label`.  The inputs of a pair may be a tensor, a mapping, or a tuple of
            positional arguments; what follows the labels is left out.  Labels are integers [n], in all batches or none.
        layer: dotted name of the submodule whose output is taken, once a call of the backbone; None: the backbone's own
            output.  The output may be a tensor; something that holds one tensor and nothing else; or something with a
            tensor `last_hidden_state`.
        pooling: how an output becomes [n, F].  Two dimensions stay as they are.  `"auto"` and `"mean"`: the mean over
            the tokens of [n, T, D], or over the positions of [n, C, H, W, ...]; `"first"`, `"last"`: that token;
            `"flatten"`: all of it.  Tokens that an `attention_mask` [n, T] in a mapping hides do not count.  A function
            gets the output, whatever it is, and returns [n, F].
        dtype: of the features; float64, float32, bfloat16 or float16.
        precision: None: the module computes as it is; `"bfloat16"`, `"float16"`: under torch.autocast;
            `"float32"`: as it is, and it must consist of float32.  An autocast around the call is not taken over.
        device: where the module runs and the batches are moved; None: where its first parameter lies, and for a module
            without any where the batches lie.
        output_device: where the result lies; None: where the module ran, beside its head (of Apple's "mps", which has
            no float64 for a forecast: the CPU).
        progress: called after each batch with (samples done, samples in all or None).

    Returns:
        Features for `ntkla.Task`, detached.  Means are taken in float64 and rounded once to `dtype`.

    Raises:
        ArgumentError: the loader is none or is empty, an option is not one of those above, the layer does not exist or
            does not run exactly once, the output is not one tensor, some batches have labels and others have none.
        ShapeError, DtypeError: a batch or an output does not fit the others, or `pooling`.
        NonFiniteError: a feature is NaN or infinite; names the batch.
        DeviceError, MemoryEstimateError
        What the loader, the backbone and the functions raise passes through.

    Cost: one forward pass.  Memory: a batch's activations and 4 n F bytes (float32), once where the loader tells how
    many samples there are (as `DataLoader` does), else twice at the end.
    Random generators: the global ones of torch, numpy and Python are afterwards as before, also where the loader draws
    from them.  A loader that shuffles gives its order, labels in step; called again it gives the same order and the
    same random augmentations, unless it has a generator of its own or the global one moved.
    Deterministic as far as the module is, for the same batches: other batch sizes may round otherwise.  One call at a
    time for one module.

    Example:
        >>> import torch, ntkla
        >>> draw = torch.Generator().manual_seed(0)
        >>> images, labels = torch.randn(300, 1, 8, 8, generator=draw), torch.randint(4, (300,), generator=draw)
        >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=100)
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.Dropout())
        >>> found = ntkla.models.features(network, loader)
        >>> print(found)
        Features: 300 samples, 16 features, float32 on cpu, with 4 labels from 0 to 3
        >>> old = ntkla.Task.from_labels(found.features, found.labels, classes=4)
    """
    if not isinstance(backbone, torch.nn.Module):
        raise ArgumentError(f"backbone: expected a torch.nn.Module, got {type(backbone).__name__}.")
    if dtype not in checks.FLOATING:
        raise DtypeError(f"dtype: expected float64, float32, bfloat16 or float16, got {dtype!r}.")
    if not callable(pooling):
        checks.choice("pooling", pooling, POOLINGS)
    place = home(backbone) if device is None else device_named(device)
    run = _Run(backbone, layer, pooling, dtype, _autocast(backbone, precision), place)
    keep = Collected(dtype, None if output_device is None else device_named(output_device), samples_in(loader))
    with (
        torch.inference_mode(False),  # what it makes could not be trained on later, nor what a module keeps of it
        generators_kept(place),
        evaluating(backbone, None if device is None else place),
        listening(backbone, layer, run.hear),
    ):
        for batch in batches(loader):
            keep.add(batch, run(batch))
            if progress is not None:
                progress(keep.done, keep.expected)
        return Features(*keep.joined())


def _autocast(backbone: torch.nn.Module, precision: str | None) -> torch.dtype | None:
    """The type to autocast to, or None for a module that computes as it is."""
    if precision is None:
        return None
    checks.choice("precision", precision, tuple(_PRECISIONS))
    others = {str(x.dtype) for x in backbone.parameters() if x.is_floating_point() and x.dtype != torch.float32}
    if precision == "float32" and others:
        raise ArgumentError(
            f"precision: 'float32' expects a module of float32, got {', '.join(sorted(others))}. "
            "Leave precision out, or convert with backbone.float()."
        )
    return None if precision == "float32" else _PRECISIONS[precision]


@dataclass
class _Run:
    """One call of the backbone a batch, and what is taken from it."""

    backbone: torch.nn.Module
    layer: str | None
    pooling: str | Pooling
    dtype: torch.dtype
    precision: torch.dtype | None
    device: torch.device | None

    def __post_init__(self) -> None:
        self._heard: list[torch.Tensor] = []
        self._batch: Batch | None = None

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The features [n, F] of a batch, in `dtype`, sharing memory with nothing."""
        self._batch = batch = batch.on(self.device)
        self._heard.clear()
        with arithmetic(batch.device(), self.precision):
            output = self.backbone(*batch.arguments, **batch.keywords)
            if self.layer is None:
                self.hear(output)
        if len(self._heard) != 1:
            raise ArgumentError(
                f"{batch.name}: layer {self.layer!r}: expected it to run once in a call of the backbone, it ran "
                f"{len(self._heard)} times. Name the module around it, or one inside; a compiled module hides its own."
            )
        return self._checked(batch, self._heard.pop())

    def hear(self, output: Any) -> None:
        """Takes the features from an output at once: what comes after may overwrite it (`ReLU(inplace=True)`)."""
        if self._batch is None:
            return
        what = f"{self._batch.name}: the output" + ("" if self.layer is None else f" of layer {self.layer!r}")
        with torch.autocast(self._batch.device().type, enabled=False):
            found = rows(what, output, self.pooling, self._batch.mask)
            self._heard.append(found.detach().to(self.dtype, copy=True, memory_format=torch.contiguous_format))

    def _checked(self, batch: Batch, found: torch.Tensor) -> torch.Tensor:
        if 0 in found.shape:
            raise ShapeError(f"{batch.name}: expected at least one sample and one feature, got {tuple(found.shape)}.")
        if batch.samples is not None and found.shape[0] != batch.samples:
            raise ShapeError(
                f"{batch.name}: expected one row a sample, {batch.samples}, got features of {tuple(found.shape)}. "
                "Where the output does not begin with the samples, pass a function as pooling that puts them first."
            )
        bad = ~torch.isfinite(found).all(1)
        if bool(bad.any()):
            raise NonFiniteError(
                f"{batch.name}: expected finite features, got NaN or infinity in {int(bad.sum())} of {len(bad)} rows, "
                f"the first is row {int(bad.nonzero()[0])}. Look at those samples, and at the range of "
                f"dtype={self.dtype} and of the precision."
            )
        return found
