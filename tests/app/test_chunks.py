"""Features in chunks: a run that was stopped goes on where it was, and every form of the same images gives the same."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import ntkla
from ntkla.app.failures import DataError
from ntkla.app.files import cache, chunks
from ntkla.app.images.backbone import BACKBONES, Backbone
from ntkla.app.images.images import Images
from ntkla.linalg.precision import UNIT_ROUNDOFF

PIXELS = BACKBONES["pixels"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(chunks, "CHUNK", 4)
    return tmp_path / "ntkla"


@dataclass
class Counting:
    """A backbone of means and of its own calls, which can be stopped at an image."""

    stop_at: int = -1
    version: str = "1"
    seen: list[int] = field(default_factory=list)

    def backbone(self) -> Backbone:
        return Backbone("counting", self.version, None, lambda: None, self.features)

    def features(self, image, numbers, edge, progress):
        if self.stop_at in numbers:
            raise KeyboardInterrupt
        self.seen += numbers
        progress(len(numbers), len(numbers))
        return torch.stack([image(number).to(torch.float32).mean((0, 1)).reshape(1) for number in numbers])


def images_of(array: np.ndarray) -> Images:
    return Images(
        len(array), lambda n: torch.from_numpy(array[n]), lambda start, stop: [array[start:stop].tobytes()], None, {}
    )


ARRAY = np.random.default_rng(0).integers(0, 256, (10, 3, 5), dtype=np.uint8)


def compute(counting, array=ARRAY, edge=None, notes=None, seen=None):
    progress = (seen if seen is not None else []).append
    return chunks.features_of(
        images_of(array),
        counting.backbone(),
        edge,
        lambda done, total: progress((done, total)),
        (notes if notes is not None else []).append,
    )


def test_a_stopped_run_goes_on_where_it_was(folder):
    first, second, again = Counting(stop_at=8), Counting(), Counting()
    with pytest.raises(KeyboardInterrupt):
        compute(first)
    seen = []
    found = compute(second, seen=seen)
    assert (first.seen, second.seen) == (list(range(8)), [8, 9])
    assert seen == [(4, 10), (8, 10), (10, 10), (10, 10)]
    assert torch.equal(compute(again), found)
    assert again.seen == []
    monotone = torch.from_numpy(ARRAY).to(torch.float32).mean((1, 2))
    slack = 30 * UNIT_ROUNDOFF[torch.float32] * 255
    assert float((found[:, 0] - monotone).abs().max()) <= slack
    assert len(list(folder.iterdir())) == 3


def test_what_changes_is_computed_again_and_nothing_else():
    compute(Counting())
    changed = ARRAY.copy()
    changed[5] += 1
    for counting, array, edge, wanted in [
        (Counting(), changed, None, [4, 5, 6, 7]),
        (Counting(version="2"), ARRAY, None, list(range(10))),
        (Counting(), ARRAY, 32, list(range(10))),
        (Counting(), np.concatenate([ARRAY, ARRAY]), None, list(range(8, 20))),
        (Counting(), ARRAY, None, []),
    ]:
        compute(counting, array, edge)
        assert counting.seen == wanted


def test_a_damaged_chunk_is_computed_again(folder):
    found, counting, notes = compute(Counting()), Counting(), []
    path = sorted(folder.iterdir())[1]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert torch.equal(compute(counting, notes=notes), found)
    assert len(counting.seen) in (2, 4)
    assert len(notes) == 1
    assert "damaged" in notes[0]


def test_a_cache_that_cannot_be_written_is_told_once(folder):
    folder.write_text("a file where the folder should be")
    notes = []
    compute(Counting(), notes=notes)
    assert len(notes) == 1
    assert "could not be kept" in notes[0]


def test_a_full_disk_is_an_os_error(folder, monkeypatch):
    package = pytest.importorskip("safetensors", reason="needs the extra 'cli'")

    def full(*_, **__):
        raise package.SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    notes = []
    compute(Counting(), notes=notes)
    assert "No space left on device" in notes[0]
    with pytest.raises(OSError, match="No space left"):
        cache.save({}, folder / "x", {})


def mixed(*arrays):
    return Images(
        len(arrays),
        lambda n: torch.from_numpy(arrays[n]),
        lambda start, stop: [a.tobytes() for a in arrays[start:stop]],
        None,
        {},
    )


def pixels_of(images, edge=None):
    return chunks.features_of(images, PIXELS, edge, lambda done, total: None, lambda note: None)


def test_images_of_different_sizes_need_one_size():
    wide = np.full((3, 6), 51, dtype=np.uint8)
    for images in (mixed(ARRAY[0], wide), mixed(*ARRAY[:4], wide)):
        with pytest.raises(DataError, match=r"expected 15 .*Give --size"):
            pixels_of(images)
        assert pixels_of(images, 8).shape == (images.count, 64)
    flat = pixels_of(mixed(wide, np.full((9, 2, 3), 51, dtype=np.uint8)[:, :, 0]), 8)
    slack = 8 * UNIT_ROUNDOFF[torch.float32]
    assert float((flat - 51 / 255).abs().max()) <= slack
    with pytest.raises(DataError, match="grey and colour cannot be mixed"):
        pixels_of(mixed(wide, np.full((3, 6, 3), 51, dtype=np.uint8)), 8)


def test_made_smaller_an_image_loses_no_pixel():
    stripes = np.zeros((32, 32), dtype=np.uint8)
    stripes[:, ::4] = 255  # beside every place where the smaller image is sampled
    assert float(pixels_of(mixed(stripes), 8).min()) > 0


def test_colour_pixels_come_channel_by_channel():
    colour = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    wanted = torch.from_numpy(colour).permute(2, 0, 1).flatten().to(torch.float32) / 255
    assert torch.equal(pixels_of(mixed(colour))[0], wanted)


def test_more_than_fits_is_refused(monkeypatch):
    monkeypatch.setattr("ntkla.linalg.checks.available_memory", lambda device: 10)
    with pytest.raises(ntkla.MemoryEstimateError, match="features of 10 images"):
        compute(Counting())
