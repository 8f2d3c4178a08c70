"""Arrays are read as they lie in their file, without a copy; every other file is refused in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from ntkla.app.failures import DataError, FileError
from ntkla.app.files import npy, safe_tensors
from ntkla.app.files.reading import read_task
from ntkla.linalg.errors import DtypeError, ShapeError
from tests.app.user_files import X, Y, refused, save

pytestmark = pytest.mark.usefixtures("user_files")


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_features_as_numpy_writes_them(dtype, order):
    np.save("x.npy", np.array(X, dtype=dtype, order=order))
    found = read_task("x.npy")
    assert found.features.numpy().dtype == np.dtype(dtype)
    assert np.array_equal(found.features.numpy(), X.astype(dtype))
    assert found.features.is_contiguous() == (order == "C")
    assert (found.name, list(found.paths)) == ("x", ["features"])


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format(version):
    with open("v.npy", "wb") as file:
        np.lib.format.write_array(file, X, version)
    assert np.array_equal(read_task("v.npy").features.numpy(), X)


def test_arrays_that_do_not_lie_at_a_multiple_of_their_size(user_files):
    save("odd.safetensors", features=X)
    content = (user_files / "odd.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    (user_files / "odd.safetensors").write_bytes((length + 1).to_bytes(8, "little") + header + b" " + data)
    found = read_task("odd.safetensors").features
    assert np.array_equal(found.numpy(), X)
    assert found.data_ptr() % found.itemsize == 0


@pytest.mark.parametrize(
    ("argument", "error", "words"),
    [
        ("nowhere.npy", FileError, "^nowhere.npy: .*No such file"),
        ("nowhere.safetensors", FileError, "No such file"),
        ("nowhere.pt", FileError, "No such file"),
        ("folder.npy", FileError, "folder"),
        ("pipe.npy", FileError, "pipe"),
        ("x.npy,task.safetensors", DataError, "name it alone"),
        ("x.npy,y.npy,y.npy", DataError, "labels"),
        ("x.npy,w.npy", DataError, "^w.npy: .*labels.*integers"),
        ("y.npy", DtypeError, "^y.npy: these are integers"),
        ("w.npy", ShapeError, "^w.npy: features"),
        ("x.npy,column.npy", ShapeError, r"^column.npy: .*reshape\(-1\)"),
        ("cube.npy", ShapeError, "Flatten"),
        ("none.npy", ShapeError, "at least one row"),
        ("empty.npy", DataError, "empty file"),
        ("empty.safetensors", DataError, "damaged"),
        ("twice.npy", DataError, "bytes after its array"),
        ("cut.npy", DataError, "8 bytes too early"),
        ("archive.npy", DataError, "archive"),
        ("pickle.npy", DataError, "pickle"),
        ("objects.npy", DtypeError, "objects.*pickle"),
        ("records.npy", DtypeError, "records"),
    ],
)
def test_what_is_refused(argument, error, words, user_files):
    os.mkdir("folder.npy")
    os.mkfifo("pipe.npy")
    arrays = {"column": Y[:, None], "cube": X[:, :, None], "none": X[:0], "records": np.zeros(2, [("a", "f4")])}
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    content = (user_files / "x.npy").read_bytes()
    with open("archive.npy", "wb") as file:
        np.savez(file, x=X)
    contents = {"empty.npy": b"", "empty.safetensors": b"", "twice.npy": content * 2, "cut.npy": content[:-8]}
    for name, damaged in (contents | {"pickle.npy": b"\x80\x04K\x01."}).items():
        (user_files / name).write_bytes(damaged)
    assert refused(error, words, argument).count("\n") == 0


def test_a_file_that_may_not_be_read(monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    refused(FileError, "^x.npy: .*Permission denied", "x.npy")


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt", "pkl", "npz", "csv", "PT", "mat", "npyz"])
def test_other_formats(suffix, user_files):
    (user_files / f"x.{suffix}").write_bytes(b"\x80")
    assert refused(DataError, "expected a .npy or .safetensors file", f"x.{suffix}").startswith(f"x.{suffix}: ")


@pytest.mark.parametrize("dtype", ["i8", "u2", ">f4", ">f2", "g", "?", "c8"])
def test_the_line_that_converts_features(dtype):
    np.save("odd.npy", (8 * X).astype(dtype))
    message = refused(DtypeError, "Convert it", "odd.npy")
    line = re.search(r"numpy\.save\(.*\)", message).group()
    exec(line, {"numpy": np})
    converted = np.load("converted.npy").astype("f8")
    if dtype != "?" and converted.dtype.kind == "f":
        assert np.array_equal(converted, np.real((8 * X).astype(dtype)).astype("f8"))


@pytest.mark.parametrize("role", ["features", "labels"])
def test_the_line_that_converts_safetensors(role):
    arrays = {"features": torch.from_numpy(X), "labels": torch.from_numpy(Y)}
    arrays[role] = arrays[role].to(torch.int32 if role == "features" else torch.float32)
    save("odd.safetensors", **arrays)
    message = refused(DtypeError, f"^odd.safetensors: {role}", "odd.safetensors")
    exec(re.search(r"x = .*\)", message).group(), {"safetensors": safetensors, "torch": torch})
    read_task("converted.safetensors")


def test_float8_and_the_line_that_converts_it():
    save("f8.safetensors", features=torch.from_numpy(X).to(torch.float8_e4m3fn))
    message = refused(DtypeError, "'F8_E4M3'", "f8.safetensors")
    exec(re.search(r"x = .*safetensors'\)", message).group(), {"safetensors": safetensors, "torch": torch})
    assert read_task("converted.safetensors").features.dtype == torch.float32


@pytest.mark.parametrize(
    "header",
    [
        b'{"features":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"features":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}',
        b'{"features":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"labels":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}',
        b'{"features":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b'{"features":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"features":{"dtype":"F32","shape":[true,2],"data_offsets":[0,8]}}',
        b'{"features":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"__metadata__":{"a":1}}',
        b'{"features":' + b"[" * 100_000,
    ],
)
def test_safetensors_whose_header_is_not_sound(header, user_files):
    (user_files / "odd.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    refused(DataError, "^odd.safetensors: .*damaged", "odd.safetensors")


@pytest.mark.parametrize(
    "shape", ["[12, 5]", "(12L, 5)", "(12, 5) + ()", "(12, -5)", "(12, 5.0)", "(True, 60)", "(2**40,)"]
)
def test_npy_whose_header_is_not_sound(shape, user_files):
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".encode()
    content = npy.MAGIC + b"\1\0" + len(text).to_bytes(2, "little") + text + X.tobytes()
    (user_files / "odd.npy").write_bytes(content)
    refused(DataError, "damaged", "odd.npy")


@pytest.mark.parametrize(
    ("suffix", "longest"), [("npy", npy.LONGEST_HEADER), ("safetensors", safe_tensors.LONGEST_HEADER)]
)
def test_the_longest_header(suffix, longest, user_files):
    """One byte more than is read is refused for its length, in a file that is otherwise sound."""
    save("x.safetensors", features=X)
    content = (user_files / f"x.{suffix}").read_bytes()
    if suffix == "npy":  # version 2.0, whose length has four bytes
        header, data = content[10:128], content[128:]
        begin, width = npy.MAGIC + b"\2\0", 4
    else:
        length = int.from_bytes(content[:8], "little")
        header, data, begin, width = content[8 : 8 + length], content[8 + length :], b"", 8
    for size in (longest, longest + 1):
        (user_files / f"x.{suffix}").write_bytes(
            begin + size.to_bytes(width, "little") + header.rstrip().ljust(size - 1) + b"\n" + data
        )
        if size == longest:
            assert np.array_equal(read_task(f"x.{suffix}").features.numpy(), X)
    refused(DataError, f"{longest + 1} bytes \\(at most {longest} are read\\)", f"x.{suffix}")


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
def test_writing_to_the_arrays_leaves_the_file(name, user_files):
    save("x.safetensors", features=X)
    before = (user_files / name).read_bytes()
    read_task(name).features.zero_()
    assert (user_files / name).read_bytes() == before


_READ = """
import sys, torch
from pathlib import Path
from ntkla.app.files.reading import read_task
def anonymous():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024
read_task(sys.argv[1]).task(2, need_targets=False)
before = anonymous()
task = read_task(sys.argv[2]).task(2, need_targets=False)
print(anonymous() - before, task.features.numel() * task.features.itemsize)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the memory as Linux tells it")
@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
def test_reading_holds_no_copy(suffix):
    """The header, and one pass that finds every entry finite, over 64 MiB: less than a hundredth in memory."""
    for name, rows in (("small", 64), ("large", 2**15)):
        array = np.zeros((rows, 512), "f4")
        np.save(f"{name}.npy", array) if suffix == "npy" else save(f"{name}.safetensors", features=array)
    names = [f"{name}.{suffix}" for name in ("small", "large")]
    done = subprocess.run(
        [sys.executable, "-c", _READ, *names],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    own, size = map(int, done.stdout.split())
    assert size == 2**26
    assert own < size / 100
