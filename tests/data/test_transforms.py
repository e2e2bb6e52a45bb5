"""Training views: image and mask stay together, the zoom means what it says, colour agrees with torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from catchweight.config import override
from catchweight.data import IGNORE, Sample
from catchweight.data.transforms import Augment, Colour, View, apply_view, colour_map, draw_view, resize_image
from catchweight.errors import UsageError

SIZE = (45, 60)
GEOMETRY = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def _sample(height: int = 90, width: int = 120) -> Sample:
    """Smooth blocks of 6 classes, each of its own grey, so that the mask can be read off the image."""
    mask = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3), np.ones((height // 2, width // 3), np.uint8))
    return Sample(np.repeat((mask * 40)[..., None], 3, axis=2), mask, "blocks")


def _show(
    sample: Sample, augment: Augment, seed: int, size: tuple[int, int] = SIZE
) -> tuple[torch.Tensor, torch.Tensor]:
    view = draw_view(augment, sample.mask, size, np.random.default_rng(seed))
    return apply_view(sample, view, size, augment.fill)


@pytest.mark.parametrize("size", [SIZE, (90, 120), (51, 64), (128, 33)])
@pytest.mark.parametrize("scale", [(0.5, 2.0), (0.3, 0.4), (2.0, 2.0), (5.0, 9.0)])
def test_image_and_mask_stay_together(size: tuple[int, int], scale: tuple[float, float]) -> None:
    augment = Augment(scale=scale, **GEOMETRY)
    for seed in range(12):
        image, mask = _show(_sample(), augment, seed, size)
        assert image.shape == (3, *size)
        assert mask.shape == size
        assert image.dtype == mask.dtype == torch.uint8
        padded = mask == IGNORE
        fill = torch.tensor(augment.fill, dtype=torch.uint8)[:, None]
        assert (image[:, padded] == fill).all()
        # Away from blurred block edges the grey level must name the class under it.
        agree = (image[0].float() / 40 - mask.float()).abs() < 0.5
        assert agree[~padded].float().mean() > 0.9


def test_zoom_of_one_is_the_evaluation_resize() -> None:
    rng = np.random.default_rng(0)
    sample = Sample(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8), _sample().mask, "noise")
    image, _ = _show(sample, Augment.none(), 0)
    assert torch.equal(image, resize_image(sample.image, SIZE))


@pytest.mark.parametrize(("zoom", "share"), [(0.5, 0.25), (0.8, 0.64), (1.0, 1.0), (2.0, 1.0)])
def test_padding_is_what_the_zoom_leaves_over(zoom: float, share: float) -> None:
    _, mask = _show(_sample(), Augment(scale=(zoom, zoom), **GEOMETRY), 1)
    assert (mask != IGNORE).float().mean().item() == pytest.approx(share, abs=0.02)


def test_zooming_in_shows_that_share_of_the_image() -> None:
    view = draw_view(Augment(scale=(2.0, 2.0)), _sample().mask, SIZE, np.random.default_rng(0))
    assert view.box[2:] == (45, 60)
    assert view.shape == SIZE


def test_crops_and_paddings_reach_every_side() -> None:
    for scale, field in (((2.0, 2.0), "box"), ((0.5, 0.5), "corner")):
        augment = Augment(scale=scale)
        rngs = (np.random.default_rng(seed) for seed in range(400))
        places = np.array([getattr(draw_view(augment, _sample().mask, SIZE, rng), field)[:2] for rng in rngs])
        room = (45, 60) if field == "box" else (23, 30)
        assert (places.min(axis=0) == 0).all()
        assert (places.max(axis=0) == room).all()


def test_flip_mirrors_both() -> None:
    plain, mirrored = (_show(_sample(), Augment(scale=(1, 1), flip=p, **GEOMETRY), 4) for p in (0.0, 1.0))
    assert torch.equal(mirrored[0], plain[0].flip(-1))
    assert torch.equal(mirrored[1], plain[1].flip(-1))


def test_downscaled_image_is_antialiased_and_mask_is_not() -> None:
    stripes = np.zeros((80, 80), np.uint8)
    stripes[:, ::2] = 1
    sample = Sample(np.repeat((stripes * 254)[..., None], 3, axis=2), stripes, "stripes")
    image, mask = _show(sample, Augment.none(), 0, (20, 20))
    assert (image[:, :, 2:-2].float() - 127).abs().max() < 15
    assert set(mask.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("brightness", (1.2, 1, 1, 0)),
        ("contrast", (1, 0.7, 1, 0)),
        ("saturation", (1, 1, 1.4, 0)),
        ("grey", (1, 1, 0, 0)),
    ],
)
def test_each_adjustment_agrees_with_torchvision(name: str, factors: tuple[float, float, float, float]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(60, 180, (45, 60, 3), dtype=np.uint8)  # so that nothing clips
    reference = torch.from_numpy(image).permute(2, 0, 1)
    expected = {
        "brightness": lambda: F.adjust_brightness(reference, factors[0]),
        "contrast": lambda: F.adjust_contrast(reference, factors[1]),
        "saturation": lambda: F.adjust_saturation(reference, factors[2]),
        "grey": lambda: F.rgb_to_grayscale(reference, num_output_channels=3),
    }[name]()
    got = _recoloured(image, colour_map(*factors))
    assert (got.int() - expected.int()).abs().max() <= 2


def test_hue_turns_colour_and_keeps_luma_and_greys() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2], image[2:] = (150, 100, 100), (90, 90, 90)
    got = _recoloured(image, colour_map(1, 1, 1, 0.1)).float()
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert torch.allclose(torch.einsum("c,chw->hw", luma, got)[0, 0], luma @ torch.tensor([150.0, 100, 100]), atol=1)
    assert (got[:, 3, 3] == 90).all()
    # HSV keeps the largest channel where the rotation keeps luma: the turns agree, the brightness does not.
    slight = _recoloured(image, colour_map(1, 1, 1, 0.02))[:, 0, 0].int()
    expected = F.adjust_hue(torch.from_numpy(image).permute(2, 0, 1), 0.02)[:, 0, 0].int()
    assert (slight - expected).abs().max() <= 8
    assert got[1, 0, 0] > got[2, 0, 0]  # red turned by +36 degrees goes to orange


def _recoloured(image: np.ndarray, colour: Colour) -> torch.Tensor:
    height, width = image.shape[:2]
    view = View((0, 0, height, width), (height, width), (0, 0), False, colour, 0.0, 0.0, 0)
    sample = Sample(image, np.zeros((height, width), np.uint8), "colour")
    return apply_view(sample, view, (height, width), (0, 0, 0))[0]


@pytest.mark.parametrize("option", [{"blur": 1.0}, {"noise": 20.0}, {"grayscale": 1.0}])
def test_named_options_change_the_image_alone_and_repeatably(option: dict) -> None:
    rng = np.random.default_rng(0)
    sample = Sample(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8), _sample().mask, "noise")
    plain, changed, again = (_show(sample, Augment(**GEOMETRY, **o), 5) for o in ({}, option, option))
    assert torch.equal(changed[0], again[0])
    assert torch.equal(changed[1], plain[1])
    assert not torch.equal(changed[0], plain[0])
    if "grayscale" in option:
        inside = changed[0][:, changed[1] != IGNORE].int()
        assert (inside[0] - inside[2]).abs().max() <= 1


def test_colour_does_not_depend_on_the_number_of_threads() -> None:
    rng = np.random.default_rng(1)
    sample = Sample(rng.integers(0, 255, (400, 600, 3), dtype=np.uint8), np.zeros((400, 600), np.uint8), "big")
    shown = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            shown.append(_show(sample, Augment(), 3, (300, 400))[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*shown)


def test_rare_crops_find_the_rare_class() -> None:
    mask = np.zeros((200, 300), np.uint8)
    mask[10:20, 250:262] = 1
    rarity = np.array([0.0, 1.0])
    hits = {}
    for probability in (0.0, 1.0):
        augment = Augment(scale=(3.0, 3.0), rare_crops=probability)
        rngs = (np.random.default_rng(seed) for seed in range(60))
        boxes = [draw_view(augment, mask, (64, 96), rng, rarity).box for rng in rngs]
        hits[probability] = np.mean([(mask[t : t + h, x : x + w] == 1).any() for t, x, h, w in boxes])
        assert all(0 <= t <= 200 - h and 0 <= x <= 300 - w for t, x, h, w in boxes)
    assert hits[1.0] == 1.0
    assert hits[0.0] < 0.5


def test_rare_crops_of_an_image_without_labels_fall_anywhere() -> None:
    mask = np.full((90, 120), IGNORE, np.uint8)
    view = draw_view(Augment(rare_crops=1.0), mask, SIZE, np.random.default_rng(0), np.ones(3))
    assert view.box[2] > 0


@pytest.mark.parametrize("setting", ["scale=[2.0, 1.0]", "flip=1.5", "hue=0.7", "fill=[0, 0, 256]", "flipp=0"])
def test_impossible_settings_are_refused(setting: str) -> None:
    with pytest.raises(UsageError, match=setting.split("=")[0][:4]):
        override(Augment(), [setting])
