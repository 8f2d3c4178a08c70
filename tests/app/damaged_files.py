"""Sound `.npy` and `.safetensors` files, and damaged ones: file number i depends on i alone."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy_format
from safetensors.torch import save

from tests.app.damaged_headers import change_entry, change_header, change_length, header_end

SAMPLES, FEATURES, CLASSES = 12, 5, 4
_BEGINNINGS = [b"\x80\x04\x95", b"\x80\x02}q\0", b"PK\x03\x04", b"\x93NUMPY", b"\x93NUMPY\x03\0", b"\x93NUMPY\x09\0"]
_BEGINNINGS += [b"GGUF", b"\x89HDF\r\n\x1a\n", b"1.0,2.0\n", b"{}", b"\0" * 8, b"\xff" * 8]


@dataclass(frozen=True)
class Case:
    """One file that is to be read: its name, its bytes, and the argument that names it, alone or among sound ones."""

    path: Path
    content: bytes
    argument: str
    is_head: bool


def sound_files() -> dict[str, bytes]:
    """Files by name, as people write them."""
    draw = np.random.default_rng(0)
    x, t = draw.standard_normal((SAMPLES, FEATURES)), draw.standard_normal((SAMPLES, CLASSES))
    w, labels = draw.standard_normal((CLASSES, FEATURES)), draw.integers(0, CLASSES, SAMPLES)
    files = {f"features-{dtype}.npy": _npy(x.astype(dtype)) for dtype in ("f8", "f4", "f2")}
    files |= {"features-columns.npy": _npy(np.asfortranarray(x)), "features-v2.npy": _npy(x, (2, 0))}
    files |= {
        "features-v3.npy": _npy(x, (3, 0)),
        "labels.npy": _npy(labels),
        "labels-u1.npy": _npy(labels.astype("u1")),
    }
    files |= {"targets.npy": _npy(t), "weights.npy": _npy(np.abs(draw.standard_normal(SAMPLES)))}
    files |= {"head.npy": _npy(w.astype("f4")), "bias.npy": _npy(np.zeros(CLASSES, "f4"))}
    features, head = torch.from_numpy(x), torch.from_numpy(w)
    task = {"features": features.to(torch.bfloat16), "labels": torch.from_numpy(labels)}
    full = {"targets": torch.from_numpy(t), "weights": torch.ones(SAMPLES), "outputs": torch.arange(CLASSES)}
    files |= {"task.safetensors": save(task), "task-full.safetensors": save(task | full, {"made": "here"})}
    files["head.safetensors"] = save({"weight": head, "bias": torch.zeros(CLASSES)})
    files["head-prefix.safetensors"] = save({"fc.weight": head.half(), "fc.bias": torch.zeros(CLASSES)})
    return files


def _npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    npy_format.write_array(buffer, array, version)
    return buffer.getvalue()


def case(number: int, sound: dict[str, bytes], folder: Path) -> Case:
    """The file of that number, a sound one with one to three damages; the sound ones lie in the folder."""
    draw = random.Random(number)
    seed = draw.choice(sorted(sound))
    content = sound[seed]
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        content = draw.choice(DAMAGES)(draw, content, sound)
    path = folder / ("damaged" + Path(seed).suffix)
    arguments = [str(path)]
    if seed == "bias.npy":
        arguments = [str(folder / "head.npy"), *arguments]
    elif seed.startswith(("labels", "targets", "weights")):
        arguments = [str(folder / "features-f4.npy"), *arguments]
    elif seed.startswith("features") and draw.random() < 0.5:
        arguments = [*arguments, str(folder / "labels.npy")]
    return Case(path, content, ",".join(arguments), seed.startswith(("head", "bias")))


def _cut(draw: random.Random, content: bytes, sound: dict[str, bytes]) -> bytes:
    end = header_end(content)
    places = [0, 1, 5, 6, 7, 8, 9, 10, 12, end - 1, end, end + 1, len(content) - 1, draw.randrange(len(content) + 1)]
    return content[: max(0, draw.choice(places))]


def _extend(draw: random.Random, content: bytes, sound: dict[str, bytes]) -> bytes:
    return content + draw.choice([b"\0", b"\n", b" " * 8, draw.randbytes(draw.randrange(1, 99)), content])


def _flip(draw: random.Random, content: bytes, sound: dict[str, bytes]) -> bytes:
    changed = bytearray(content)
    reach = min(draw.choice([len(content), header_end(content), 16]), len(content))
    for _ in range(draw.choice([1, 1, 2, 8]) if reach else 0):
        changed[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _overwrite(draw: random.Random, content: bytes, sound: dict[str, bytes]) -> bytes:
    start = draw.randrange(len(content) + 1)
    piece = draw.choice(
        [draw.randbytes(draw.randrange(20)), b"\0" * 9, b"\xff" * 9, b"(" * 9, b'"', b"'", b"{", b"-", b"9"]
    )
    return content[:start] + piece + content[start + len(piece) * draw.randrange(2) :]


def _not_finite(draw: random.Random, content: bytes, sound: dict[str, bytes]) -> bytes:
    value = struct.pack(draw.choice(["<d", "<f", "<e"]), draw.choice([float("nan"), float("inf"), -float("inf")]))
    return content[: -len(value)] + value


def _number(draw: random.Random, content: bytes, sound: dict[str, bytes]) -> bytes:
    """One byte of the numbers changed."""
    place = draw.randrange(header_end(content), len(content) + 1)
    return content[:place] + (draw.randbytes(1) + content[place + 1 :])[: len(content) - place]


def _splice(draw: random.Random, content: bytes, sound: dict[str, bytes]) -> bytes:
    other = sound[draw.choice(sorted(sound))]
    return content[: draw.randrange(len(content) + 1)] + other[draw.randrange(len(other)) :]


def _magic(draw: random.Random, content: bytes, sound: dict[str, bytes]) -> bytes:
    begin = draw.choice([*_BEGINNINGS, draw.randbytes(10)])
    return begin + content[len(begin) * draw.randrange(2) :]


def _noise(draw: random.Random, content: bytes, sound: dict[str, bytes]) -> bytes:
    return draw.randbytes(draw.randrange(300))


DAMAGES: list[Callable[[random.Random, bytes, dict[str, bytes]], bytes]] = [
    _cut,
    _extend,
    _flip,
    _overwrite,
    _not_finite,
]
DAMAGES += [_splice, _magic, _number, _number, _noise, change_length, *[change_header] * 2, *[change_entry] * 4]
