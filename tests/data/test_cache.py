"""The pixel cache: same pixels, decoded once, never half-written, bounded, and harmless where it cannot write."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from written import many

from catchweight.data import Sample, SegmentationData, open_data
from catchweight.data.cache import PixelCache, default_folder
from catchweight.data.scenes import make_scenes
from catchweight.errors import CatchweightError

SIZE = (64, 96)
BYTES = 64 * 96 * 4


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes") / "a", {"train": 6, "val": 2}, SIZE)


@pytest.fixture
def data(scenes: Path, tmp_path: Path) -> SegmentationData:
    """A copy that a test may harm."""
    return open_data(shutil.copytree(scenes, tmp_path / "data"))


def _count_reads(data: SegmentationData, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The real reader, with a note of what it was asked for."""
    asked: list[str] = []
    real = SegmentationData.read

    def noting(self: SegmentationData, record) -> Sample:  # type: ignore[no-untyped-def]
        asked.append(record.id)
        return real(self, record)

    monkeypatch.setattr(SegmentationData, "read", noting)
    return asked


def _same(a: Sample, b: Sample) -> bool:
    return np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask) and a.id == b.id


def test_gives_the_decoded_pixels_and_decodes_once(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [data.read(record) for record in data.splits["train"]]
    asked = _count_reads(data, monkeypatch)
    for _ in range(2):  # the second cache stands for another process
        read = PixelCache(tmp_path / "cache").bind(data)
        for _ in range(2):
            assert all(_same(read(r), e) for r, e in zip(data.splits["train"], expected, strict=True))
    assert len(asked) == 6


def test_a_changed_image_is_decoded_anew(data: SegmentationData, tmp_path: Path) -> None:
    record = data.splits["train"][0]
    read = PixelCache(tmp_path / "cache").bind(data)
    read(record)
    Image.new("RGB", SIZE[::-1], (1, 2, 3)).save(record.image)
    os.utime(record.image, ns=(1, 10**18))
    assert (read(record).image == (1, 2, 3)).all()


def test_a_changed_mask_of_the_same_length_and_place_is_decoded_anew(data: SegmentationData, tmp_path: Path) -> None:
    """As an archive unpacked over an older one leaves it: path, size and time are the same, the content is not."""
    record = data.splits["train"][0]
    expected = data.read(record).mask[::-1]
    read = PixelCache(tmp_path / "cache").bind(data)
    read(record)
    before = os.stat(record.mask)
    Image.fromarray(np.ascontiguousarray(expected)).save(record.mask)
    with record.mask.open("ab") as file:  # PNG readers stop at the end chunk
        file.write(b"\0" * max(0, before.st_size - record.mask.stat().st_size))
    os.utime(record.mask, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (PixelCache(tmp_path / "cache").bind(data)(record).mask == expected).all()


def test_a_copy_is_not_decoded_again(data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for record in data.splits["train"]:
        PixelCache(tmp_path / "cache").bind(data)(record)
    copy = open_data(shutil.copytree(data.root, tmp_path / "elsewhere", copy_function=shutil.copyfile))
    asked, read = _count_reads(copy, monkeypatch), PixelCache(tmp_path / "cache").bind(copy)
    for record in copy.splits["train"]:
        assert _same(read(record), data.read(record))
    assert len(asked) == len(copy.splits["train"])  # those asked of `data` to compare with


def test_a_vanished_image_is_named_even_when_its_pixels_are_stored(data: SegmentationData, tmp_path: Path) -> None:
    record = data.splits["train"][0]
    read = PixelCache(tmp_path / "cache").bind(data)
    read(record)
    record.image.unlink()
    with pytest.raises(CatchweightError, match=record.image.name):
        read(record)


def test_writing_to_a_sample_does_not_reach_the_store(data: SegmentationData, tmp_path: Path) -> None:
    record = data.splits["train"][0]
    expected = data.read(record)
    PixelCache(tmp_path / "cache").bind(data)(record)
    PixelCache(tmp_path / "cache").bind(data)(record).image[:] = 0
    assert _same(PixelCache(tmp_path / "cache").bind(data)(record), expected)


def test_a_cut_off_file_is_replaced(data: SegmentationData, tmp_path: Path) -> None:
    record = data.splits["train"][0]
    PixelCache(tmp_path / "cache").bind(data)(record)
    (stored,) = (tmp_path / "cache").glob("*/*.npy")
    for length in (stored.stat().st_size // 2, 20, 0):
        os.truncate(stored, length)
        assert _same(PixelCache(tmp_path / "cache").bind(data)(record), data.read(record))
        assert stored.stat().st_size > BYTES


def test_killed_while_writing_leaves_nothing_wrong(scenes: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from catchweight.data import open_data; from catchweight.data.cache import PixelCache\n"
        "data, n = open_data(sys.argv[1]), 0\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    cache = PixelCache(sys.argv[2]); cache.clear(); read = cache.bind(data)\n"
        "    for split in data.splits.values():\n"
        "        for record in split: read(record)\n"
    )
    data, cache = open_data(scenes), tmp_path / "cache"
    for delay in (0.02, 0.05, 0.11):
        child = subprocess.Popen([sys.executable, "-c", code, str(scenes), str(cache)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        read = PixelCache(cache).bind(data)
        for record in data.splits["train"]:
            assert _same(read(record), data.read(record))


def test_the_bound_holds_and_reading_goes_on(data: SegmentationData, tmp_path: Path) -> None:
    cache = PixelCache(tmp_path / "cache", max_bytes=3 * (BYTES + 200))
    read = cache.bind(data)
    with pytest.warns(UserWarning, match="bound"):
        samples = [read(record) for record in data.splits["train"]]
    assert all(_same(s, data.read(r)) for s, r in zip(samples, data.splits["train"], strict=True))
    files = list((tmp_path / "cache").glob("*/*.npy"))
    assert len(files) == 3


def test_a_data_set_no_longer_used_makes_room(data: SegmentationData, tmp_path: Path) -> None:
    old = open_data(make_scenes(tmp_path / "old", {"train": 3}, SIZE, seed=9))
    bound = 7 * (BYTES + 200)
    read = PixelCache(tmp_path / "cache", bound).bind(old)
    for record in old.splits["train"]:
        read(record)
    read = PixelCache(tmp_path / "cache", bound).bind(data)
    for record in data.splits["train"]:
        read(record)
    assert len(list((tmp_path / "cache").glob("*/*.npy"))) == 6
    assert len([folder for folder in (tmp_path / "cache").iterdir() if any(folder.iterdir())]) == 1


def test_other_folders_beside_its_own_are_neither_removed_nor_counted(data: SegmentationData, tmp_path: Path) -> None:
    notes = tmp_path / "cache" / "notes" / "chapter.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("x" * 20 * BYTES)
    old = open_data(make_scenes(tmp_path / "old", {"train": 1}, SIZE, seed=9))
    for one in (old, data):
        cache = PixelCache(tmp_path / "cache", max_bytes=6 * (BYTES + 200))
        read = cache.bind(one)
        for record in one.splits["train"]:
            read(record)
    assert len(list((tmp_path / "cache").glob("*/*.npy"))) == 6
    cache.clear()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["notes"]
    assert notes.exists()


def test_few_files_are_kept_open_where_few_may_be(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from catchweight.data import open_data; from catchweight.data.cache import PixelCache\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))\n"
        "data, cache = open_data(sys.argv[1]), PixelCache(sys.argv[2])\n"
        "reads = {split: cache.bind(data) for split in data.splits}\n"
        "for _ in range(2):\n"
        "    for split, records in data.splits.items():\n"
        "        for record in records: reads[split](record)\n"
        "others = [open(sys.executable) for _ in range(40)]\n"
    )
    command = [sys.executable, "-c", code, str(many(tmp_path / "data", 70)), str(tmp_path / "cache")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "cache").glob("*/*.npy"))) == 70


def test_too_many_open_files_are_said_and_nothing_is_decoded_again(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = data.splits["train"][0]
    PixelCache(tmp_path / "cache").bind(data)(record)
    asked, read = _count_reads(data, monkeypatch), PixelCache(tmp_path / "cache").bind(data)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(np, "load", full)
    with pytest.raises(CatchweightError, match=r"\.npy: Too many open files"):
        read(record)
    assert asked == []


def test_a_folder_that_cannot_be_written_is_a_warning(data: SegmentationData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    read = PixelCache(tmp_path / "file" / "cache").bind(data)
    record = data.splits["train"][0]
    with pytest.warns(UserWarning, match="pixel cache is off"):
        assert _same(read(record), data.read(record))


def test_the_folder_can_be_named_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATCHWEIGHT_CACHE", str(tmp_path / "elsewhere"))
    assert default_folder() == tmp_path / "elsewhere" / "pixels"
    assert PixelCache().folder == tmp_path / "elsewhere" / "pixels"
    monkeypatch.delenv("CATCHWEIGHT_CACHE")
    assert "catchweight" in str(default_folder())
