"""A sequence as tensors by name, and back: every number that it goes on from, under one checksum.

The entry "about" holds what is no array as JSON in bytes: the version of this layout, the settings, the tasks, and a
SHA-256 of all that and of the other entries.  A state is taken back only when all of it is as it was written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ntkla.forgetting.descent.training import GradientDescent, GradientFlow, Training
from ntkla.forgetting.sequences.carried import Carried
from ntkla.forgetting.sequences.learned import LearnedTask
from ntkla.forgetting.sequences.moments import TaskMoments
from ntkla.forgetting.sequences.penalty import Penalty
from ntkla.forgetting.sequences.settings import Settings
from ntkla.forgetting.sequences.step import State
from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.arithmetic.fixed_point import FixedPoint
from ntkla.linalg.errors import NtklaError, SavedStateError
from ntkla.linalg.solve.exact_normal import ExactNormal
from ntkla.linalg.status import Status

# Raised with every change of the layout or of what it means.
VERSION = 2
_READ = (1, VERSION)
_KIND = "ntkla.TaskSequence"
_SUMS = ("guard.square", "guard.right", "seen.square", "seen.right")
_VECTORS = ("inherited", "handed_on", "errors.weights", "errors.last")
_HEADS = ("start", "head.high", "head.low")
_NAMES = {"about", *_SUMS, *_VECTORS, *_HEADS}


def state_of(carried: Carried) -> dict[str, torch.Tensor]:
    """The tensors of a sequence by name: int64 limbs, float64 heads and bounds, and the uint8 entry "about"."""
    state, seen = carried.state, carried.state.seen
    sums = dict(zip(_SUMS, (state.guard.square, state.guard.right, seen.normal.square, seen.normal.right), strict=True))
    vectors = dict(zip(_VECTORS, (state.inherited, state.handed_on, *carried.errors), strict=True))
    heads = dict(zip(_HEADS, (carried.start, *state.head), strict=True))
    limbs = {name: one.limbs for name, one in sums.items()}
    tensors = {name: x.clone().contiguous() for name, x in {**limbs, **vectors, **heads}.items()}
    about = {
        "kind": _KIND,
        "version": VERSION,
        "settings": {**asdict(carried.settings), "training": _told(carried.settings.training)},
        "bias": carried.bias,
        "lowest": {name: one.lowest for name, one in sums.items()},
        "samples": seen.samples,
        "least_weight": seen.least_weight,
        "tasks": [asdict(task) for task in carried.tasks],
    }
    about["sha256"] = _digest(about, tensors)
    text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8).copy()
    return {"about": torch.from_numpy(text), **tensors}


def carried_of(state: Mapping[str, torch.Tensor]) -> Carried:
    """The sequence that these tensors are of.

    Raises:
        SavedStateError: of another version, or not exactly what `state_of` made.
    """
    about = _about(state)
    if set(state) != _NAMES:
        raise SavedStateError(f"expected the entries {sorted(_NAMES)}, got {sorted(state)}. Save the sequence again.")
    tensors = {name: state[name] for name in state if name != "about"}
    if _digest(about, tensors) != about.get("sha256"):
        raise SavedStateError("the checksum does not fit: the numbers are not those that were saved. Save it again.")
    try:
        return _carried(about, tensors)
    except (KeyError, TypeError, ValueError, OverflowError, NtklaError) as cause:
        raise SavedStateError(f"the entry 'about' does not describe a sequence ({cause!r}). Save it again.") from cause


def _is_array(x: object) -> bool:
    return isinstance(x, torch.Tensor) and x.layout is torch.strided and not x.is_nested and x.device.type != "meta"


def _about(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    wrong = SavedStateError("expected the state of an ntkla.TaskSequence, got something else. Use TaskSequence.save.")
    if not isinstance(state, Mapping) or not all(_is_array(x) for x in state.values()):
        raise wrong
    if "about" not in state or state["about"].dtype != torch.uint8:
        raise wrong
    try:
        about = json.loads(bytes(state["about"].cpu().numpy().tobytes()))
    except (ValueError, RecursionError) as cause:
        raise wrong from cause
    if not isinstance(about, dict) or about.get("kind") != _KIND:
        raise wrong
    if about.get("version") not in _READ:
        raise SavedStateError(
            f"written in version {about.get('version')!r} of the layout, and this ntkla reads up to version {VERSION}. "
            "Load it with the ntkla that wrote it, or learn the tasks again."
        )
    return about


def _carried(about: dict[str, Any], x: dict[str, torch.Tensor]) -> Carried:
    settings = dict(about["settings"])
    tolerance, training = settings.pop("tolerance"), settings.pop("training")
    # Version 1 knew weights only, beside the number of modes.
    told = settings.pop("penalty") if about["version"] == VERSION else {x: settings.pop(x) for x in ("modes", "weight")}
    penalty = Penalty.checked(**told)
    sums = [FixedPoint(x[name], int(about["lowest"][name])) for name in _SUMS]
    bias, start = bool(about["bias"]), x["start"]
    seen = TaskMoments(ExactNormal(sums[2], sums[3]), bias, int(about["samples"]), float(about["least_weight"]))
    head = Doubled(x["head.high"], x["head.low"])
    _require_shapes(x, start)
    return Carried(
        Settings.checked(
            **settings,
            penalty=penalty,
            tol=tolerance,
            training=None if training is None else _training(**training),
        ),
        bias,
        start,
        State(head, x["inherited"], x["handed_on"], x["errors.last"], ExactNormal(sums[0], sums[1]), seen),
        (x["errors.weights"], x["errors.last"]),
        tuple(LearnedTask(**{**task, "status": Status(**task["status"])}) for task in about["tasks"]),
    )


def _told(training: Training | None) -> dict[str, Any] | None:
    return None if training is None else {"kind": type(training).__name__, **asdict(training)}


def _training(kind: str, **settings: Any) -> Training:
    return {one.__name__: one for one in (GradientDescent, GradientFlow)}[kind](**settings)


def _require_shapes(x: dict[str, torch.Tensor], start: torch.Tensor) -> None:
    columns, outputs = start.shape
    for name, tensor in x.items():
        dtype, shape = torch.float64, (columns, outputs)
        if name in _VECTORS:
            shape = (outputs,)  # type: ignore[assignment]
        if name in _SUMS:
            dtype, shape = torch.int64, (columns, columns if name.endswith("square") else outputs)
        if tensor.dtype != dtype or tuple(tensor.shape[name in _SUMS :]) != shape:
            raise ValueError(f"{name}: expected {dtype} [..., {shape}], got {tensor.dtype} {tuple(tensor.shape)}")


def _digest(about: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of what is told, of names, types, shapes and bits."""
    told = {name: value for name, value in about.items() if name != "sha256"}
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        found.update(x.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
