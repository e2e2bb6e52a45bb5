"""IDX files: written, read back, and refused with a reason when they are damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from catchweight.data.images import draw_images, open_images, read_idx, write_idx
from catchweight.errors import CatchweightError, UsageError
from conftest import DATA


@pytest.mark.parametrize("name", ["a-idx3-ubyte.gz", "a-idx3-ubyte"])
@pytest.mark.parametrize("shape", [(5,), (3, 4, 2), (0, 2)])
def test_what_is_written_is_read_back(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_idx(tmp_path / name, values)
    assert np.array_equal(read_idx(tmp_path / name), values)


def test_the_header_is_the_published_one(tmp_path: Path) -> None:
    write_idx(tmp_path / "x", np.zeros((2, 3), np.uint8))
    assert (tmp_path / "x").read_bytes() == bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(6)


def test_drawn_sets_are_seeded_and_have_a_fingerprint(tmp_path: Path) -> None:
    counts = {"train": 20, "test": 8}
    one, other = (draw_images(tmp_path / name, counts) for name in ("a", "b"))
    assert one.fingerprint() == other.fingerprint() != draw_images(tmp_path / "c", counts, seed=1).fingerprint()
    assert one.images["train"].shape == (20, 28, 28)
    assert open_images(tmp_path / "a").fingerprint() == one.fingerprint()


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no train-images-idx3-ubyte"):
        open_images(tmp_path)
    draw_images(tmp_path, {"train": 4, "test": 4})
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for content in (b"not gzip", gzip.compress(b"\0\0\x0d\x01\0\0\0\x01\0"), path.read_bytes()[:-40]):
        path.write_bytes(content)
        with pytest.raises(CatchweightError, match="train-images-idx3-ubyte.gz"):
            open_images(tmp_path)
    write_idx(path, np.zeros((3, 28, 28), np.uint8))
    with pytest.raises(CatchweightError, match=r"images \(3, 28, 28\) and labels \(4,\)"):
        open_images(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "fashion_mnist").is_dir(), reason="the Fashion-MNIST files are not there")
def test_fashion_mnist_is_read_whole() -> None:
    data = open_images(DATA / "fashion_mnist")
    assert data.images["train"].shape == (60_000, 28, 28)
    assert np.bincount(data.labels["test"]).tolist() == [1000] * 10
    assert data.images["train"].mean() / 255 == pytest.approx(0.2860, abs=1e-4)
