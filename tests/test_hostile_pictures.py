"""Pictures and masks that somebody made to do harm: refused by name, in a short message, and nothing in them runs."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from catchweight.data import check_data, open_data
from catchweight.data.readers.layout import IMAGE_FORMATS, IMAGE_SUFFIXES
from catchweight.data.readers.pixels import read_views
from catchweight.data.scenes import make_scenes
from catchweight.deploy import media, segmenter
from catchweight.deploy.segmenter import read_rgb
from catchweight.errors import CatchweightError

LONGEST_MESSAGE = 3000


def refused(message: str) -> None:
    assert len(message) < LONGEST_MESSAGE
    assert "Traceback" not in message


def bomb(path: Path, side: int = 65_000) -> Path:
    """A PNG of ``side`` by ``side`` white pixels in a few megabytes at most: its rows are empty after the first."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" + b"\xff" * side)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def test_an_image_bomb_is_refused_where_pictures_are_predicted(tmp_path):
    with pytest.raises(CatchweightError, match=r"bomb\.png"):
        read_rgb(bomb(tmp_path / "bomb.png"))


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_an_image_bomb_in_a_data_set_is_named(folder, tmp_path):
    root = make_scenes(tmp_path / "s", {"train": 2, "val": 1}, size=(64, 96))
    target = sorted((root / folder / "train").iterdir())[0]
    bomb(target)
    report = check_data(open_data(root))
    found = [problem for problem in report.problems if problem.level == "error"]
    assert [Path(problem.file).name for problem in found] == [target.name]
    assert "more than 80,000,000 pixels" in found[0].message


@pytest.mark.parametrize("read", [read_views, read_rgb])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".eps"])
def test_a_picture_that_is_a_program_is_not_run(read, suffix, tmp_path, monkeypatch):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(harmed) (w) file closefile\n%%EOF\n"
    )
    run = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given: run.append(given))
    with pytest.raises(CatchweightError, match=rf"x\{suffix}"):
        read(path)
    assert run == []


@pytest.mark.parametrize(
    ("read", "suffixes", "formats"),
    [(read_views, IMAGE_SUFFIXES, IMAGE_FORMATS), (read_rgb, media.IMAGE_SUFFIXES, segmenter._FORMATS)],
)
def test_pictures_of_every_suffix_are_still_read(read, suffixes, formats, tmp_path):
    known = Image.registered_extensions()
    assert {known[suffix] for suffix in suffixes if suffix in known} <= set(formats)
    picture = Image.fromarray(np.full((8, 8, 3), 90, np.uint8))
    for suffix in sorted(known.keys() & suffixes):
        gray = picture.convert("L") if suffix == ".pgm" else picture
        gray.save(tmp_path / f"x{suffix}")
        read(tmp_path / f"x{suffix}")
    picture.save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[picture])
    read(tmp_path / "phone.jpg")


def test_a_mask_of_a_million_classes_is_refused_briefly(tmp_path):
    root = make_scenes(tmp_path / "s", {"train": 2, "val": 1}, size=(64, 96))
    mask = sorted((root / "masks" / "train").iterdir())[0]
    image = next((root / "images" / "train").glob(f"{mask.stem}.*"))
    colours = np.arange(1 << 20, dtype=np.uint32) * 16
    coloured = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], -1).astype(np.uint8)
    Image.fromarray(coloured.reshape(1024, 1024, 3)).save(mask)
    Image.new("RGB", (1024, 1024)).save(image)
    faults = [problem for problem in check_data(open_data(root)).problems if problem.level == "error"]
    assert [Path(fault.file).name for fault in faults] == [mask.name]
    refused(faults[0].message)


def test_a_mask_of_very_many_classes_is_refused_briefly(tmp_path):
    root = make_scenes(tmp_path / "s", {"train": 2, "val": 1}, size=(64, 96))
    masks = sorted((root / "masks" / "train").iterdir())
    colours = np.arange(64 * 96, dtype=np.uint32) * 2731
    coloured = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], -1).astype(np.uint8)
    Image.fromarray(coloured.reshape(64, 96, 3)).save(masks[0])
    Image.fromarray((np.arange(64 * 96) * 10).astype(np.uint16).reshape(64, 96)).save(masks[1])
    faults = [problem for problem in check_data(open_data(root)).problems if problem.level == "error"]
    assert {Path(fault.file).name for fault in faults} == {mask.name for mask in masks}
    for fault in faults:
        refused(fault.message)
