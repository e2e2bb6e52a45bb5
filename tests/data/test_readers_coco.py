"""COCO: polygons, run lengths, panoptic PNGs, and files that are broken."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from written import H, W, box, coco, only, picture, region, runs, save_mask

from catchweight.data import IGNORE, BadFileError, check_data, open_data
from catchweight.data.cache import PixelCache
from catchweight.errors import CatchweightError
from conftest import COCO128, needs_coco


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


def rewritten(root, change):
    """The COCO file of train with its images changed by ``change(entry)``."""
    file = root / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    for entry in content["images"]:
        change(entry)
    file.write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("turned", [6, 8])
def test_regions_on_an_upright_picture_are_painted_on_the_upright_picture(tmp_path, turned):
    """The JSON's size says which way up they were drawn."""
    entry = {"id": 1, "image_id": 0, "category_id": 7, "segmentation": region("polygon")}
    root = coco(tmp_path, [entry], ("a.png",))
    exif = Image.Exif()
    exif[0x0112] = turned
    upright = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    stored = np.ascontiguousarray(np.rot90(upright, 1 if turned == 6 else -1))
    Image.fromarray(stored).save(root / "images/train/a.png", exif=exif)
    data = open_data(root)
    sample = only(data)
    np.testing.assert_array_equal(sample.image, upright)
    np.testing.assert_array_equal(sample.mask, 2 * box(2, 3, 10, 9))
    np.testing.assert_array_equal(data.image(data.splits["train"][0]), upright)
    rewritten(root, lambda image: image.update(height=W, width=H))
    np.testing.assert_array_equal(only(open_data(root)).image, stored)


def test_pictures_of_another_size_than_the_annotated_ones_are_errors(tmp_path):
    entry = {"id": 1, "image_id": 0, "category_id": 7, "segmentation": region("polygon")}
    root = rewritten(coco(tmp_path, [entry]), lambda image: image.update(height=2 * H, width=2 * W))
    with pytest.raises(BadFileError, match=r"a\.jpg: annotated at 32x24 \(W x H\), the file is 16x12"):
        only(open_data(root))
    assert not check_data(open_data(root)).trainable


@pytest.mark.parametrize("side", [None, 0, "12"])
def test_entries_without_a_size_are_taken_as_stored(tmp_path, side):
    entry = {"id": 1, "image_id": 0, "category_id": 7, "segmentation": region("polygon")}
    root = rewritten(coco(tmp_path, [entry]), lambda image: image.update(height=side))
    np.testing.assert_array_equal(only(open_data(root)).mask, 2 * box(2, 3, 10, 9))


def test_pictures_whose_names_differ_in_the_suffix_alone_are_two(tmp_path):
    entries = [
        {"id": place, "image_id": place, "category_id": category, "segmentation": region("polygon")}
        for place, category in enumerate((7, 3))
    ]
    root = coco(tmp_path, entries, ("a.jpg", "a.png", "b.jpg"))
    (root / "annotations/instances_val2017.json").unlink()
    data = open_data(root)
    records = {record.id: record for split in data.splits.values() for record in split}
    assert sorted(records) == ["train2017/a.jpg", "train2017/a.png", "train2017/b"]
    assert [len(data.splits[split]) for split in ("train", "val")] == [2, 1]
    for name, label in (("a.jpg", 2), ("a.png", 1)):
        np.testing.assert_array_equal(data.mask(records[f"train2017/{name}"]), label * box(2, 3, 10, 9))


@pytest.mark.parametrize("second", [{"id": 1, "file_name": "a.jpg"}, {"id": 0, "file_name": "b.jpg"}])
def test_a_picture_or_id_listed_twice_is_an_error(tmp_path, second):
    root = coco(tmp_path, [], ("a.jpg", "b.jpg"))
    rewritten(root, lambda image: image.update(second) if image["id"] else None)
    data = open_data(root)
    assert [record.id for record in data.splits["train"]] == ["train2017/a"]
    assert [(problem.level, problem.message) for problem in data.problems] == [
        ("error", f'image "{second["file_name"]}" (id {second["id"]}): that file or id is listed before; skipped')
    ]


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


def panoptic(root, entries):
    """One COCO panoptic file of two pictures, the second without labels; returns the PNG's pixels."""
    segments = np.zeros((H, W, 3), dtype=np.uint8)
    segments[:, 4:8] = (1, 2, 0)  # segment 513
    segments[:, 8:] = (0, 0, 1)  # segment 65536
    save_mask(root / "panoptic/train/a.png", segments)
    picture(root / "images/train/a.jpg")
    picture(root / "images/train/b.jpg")
    content = {
        "images": [{"id": 0, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 0, "file_name": "a.png", "segments_info": entries}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "grass"}],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations/panoptic_train.json").write_text(json.dumps(content))
    return segments


def test_coco_panoptic(tmp_path):
    segments = panoptic(tmp_path, [{"id": 513, "category_id": 7}, {"id": 65536, "category_id": 3}])
    data = open_data(tmp_path)
    assert (data.format, data.classes.names) == ("coco-panoptic", ("cat", "grass"))
    assert only(data).mask[0, [0, 4, 8]].tolist() == [IGNORE, 1, 0]
    assert [problem.message for problem in data.problems] == ["image without a mask: it is not used"]
    save_mask(tmp_path / "panoptic/train/a.png", segments + 1)
    with pytest.raises(BadFileError, match="segment .* is not in the JSON"):
        only(data)


def test_segments_corrected_in_the_json_reach_fingerprint_and_cache(tmp_path):
    masks, prints = [], []
    for category in (3, 7, 7):
        panoptic(tmp_path / "data", [{"id": 513, "category_id": category}, {"id": 65536, "category_id": 3}])
        data = open_data(tmp_path / "data")
        masks.append(PixelCache(tmp_path / "cache").bind(data)(data.splits["train"][0]).mask[0, 4])
        prints.append(data.reading())
    assert masks == [0, 1, 1]
    assert prints[0] != prints[1] == prints[2]


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
