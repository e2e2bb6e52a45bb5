"""Demo scenes: exact, repeatable, of any size, and too hard for colour alone."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from catchweight.data import check_data, open_data
from catchweight.data.scenes import CLASSES, make_scenes, render_scene
from catchweight.data.scenes.canvas import NEAR, SKY, Camera, Canvas, cut_near
from catchweight.errors import UsageError

SMALL = (64, 96)

Scenes = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def train() -> Scenes:
    return [render_scene(SMALL, 0, "train", index) for index in range(28)]


@pytest.fixture(scope="module")
def val() -> Scenes:
    return [render_scene(SMALL, 0, "val", index) for index in range(12)]


def test_same_seed_same_bits_in_a_fresh_process() -> None:
    image, mask = render_scene(SMALL, seed=3, split="val", index=5)
    code = (
        "import hashlib; from catchweight.data.scenes import render_scene;"
        f"i, m = render_scene({SMALL}, 3, 'val', 5); print(hashlib.sha256(i.tobytes() + m.tobytes()).hexdigest())"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()


@pytest.mark.parametrize("other", [{"seed": 1}, {"split": "val"}, {"index": 1}])
def test_seed_split_and_index_each_change_the_scene(other: dict) -> None:
    base = {"seed": 0, "split": "train", "index": 0}
    assert not np.array_equal(render_scene(SMALL, **base)[0], render_scene(SMALL, **(base | other))[0])


@pytest.mark.parametrize("size", [(32, 32), (65, 131), (144, 80)])
def test_any_size(size: tuple[int, int]) -> None:
    image, mask = render_scene(size, index=2)
    assert image.shape == (*size, 3)
    assert mask.shape == size
    assert image.dtype == mask.dtype == np.uint8
    assert mask.max() < len(CLASSES)


def test_every_class_is_common_enough_to_be_learnt(train: Scenes) -> None:
    masks = np.stack([mask for _, mask in train])
    shares = np.bincount(masks.ravel(), minlength=len(CLASSES)) / masks.size
    assert shares.min() > 0.005, dict(zip(CLASSES, shares, strict=True))
    assert shares.max() < 0.45
    seen_in = [(masks == k).any(axis=(1, 2)).mean() for k in range(len(CLASSES))]
    assert min(seen_in) > 0.5


def test_colour_and_mask_share_their_edges() -> None:
    """One outline drawn once changes exactly the same pixels of both pictures."""
    canvas = Canvas(Camera(80, 120, 110.0, 40.0, 1.7, 0.02, 0.001))
    canvas.polygon([(-1, 0, 4), (1, 0, 4), (1.4, 2, 6), (-1, 2, 5)], 6, (200, 10, 10), 99)
    canvas.blob((2, 1, 5), 0.5, 4, (200, 10, 10), 99)
    label, _, light = canvas.facts()
    painted = canvas.colour()[..., 0] == 200
    assert painted.sum() > 300
    assert np.array_equal(painted, label != SKY)
    assert np.array_equal(painted, light < 0.5)


def test_ground_is_the_inverse_of_project() -> None:
    camera = Camera(80, 120, 110.0, 40.0, 1.7, 0.03, 0.002)
    x, z = camera.ground()
    rows, columns = np.nonzero(z < 50)
    points = np.stack([x[rows, columns], np.zeros(len(rows)), z[rows, columns]], axis=1)
    pixels = camera.project(points.astype(float))
    assert len(rows) > 1000
    np.testing.assert_allclose(pixels, np.stack([columns, rows], axis=1), atol=0.05)


def test_polygons_are_cut_at_the_near_plane() -> None:
    square = np.array([(-1, 0, -2.0), (1, 0, -2), (1, 0, 4), (-1, 0, 4)])
    cut = cut_near(square)
    assert cut[:, 2].min() == pytest.approx(NEAR)
    assert len(cut) == 4
    assert len(cut_near(square - [0, 0, 10])) == 0


def test_shadows_darken_without_changing_class() -> None:
    canvas = Canvas(Camera(80, 120, 110.0, 40.0, 1.7, 0.0, 0.0))
    canvas.polygon([(-9, 0, 1), (9, 0, 1), (9, 0, 50), (-9, 0, 50)], 0, (90, 90, 90), 255)
    before = canvas.facts()[0]
    canvas.shadow([(-1, 0, 4), (1, 0, 4), (1, 0, 8), (-1, 0, 8)])
    canvas.cast()
    label, _, light = canvas.facts()
    assert np.array_equal(label, before)
    assert 0 < (light == 0).mean() < 0.2


def test_make_scenes_writes_a_data_set_that_passes_the_check(tmp_path: Path) -> None:
    folder = make_scenes(tmp_path / "a", {"train": 4, "val": 2}, SMALL, seed=7)
    data = open_data(folder)
    assert tuple(data.classes.names) == CLASSES
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 4, "val": 2}
    assert check_data(data).trainable
    sample = data.read(data.splits["val"][1])
    image, mask = render_scene(SMALL, 7, "val", 1)
    assert np.array_equal(sample.image, image)
    assert np.array_equal(sample.mask, mask)


def test_a_scene_does_not_depend_on_the_count(tmp_path: Path) -> None:
    few = make_scenes(tmp_path / "few", {"train": 1}, SMALL)
    more = make_scenes(tmp_path / "more", {"train": 2, "val": 1}, SMALL)
    name = "images/train/00000.png"
    assert (few / name).read_bytes() == (more / name).read_bytes()


def test_making_the_same_scenes_again_does_nothing_and_other_scenes_are_refused(tmp_path: Path) -> None:
    folder = make_scenes(tmp_path / "a", {"train": 1}, SMALL)
    before = (folder / "images/train/00000.png").stat().st_mtime_ns
    make_scenes(folder, {"train": 1}, SMALL)
    assert (folder / "images/train/00000.png").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="choose another folder"):
        make_scenes(folder, {"train": 2}, SMALL)
    with pytest.raises(UsageError, match="at least 32"):
        make_scenes(tmp_path / "b", {"train": 1}, (8, 64))


def _linear_miou(train: Scenes, val: Scenes, position: bool) -> float:
    """mIoU on unseen scenes of softmax regression on RGB (and row, column)."""

    def pixels(scenes: Scenes) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.from_numpy(np.stack([image for image, _ in scenes])).float() / 128 - 1
        if position:
            grid = torch.meshgrid(torch.linspace(-1, 1, SMALL[0]), torch.linspace(-1, 1, SMALL[1]), indexing="ij")
            x = torch.cat([x, torch.stack(grid, -1).expand(len(scenes), -1, -1, -1)], dim=-1)
        y = torch.from_numpy(np.stack([mask for _, mask in scenes])).long()
        return x.flatten(0, 2), y.flatten()

    x, y = (part[::17] for part in pixels(train))
    torch.manual_seed(0)
    linear = nn.Linear(x.shape[1], len(CLASSES))
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=60)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(linear(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    x, y = pixels(val)
    chosen = linear(x).argmax(dim=1)
    pairs = torch.bincount(y * len(CLASSES) + chosen, minlength=len(CLASSES) ** 2)
    confusion = pairs.view(len(CLASSES), -1).double()
    hits = confusion.diagonal()
    return float((hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean())


@pytest.mark.parametrize("position", [False, True], ids=["colour", "colour-and-position"])
def test_a_linear_pixel_classifier_fails(train: Scenes, val: Scenes, position: bool) -> None:
    score = _linear_miou(train, val, position)
    assert 0.10 < score < 0.45
