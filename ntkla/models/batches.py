"""What a loader gives: batches in any of the usual forms, brought into one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError, DtypeError, ShapeError

_LABEL_KEYS = ("labels", "label")
_FORMS = "a tensor, (inputs, labels) or a mapping of tensors"


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        name: how messages call it, with its number.
        arguments, keywords: what the module is called with.
        labels: int64 [n], or None.
        samples: n where the batch itself tells it, or None.
    """

    name: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    labels: torch.Tensor | None
    samples: int | None

    @property
    def mask(self) -> torch.Tensor | None:
        """The `attention_mask` among the keywords, or None."""
        mask = self.keywords.get("attention_mask")
        return mask if isinstance(mask, torch.Tensor) else None

    def on(self, device: torch.device | None) -> Batch:
        """The batch with every tensor that the module sees on `device`; as it is for None."""
        if device is None:
            return self
        arguments, keywords = _moved(self.arguments, device), _moved(self.keywords, device)
        return Batch(self.name, arguments, keywords, self.labels, self.samples)

    def device(self) -> torch.device:
        """Where its first tensor lies."""
        return next(tensors((self.arguments, self.keywords))).device


def batches(loader: Iterable[Any]) -> Iterator[Batch]:
    """The batches of a loader, in its order.

    Raises:
        ArgumentError: something that is no loader, or a batch in a form that is not known.
        DtypeError, ShapeError: labels that are not one integer a sample.
    """
    for number, item in enumerate(_iterable(loader)):
        yield _batch(f"batch {number} (the first is 0)", item)


def one_batch(name: str, inputs: Any) -> Batch:
    """Inputs without labels, a tensor, a tuple of positional arguments or a mapping, as a batch of that name.

    Raises:
        ArgumentError: inputs in another form.
    """
    return _batch(name, (inputs,))


def samples_in(loader: object) -> int | None:
    """How many samples a loader will give, as far as it tells: an estimate to allocate and to report by."""
    source = getattr(loader, "dataset", None)
    if isinstance(loader, DataLoader):
        if loader.batch_sampler is None:  # each item of its dataset is a batch, of a length that it keeps to itself
            return None
        source = loader.sampler
    try:
        count = len(source)  # type: ignore[arg-type]
    except TypeError:
        return None
    dropped = count % loader.batch_size if isinstance(loader, DataLoader) and loader.drop_last else 0  # type: ignore[operator]
    return count - dropped


def _iterable(loader: object) -> Iterable[Any]:
    if isinstance(loader, (torch.Tensor, np.ndarray)):
        raise ArgumentError(
            "loader: expected batches to iterate over, got one array. Cut it into batches: x.split(256) of a tensor, "
            "or zip(x.split(256), y.split(256)) with labels."
        )
    if isinstance(loader, Dataset):
        raise ArgumentError(
            f"loader: expected batches to iterate over, got a dataset ({type(loader).__name__}). "
            "Use torch.utils.data.DataLoader(dataset, batch_size=256)."
        )
    if isinstance(loader, (Mapping, str, bytes)) or not isinstance(loader, Iterable):
        raise ArgumentError(
            f"loader: expected batches to iterate over, each {_FORMS}, got {type(loader).__name__}. "
            "Use a torch.utils.data.DataLoader, or a list of batches."
        )
    return loader


def _batch(name: str, item: Any) -> Batch:
    """A batch in one of the forms: inputs; (inputs, labels, ...); a mapping with its labels inside."""
    labels = None
    if isinstance(item, (tuple, list)):
        if not item:
            raise ArgumentError(f"{name}: expected {_FORMS}, got an empty {type(item).__name__}.")
        item, labels = item[0], item[1] if len(item) > 1 else None
    if isinstance(item, Mapping):
        if labels is None:
            labels = next((item[key] for key in _LABEL_KEYS if item.get(key) is not None), None)
        arguments, keywords = (), {str(key): value for key, value in item.items() if key not in _LABEL_KEYS}
    else:
        arguments, keywords = tuple(item) if isinstance(item, (tuple, list)) else (item,), {}
    first = next(tensors((arguments, keywords)), None)
    if first is None:
        raise ArgumentError(
            f"{name}: expected {_FORMS}, got no tensor among its inputs ({type(item).__name__}). Collate samples into "
            "tensors, as torch.utils.data.DataLoader does; wrap a module that takes anything else."
        )
    checks.with_values(name, first)
    labels = None if labels is None else _labels(name, labels)
    return Batch(name, arguments, keywords, labels, _samples(arguments, keywords, labels))


def _labels(name: str, labels: object) -> torch.Tensor:
    if not isinstance(labels, torch.Tensor) or labels.dtype not in checks.INTEGERS:
        came = labels.dtype if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise DtypeError(
            f"{name}: labels: expected a tensor of integers, got {came}. Convert class numbers with .to(torch.int64); "
            "leave targets of any other kind out of the batches: (inputs for inputs, *_ in loader)."
        )
    if labels.ndim != 1:
        raise ShapeError(
            f"{name}: labels: expected one a sample, shape (n,), got {tuple(labels.shape)}. Leave labels of another "
            "kind (of pixels or tokens) out of the batches."
        )
    checks.with_values(f"{name}: labels", labels)
    return labels.detach().to(torch.int64)


def _samples(arguments: tuple[Any, ...], keywords: dict[str, Any], labels: torch.Tensor | None) -> int | None:
    """How many samples there are: by the labels, else by a single tensor of inputs, else by the mask."""
    only = arguments[0] if len(arguments) == 1 else keywords.get("attention_mask")
    for tensor in (labels, only):
        if isinstance(tensor, torch.Tensor) and tensor.ndim > 0:
            return tensor.shape[0]
    return None


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(inner)


def _moved(value: Any, device: torch.device) -> Any:
    """Nested tuples, lists and mappings with their tensors on `device`; namedtuples become tuples."""
    if isinstance(value, torch.Tensor):
        # The copy to a GPU is ordered before what the module does there; the other way round nothing waits for it.
        return value.to(device, non_blocking=device.type == "cuda")
    if isinstance(value, Mapping):
        return {key: _moved(inner, device) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        moved = [_moved(inner, device) for inner in value]
        return moved if isinstance(value, list) else tuple(moved)
    return value
