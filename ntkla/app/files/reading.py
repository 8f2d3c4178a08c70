"""Tasks and heads in a user's own files, `.npy` or `.safetensors`; pickle is never loaded.

A task is FEATURES.npy[,LABELS.npy][,TARGETS.npy][,WEIGHTS.npy], or one .safetensors file.

- features: [n, F], one row a sample, as the frozen backbone gives them: float64, float32, float16, or (in .safetensors)
  bfloat16.  In a list of .npy files they come first; the others are told apart by shape and type, in any order.
- labels: [n], integers: of each sample the number of its output in the head, from 0.
- targets: [n, C], floats, what each output should be; left out, they are 1 at the label and 0 elsewhere.
- weights: [n], floats >= 0: of each sample in the new task's loss; left out, 1 each.
- outputs (only in .safetensors): integers, the numbers of the head's outputs that the task uses; left out, all.

The new task needs labels or targets.  An old task needs neither: without labels its drift and flips are forecast, and
no accuracy.

A head is WEIGHT.npy[,BIAS.npy], or one .safetensors file with `weight` [C, F] and, when it has one, `bias` [C]: the
state_dict of a torch.nn.Linear, safetensors.torch.save_file(layer.state_dict(), 'head.safetensors').  A prefix of both
names, as in `fc.weight` and `fc.bias`, is understood where the file holds one layer.

A name with a comma in it is taken as one file when a file of that name is there.  Files are mapped, not loaded: reading
takes no memory of its own, and nothing is ever written to them.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ntkla.app.failures import DataError
from ntkla.app.files import npy, safe_tensors
from ntkla.app.files.mapped import shown
from ntkla.app.files.task_file import TaskFile, naming
from ntkla.forgetting.heads import LinearHead
from ntkla.linalg.errors import DtypeError, ShapeError

ROLES = {  # name: dimensions, floats or integers, in words
    "features": (2, True, "floats [n, F], one row a sample"),
    "labels": (1, False, "integers [n], one a sample"),
    "targets": (2, True, "floats [n, C], one row a sample and one column an output"),
    "weights": (1, True, "floats [n], one a sample"),
    "outputs": (1, False, "integers, the numbers of the head's outputs that the task uses"),
}
_SAVE_HEAD = "safetensors.torch.save_file(layer.state_dict(), 'head.safetensors')"
_SAVE_TASK = "Write it with safetensors.torch.save_file({'features': x, 'labels': y}, 'task.safetensors')."
# Somebody has the order wrong.
_A_HEAD = "This is a layer: the head comes last, after the tasks: OLD NEW HEAD."
_A_TASK = "These are arrays of a task: the head comes last, after the tasks: OLD NEW HEAD."
_FROM_TORCH = (
    "a pickle, which is never loaded because it can run any code. Where the model is, write its head with "
    f"{_SAVE_HEAD}, or features with numpy.save('features.npy', x.numpy())"
)
_FROM_TEXT = "text. Convert it: numpy.save('converted.npy', numpy.loadtxt({path!r}, delimiter=','))"
_REFUSED = {
    ".pt": _FROM_TORCH,
    ".pth": _FROM_TORCH,
    ".bin": _FROM_TORCH,
    ".ckpt": _FROM_TORCH,
    ".pkl": _FROM_TORCH,
    ".pickle": _FROM_TORCH,
    ".npz": "an archive. Write each array by itself: numpy.save('features.npy', numpy.load({path!r})['features'])",
    ".csv": _FROM_TEXT,
    ".txt": _FROM_TEXT,
}


def read_task(argument: str) -> TaskFile:
    """The arrays of a task, from files named as the module's docstring says; only the headers are read.

    Raises:
        FileError: a file that is not there or cannot be opened.
        DataError: a file that is damaged or of another kind, an array that is missing, or one that is not expected.
        DtypeError, ShapeError: an array of another type or number of dimensions than its role asks for.
    """
    paths = _paths(argument)
    found, places = (_safe_task if _is_safetensors(paths[0]) else _npy_task)(paths)
    if "weights" in found and not {"labels", "targets"} & found.keys():
        raise DataError(
            f"{places['weights']}: floats [n] are weights of samples, which mean nothing without labels or targets. "
            f"Labels must be integers: {_converted(places['weights'], 'weights', 'int64')}; "
            "targets of one output must be [n, 1]: x.reshape(-1, 1)."
        )
    return TaskFile(paths[0].stem, argument, places, **found)


def read_head(argument: str) -> LinearHead:
    """The head, from files named as the module's docstring says.

    Raises:
        FileError, DataError, DtypeError, ShapeError: as `read_task`.
        NonFiniteError, ScaleError: as for `ntkla.LinearHead`.
    """
    paths = _paths(argument)
    if _is_safetensors(paths[0]):
        layer = safe_tensors.read_safetensors(paths[0], lambda names: _require_layer(paths[0], names))
        arrays = {name.rpartition(".")[2]: array for name, array in layer.items()}
    elif len(paths) > 2:
        raise DataError(f"{argument}: expected WEIGHT.npy or WEIGHT.npy,BIAS.npy, got {len(paths)} files.")
    else:
        arrays = {name: _array(path) for name, path in zip(("weight", "bias"), paths, strict=False)}
    _require_one_layer(argument, arrays["weight"], arrays.get("bias"))
    with naming(dict(zip(("weight", "bias"), paths, strict=False)), argument):
        return LinearHead(arrays["weight"], arrays.get("bias"))


def _require_one_layer(argument: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Raises ShapeError when weight and bias are no [C, F] and [C], and says so when weight^T and bias are."""
    if bias is None or weight.ndim != 2 or bias.ndim != 1 or len(bias) == len(weight):
        return
    outputs, features = weight.shape
    remedy = f"The weight looks transposed: save weight.T, [{features}, {outputs}]."
    raise ShapeError(
        f"{argument}: the weight is [{outputs}, {features}], {outputs} outputs, and the bias has {len(bias)} entries. "
        f"{remedy if len(bias) == features else 'Name the weight and the bias of one layer.'}"
    )


def _paths(argument: str) -> list[Path]:
    """The files of an argument: itself when it names one, else its parts between commas."""
    if os.path.exists(argument):
        return [Path(argument)]
    parts = argument.split(",")
    if "" in parts:
        raise DataError(
            f"'{argument}': expected the name of a file, or several with a comma and no blank between them."
        )
    paths = [Path(os.path.expanduser(part)) for part in parts]  # of several, the shell has done so for the first only
    if len(paths) > 1 and any(map(_is_safetensors, paths)):
        raise DataError(f"{argument}: one .safetensors file holds all arrays of a task or a head: name it alone.")
    return paths


def _is_safetensors(path: Path) -> bool:
    return path.suffix.lower() == ".safetensors"


def _converted(path: Path, name: str, dtype: str) -> str:
    """The line of Python that writes a file with another element type for one of its arrays."""
    return safe_tensors.converted(path, name, dtype) if _is_safetensors(path) else npy.converted(path, dtype)


def _safe_task(paths: list[Path]) -> tuple[dict[str, torch.Tensor], dict[str, Path]]:
    """The arrays of the one .safetensors file by role, and that file for each."""
    (path,) = paths
    found = safe_tensors.read_safetensors(path, lambda names: _require_roles(path, names))
    for role, array in found.items():
        _require_fit(role, array, path)
    return found, dict.fromkeys(found, path)


def _require_roles(path: Path, names: list[str]) -> None:
    if "features" not in names or not ROLES.keys() >= set(names):
        raise DataError(
            f"{path}: expected the array 'features' and perhaps {_listed(list(ROLES)[1:])}, got {_listed(names)}. "
            + (_A_HEAD if _is_layer(names) else _SAVE_TASK)
        )


def _npy_task(paths: list[Path]) -> tuple[dict[str, torch.Tensor], dict[str, Path]]:
    """The arrays and their files by role: the first holds the features, the others are told apart."""
    found: dict[str, torch.Tensor] = {}
    places: dict[str, Path] = {}
    for path in paths:
        array = _array(path)
        role = "features" if not found else _role(array, path)
        if role == "features":
            _require_no_labels(array, path, paths[1:])
        if role in found:
            raise DataError(f"{path}: these are {role} ({ROLES[role][2]}), and so are {places[role]}. Leave one out.")
        _require_fit(role, array, path)
        found[role], places[role] = array, path
    return found, places


def _require_no_labels(array: torch.Tensor, path: Path, others: list[Path]) -> None:
    """Raises DtypeError when labels stand where the features belong."""
    if array.ndim == 1 and not array.is_floating_point():
        features = others[0] if others else "FEATURES.npy"
        remedy = "Name the features first" if others else "Join them to their features with a comma and no blank"
        raise DtypeError(
            f"{path}: these are integers [n], labels, in the place of features. {remedy}: {features},{path}."
        )


def _array(path: Path) -> torch.Tensor:
    """The array of a file whose suffix must be `.npy`."""
    suffix = path.suffix.lower()
    if suffix != ".npy" and path.is_file():
        kind = _REFUSED.get(suffix, "neither").format(path=str(path))
        raise DataError(f"{path}: expected a .npy or .safetensors file, got {kind}.")
    return npy.read_npy(path)


def _role(array: torch.Tensor, path: Path) -> str:
    for role in ("labels", "targets", "weights"):
        if ROLES[role][:2] == (array.ndim, array.is_floating_point()):
            return role
    raise ShapeError(
        f"{path}: expected labels (integers [n]), targets (floats [n, C]) or weights (floats [n]), got {_kind(array)}. "
        "Make labels of one column one-dimensional with x.reshape(-1), and targets floats with x.astype('float64')."
    )


def _require_fit(role: str, array: torch.Tensor, path: Path) -> None:
    """Raises DtypeError or ShapeError when the array is not what its role asks for."""
    dimensions, floats, words = ROLES[role]
    if array.is_floating_point() != floats:
        line = _converted(path, role, "float64" if floats else "int64")
        raise DtypeError(f"{path}: {role}: expected {words}, got {_kind(array)}. Convert it: {line}.")
    if array.ndim != dimensions:
        shape = "(-1)" if dimensions == 1 else "(len(x), -1)"
        raise ShapeError(f"{path}: {role}: expected {words}, got {_kind(array)}. Reshape it with x.reshape{shape}.")


def _kind(array: torch.Tensor) -> str:
    return f"{str(array.dtype).removeprefix('torch.')} of shape {tuple(array.shape)}"


def _require_layer(path: Path, names: list[str]) -> None:
    """Raises DataError unless the names are `weight` and perhaps `bias`, with or without one prefix before both."""
    if not _is_layer(names):
        raise DataError(
            f"{path}: expected the 'weight' and perhaps the 'bias' of one layer, got {_listed(names)}. "
            + (_A_TASK if "features" in names else f"Where the model is, write its head alone: {_SAVE_HEAD}.")
        )


def _is_layer(names: list[str]) -> bool:
    prefixes = [name.removesuffix("weight") for name in names if name.rpartition(".")[2] == "weight"]
    return len(prefixes) == 1 and {f"{prefixes[0]}weight", f"{prefixes[0]}bias"} >= set(names)


def _listed(names: list[str]) -> str:
    """At most six names, as a message may hold them."""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return (", ".join(map(shown, names[:6])) or "nothing") + more
