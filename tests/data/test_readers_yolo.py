"""Ultralytics YOLO-seg: text polygons."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from written import SQUARE, H, W, box, only, picture, yolo

from catchweight.data import IGNORE, BadFileError, check_data, open_data


@pytest.mark.parametrize(("background", "empty", "dog"), [(None, 0, 2), ("ignore", IGNORE, 1)])
def test_yolo(tmp_path, background, empty, dog):
    data = open_data(yolo(tmp_path, SQUARE), background=background)
    assert data.format == "yolo"
    np.testing.assert_array_equal(only(data).mask, np.where(box(4, 3, 12, 9) == 1, dog, empty))


def test_yolo_as_roboflow_exports_it(tmp_path):
    """A folder a split with images and labels in it, "valid" for val, and paths that lead one folder too high."""
    for split in ("train", "valid", "test"):
        picture(tmp_path / split / "images/a.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels/a.txt").write_text(SQUARE)
    lines = [f"{key}: ../{split}/images" for key, split in (("train", "train"), ("val", "valid"), ("test", "test"))]
    (tmp_path / "data.yaml").write_text("\n".join([*lines, "nc: 2", "names: ['cat', 'dog']\n"]))
    data = open_data(tmp_path)
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 1, "val": 1, "test": 1}
    for split in data.splits:
        np.testing.assert_array_equal(only(data, split).mask, 2 * box(4, 3, 12, 9))


def test_yolo_polygons_are_drawn_on_the_upright_picture(tmp_path):
    root = yolo(tmp_path, "1 0 0 0.5 0 0.5 1 0 1\n")  # the left half, as it is looked at
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    Image.fromarray(np.rot90(upright)).save(root / "images/train/a.png", exif=exif)
    sample = only(open_data(root))
    np.testing.assert_array_equal(sample.image, upright)
    np.testing.assert_array_equal(sample.mask, 2 * box(0, 0, W // 2, H))


def test_a_yolo_yaml_file_opens_its_folder(tmp_path):
    root = yolo(tmp_path, SQUARE)
    assert open_data(root / "data.yaml").splits == open_data(root).splits


def test_the_yolo_yaml_file_that_is_given_is_the_one_that_is_read(tmp_path):
    root = yolo(tmp_path, SQUARE)
    (root / "other.yaml").write_text("train: images/val\nval: images/val\nnames: [bus, tram]\n")
    for _ in range(2):  # beside data.yaml, then beside another one of no known name
        data = open_data(root / "other.yaml")
        assert data.classes.names == ("background", "bus", "tram")
        assert [record.id for record in data.splits["train"]] == ["images/val/a"]
        assert data.file == root / "other.yaml"
        if (root / "data.yaml").exists():
            (root / "data.yaml").rename(root / "first.yaml")


def test_yolo_without_a_label_file_is_background(tmp_path):
    root = yolo(tmp_path, SQUARE)
    picture(root / "images/train/b.png")
    (root / "labels/train/a.txt").rename(root / "labels/train/b.txt")
    data = open_data(root)
    assert (only(data).mask == 0).all()
    assert [problem.message for problem in data.problems] == ["no label file a.txt: taken as all background"]


def test_a_yolo_split_without_any_label_file_is_unlabelled(tmp_path):
    root = yolo(tmp_path, SQUARE)
    picture(root / "images/test/a.png")
    (root / "labels/val").rename(root / "labels/val_seg")
    data = open_data(root)
    assert [record.mask for record in data.splits["test"]] == [None]
    report = check_data(data)
    assert [p.message for p in report.problems if p.level == "error"] == [
        'split "val" has no image with a mask: training needs some'
    ]
    assert any(f"no label file {root / 'labels/val/a.txt'}, nor" in problem.message for problem in report.problems)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("0 0.5 0.5 0.2 0.2", "line 1 is a detection box"),
        (SQUARE + "2 0 0 1 0 1 1", r"line 2: class 2, but data.yaml names 0..1"),
        ("0 1 2 30 4 5 6", "normalised"),
        ("0 a b c d e f", "not numbers"),
        ("0 0 0 1", "no polygon"),
        ("0 nan 0 1 0 1 1", "normalised"),
    ],
)
def test_yolo_bad_lines_name_file_and_line(tmp_path, label, message):
    with pytest.raises(BadFileError, match=message) as caught:
        only(open_data(yolo(tmp_path, label)))
    assert "labels/train/a.txt" in str(caught.value)


def test_yolo_paths_out_of_the_folder_are_not_followed(tmp_path):
    picture(tmp_path / "elsewhere/images/x.png")
    yaml = "path: ../elsewhere\ntrain: ../elsewhere/images\nval: images/val\nnames: [cat, dog]\n"
    data = open_data(yolo(tmp_path / "yolo", SQUARE, yaml))
    assert [record.id for record in data.splits["train"]] == ["images/train/a"]
    assert "train: ../elsewhere/images is not in" in data.notes[0]


def test_yolo_splits_may_be_lists_in_text_files(tmp_path):
    root = yolo(tmp_path, SQUARE, "train: [train.txt]\nval: images/val\nnames: [cat, dog]\n")
    (root / "train.txt").write_text("./images/train/a.png\n/etc/passwd\n")
    data = open_data(root)
    assert [record.id for record in data.splits["train"]] == ["images/train/a"]
    assert "/etc/passwd" in data.problems[0].message
