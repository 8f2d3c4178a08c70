"""What a `SpectralPenalty` protects, as the closed forms need it: whose features, which outputs, how much.

In a training loop the penalty sees outputs on its probes; in a forecast it needs the features that the head reads
there.  The objective then gains, for each penalty,

    weight / (C k) ||U^T (Phi W^T - F_ref)||_F^2,

with U [n, k] its modes, Phi [n, F] the probes' features and F_ref [n, C] its reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ntkla.forgetting.penalties.spectral_penalty import SpectralPenalty
from ntkla.forgetting.tasks import Task
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError, ShapeError
from ntkla.linalg.precision import NEGLIGIBLE
from ntkla.linalg.results import Result


@dataclass(frozen=True, eq=False)
class Protection:
    """A penalty and the features of its probes, for a forecast whose old features are other ones.

    Attributes:
        penalty: of modes of a Gram matrix (`eigenmodes(features, k)`, or of a `KroneckerGram`).
        features: [n, F] of its probes, in the order of the modes, float64, float32, bfloat16 or float16; detached,
            taken as exact numbers.

    Raises:
        DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError
        ArgumentError: features of other probes, or of these in another order (`SpectralPenalty.check_probes`); modes
            over probes and outputs together, whose penalty couples the outputs: it has no closed form here.
    """

    penalty: SpectralPenalty
    features: torch.Tensor

    def __post_init__(self) -> None:
        penalty = checks.instance("penalty", self.penalty, SpectralPenalty)
        if penalty.stacked:
            raise ArgumentError(
                "penalty: expected modes of a Gram matrix, which penalise each output by itself, got modes over probes "
                "and outputs (of a SoftmaxGram, LayerNTK or EmpiricalNTK), which couple the outputs. Use "
                "SpectralPenalty(ntkla.eigenmodes(features, k), reference)."
            )
        features = checks.matrix("penalty's features", self.features)
        if features.shape[0] != penalty.basis.shape[0]:
            raise ShapeError(
                f"penalty: its modes are of {penalty.basis.shape[0]} probes, and {features.shape[0]} samples came. "
                "Pass ntkla.Protection(penalty, features) with the features of its own probes."
            )
        checks.one_device(features=features, penalty=penalty.basis)
        penalty.check_probes(features)
        object.__setattr__(self, "features", features)

    def __str__(self) -> str:
        return f"Protection: {self.penalty.extra_repr()}"

    __repr__ = __str__


Penalty = SpectralPenalty | Protection | Sequence[SpectralPenalty | Protection]


@dataclass(frozen=True)
class ProtectedModes(Result):
    """What a report tells of one penalty.

    Attributes:
        name: of the old task that the penalty was given for; empty for one without a name.
        modes: k, those of the probes' Gram matrix, each for every output.
        probes: how many.
        outputs: the numbers of the head's outputs that it covers.
        weight: of the penalty.
    """

    name: str
    modes: int
    probes: int
    outputs: tuple[int, ...]
    weight: float

    def __str__(self) -> str:
        whose = f" of {self.name}" if self.name else ""
        return f"{self.modes} modes{whose} on {self.probes} probes protected with weight {self.weight:.4g}"


@dataclass(frozen=True, eq=False)
class Protected:
    """A protection in a problem.

    Attributes:
        name: see `ProtectedModes`.
        protection: with a weight above 0.
        columns: int64 [C], for each column of the penalty's reference the number of the output, -1 for one that is not
            trained.
        told: what a report tells.
    """

    name: str
    protection: Protection
    columns: torch.Tensor
    told: ProtectedModes

    @classmethod
    def of(cls, name: str, protection: Protection, outputs: int, those: torch.Tensor | None = None) -> Protected | None:
        """For a head of so many outputs; `those` are the task's, for a penalty that names none.  None for weight 0.

        Raises:
            ArgumentError, ShapeError
        """
        penalty = protection.penalty
        weight, width = checks.number("weight", penalty.weight), penalty.reference.shape[1]
        if weight < 0 or 0 < weight / penalty.count < NEGLIGIBLE or weight > checks.LARGEST_ENTRY:
            raise ArgumentError(
                f"penalty: expected a weight of 0, or from {NEGLIGIBLE:.3g} a mode to {checks.LARGEST_ENTRY:.3g}, got "
                f"{weight!r}."
            )
        if penalty.columns is not None:
            numbers = penalty.columns
        else:
            numbers = those.tolist() if those is not None and len(those) == width else list(range(outputs))
        if len(numbers) != width or max(numbers) >= outputs:
            raise ShapeError(
                f"penalty: its reference has {width} outputs (columns {penalty.columns}), and the head has {outputs}. "
                "Say which of them they are: SpectralPenalty(..., columns=[...])."
            )
        if weight == 0:
            return None
        columns = torch.tensor(numbers, dtype=torch.int64, device=penalty.basis.device)
        modes, probes = penalty.basis.shape[1], penalty.basis.shape[0]
        return cls(name, protection, columns, ProtectedModes(name, modes, probes, tuple(numbers), weight))

    def among(self, trained: torch.Tensor | None, outputs: int) -> Protected | None:
        """The same where the trained outputs, int64 [c] of the head's, are numbered anew; None where it covers none."""
        if trained is None:
            return self
        places = torch.full((outputs,), -1, dtype=torch.int64, device=self.columns.device)
        places[trained] = torch.arange(len(trained), device=places.device)
        columns = places[self.columns]
        return replace(self, columns=columns) if bool((columns >= 0).any()) else None


def protected_outputs(penalty: object, features: torch.Tensor, outputs: int) -> tuple[Protected, ...]:
    """What `predict_forgetting` is given; the probes of a bare penalty are the old features.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError, NonFiniteError, ScaleError
    """
    found = [Protected.of("", _on(one, features), outputs) for one in _listed(penalty)]
    return tuple(one for one in found if one is not None)


def protected_tasks(penalty: object, olds: Mapping[str, Task], outputs: int) -> tuple[Protected, ...]:
    """What `forecast` is given: a mapping from names of old tasks, or as `predict_forgetting` for a single one.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError, NonFiniteError, ScaleError
    """
    if isinstance(penalty, Mapping):
        if not set(penalty) <= set(olds):
            raise ArgumentError(f"penalty: expected names among {sorted(olds)}, got {list(penalty)}.")
        pairs = list(zip(penalty, _listed(list(penalty.values())), strict=True))
        found = [Protected.of(name, _on(one, olds[name].features), outputs, olds[name].outputs) for name, one in pairs]
    else:
        first, given = next(iter(olds.values())), _listed(penalty)
        if len(olds) > 1 and not all(isinstance(one, Protection) for one in given):
            raise ArgumentError(
                f"penalty: which of the old tasks {sorted(olds)} does it protect? Pass a mapping from their names, or "
                "ntkla.Protection(penalty, features)."
            )
        own = first.outputs if len(olds) == 1 else None
        found = [Protected.of("", _on(one, first.features), outputs, own) for one in given]
    return tuple(one for one in found if one is not None)


def _on(one: SpectralPenalty | Protection, features: torch.Tensor) -> Protection:
    """`one`, with these features where it brings none."""
    return one if isinstance(one, Protection) else Protection(one, features)


def _listed(penalty: object) -> list[SpectralPenalty | Protection]:
    """None, one penalty or several, as a list."""
    if penalty is None:
        return []
    several = isinstance(penalty, (Sequence, torch.nn.ModuleList)) and not isinstance(penalty, (str, bytes))
    given: list[Any] = list(penalty) if several else [penalty]  # type: ignore[call-overload]
    wrong = [type(one).__name__ for one in given if not isinstance(one, (SpectralPenalty, Protection))]
    if wrong:
        raise ArgumentError(
            f"penalty: expected an ntkla.SpectralPenalty, an ntkla.Protection or several, got {', '.join(wrong)}."
        )
    return given
