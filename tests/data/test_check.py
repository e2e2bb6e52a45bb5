"""Every kind of fault provoked once and found under its file's name."""

from __future__ import annotations

import json
import shutil
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catchweight.data import IGNORE, check_data, open_data
from catchweight.data.readers import pixels
from conftest import CAMVID, COCO128, needs_camvid, needs_coco

H, W = 32, 48


def photo(seed: int, shape: tuple[int, ...] = (H, W, 3)) -> np.ndarray:
    """Smooth random blobs: pictures that a perceptual hash tells apart."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def mask() -> np.ndarray:
    value = np.zeros((H, W), dtype=np.uint8)
    value[H // 2 :] = 1
    value[0] = IGNORE
    return value


@pytest.fixture
def root(tmp_path) -> Path:
    """A sound data set: train a b c, val a b, classes sky and road."""
    for place, name in enumerate(("train/a", "train/b", "train/c", "val/a", "val/b")):
        for kind, array in (("images", photo(place)), ("masks", mask())):
            file = tmp_path / kind / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(file)
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["sky", "road"]}))
    return tmp_path


def png(width: int, height: int, rows: bytes) -> bytes:
    """A 16-bit RGB PNG by hand, since Pillow writes none; ``rows`` may be fewer than the header says."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = zlib.compress(rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def messages(root: Path) -> dict[str, str]:
    """What a check says, by the file's path below the root."""
    report = check_data(open_data(root))
    return {problem.file.removeprefix(f"{root}/"): f"{problem.level}: {problem.message}" for problem in report.problems}


def test_a_sound_data_set(root):
    report = check_data(open_data(root))
    assert report.problems == []
    assert report.trainable
    assert report.counts == {"train": {"images": 3, "labelled": 3}, "val": {"images": 2, "labelled": 2}}
    assert report.sizes == {f"{W}x{H}": 5}
    assert report.shares["val"] == pytest.approx({"sky": 15 / 32, "road": 0.5, "ignored": 1 / 32})


def test_the_report_is_json(root):
    (root / "images/val/a.png").write_bytes(b"torn")
    report = check_data(open_data(root))
    copy = json.loads(json.dumps(report.to_json()))
    assert copy["trainable"] is False
    assert copy["problems"][0]["file"].endswith("images/val/a.png")
    assert copy["counts"] == report.counts


def test_a_split_that_was_made_is_written_down_by_name(root):
    assert check_data(open_data(root)).made_val == []
    for kind in ("images", "masks"):
        shutil.rmtree(root / kind / "val")
    data = open_data(root, seed=5)
    written = json.loads(json.dumps(check_data(data).to_json()))
    assert written["made_val"] == [record.id for record in data.splits["val"]] != []


def test_progress_counts_every_picture(root):
    seen = []
    check_data(open_data(root), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 5) for done in range(1, 6)]


def test_workers_do_not_change_the_report(root):
    data = open_data(root)
    assert check_data(data, workers=1) == check_data(data, workers=4)


def test_truncated_image(root):
    file = root / "images/train/a.png"
    file.write_bytes(file.read_bytes()[:-200])
    assert messages(root)["images/train/a.png"].startswith("error: cannot be read as an image")


def test_truncated_mask(root):
    file = root / "masks/train/a.png"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert messages(root)["masks/train/a.png"].startswith("error: cannot be read as an image")


def test_both_parts_of_a_pair_are_looked_at(root):
    file = root / "images/train/a.png"
    file.write_bytes(file.read_bytes()[:-200])
    (root / "masks/train/a.png").write_text("not a picture")
    assert set(messages(root)) == {"images/train/a.png", "masks/train/a.png"}


def test_missing_pairs(root):
    (root / "masks/train/a.png").unlink()
    (root / "images/val/b.png").unlink()
    said = messages(root)
    assert said["images/train/a.png"] == "warning: image without a mask: it is not used"
    assert said["masks/val/b.png"].startswith("warning: mask without an image: no images/val/ file")
    assert check_data(open_data(root)).trainable


def test_size_mismatch(root):
    Image.fromarray(mask()[:-2]).save(root / "masks/train/a.png")
    assert "48x32 (W x H), its mask 48x30" in messages(root)["images/train/a.png"]


def test_mask_value_outside_the_classes(root):
    wrong = mask()
    wrong[5, :] = 27
    Image.fromarray(wrong).save(root / "masks/train/a.png")
    said = messages(root)["masks/train/a.png"]
    assert said.startswith("error: mask value 27 in 3.12 % of the pixels stands for no class; known: 0..1")


def test_a_jpeg_mask_is_explained(root):
    (root / "masks/train/a.png").unlink()
    Image.fromarray(mask() * 100).save(root / "masks/train/a.jpg")
    assert "save masks as PNG" in messages(root)["masks/train/a.jpg"]


def test_sixteen_bit_grey_is_scaled_and_reported(root):
    values = np.linspace(0, 65535, H * W).reshape(H, W).astype(np.uint16)
    Image.fromarray(values).save(root / "images/train/a.png")
    assert messages(root)["images/train/a.png"].startswith("warning: 16-bit image")
    data = open_data(root)
    np.testing.assert_array_equal(data.image(data.splits["train"][0])[..., 0], values // 257)


def test_sixteen_bit_rgb_is_reported(root):
    rows = (photo(0).astype(">u2") * 257).reshape(H, -1)
    (root / "images/train/a.png").write_bytes(png(W, H, b"".join(b"\0" + row.tobytes() for row in rows)))
    assert messages(root)["images/train/a.png"].startswith("warning: 16-bit image")
    data = open_data(root)
    np.testing.assert_array_equal(data.image(data.splits["train"][0]), photo(0))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_and_reported(root, mode):
    picture = Image.fromarray(photo(0)).convert(mode)
    picture.putalpha(Image.fromarray(mask()))
    picture.save(root / "images/train/a.png")
    assert "alpha is dropped" in messages(root)["images/train/a.png"]
    data = open_data(root)
    expected = np.asarray(picture)[..., : 3 if mode == "RGBA" else 1]
    assert (data.image(data.splits["train"][0]) == expected).all()


def rotated(root: Path, stored: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(root / "images/train/a.png", exif=exif)


def test_exif_is_reported_and_not_applied_where_the_mask_fits_the_stored_picture(root):
    rotated(root, photo(0), 6)
    assert messages(root)["images/train/a.png"].startswith("warning: EXIF orientation 6")
    data = open_data(root)
    record = data.splits["train"][0]
    np.testing.assert_array_equal(data.read(record).image, photo(0))
    np.testing.assert_array_equal(data.image(record), photo(0))


def test_exif_is_applied_where_only_the_turned_picture_fits_the_mask(root):
    rotated(root, np.rot90(photo(0)), 6)  # 6: turn a quarter clockwise to look at it
    data = open_data(root)
    record = data.splits["train"][0]
    np.testing.assert_array_equal(data.read(record).image, photo(0))
    np.testing.assert_array_equal(data.image(record), photo(0))
    assert check_data(data).trainable


def test_an_image_bomb_is_refused_before_decoding(root, monkeypatch):
    monkeypatch.setattr(pixels, "MAX_PIXELS", H * W)
    Image.fromarray(photo(0, (H, W + 1))).save(root / "images/train/a.png")
    assert messages(root)["images/train/a.png"].startswith("error: more than 1,536 pixels (49x32)")


def test_a_real_bomb_is_refused_too(root):
    (root / "images/train/a.png").write_bytes(png(60_000, 60_000, b""))
    assert "more than 80,000,000 pixels" in messages(root)["images/train/a.png"]


def test_classes_never_seen_in_train(root):
    (root / "classes.json").write_text(json.dumps({"classes": ["sky", "road", "tram"]}))
    assert messages(root)["split train"] == "warning: 1 of 3 classes are never seen in train: tram"


def test_masks_of_0_and_255_get_a_hint(root):
    for file in (root / "masks").rglob("*.png"):
        Image.fromarray((mask() == 1).astype(np.uint8) * 255).save(file)
    assert '"values": [0, 255]' in messages(root)["split train"]


def test_masks_without_a_label(root):
    Image.fromarray(np.full((H, W), IGNORE, dtype=np.uint8)).save(root / "masks/train/b.png")
    assert messages(root)["split train"] == "warning: 1 of 3 masks have no labelled pixel: train/b"
    for file in (root / "masks/train").iterdir():
        Image.fromarray(np.full((H, W), IGNORE, dtype=np.uint8)).save(file)
    assert not check_data(open_data(root)).trainable


def test_the_same_picture_in_two_splits(root):
    shutil.copy(root / "images/train/a.png", root / "images/val/b.png")
    said = messages(root)["splits train and val"]
    assert said == "warning: 1 of 2 val images are also in train, pixel for pixel: val/b = train/a"


def test_pictures_that_look_alike_in_two_splits(root):
    noise = np.random.default_rng(0).integers(-6, 7, (H, W, 3))
    alike = (photo(0) + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(alike).save(root / "images/val/b.png")
    said = messages(root)["splits train and val"]
    assert said.startswith("warning: 1 of 2 val images look like one of train")
    assert said.endswith("val/b ~ train/a")


def test_many_doubles_are_one_line(root):
    for index in range(50):
        for split in ("train", "val"):
            Image.fromarray(photo(100 + index)).save(root / f"images/{split}/d{index}.png")
            Image.fromarray(mask()).save(root / f"masks/{split}/d{index}.png")
    report = check_data(open_data(root))
    assert len(report.problems) == 1
    assert "50 of 52 val images" in report.problems[0].message
    assert report.problems[0].message.endswith("and 45 more")


def test_faults_outside_train_and_val_do_not_stop_training(root):
    for kind in ("images", "masks"):
        (root / kind / "test").mkdir()
        (root / kind / "test/x.png").write_bytes(b"torn")
    assert messages(root)["images/test/x.png"].startswith("warning: cannot be read")
    assert check_data(open_data(root)).trainable


def test_nothing_to_train_on(root):
    shutil.rmtree(root / "masks/train")
    report = check_data(open_data(root))
    assert not report.trainable
    assert any('split "train" has no image with a mask' in problem.message for problem in report.problems)


@pytest.mark.slow
@needs_camvid
def test_camvid_shares_equal_its_readme_and_the_check_is_quick():
    start = time.perf_counter()
    report = check_data(open_data(CAMVID))
    seconds = time.perf_counter() - start
    names = ["sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car"]
    names += ["pedestrian", "bicyclist", "ignored"]
    train = [0.1685, 0.2326, 0.0098, 0.3166, 0.0449, 0.0972, 0.0117, 0.0113, 0.0587, 0.0064, 0.0029, 0.0395]
    val = [0.0918, 0.2596, 0.0056, 0.2895, 0.0872, 0.1634, 0.0089, 0.0308, 0.0175, 0.0065, 0.0222, 0.0170]
    assert report.shares["train"] == pytest.approx(dict(zip(names, train, strict=True)), abs=1e-3)
    assert report.shares["val"] == pytest.approx(dict(zip(names, val, strict=True)), abs=1e-3)
    assert report.sizes == {"480x360": 468}
    assert report.trainable
    assert seconds < 60


@pytest.mark.slow
@needs_coco
@pytest.mark.parametrize("format", ["coco", "coco-panoptic"])
def test_coco128_is_sound(format):
    report = check_data(open_data(COCO128, format=format))
    assert report.trainable
    assert {split: count["images"] for split, count in report.counts.items()} == {"train": 80, "val": 20}
    assert any("never seen in train" in problem.message for problem in report.problems)
