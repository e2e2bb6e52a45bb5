"""Overlays by hand-computed pixels, colours by their distance, grids by what is on them."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catchweight.data import IGNORE, ClassSet, distinct_colors, open_data
from catchweight.data.drawing import colorize, draw_grid, overlay
from catchweight.errors import CatchweightError
from conftest import CAMVID, needs_camvid

CLASSES = ClassSet(("sky", "road"), ((0, 0, 200), (100, 0, 0)))


def test_overlay_blends_classes_and_leaves_ignored_pixels():
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    mask = np.array([[0, 1, IGNORE]], dtype=np.uint8)
    blended = overlay(image, mask, CLASSES, alpha=0.5)
    assert blended.dtype == np.uint8
    assert blended[0].tolist() == [[50, 50, 150], [100, 50, 50], [100, 100, 100]]


def test_overlay_at_the_ends_of_alpha():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    mask = np.random.default_rng(1).integers(0, 2, (8, 9), dtype=np.uint8)
    np.testing.assert_array_equal(overlay(image, mask, CLASSES, alpha=0), image)
    np.testing.assert_array_equal(overlay(image, mask, CLASSES, alpha=1), colorize(mask, CLASSES))


def test_outlines_are_in_full_colour_only_where_the_class_changes():
    mask = np.array([[0, 0, 1, 1]], dtype=np.uint8)
    blended = overlay(np.full((1, 4, 3), 255, dtype=np.uint8), mask, CLASSES, alpha=0.25, outline=True)
    full = (blended == colorize(mask, CLASSES)).all(axis=-1)
    assert full.tolist() == [[False, True, False, False]]


@pytest.mark.parametrize(("size", "alpha"), [((4, 5), 0.5), ((4, 4), 1.5)])
def test_overlay_refuses_what_does_not_fit(size, alpha):
    with pytest.raises(ValueError, match="must"):
        overlay(np.zeros((4, 4, 3), dtype=np.uint8), np.zeros(size, dtype=np.uint8), CLASSES, alpha=alpha)


def test_colours_are_distinct_steady_and_apart():
    colors = distinct_colors(254)
    assert len(set(colors)) == 254
    assert distinct_colors(7) == colors[:7]
    assert distinct_colors(0) == ()
    assert min(np.abs(np.subtract(a, b)).sum() for a, b in combinations(colors[:20], 2)) > 60
    assert all(max(color) - min(color) > 30 for color in colors)  # no greys


def tiny(root: Path, sizes: tuple[tuple[int, int], ...]) -> Path:
    for place, (height, width) in enumerate(sizes):
        for kind, array in (
            ("images", np.full((height, width, 3), 128, dtype=np.uint8)),
            ("masks", np.full((height, width), place % 2, dtype=np.uint8)),
        ):
            file = root / kind / "train" / f"{place:02}_{'long' * 40}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(file)
    classes = {"classes": ["sky", "road"], "palette": [[0, 0, 200], [100, 0, 0]]}
    (root / "classes.json").write_text(json.dumps(classes))
    return root


@pytest.mark.parametrize("sizes", [((20, 30),) * 2, ((20, 30), (40, 10), (7, 7), (30, 20), (1, 90))])
def test_a_grid_shows_pictures_and_legend(tmp_path, sizes):
    data = open_data(tiny(tmp_path / "data", sizes))
    path = draw_grid(data, tmp_path / "out" / "grid.png", count=12, cell=60)
    page = np.asarray(Image.open(path))
    shown = {tuple(color) for color in page.reshape(-1, 3).tolist()}
    assert {(128, 128, 128), (0, 0, 200), (100, 0, 0)} <= shown
    assert page.shape[1] == 2 * 28 + min(3, len(sizes)) * 122 + (min(3, len(sizes)) - 1) * 20


def test_a_grid_passes_over_broken_pictures(tmp_path):
    root = tiny(tmp_path / "data", ((20, 30),) * 4)
    for file in sorted((root / "images/train").iterdir())[:2]:
        file.write_bytes(b"torn")
    draw_grid(open_data(root), tmp_path / "grid.png", cell=40)
    assert (tmp_path / "grid.png").stat().st_size > 0
    for file in (root / "images/train").iterdir():
        file.write_bytes(b"torn")
    with pytest.raises(CatchweightError, match="nothing to draw"):
        draw_grid(open_data(root), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.slow
@needs_camvid
def test_the_grid_of_camvid(tmp_path):
    page = Image.open(draw_grid(open_data(CAMVID), tmp_path / "grid.png"))
    assert page.width > 1200
