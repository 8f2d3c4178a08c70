"""The factors of a layer's per-sample gradients: as callers give them, checked, and as algorithms read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ntkla.linalg import checks
from ntkla.linalg.backends.primitive import converted, primitive_input
from ntkla.linalg.errors import DtypeError, ShapeError

Given = torch.Tensor | Sequence[torch.Tensor]
GivenMask = torch.Tensor | Sequence[torch.Tensor | None] | None


@dataclass(frozen=True, eq=False)
class Factors:
    """One side of one parameter: activations, deltas, and which positions count.

    Attributes:
        a: [n, T, F_a], as stored.
        d: [n, C, T, F_d], same type.
        mask: bool [n, T], or None for all.
        working: the type to compute in.
    """

    a: torch.Tensor
    d: torch.Tensor
    mask: torch.Tensor | None
    working: torch.dtype

    def activations(self, samples: slice, columns: slice = slice(None)) -> torch.Tensor:
        """[m, T, columns] of a in the working type; positions that do not count are 0, whatever they hold."""
        part = converted(self.a[samples, :, columns], self.working)
        return part if self.mask is None else part.masked_fill(~self.mask[samples, :, None], 0.0)

    def deltas(self, samples: slice, outputs: slice = slice(None), columns: slice = slice(None)) -> torch.Tensor:
        """[m, outputs, T, columns] of d, in the same way."""
        part = converted(self.d[samples, outputs, :, columns], self.working)
        return part if self.mask is None else part.masked_fill(~self.mask[samples, None, :, None], 0.0)

    def gradients(self, samples: slice, columns: tuple[slice, slice]) -> torch.Tensor:
        """Columns of the per-sample gradients `A_i^T D_ic` of these samples: [m, C, |f|, |g|]."""
        a = self.activations(samples, columns[0])
        return torch.matmul(a.mT[:, None], self.deltas(samples, columns=columns[1]))


@dataclass(frozen=True, eq=False)
class Parameters:
    """The factors of every parameter for the same samples and outputs.

    Attributes:
        a: [n, T, F_in] each; T and F_in are the parameter's own.
        d: [n, C, T, F_out] each.
        masks: bool [n, T] each, or empty when every position counts.
    """

    a: Sequence[torch.Tensor]
    d: Sequence[torch.Tensor]
    masks: Sequence[torch.Tensor]

    def factors(self, working: torch.dtype) -> list[Factors]:
        """The factors of each parameter, to be read in the type `working`."""
        masks: Sequence[torch.Tensor | None] = self.masks or [None] * len(self.a)
        return [Factors(*parts, working) for parts in zip(self.a, self.d, masks, strict=True)]


def layer_factors(
    a: Given, d: Given, a2: Given | None, d2: Given | None, mask: GivenMask, mask2: GivenMask
) -> tuple[Parameters, Parameters | None]:
    """Both sides, the right one None in the symmetric case.

    Raises:
        DtypeError, ShapeError, DeviceError
    """
    left = one_side(a, d, mask)
    if a2 is None and d2 is None:
        if mask2 is not None:
            raise ShapeError("mask2: expected None without a2 and d2. The mask of a and d is `mask`.")
        return left, None
    if a2 is None or d2 is None:
        raise ShapeError(f"a2, d2: expected both or neither, got {'d2' if a2 is None else 'a2'} alone.")
    right = one_side(a2, d2, mask2, "2")
    if len(right.a) != len(left.a):
        raise ShapeError(f"a2: expected as many parameters as a, {len(left.a)}, got {len(right.a)}.")
    for p, (x, y) in enumerate(zip([*left.a, *left.d], [*right.a, *right.d], strict=True)):
        name = f"{'a' if p < len(left.a) else 'd'}[{p % len(left.a)}]"
        checks.one_device(**{name: x, f"{name} of the right side": y})
        checks.one_dtype(**{name: x, f"{name} of the right side": y})
        if x.shape[-1] != y.shape[-1]:
            raise ShapeError(f"{name}: expected as many features on both sides, got {x.shape[-1]} and {y.shape[-1]}.")
    return left, right


def one_side(a: Given, d: Given, mask: GivenMask, suffix: str = "") -> Parameters:
    """The factors of one side; `suffix` is what the caller's argument names end in.

    Raises:
        DtypeError, ShapeError, DeviceError
    """
    a_name, d_name, mask_name = f"a{suffix}", f"d{suffix}", f"mask{suffix}"
    if isinstance(a, torch.Tensor) != isinstance(d, torch.Tensor):
        raise DtypeError(f"{a_name}, {d_name}: expected two tensors or two sequences of tensors, got one of each.")
    several_a, several_d = _sequence(a_name, a), _sequence(d_name, d)
    if not several_a or len(several_a) != len(several_d):
        raise ShapeError(
            f"{a_name}, {d_name}: expected as many activations as deltas and at least one, "
            f"got {len(several_a)} and {len(several_d)}."
        )
    pairs = [_with_positions(a_name, x, d_name, y) for x, y in zip(several_a, several_d, strict=True)]
    for x, y in pairs:
        checks.one_device(**{f"{a_name}[0]": pairs[0][0], a_name: x, d_name: y})
        checks.one_dtype(**{f"{a_name}[0]": pairs[0][0], a_name: x, d_name: y})
        if y.shape[:2] != pairs[0][1].shape[:2]:
            raise ShapeError(
                f"{d_name}: expected the samples and outputs of the first parameter, {tuple(pairs[0][1].shape[:2])}, "
                f"got {tuple(y.shape[:2])}."
            )
    activations = [x for x, _ in pairs]
    return Parameters(activations, [y for _, y in pairs], _masks(mask_name, mask, activations))


def _sequence(name: str, x: object) -> list[object]:
    if isinstance(x, torch.Tensor):
        return [x]
    if isinstance(x, (str, bytes)) or not isinstance(x, Sequence):
        raise DtypeError(f"{name}: expected a tensor or a sequence of tensors, got {type(x).__name__}.")
    return list(x)


def _with_positions(a_name: str, a: object, d_name: str, d: object) -> tuple[torch.Tensor, torch.Tensor]:
    """a [n, T, F_in] and d [n, C, T, F_out] of one parameter, T = 1 where the caller has no positions."""
    if isinstance(a, torch.Tensor) and a.ndim == 2:
        x = primitive_input(a_name, a)[:, None, :]
        y = primitive_input(d_name, d, ndim=3)[:, :, None, :]
    else:
        x, y = primitive_input(a_name, a, ndim=3), primitive_input(d_name, d, ndim=4)
    if x.shape[0] != y.shape[0] or x.shape[1] != y.shape[2]:
        raise ShapeError(
            f"{d_name}: expected shape [{x.shape[0]}, C, {x.shape[1]}, F_out] for {a_name} of {x.shape[0]} samples and "
            f"{x.shape[1]} positions, got [{', '.join(map(str, y.shape))}]."
        )
    return x, y


def _masks(name: str, mask: object, activations: list[torch.Tensor]) -> list[torch.Tensor]:
    if mask is None:
        return []
    given = [mask] * len(activations) if isinstance(mask, torch.Tensor) else _sequence(name, mask)
    if len(given) != len(activations):
        raise ShapeError(f"{name}: expected one mask for all, or {len(activations)}, got {len(given)}.")
    return [_mask(name, each, x) for each, x in zip(given, activations, strict=True)]


def _mask(name: str, mask: object, a: torch.Tensor) -> torch.Tensor:
    if mask is None:
        return torch.ones(a.shape[:2], dtype=torch.bool, device=a.device)
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        came = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise DtypeError(f"{name}: expected a bool tensor, True where a position counts, got {came}.")
    checks.dense(name, mask)
    if mask.shape != a.shape[:2]:
        raise ShapeError(f"{name}: expected shape {tuple(a.shape[:2])}, one flag a position, got {tuple(mask.shape)}.")
    checks.one_device(**{name: mask, "a": a})
    return mask
