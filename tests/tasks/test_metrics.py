"""Metrics against torchmetrics, closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchmetrics.classification import MulticlassConfusionMatrix

from catchweight.tasks.metrics import (
    BoundaryF,
    SegmentationScore,
    border,
    class_iou,
    confusion_matrix,
    mean_iou,
    within,
)

NAMES = ("road", "sky", "tree")


def maps(seed: int = 0, height: int = 20, width: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    guess = torch.randint(0, 3, (height, width), generator=generator, dtype=torch.uint8)
    truth = torch.randint(0, 3, (height, width), generator=generator, dtype=torch.uint8)
    truth[torch.rand(truth.shape, generator=generator) < 0.2] = 255
    return guess, truth


def test_confusion_matrix_is_torchmetrics() -> None:
    guess, truth = maps()
    theirs = MulticlassConfusionMatrix(3, ignore_index=255)(guess.long(), truth.long())
    assert torch.equal(confusion_matrix(guess, truth, 3), theirs)


def test_confusion_matrix_with_many_classes_keeps_ignored_pixels_apart() -> None:
    truth = torch.tensor([[253, 255, 0]], dtype=torch.uint8)
    guess = torch.tensor([[253, 253, 253]], dtype=torch.uint8)
    counts = confusion_matrix(guess, truth, 254)
    assert counts.sum() == 2
    assert counts[253, 253] == counts[0, 253] == 1


def test_iou_by_hand_and_absent_classes_are_left_out_and_named() -> None:
    confusion = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    score = SegmentationScore.of(confusion, NAMES)
    assert score.per_class == pytest.approx({"road": 6 / 9, "sky": 3 / 6})
    assert score.miou == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert score.pixel_accuracy == pytest.approx(9 / 12)
    assert score.absent == ("tree",)


def test_a_class_only_predicted_counts_as_zero() -> None:
    confusion = np.array([[6, 0, 2], [0, 3, 0], [0, 0, 0]])
    assert class_iou(confusion)[2] == 0
    assert mean_iou(confusion) == pytest.approx((6 / 8 + 1 + 0) / 3)


def test_nothing_labelled_scores_zero() -> None:
    assert mean_iou(np.zeros((3, 3))) == 0.0


def test_border_and_reach_are_scipys() -> None:
    regions = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(2, 40, 50)), (0, 3, 3)) > 0.05
    for region, mine in zip(regions, border(torch.from_numpy(regions)), strict=True):
        assert np.array_equal(mine.numpy(), region & ~ndimage.binary_erosion(region, border_value=1))
    for region, near in zip(regions, within(torch.from_numpy(regions), 4), strict=True):
        assert np.array_equal(near.numpy(), ndimage.distance_transform_edt(~region) <= 4)


def test_boundary_f_forgives_a_shift_within_the_tolerance_only() -> None:
    def halves(column: int) -> torch.Tensor:
        mask = torch.zeros(60, 80, dtype=torch.uint8)
        mask[:, column:] = 1
        return mask

    # The diagonal is 100 pixels: a tolerance of 0.03 reaches 3 pixels.
    assert BoundaryF(2, 0.03).update(halves(40), halves(40)) == 1.0
    assert BoundaryF(2, 0.03).update(halves(43), halves(40)) == 1.0
    assert BoundaryF(2, 0.03).update(halves(46), halves(40)) < 0.2


def test_boundary_f_averages_images_and_skips_unlabelled_ones() -> None:
    metric = BoundaryF(2)
    plain = torch.zeros(32, 32, dtype=torch.uint8)
    half = plain.clone()
    half[16:] = 1
    metric.update(plain, torch.full_like(plain, 255))
    assert metric.compute() == 0.0
    metric.update(half, half)
    metric.update(plain, half)
    assert metric.compute() == pytest.approx(0.5)
    assert metric.update(plain, plain) == 1.0
