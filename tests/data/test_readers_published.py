"""CamVid, Cityscapes and Pascal VOC."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from written import SIZE, H, W, index_mask, only, picture, save_mask

from catchweight.data import IGNORE, open_data
from conftest import CAMVID, needs_camvid


def test_camvid(tmp_path):
    for split in ("train", "val", "test"):
        picture(tmp_path / split / "0001.png")
    for split in ("train", "val"):
        save_mask(tmp_path / f"{split}annot" / "0001.png", index_mask(11, ignored=11))
    data = open_data(tmp_path)
    assert (data.format, len(data.classes), set(data.splits)) == ("camvid", 11, {"train", "val", "test"})
    np.testing.assert_array_equal(only(data).mask, index_mask(11, ignored=IGNORE))


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    label_ids = np.zeros(SIZE, dtype=np.uint8)
    label_ids[:, 0:4] = [7, 8, 26, 33]
    label_ids[:, 4:8] = [0, 5, 29, 255]
    for split in ("train", "val"):
        picture(tmp_path / f"leftImg8bit/{split}/ulm/ulm_1_leftImg8bit.png")
        save_mask(tmp_path / f"gtFine/{split}/ulm/ulm_1_gtFine_labelIds.png", label_ids)
        save_mask(tmp_path / f"gtFine/{split}/ulm/ulm_1_gtFine_color.png", label_ids)
    picture(tmp_path / "leftImg8bit/test/bonn/bonn_1_leftImg8bit.png")
    data = open_data(tmp_path)
    assert (data.format, len(data.classes), data.classes.names[13]) == ("cityscapes", 19, "car")
    assert data.splits["train"][0].id == "train/ulm/ulm_1"
    assert data.splits["test"][0].mask is None
    assert only(data).mask[0, :9].tolist() == [0, 1, 13, 18, 255, 255, 255, 255, 255]


def voc(root: Path) -> Path:
    palette = [part for color in VOC_COLORS for part in color]
    for name in ("2007_01", "2007_02", "2007_03"):
        picture(root / f"JPEGImages/{name}.jpg")
        save_mask(root / f"SegmentationClass/{name}.png", index_mask(21, ignored=255), palette)
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_01\n2007_02\n")
    (lists / "val.txt").write_text("2007_03\n\n")
    (lists / "trainval.txt").write_text("2007_01\n2007_02\n2007_03\n")
    return root


VOC_COLORS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]


def test_voc(tmp_path):
    data = open_data(voc(tmp_path))
    assert (data.format, len(data.classes), set(data.splits)) == ("voc", 21, {"train", "val"})
    assert list(data.classes.colors[:4]) == VOC_COLORS
    assert data.classes.colors[20] == (0, 64, 128)  # tvmonitor, as in the devkit's colour map
    np.testing.assert_array_equal(only(data, "val").mask, index_mask(21, ignored=255))


def test_voc_masks_may_be_coloured_with_its_void_border(tmp_path):
    root = voc(tmp_path)
    coloured = np.zeros((H, W, 3), dtype=np.uint8)
    coloured[:, 4:8], coloured[:, 8:] = VOC_COLORS[3], (224, 224, 192)
    save_mask(root / "SegmentationClass/2007_03.png", coloured)
    assert only(open_data(root), "val").mask[0, [0, 4, 8]].tolist() == [0, 3, IGNORE]


def test_voc_without_lists_uses_every_pair(tmp_path):
    root = voc(tmp_path)
    shutil.rmtree(root / "ImageSets")
    picture(root / "JPEGImages/unlabelled.jpg")
    data = open_data(root)
    used = sorted(record.id for records in data.splits.values() for record in records)
    assert used == ["2007_01", "2007_02", "2007_03"]
    assert "no ImageSets/Segmentation lists" in data.notes[0]


def test_voc_lists_cannot_leave_the_folder(tmp_path):
    root = voc(tmp_path / "voc")
    picture(tmp_path / "secret.jpg")
    (root / "ImageSets/Segmentation/train.txt").write_text("../../secret\n/etc/passwd\nmissing\n2007_01\n")
    data = open_data(root)
    assert [record.id for record in data.splits["train"]] == ["2007_01"]
    said = [problem.message for problem in data.problems]
    assert ["leads out" in text for text in said] == [True, True, False]
    assert "no JPEGImages/missing.jpg" in said[2]


@pytest.mark.slow
@needs_camvid
def test_camvid_opens_as_it_is():
    data = open_data(CAMVID)
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 367, "val": 101}
    assert (data.format, len(data.classes), data.classes.names[3]) == ("folder", 11, "road")
    assert only(data).mask.max() == IGNORE
