"""Every layout, tiny but really written, read back pixel for pixel."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from catchweight.data import IGNORE, READERS, BadFileError, ClassSet, distinct_colors, open_data
from catchweight.errors import CatchweightError, UsageError
from conftest import CAMVID, COCO128, needs_camvid, needs_coco

H, W = 12, 16
SIZE = (H, W)


def picture(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    """Write a random RGB picture of (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def index_mask(classes: int, ignored: int | None = None) -> np.ndarray:
    """Columns of classes 0, 1, ... and, if asked, a last column of the ignored value."""
    mask = np.tile((np.arange(W) * classes // W).astype(np.uint8), (H, 1))
    if ignored is not None:
        mask[:, -1] = ignored
    return mask


def save_mask(path: Path, mask: np.ndarray, palette: list[int] | None = None) -> Path:
    """Write a mask: ``(H, W)`` as grey or, with a palette, as palette PNG; ``(H, W, 3)`` as RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image = image.convert("P")
        image.putpalette(palette + [0] * (768 - len(palette)))  # a short one makes Pillow write fewer bits
    image.save(path)
    return path


def folder(root: Path, mask: np.ndarray, splits: tuple[str, ...] = ("train", "val"), classes: object = None) -> Path:
    """The folder layout with two pictures a split, all with the same mask."""
    for split in splits:
        for name in "ab":
            picture(root / "images" / split / f"{name}.png", seed=len(split) + ord(name))
            save_mask(root / "masks" / split / f"{name}.png", mask)
    content = classes if classes is not None else {"classes": ["sky", "road", "car"]}
    (root / "classes.json").write_text(json.dumps(content))
    return root


def only(data, split: str = "train"):
    """Read the first record of a split."""
    return data.read(data.splits[split][0])


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


# --- splits that are made, pictures without masks --------------------------------------------------------------


def many(root: Path, count: int = 20) -> Path:
    for index in range(count):
        picture(root / f"images/{index:02}.png", seed=index)
        save_mask(root / f"masks/{index:02}.png", index_mask(3))
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    return root


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


# --- the other layouts -----------------------------------------------------------------------------------------


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


def coco(root: Path, annotations: list[dict], names: tuple[str, ...] = ("a.jpg",)) -> Path:
    """Two COCO files, train and val, with category ids 3 (cat) and 7 (dog)."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        images = [{"id": i, "file_name": name, "height": H, "width": W} for i, name in enumerate(names)]
        for name in names:
            picture(root / f"images/{split}/{Path(name).name}")
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        }
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
    return root


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=np.uint8, order="F")
    mask[top:bottom, left:right] = 1
    return mask


def runs(mask: np.ndarray) -> list[int]:
    """Uncompressed COCO run lengths: column by column, zeros first."""
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *changes, flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths


def region(kind: str) -> object:
    if kind == "polygon":
        return [[2, 3, 10, 3, 10, 9, 2, 9]]
    if kind == "uncompressed":
        return {"size": [H, W], "counts": runs(box(2, 3, 10, 9))}
    return {"size": [H, W], "counts": coco_mask.encode(box(2, 3, 10, 9))["counts"].decode()}


@pytest.mark.parametrize("kind", ["polygon", "uncompressed", "compressed"])
@pytest.mark.parametrize(("background", "empty", "dog"), [("class", 0, 2), ("ignore", IGNORE, 1)])
def test_coco_regions(tmp_path, kind, background, empty, dog):
    entry = {"id": 1, "image_id": 0, "category_id": 7, "segmentation": region(kind)}
    data = open_data(coco(tmp_path, [entry]), background=background)
    assert data.format == "coco"
    assert data.classes.names == (("background",) if background == "class" else ()) + ("cat", "dog")
    expected = np.where(box(2, 3, 10, 9) == 1, dog, empty)
    np.testing.assert_array_equal(only(data).mask, expected)


def test_coco_small_regions_lie_on_large_ones_and_crowds_below(tmp_path):
    def entry(category, mask, crowd):
        segmentation = {"size": [H, W], "counts": runs(mask)}
        return {"id": 1, "image_id": 0, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}

    small, large, crowd = box(4, 4, 6, 6), box(2, 2, 9, 9), box(8, 8, 10, 10)
    data = open_data(coco(tmp_path, [entry(3, small, 0), entry(7, large, 0), entry(3, crowd, 1)]))
    mask = only(data).mask
    assert (mask[4, 4], mask[2, 2], mask[8, 8], mask[9, 9]) == (1, 2, 2, 1)


def test_coco_file_names_cannot_leave_the_folder(tmp_path):
    picture(tmp_path / "secret.jpg")
    names = ("a.jpg", "../../../secret.jpg", str(tmp_path / "secret.jpg"), "../train/a.jpg")
    root = coco(tmp_path / "coco", [], names[:1])
    for file in (root / "annotations").iterdir():
        content = json.loads(file.read_text())
        content["images"] = [{"id": i, "file_name": name} for i, name in enumerate(names)]
        file.write_text(json.dumps(content))
    data = open_data(root)
    assert [record.id for record in data.splits["train"]] == ["train2017/a"]
    assert sum("is not in the data set" in problem.message for problem in data.problems) == 6


def test_coco_bad_annotations_are_problems_not_crashes(tmp_path):
    entries = [
        {"id": 1, "image_id": 0, "category_id": 99, "segmentation": region("polygon")},
        {"id": 2, "image_id": 0, "category_id": 3, "segmentation": []},
        {"id": 3, "image_id": 0, "category_id": 3, "segmentation": [["x", 1, 2, 3, 4, 5]]},
    ]
    data = open_data(coco(tmp_path, entries))
    said = [problem.message for problem in data.problems if problem.level == "error"]
    assert said[0] == "annotation 1: category 99 is not in its list"
    assert "no segmentation" in said[1]
    assert "not numbers" in said[2]


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [H, W], "counts": [5]},
        {"size": [H + 1, W], "counts": [0, (H + 1) * W]},
        {"counts": [5]},
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, float("nan"), 5]],
        7,
    ],
)
def test_coco_broken_regions_name_the_file(tmp_path, segmentation):
    entry = {"id": 1, "image_id": 0, "category_id": 7, "segmentation": segmentation}
    data = open_data(coco(tmp_path, [entry]))
    with pytest.raises(BadFileError, match=r"instances_train2017\.json \(image a\.jpg\): broken region"):
        only(data)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"images": []},
        {"images": [], "annotations": [], "categories": [{"id": "x", "name": "cat"}]},
        {"images": [], "annotations": [], "categories": []},
        {
            "images": [5, {"id": [1], "file_name": "a.jpg"}],
            "annotations": [],
            "categories": [{"id": 1, "name": "cat"}],
        },
        {"images": [], "annotations": ["no"], "categories": [{"id": 1, "name": "cat"}]},
    ],
)
@pytest.mark.parametrize("kind", ["instances", "panoptic"])
def test_malformed_coco_files_are_errors_for_people(tmp_path, content, kind):
    picture(tmp_path / "images/train/a.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / f"annotations/{kind}_train.json").write_text(json.dumps(content))
    with pytest.raises(CatchweightError):
        open_data(tmp_path)


def test_names_too_long_for_a_file_system_are_absent(tmp_path):
    root = coco(tmp_path, [])
    file = root / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    content["images"].append({"id": 9, "file_name": "x" * 5000 + ".jpg"})
    file.write_text(json.dumps(content))
    assert len(open_data(root).splits["train"]) == 1


def test_a_polygon_that_reaches_to_infinity_takes_no_memory(tmp_path):
    entry = {"id": 1, "image_id": 0, "category_id": 7, "segmentation": [[-1e12, -1e12, 1e12, -1e12, 1e12, 1e12]]}
    mask = only(open_data(coco(tmp_path, [entry]))).mask
    assert mask[0, -1] == 2


def test_coco_panoptic(tmp_path):
    segments = np.zeros((H, W, 3), dtype=np.uint8)
    segments[:, 4:8] = (1, 2, 0)  # segment 513
    segments[:, 8:] = (0, 0, 1)  # segment 65536
    save_mask(tmp_path / "panoptic/train/a.png", segments)
    picture(tmp_path / "images/train/a.jpg")
    picture(tmp_path / "images/train/b.jpg")
    entries = [{"id": 513, "category_id": 7}, {"id": 65536, "category_id": 3}]
    content = {
        "images": [{"id": 0, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 0, "file_name": "a.png", "segments_info": entries}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "grass"}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/panoptic_train.json").write_text(json.dumps(content))
    data = open_data(tmp_path)
    assert (data.format, data.classes.names) == ("coco-panoptic", ("cat", "grass"))
    assert only(data).mask[0, [0, 4, 8]].tolist() == [IGNORE, 1, 0]
    assert [problem.message for problem in data.problems] == ["image without a mask: it is not used"]
    save_mask(tmp_path / "panoptic/train/a.png", segments + 1)
    with pytest.raises(BadFileError, match="segment .* is not in the JSON"):
        only(data)


def yolo(root: Path, label: str, yaml: str = "train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n") -> Path:
    for split in ("train", "val"):
        picture(root / f"images/{split}/a.png")
        (root / f"labels/{split}").mkdir(parents=True)
        (root / f"labels/{split}/a.txt").write_text(label)
    (root / "data.yaml").write_text(yaml)
    return root


SQUARE = "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"


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


def test_yolo_without_a_label_file_is_background(tmp_path):
    root = yolo(tmp_path, SQUARE)
    (root / "labels/train/a.txt").unlink()
    data = open_data(root)
    assert (only(data).mask == 0).all()
    assert "no label file a.txt" in data.problems[0].message


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


# --- real data -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_camvid
def test_camvid_opens_as_it_is():
    data = open_data(CAMVID)
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 367, "val": 101}
    assert (data.format, len(data.classes), data.classes.names[3]) == ("folder", 11, "road")
    assert only(data).mask.max() == IGNORE


@pytest.mark.slow
@needs_coco
def test_coco_instances_and_panoptic_agree_on_things():
    """The instance file was made from the panoptic PNGs: every thing pixel must have the same class in both."""
    things, everything = open_data(COCO128), open_data(COCO128, format="coco-panoptic")
    records = {record.id: record for split in everything.splits.values() for record in split}
    names = np.array([*everything.classes.names, *["-"] * (256 - len(everything.classes))])
    for record in things.splits["val"]:
        mask, other = things.mask(record), everything.mask(records[record.id])
        thing = mask > 0
        assert (np.array(things.classes.names)[mask[thing]] == names[other[thing]]).all()
        assert not np.isin(names[other[~thing]], things.classes.names).any()
