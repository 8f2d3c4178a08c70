"""Images in files of every accepted form give the same pixels; what cannot be read is named."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

import ntkla
from ntkla.app.failures import DataError, FileError
from ntkla.app.images.idx import labels_beside, read_idx
from ntkla.app.images.images import open_images

PIL = pytest.importorskip("PIL.Image", reason="needs the extra 'cli' (Pillow)")

GREY = np.random.default_rng(0).integers(0, 256, (5, 6, 7), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
LABELS = np.array([3, 0, 0, 1, 3], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def saved(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content)
    return path


def class_folder(root, images=GREY, labels=("b", "a", "a", "c", "b")):
    """Each image in the folder of its class, numbered; returns the order in which they should be read."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (root / label).mkdir(parents=True, exist_ok=True)
        PIL.fromarray(image).save(root / label / f"{number}.png")
    return sorted(range(len(images)), key=lambda number: (labels[number], number))


def pixels(images):
    return [images.image(number).numpy() for number in range(images.count)]


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for left, right in zip(found, wanted, strict=True):
        assert left.dtype == np.uint8
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("array", [GREY, COLOUR, np.asfortranarray(GREY)], ids=["grey", "colour", "fortran"])
def test_npy(tmp_path, array):
    images = open_images(saved(tmp_path, "x.npy", array), None, None)
    assert_same(pixels(images), array)
    assert images.labels is None
    labelled = open_images(tmp_path / "x.npy", saved(tmp_path, "y.npy", LABELS), None)
    assert labelled.labels.dtype == torch.int64
    assert labelled.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"),
        ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"),
        ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"),
        ("digits", None),
    ],
)
def test_idx_with_the_labels_beside_it(tmp_path, name, labels):
    pack = {True: gzip.compress, False: lambda content: content}
    path = saved(tmp_path, name, pack[name.endswith(".gz")](idx(GREY)))
    assert labels_beside(path) is None
    if labels:
        saved(tmp_path, labels, pack[labels.endswith(".gz")](idx(LABELS)))
    images = open_images(path, None, None)
    assert_same(pixels(images), GREY)
    assert (None if images.labels is None else images.labels.tolist()) == (LABELS.tolist() if labels else None)
    other = open_images(path, saved(tmp_path, "y.npy", LABELS[::-1].copy()), None)
    assert other.labels.tolist() == LABELS[::-1].tolist()


def test_a_folder_of_classes(tmp_path):
    order = class_folder(tmp_path)
    saved(tmp_path, "a/notes.txt", b"no image")
    saved(tmp_path, ".git/config", b"no class")
    images = open_images(tmp_path, None, None)
    assert_same(pixels(images), GREY[order])
    assert images.labels.tolist() == [0, 0, 1, 1, 2]
    assert images.classes == {0: "a", 1: "b", 2: "c"}
    chosen = open_images(tmp_path, None, ["c", "x", "b", "a"])
    assert chosen.labels.tolist() == [0, 2, 2, 3, 3]
    assert chosen.classes == {0: "c", 2: "b", 3: "a"}


def test_folders_called_by_numbers_are_labels(tmp_path):
    order = class_folder(tmp_path, labels=("7", "10", "9", "10", "7"))
    images = open_images(tmp_path, None, None)
    assert images.labels.tolist() == [7, 7, 9, 10, 10]
    assert_same(pixels(images), GREY[[0, 4, 2, 1, 3]])
    assert len(order) == 5


def test_numbers_too_large_for_a_label_are_names(tmp_path):
    class_folder(tmp_path, labels=("7", "10", "9", "1" * 20, "7"))
    images = open_images(tmp_path, None, None)
    assert images.classes == {0: "10", 1: "1" * 20, 2: "7", 3: "9"}


def test_modes_of_images_and_turned_ones(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    PIL.fromarray(COLOUR[0]).save(folder / "0.png")
    PIL.fromarray(GREY[0]).convert("LA").save(folder / "1.PNG")
    PIL.fromarray(COLOUR[0]).convert("RGBA").save(folder / "2.png")
    PIL.fromarray(GREY[0] // 128 * 255).convert("1").save(folder / "3.png")
    turned = PIL.fromarray(np.zeros((8, 16), dtype=np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(folder / "4.jpeg", exif=exif)
    found = pixels(open_images(tmp_path, None, None))
    assert_same(found[:4], [COLOUR[0], GREY[0], COLOUR[0], GREY[0] // 128 * 255])
    assert found[4].shape == (16, 8)


def test_what_the_cache_goes_by_is_the_content(tmp_path):
    class_folder(tmp_path / "one")
    class_folder(tmp_path / "two")
    first, again = (open_images(tmp_path / name, None, None) for name in ("one", "two"))
    assert list(first.content(1, 4)) == list(again.content(1, 4))
    assert list(first.content(0, 3)) != list(again.content(1, 4))
    flat = open_images(saved(tmp_path, "x.npy", GREY), None, None)
    other = open_images(saved(tmp_path, "y.npy", GREY.reshape(5, 7, 6)), None, None)
    assert list(flat.content(0, 5)) != list(other.content(0, 5))


WRONG_ARRAYS = {
    "float": (GREY / 255.0, ntkla.DtypeError, r"float64.*0\.\.1.*: \(x \* 255\)\.round\(\)\.astype\('uint8'\)\.$"),
    "float, scaled": (GREY / 2.0, ntkla.DtypeError, r"got float64.*Scale to that and convert: x\.astype\('uint8'\)"),
    "objects": (np.array([{}], dtype=object), DataError, "cannot be read"),
    "flat": (GREY.reshape(5, 42), ntkla.ShapeError, "Reshape flat images"),
    "channels first": (COLOUR.transpose(0, 3, 1, 2).copy(), ntkla.ShapeError, r"x\.transpose\(0, 2, 3, 1\)"),
    "one colour image": (COLOUR[0], ntkla.ShapeError, r"One colour image is x\[None\]"),
    "none": (GREY[:0], ntkla.ShapeError, "got shape"),
    "a number": (np.uint8(3), ntkla.ShapeError, "got shape"),
}


@pytest.mark.parametrize("name", WRONG_ARRAYS)
def test_wrong_arrays(tmp_path, name):
    array, error, says = WRONG_ARRAYS[name]
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(error, match=says):
        open_images(tmp_path / "x.npy", None, None)


WRONG_LABELS = {
    "length": (LABELS[:4], ntkla.ShapeError, r"expected 5 labels, one an image, got shape \(4,\)"),
    "columns": (LABELS[:, None], ntkla.ShapeError, "expected 5 labels"),
    "floats": (LABELS / 2.0, ntkla.DtypeError, "expected integers"),
    "negative": (LABELS.astype(np.int64) - 1, DataError, "expected labels from 0, got -1"),
}


@pytest.mark.parametrize("name", WRONG_LABELS)
def test_wrong_labels(tmp_path, name):
    array, error, says = WRONG_LABELS[name]
    path = saved(tmp_path, "x.npy", GREY)
    with pytest.raises(error, match=says):
        open_images(path, saved(tmp_path, "y.npy", array), None)


WRONG_FILES = {
    "missing": (None, FileError, "cannot be read"),
    "empty": (b"", DataError, "expected a folder with one subfolder"),
    "text": (b"label,pixel\n", DataError, "expected a folder"),
    "npy cut": (b"\x93NUMPY\1\0", DataError, "cannot be read"),
    "labels": (idx(LABELS), DataError, r"expected images \[n, H, W\], 3 dimensions, got 1"),
    "floats": (b"\0\0\x0d\3" + bytes(40), DataError, "expected a folder"),
    "header cut": (idx(GREY)[:9], DataError, "ends within its header"),
    "cut": (idx(GREY)[:-1], DataError, "expected 210 bytes after the header .*, got 209"),
    "long": (idx(GREY) + b"0", DataError, "got more"),
    "none": (idx(GREY[:0]), DataError, "at least one entry"),
    "packed, cut": (gzip.compress(idx(GREY))[:-9], DataError, "the compressed file is damaged"),
    "packed, flipped": (gzip.compress(idx(GREY))[:-8] + bytes(8), DataError, "the compressed file is damaged"),
    "packed text": (gzip.compress(b"text"), DataError, "begins with bytes 0 0 8"),
    "packed, short": (gzip.compress(idx(GREY)[:-1]), DataError, "got 209"),
    "packed, endless": (gzip.compress(b"\0\0\x08\3" + b"\xff" * 12), ntkla.MemoryEstimateError, "decompressing"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_wrong_files(tmp_path, name):
    content, error, says = WRONG_FILES[name]
    if content is not None:
        saved(tmp_path, "x", content)
    with pytest.raises(error, match=says) as caught:
        open_images(tmp_path / "x", None, None)
    assert str(tmp_path / "x") in str(caught.value)


def test_labels_beside_that_do_not_fit(tmp_path):
    path = saved(tmp_path, "train-images-idx3-ubyte", idx(GREY))
    saved(tmp_path, "train-labels-idx1-ubyte", idx(LABELS[:3]))
    with pytest.raises(ntkla.ShapeError, match="train-labels-idx1-ubyte: expected 5 labels"):
        open_images(path, None, None)
    np.testing.assert_array_equal(read_idx(tmp_path / "train-labels-idx1-ubyte", 1, "labels"), LABELS[:3])


def test_wrong_folders(tmp_path):
    with pytest.raises(DataError, match="expected one subfolder a class, got none: put the images"):
        open_images(tmp_path, None, None)
    saved(tmp_path, "train-images-idx3-ubyte.gz", b"")
    with pytest.raises(DataError, match=r"name the file: .*train-images-idx3-ubyte\.gz"):
        open_images(tmp_path, None, None)
    class_folder(tmp_path)
    with pytest.raises(DataError, match="--classes does not name the subfolder 'b'"):
        open_images(tmp_path, None, ["a", "c"])
    with pytest.raises(ntkla.ArgumentError, match="--labels: the subfolders are the classes"):
        open_images(tmp_path, tmp_path / "y.npy", None)
    with pytest.raises(ntkla.ArgumentError, match="--classes: names subfolders"):
        open_images(saved(tmp_path, "x.npy", GREY), None, ["a"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: expected PNG or JPEG images of one class, got none"):
        open_images(tmp_path, None, None)


def test_unreadable_images_are_named(tmp_path):
    class_folder(tmp_path)
    whole = (tmp_path / "a" / "1.png").read_bytes()
    saved(tmp_path, "a/1.png", whole[: len(whole) // 2])
    saved(tmp_path, "a/2.png", b"text")
    PIL.fromarray(GREY[0].astype(np.uint16) * 200).save(tmp_path / "b" / "0.png")
    images = open_images(tmp_path, None, None)
    for number, (name, says) in enumerate(
        [("a/1.png", "cannot be read"), ("a/2.png", "expected a PNG or JPEG image"), ("b/0.png", "8 bits")]
    ):
        with pytest.raises(DataError, match=f"{name}.*{says}") as caught:
            images.image(number)
        assert "BytesIO" not in str(caught.value)
    (tmp_path / "c" / "3.png").unlink()
    with pytest.raises(FileError, match=r"3\.png"):
        images.image(4)
    with pytest.raises(FileError, match=r"3\.png"):
        list(images.content(0, 5))
