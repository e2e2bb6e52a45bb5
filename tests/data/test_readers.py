"""Reading a data set folder, telling its format, made splits, classes files: written small, read pixel for pixel."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image
from written import SIZE, SQUARE, H, W, coco, folder, index_mask, many, only, picture, save_mask, yolo

from catchweight.data import IGNORE, READERS, BadFileError, ClassSet, distinct_colors, open_data
from catchweight.errors import CatchweightError, UsageError

# --- folder ----------------------------------------------------------------------------------------------------


def test_folder_reads_the_very_pixels(tmp_path):
    mask = index_mask(3, ignored=255)
    data = open_data(folder(tmp_path, mask))
    sample = only(data)
    assert data.format == "folder"
    assert [record.id for record in data.splits["train"]] == ["train/a", "train/b"]
    assert sample.image.dtype == sample.mask.dtype == np.uint8
    np.testing.assert_array_equal(sample.image, np.asarray(Image.open(tmp_path / "images/train/a.png")))
    np.testing.assert_array_equal(sample.mask, mask)


def test_any_ignore_value_is_handed_out_as_255(tmp_path):
    content = {"classes": ["sky", "road", "car"], "ignore_index": 3}
    data = open_data(folder(tmp_path, index_mask(3, ignored=3), classes=content))
    np.testing.assert_array_equal(only(data).mask, index_mask(3, ignored=IGNORE))


def test_an_ignored_class_in_the_middle_closes_up(tmp_path):
    content = {"classes": ["sky", "void", "car"], "ignore_index": 1, "palette": [[1, 1, 1], [2, 2, 2], [3, 3, 3]]}
    data = open_data(folder(tmp_path, index_mask(3), classes=content))
    assert data.classes == ClassSet(("sky", "car"), ((1, 1, 1), (3, 3, 3)))
    np.testing.assert_array_equal(only(data).mask, np.array([0, IGNORE, 1])[index_mask(3)])


def test_palette_masks_are_read_by_index(tmp_path):
    root = folder(tmp_path, index_mask(3))
    save_mask(root / "masks/train/a.png", index_mask(3), palette=[9, 9, 9, 200, 0, 0, 0, 200, 0])
    assert Image.open(root / "masks/train/a.png").mode == "P"
    np.testing.assert_array_equal(only(open_data(root)).mask, index_mask(3))


def test_palette_masks_of_the_classes_own_colours_are_read_by_colour(tmp_path):
    """As a tool leaves an RGB mask that makes PNGs smaller: its indices mean nothing."""
    colors = [[10, 20, 30], [0, 0, 255], [255, 0, 0]]
    content = {"classes": ["sky", "road", "car"], "palette": colors}
    root = folder(tmp_path, index_mask(3), classes=content)
    permuted = np.array([2, 0, 1], dtype=np.uint8)[index_mask(3)]
    save_mask(root / "masks/train/a.png", permuted, palette=sum((colors[place] for place in (1, 2, 0)), []))
    np.testing.assert_array_equal(only(open_data(root)).mask, index_mask(3))


@pytest.mark.parametrize(
    ("palette", "why"),
    [([0, 0, 255, 9, 9, 9, 255, 0, 0], "an unknown colour"), ([255, 0, 0], "the rest is black, and two are in use")],
)
def test_palette_masks_of_other_colours_are_read_by_index(tmp_path, palette, why):
    content = {"classes": ["sky", "road", "car"], "palette": [[0, 0, 0], [0, 0, 255], [255, 0, 0]]}
    root = folder(tmp_path, index_mask(3), classes=content)
    save_mask(root / "masks/train/a.png", index_mask(3), palette=palette)
    np.testing.assert_array_equal(only(open_data(root)).mask, index_mask(3), err_msg=why)


@pytest.mark.parametrize("keep_ignored", [True, False])
def test_colour_masks_are_read_by_the_palette(tmp_path, keep_ignored):
    colors = [[10, 20, 30], [0, 0, 255], [255, 0, 0], [0, 0, 0]]
    mask = index_mask(3, ignored=3) if keep_ignored else index_mask(3)
    content = {"classes": ["sky", "road", "car"], "palette": colors[: 4 if keep_ignored else 3]}
    data = open_data(folder(tmp_path, np.array(colors, dtype=np.uint8)[mask], classes=content))
    expected = np.where(mask == 3, IGNORE, mask)
    np.testing.assert_array_equal(only(data).mask, expected)


def test_an_unknown_colour_is_named_with_its_file(tmp_path):
    mask = np.zeros((H, W, 3), dtype=np.uint8)
    mask[2, 3] = (1, 2, 3)
    content = {"classes": ["sky", "road"], "palette": [[0, 0, 0], [9, 9, 9]]}
    data = open_data(folder(tmp_path, mask, classes=content))
    with pytest.raises(BadFileError, match=r"masks/train/a\.png: mask colour \(1, 2, 3\) stands for no class"):
        only(data)


def test_grey_written_as_rgb_counts_as_index_when_there_are_no_colours(tmp_path):
    data = open_data(folder(tmp_path, np.repeat(index_mask(3)[..., None], 3, axis=2)))
    np.testing.assert_array_equal(only(data).mask, index_mask(3))


def test_a_coloured_mask_without_colours_asks_for_them(tmp_path):
    mask = np.zeros((H, W, 3), dtype=np.uint8)
    mask[..., 0] = 50
    with pytest.raises(BadFileError, match='add "palette"'):
        only(open_data(folder(tmp_path, mask)))


@pytest.mark.parametrize("dtype", [np.uint16, bool])
def test_sixteen_and_one_bit_masks(tmp_path, dtype):
    data = open_data(folder(tmp_path, index_mask(2).astype(dtype), classes={"classes": ["sky", "road"]}))
    np.testing.assert_array_equal(only(data).mask, index_mask(2))


def test_sixteen_bit_mask_values_over_255_are_named(tmp_path):
    data = open_data(folder(tmp_path, np.full(SIZE, 700, dtype=np.uint16)))
    with pytest.raises(BadFileError, match="mask value 700 stands for no class; known: 0..2; ignored: 255"):
        only(data)


def test_values_map_masks_of_0_and_255(tmp_path):
    content = {"classes": ["background", "road"], "values": [0, 255]}
    data = open_data(folder(tmp_path, index_mask(2) * 255, classes=content))
    np.testing.assert_array_equal(only(data).mask, index_mask(2))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "# ours\nsky 1 2 3\nroad 4 5 6\ntall car 7 8 9\n"),
        ("classes.txt", "1 2 3 sky\n4 5 6\troad\n7,8,9, tall car\n"),
        ("classes.yaml", "classes: [sky, road, tall car]\npalette: [[1, 2, 3], [4, 5, 6], [7, 8, 9]]\n"),
        ("classes.yaml", "names: {0: sky, 1: road, 2: tall car}\ncolors: [[1, 2, 3], [4, 5, 6], [7, 8, 9]]\n"),
    ],
)
def test_every_kind_of_classes_file(tmp_path, name, text):
    root = folder(tmp_path, index_mask(3))
    (root / "classes.json").unlink()
    (root / name).write_text(text)
    assert open_data(root).classes == ClassSet(("sky", "road", "tall car"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))


def test_colours_are_made_where_there_are_none(tmp_path):
    classes = open_data(folder(tmp_path, index_mask(3))).classes
    assert classes.colors == distinct_colors(3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"classes": []}, "1 to 254 classes"),
        ({"classes": [f"c{i}" for i in range(255)]}, "1 to 254 classes"),
        ({"classes": ["a", "a"]}, "appear twice: a"),
        ({"classes": ["a", "b"], "palette": [[0, 0, 0]]}, '"palette" must list 2 colours'),
        ({"classes": ["a", "b"], "palette": [[0, 0, 0], [0, 0, 300]]}, r"lie in 0\.\.255"),
        ({"classes": ["a", "b"], "palette": [[0, 0, 0], [0, 0, 0]]}, "same colour"),
        ({"classes": ["a", "b"], "pallete": []}, 'did you mean "palette"'),
        ({"classes": ["a", "b"], "ignore_index": "b"}, '"ignore_index" must be integers'),
        ({"classes": ["a", "b"], "values": [0, 0]}, "its own mask value"),
        ({"names": {"0": "a", "2": "b"}}, r"number the classes 0\.\.1"),
        ({"num_classes": 2}, '"names" must be a list'),
    ],
)
def test_a_broken_classes_file_is_a_usage_error_that_names_it(tmp_path, content, message):
    root = folder(tmp_path, index_mask(2), classes=content)
    with pytest.raises(UsageError, match=message) as caught:
        open_data(root)
    assert "classes.json" in str(caught.value)


def test_no_classes_file_says_what_to_write(tmp_path):
    root = folder(tmp_path, index_mask(3))
    (root / "classes.json").unlink()
    with pytest.raises(UsageError, match="classes.txt with one name a line"):
        open_data(root)


def test_yaml_cannot_run_anything(tmp_path):
    root = folder(tmp_path, index_mask(3))
    (root / "classes.json").unlink()
    (root / "classes.yaml").write_text(f"classes: !!python/object/apply:os.mkdir ['{tmp_path}/ran']\n")
    with pytest.raises(CatchweightError, match="classes.yaml is not valid YAML"):
        open_data(root)
    assert not (tmp_path / "ran").exists()


def test_split_names_are_brought_to_ours(tmp_path):
    data = open_data(folder(tmp_path, index_mask(3), splits=("training", "validation", "night")))
    assert set(data.splits) == {"train", "val", "night"}


def test_a_picture_beside_the_split_folders_does_not_merge_them(tmp_path):
    root = folder(tmp_path, index_mask(3), splits=("train", "val", "test"))
    picture(root / "images/preview.jpg")
    data = open_data(root)
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 2, "val": 2, "test": 2}
    assert [problem.file for problem in data.problems] == [str(root / "images/preview.jpg")]


def test_folders_beside_loose_pictures_are_no_splits_without_a_known_name(tmp_path):
    root = many(tmp_path, 4)
    picture(root / "images/berlin/x.png", seed=9)
    save_mask(root / "masks/berlin/x.png", index_mask(3))
    data = open_data(root)
    assert sorted(r.id for split in data.splits.values() for r in split) == ["00", "01", "02", "03", "berlin/x"]


# --- splits that are made, pictures without masks --------------------------------------------------------------


def test_a_made_split_is_seeded_complete_and_noted(tmp_path):
    root = many(tmp_path)
    first, again, other = open_data(root, seed=1), open_data(root, seed=1), open_data(root, seed=2)
    assert first.splits == again.splits
    assert first.splits["val"] != other.splits["val"]
    assert [len(first.splits[split]) for split in ("train", "val")] == [16, 4]
    assert not {r.id for r in first.splits["train"]} & {r.id for r in first.splits["val"]}
    assert "4 of 20 train images" in first.notes[0]
    assert "seed 1" in first.notes[0]


def test_the_made_split_does_not_depend_on_where_the_data_lie(tmp_path):
    here, there = (open_data(many(tmp_path / name), seed=3) for name in ("here", "there"))
    assert [r.id for r in here.splits["val"]] == [r.id for r in there.splits["val"]]


def test_a_given_val_split_is_kept(tmp_path):
    data = open_data(folder(tmp_path, index_mask(3)))
    assert [record.id for record in data.splits["val"]] == ["val/a", "val/b"]
    assert data.notes == ()


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_val_share_must_be_a_share(tmp_path, share):
    with pytest.raises(UsageError, match="val_share"):
        open_data(many(tmp_path, 2), val_share=share)


def test_pictures_without_masks_leave_train_but_stay_in_test(tmp_path):
    root = folder(tmp_path, index_mask(3), splits=("train", "val", "test"))
    (root / "masks/train/b.png").unlink()
    for name in "ab":
        (root / f"masks/test/{name}.png").unlink()
    data = open_data(root)
    assert [record.id for record in data.splits["train"]] == ["train/a"]
    assert [record.mask for record in data.splits["test"]] == [None, None]
    assert [problem.file for problem in data.problems] == [str(root / "images/train/b.png")]
    assert "split test: 2 of 2 images have no mask" in data.notes
    assert data.image(data.splits["test"][0]).shape == (H, W, 3)
    with pytest.raises(BadFileError, match="no mask"):
        only(data, "test")


# --- telling the format, and options ---------------------------------------------------------------------------


def test_an_unknown_folder_says_what_was_looked_for_and_seen(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(UsageError) as caught:
        open_data(tmp_path)
    text = str(caught.value)
    assert all(reader.looks_for in text for reader in READERS.values())
    assert "Seen: photos/, notes.md" in text


def test_an_unknown_folder_with_a_data_set_below_points_there(tmp_path):
    root = folder(tmp_path / "VOCdevkit" / "inner", index_mask(3))
    with pytest.raises(UsageError, match=f"Did you mean {root}"):
        open_data(tmp_path)


def test_an_ambiguous_folder_must_be_named(tmp_path):
    root = yolo(folder(tmp_path, index_mask(3)), SQUARE)
    with pytest.raises(UsageError, match="fits several formats: folder .*; yolo"):
        open_data(root)
    assert open_data(root, format="yolo").format == "yolo"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "vocc"}, 'unknown data format "vocc": did you mean "voc"'),
        ({"format": "voc"}, "is not voc: it needs JPEGImages"),
        ({"background": "ignore"}, "has no effect"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        open_data(folder(tmp_path, index_mask(3)), **options)


def test_a_path_that_is_no_folder(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        open_data(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        open_data(tmp_path / "file")


# --- fingerprint and travel ------------------------------------------------------------------------------------


def test_the_fingerprint_follows_files_classes_and_splits(tmp_path):
    root = many(tmp_path / "data")
    first = open_data(root).fingerprint()
    assert open_data(root).fingerprint() == first
    assert open_data(root, seed=1).fingerprint() != first
    picture(root / "images/00.png", size=(H + 1, W))
    changed = open_data(root).fingerprint()
    assert changed != first
    (root / "classes.txt").write_text("sky\nroad\nbus\n")
    assert open_data(root).fingerprint() not in (first, changed)


def test_a_copy_of_the_data_has_the_same_fingerprint_and_another_pixel_another(tmp_path):
    root = many(tmp_path / "data")
    first = open_data(root).fingerprint()
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)  # without the times of change
    os.utime(tmp_path / "copy" / "images/00.png", (1, 1))
    assert open_data(tmp_path / "copy").fingerprint() == first

    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    seen, sizes = set(), set()
    for row in (None, 0, 150, 299):
        changed = pixels.copy()
        if row is not None:
            changed[row, 200] ^= 1
        Image.fromarray(changed).save(root / "images/00.png")
        seen.add(open_data(root).fingerprint())
        sizes.add((root / "images/00.png").stat().st_size)
    assert len(seen) == 4
    assert len(sizes) < 4, "noise does not compress, so that the size alone would not tell"


@pytest.mark.parametrize("make", [lambda root: folder(root, index_mask(3)), lambda root: yolo(root, SQUARE)])
def test_data_travel_to_worker_processes(tmp_path, make):
    data = open_data(make(tmp_path))
    copy = pickle.loads(pickle.dumps(data))
    assert copy.fingerprint() == data.fingerprint()
    np.testing.assert_array_equal(only(copy).mask, only(data).mask)


@pytest.mark.parametrize("make", [lambda root: coco(root, []), lambda root: yolo(root, SQUARE)])
def test_paths_with_dots_are_the_same_data(tmp_path, make):
    root = make(tmp_path / "data")
    (tmp_path / "beside").mkdir()
    winding = tmp_path / "beside" / ".." / "data"
    assert open_data(winding).fingerprint() == open_data(root).fingerprint()


def test_a_bad_file_error_survives_pickling():
    error = pickle.loads(pickle.dumps(BadFileError("a.png", "is torn")))
    assert (str(error), error.file, error.reason) == ("a.png: is torn", "a.png", "is torn")


def test_class_sets_round_trip_and_refuse_nonsense():
    classes = ClassSet(("sky", "road"))
    assert ClassSet.from_json(json.loads(json.dumps(classes.to_json()))) == classes
    with pytest.raises(UsageError, match="2 classes need 2 colours, but got 1"):
        ClassSet(("sky", "road"), ((0, 0, 0),))
    with pytest.raises(CatchweightError, match="class set"):
        ClassSet.from_json({"names": []})
