"""Losses against closed forms and brute force."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from catchweight.tasks.losses import (
    LossConfig,
    SegmentationLoss,
    class_weights,
    cross_entropy,
    dice,
    log_probabilities,
    lovasz_softmax,
    ohem_cross_entropy,
)

K = 4


def example(height: int = 12, width: int = 10, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, K, H, W) in float64 and masks with some ignored pixels; class 3 is absent."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, K, height, width, generator=generator, dtype=torch.float64) * 2
    masks = torch.randint(0, K - 1, (batch, height, width), generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < 0.1] = 255
    return logits, masks


def jaccard_loss(wrong: set[int], true: set[int]) -> float:
    """1 - |true right ones| / |true or wrongly taken ones| when the pixels in ``wrong`` are wrong."""
    return 1 - len(true - wrong) / len(true | wrong) if true | wrong else 0.0


def lovasz_by_definition(p: torch.Tensor, masks: torch.Tensor) -> float:
    """The Lovasz extension of the Jaccard loss, from its definition, one pixel at a time."""
    flat, truth = p.transpose(0, 1).flatten(1), masks.flatten()
    keep = truth != 255
    flat, truth, values = flat[:, keep], truth[keep], []
    for index in truth.unique().tolist():
        true = set((truth == index).nonzero().flatten().tolist())
        errors = ((truth == index).double() - flat[index]).abs()
        order = errors.argsort(descending=True).tolist()
        wrong: set[int] = set()
        value = 0.0
        for pixel in order:
            before = jaccard_loss(wrong, true)
            wrong.add(pixel)
            value += float(errors[pixel]) * (jaccard_loss(wrong, true) - before)
        values.append(value)
    return sum(values) / len(values)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)])
def test_cross_entropy_is_torchs(smoothing: float, weights: torch.Tensor | None) -> None:
    logits, masks = example()
    expected = F.cross_entropy(logits, masks, weights, ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(cross_entropy(logits.log_softmax(1), masks, weights, smoothing), expected)


def test_ohem_takes_hard_pixels_and_at_least_the_kept_share() -> None:
    logits, masks = example()
    logp = logits.log_softmax(1)
    losses = F.nll_loss(logp, masks, ignore_index=255, reduction="none").flatten()
    valid = losses[masks.flatten() != 255]
    hard = valid[valid >= -math.log(0.3)]
    torch.testing.assert_close(ohem_cross_entropy(logp, masks, 0.3, 0.0), hard.mean())
    kept = int(0.8 * losses.numel())
    assert kept > len(hard), "the example must make the kept share matter"
    torch.testing.assert_close(ohem_cross_entropy(logp, masks, 0.3, 0.8), valid.sort().values[-kept:].mean())


def test_dice_on_hard_predictions_is_one_minus_dice() -> None:
    truth = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 255]]])
    guess = torch.tensor([[[0, 1, 1, 1], [0, 0, 0, 2]]])
    p = F.one_hot(guess, K).permute(0, 3, 1, 2).double()
    # class 0: 3 of 4 true pixels found, 4 predicted; class 1: 2 of 3 found, 3 predicted; 2 and 3 are absent
    expected = 1 - (2 * 3 / 8 + 2 * 2 / 6) / 2
    assert dice(p, truth).item() == pytest.approx(expected)


def test_lovasz_is_its_definition() -> None:
    logits, masks = example(5, 4)
    p = logits.softmax(1)
    assert lovasz_softmax(p, masks, bins=0).item() == pytest.approx(lovasz_by_definition(p, masks), abs=1e-6)


def test_lovasz_of_hard_predictions_is_the_jaccard_loss() -> None:
    for labels in itertools.product(range(2), repeat=4):
        truth = torch.tensor([0, 1, 1, 0]).view(1, 2, 2)
        guess = torch.tensor(labels).view(1, 2, 2)
        p = F.one_hot(guess, 2).permute(0, 3, 1, 2).double()
        iou = [((guess == c) & (truth == c)).sum() / ((guess == c) | (truth == c)).sum() for c in range(2)]
        for bins in (0, 64):
            assert lovasz_softmax(p, truth, bins).item() == pytest.approx(1 - sum(iou).item() / 2, abs=1e-6)


def test_binned_lovasz_agrees_with_the_sorted_one_in_value_and_gradient() -> None:
    logits, masks = example(48, 48)
    results = []
    for bins in (0, 256):
        leaf = logits.float().requires_grad_()
        value = lovasz_softmax(leaf.softmax(1), masks, bins)
        (gradient,) = torch.autograd.grad(value, leaf)
        results.append((value.item(), gradient.flatten()))
    (exact, exact_gradient), (binned, binned_gradient) = results
    assert binned == pytest.approx(exact, abs=2e-3)
    assert F.cosine_similarity(exact_gradient, binned_gradient, dim=0) > 0.999


EVERYTHING = LossConfig(ce=1, ohem=1, dice=1, lovasz=1, label_smoothing=0.1, aux=0.4)


@pytest.mark.parametrize("stride", [1, 2])
def test_every_loss_has_finite_gradients_even_for_sure_networks(stride: int) -> None:
    loss = SegmentationLoss(EVERYTHING.model_copy(update={"region_stride": stride}), torch.ones(K))
    logits, masks = example(16, 16)
    leaves = [(scale * logits[:, :, ::4, ::4]).float().requires_grad_() for scale in (1.0, 1e4)]
    value = loss(leaves, masks.to(torch.uint8))
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(leaf.grad).all() and leaf.grad.abs().sum() > 0 for leaf in leaves)


@pytest.mark.parametrize("bins", [0, 256])
def test_a_logit_that_is_no_number_makes_the_loss_none(bins: int) -> None:
    """The training looks for it there, and names the images."""
    logits, masks = example(16, 16)
    for place in (logits[0, :, 3, 4], logits):
        place[...] = math.nan
        assert SegmentationLoss(LossConfig(ce=0, lovasz=1, lovasz_bins=bins))([logits], masks).isnan()


def test_a_batch_without_a_valid_pixel_has_no_loss_and_no_gradient() -> None:
    loss = SegmentationLoss(EVERYTHING)
    leaf = torch.randn(2, K, 4, 4, requires_grad=True)
    value = loss([leaf, leaf * 2], torch.full((2, 16, 16), 255, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0
    assert leaf.grad is not None
    assert leaf.grad.abs().max() == 0


def test_ignored_pixels_change_nothing() -> None:
    logits, masks = example(16, 16)
    other = torch.where((masks == 255)[:, None], torch.randn_like(logits) * 9, logits)
    loss = SegmentationLoss(EVERYTHING)
    # OHEM's kept share counts all pixels, so the ignored ones must not displace any either.
    torch.testing.assert_close(loss([logits], masks), loss([other], masks))


def test_the_sum_follows_its_weights_and_auxiliary_heads_count() -> None:
    logits, masks = example(16, 16)
    logp = log_probabilities(logits, masks.shape[-2:])
    both = SegmentationLoss(LossConfig(ce=0.5, dice=2.0))([logits], masks)
    torch.testing.assert_close(both, 0.5 * cross_entropy(logp, masks) + 2 * dice(logp.exp(), masks))
    half = masks[:, ::2, ::2]
    helped = SegmentationLoss(LossConfig(ce=1.0, aux=0.4))([logits, logits], masks)
    aux = cross_entropy(log_probabilities(logits, half.shape[-2:]), half)
    torch.testing.assert_close(helped, cross_entropy(logp, masks) + 0.4 * aux)


def test_class_weights_are_median_frequency() -> None:
    pixels = torch.tensor([800, 100, 100, 0])
    assert class_weights(pixels, 0) is None
    weights = class_weights(pixels, 1.0)
    assert weights is not None
    assert weights.tolist() == pytest.approx([1 / 8, 1, 1, 1])
    tempered = class_weights(pixels, 0.5)
    assert tempered is not None
    assert tempered[0].item() == pytest.approx(8**-0.5)
