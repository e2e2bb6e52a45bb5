"""Losses of semantic segmentation: cross-entropy, OHEM, Dice and Lovasz-softmax over one shared softmax.

All of them read log-probabilities ``(B, K, H, W)`` in float32 and masks ``(B, H, W)`` int64 in which 255 marks
pixels that count for nothing. A batch without a single valid pixel has loss 0, and gradients of 0.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..config import Config
from ..data.classes import IGNORE


class LossConfig(Config):
    """Weights of the losses that are summed, and their options. A weight of 0 leaves a loss out."""

    ce: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy."""
    ohem: float = Field(default=0.0, ge=0)
    """Weight of the cross-entropy over hard pixels only."""
    dice: float = Field(default=0.0, ge=0)
    """Weight of the soft Dice loss."""
    lovasz: float = Field(default=0.0, ge=0)
    """Weight of the Lovasz-softmax loss."""
    aux: float = Field(default=0.4, ge=0)
    """Weight of the cross-entropy of each auxiliary head, if the network has any."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the label spread over all classes, in the cross-entropy."""
    class_balance: float = Field(default=0.0, ge=0, le=1)
    """Cross-entropy weight of a class = (median frequency / its frequency) to this power; 0 = all alike."""
    ohem_threshold: float = Field(default=0.7, gt=0, lt=1)
    """Pixels whose true class has a lower probability than this are hard."""
    ohem_keep: float = Field(default=1 / 16, ge=0, le=1)
    """Share of all pixels kept at least, hardest first."""
    lovasz_bins: int = Field(default=256, ge=0)
    """Errors are sorted into this many bins, linear in the pixels; 0 = exact sort."""
    region_stride: int = Field(default=1, ge=1)
    """Dice and Lovasz look at every n-th pixel of every n-th row (a fraction of the time on a CPU)."""


class SegmentationLoss(nn.Module):
    """The weighted sum that a ``LossConfig`` asks for.

    Args:
        config: the weights.
        class_weights: float ``(K,)``, the weight of a pixel of each class in the cross-entropies, or None.
    """

    def __init__(self, config: LossConfig, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: list[Tensor], masks: Tensor) -> Tensor:
        """Loss of one batch, a float32 scalar.

        Args:
            logits: ``[main, auxiliary...]``, each ``(B, K, h, w)`` at its own resolution.
            masks: ``(B, H, W)`` uint8 or int64; 255 is ignored.
        """
        masks = masks.long()
        loss = self._main(log_probabilities(logits[0], masks.shape[-2:]), masks)
        if self.config.aux and len(logits) > 1:
            # Half the rows and columns guide an auxiliary head as well, at a quarter of the cost.
            small = masks[:, ::2, ::2]
            for extra in logits[1:]:
                loss = loss + self.config.aux * self._cross_entropy(log_probabilities(extra, small.shape[-2:]), small)
        return loss

    def _main(self, logp: Tensor, masks: Tensor) -> Tensor:
        config = self.config
        terms = []
        if config.ce:
            terms.append(config.ce * self._cross_entropy(logp, masks))
        if config.ohem:
            loss = ohem_cross_entropy(logp, masks, config.ohem_threshold, config.ohem_keep, self._weights())
            terms.append(config.ohem * loss)
        if config.dice or config.lovasz:
            stride = config.region_stride
            p, small = logp[:, :, ::stride, ::stride].exp(), masks[:, ::stride, ::stride]
            if config.dice:
                terms.append(config.dice * dice(p, small))
            if config.lovasz:
                terms.append(config.lovasz * lovasz_softmax(p, small, config.lovasz_bins))
        return sum(terms, start=logp.new_zeros(()))

    def _cross_entropy(self, logp: Tensor, masks: Tensor) -> Tensor:
        return cross_entropy(logp, masks, self._weights(), self.config.label_smoothing)

    def _weights(self) -> Tensor | None:
        weights = self.class_weights
        return weights if isinstance(weights, Tensor) else None


def log_probabilities(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Logits ``(B, K, h, w)``, upsampled bilinearly to ``size``, as float32 log-probabilities."""
    logits = logits.float()
    if logits.shape[-2:] != torch.Size(size):
        logits = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
    return logits.log_softmax(dim=1)


def cross_entropy(logp: Tensor, masks: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
    """Mean negative log-likelihood over valid pixels, weighted and smoothed as ``F.cross_entropy`` does."""
    total = F.nll_loss(logp, masks, weights, ignore_index=IGNORE, reduction="sum")
    valid = masks != IGNORE
    count = valid.sum() if weights is None else weights[masks[valid]].sum()
    if label_smoothing:
        spread = logp.mean(1) if weights is None else torch.einsum("bkhw,k->bhw", logp, weights) / len(weights)
        total = (1 - label_smoothing) * total - label_smoothing * (spread * valid).sum()
    return total / count.clamp(min=1e-6)


def ohem_cross_entropy(
    logp: Tensor, masks: Tensor, threshold: float = 0.7, keep: float = 1 / 16, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy over hard pixels (online hard example mining; Shrivastava et al., 2016).

    Hard are pixels whose true class has a probability under ``threshold``; the hardest ``keep`` share of all
    pixels stays in whatever its probability.
    """
    losses = F.nll_loss(logp, masks, weights, ignore_index=IGNORE, reduction="none").flatten()
    limit = losses.new_tensor(-math.log(threshold))
    least = int(keep * losses.numel())
    if least:
        limit = torch.minimum(limit, losses.detach().kthvalue(losses.numel() - least + 1).values)
    hard = (losses >= limit) & (masks.flatten() != IGNORE)
    return (losses * hard).sum() / hard.sum().clamp(min=1)


def dice(p: Tensor, masks: Tensor) -> Tensor:
    """Soft Dice loss over the batch, averaged over the classes present in it (Milletari et al., 2016).

    Args:
        p: probabilities ``(B, K, H, W)``.
        masks: ``(B, H, W)`` int64.
    """
    classes = p.shape[1]
    valid = masks != IGNORE
    truth = masks.where(valid, 0)
    own = p.gather(1, truth[:, None])[:, 0] * valid
    overlap = p.new_zeros(classes).index_add(0, truth.flatten(), own.flatten())
    predicted = (p * valid[:, None]).sum((0, 2, 3))
    actual = torch.bincount(truth[valid], minlength=classes)
    present = actual > 0
    losses = 1 - 2 * overlap / (predicted + actual).clamp(min=1e-6)
    return (losses * present).sum() / present.sum().clamp(min=1)


def lovasz_softmax(p: Tensor, masks: Tensor, bins: int = 256) -> Tensor:
    """Lovasz-softmax: the convex surrogate of 1 - IoU, averaged over present classes (Berman et al., 2018).

    The surrogate weighs each pixel's error by how much the Jaccard loss grows when that pixel joins the wrong
    ones, going through the pixels by falling error. Two ways to that order: an exact sort (``bins=0``), or
    counting errors into ``bins`` bins, which costs a few passes instead of K sorts and differs from the exact
    value by less than about ``1 / bins``.

    Args:
        p: probabilities ``(B, K, H, W)``.
        masks: ``(B, H, W)`` int64.
    """
    flat = p.transpose(0, 1).flatten(1)
    valid = masks.flatten() != IGNORE
    truth = masks.flatten().where(valid, 0)
    return _lovasz_binned(flat, truth, valid, bins) if bins else _lovasz_sorted(flat, truth, valid)


def _lovasz_sorted(p: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """``p`` (K, N), ``truth`` and ``valid`` (N,)."""
    p, truth = p[:, valid], truth[valid]
    foreground = F.one_hot(truth, len(p)).T.float()
    errors, order = (foreground - p).abs().sort(dim=1, descending=True)
    foreground = foreground.gather(1, order)
    total = foreground.sum(1, keepdim=True)
    jaccard = 1 - (total - foreground.cumsum(1)) / (total + (1 - foreground).cumsum(1)).clamp(min=1)
    growth = jaccard.diff(dim=1, prepend=torch.zeros_like(total))
    present = total[:, 0] > 0
    return ((errors * growth).sum(1) * present).sum() / present.sum().clamp(min=1)


def _lovasz_binned(p: Tensor, truth: Tensor, valid: Tensor, bins: int) -> Tensor:
    """As ``_lovasz_sorted``, with the pixels of one bin taken in together.

    With f true and b false pixels before, and G true ones in all, a further true pixel adds 1 / (G + b) to the
    Jaccard loss and a further false one (G - f) / (G + b) / (G + b + 1); inside a bin f and b are taken at
    its middle, and the bin's whole growth is exact. True pixels are few (one class each), so they are handled
    apart from the (K, N) others.
    """
    classes, pixels = p.shape
    own = p.gather(0, truth[None])[0]
    with torch.no_grad():
        offsets = torch.arange(classes, device=p.device, dtype=torch.int32) * bins
        # A NaN becomes a place like any other and reaches the sum, where the training looks for it.
        place = (p * bins).to(torch.int32).clamp_(0, bins - 1).add_(offsets[:, None])
        own_place = ((1 - own) * bins).to(torch.int32).clamp_(0, bins - 1).add_(offsets[truth])
        true_count = _histogram(own_place[valid], classes, bins)
        # Every pixel counts as false for every class, then the true ones and the ignored ones are taken out.
        other = _histogram(place.flatten(), classes, bins)
        other -= _histogram(place.gather(0, truth[None])[0][valid], classes, bins)
        if not bool(valid.all()):
            other -= _histogram(place[:, ~valid].flatten(), classes, bins)
        true_weight, false_weight = _bin_weights(true_count, other)
        pixel_weight = false_weight.flatten().index_select(0, place.flatten()).view(classes, pixels)
        pixel_weight.scatter_(0, truth[None], 0.0)
        pixel_weight *= valid
        own_weight = true_weight.flatten().index_select(0, own_place) * valid
    present = (true_count.sum(1) > 0).sum()
    return ((p * pixel_weight).sum() + ((1 - own) * own_weight).sum()) / present.clamp(min=1)


def _histogram(places: Tensor, classes: int, bins: int) -> Tensor:
    return torch.bincount(places, minlength=classes * bins).view(classes, bins).float()


def _bin_weights(true_count: Tensor, false_count: Tensor) -> tuple[Tensor, Tensor]:
    """Growth of the Jaccard loss per true and per false pixel of each bin ``(K, bins)``; 0 for absent classes."""
    total = true_count.sum(1, keepdim=True)

    def so_far(count: Tensor) -> Tensor:  # pixels of this bin's error or a larger one
        return count.flip(1).cumsum(1).flip(1)

    true_end, false_end = so_far(true_count), so_far(false_count)
    union = (total + false_end - false_count / 2).clamp(min=1)
    true_weight = 1 / union
    false_weight = (total - true_end + true_count / 2) / (union * (union + 1))
    # Scaled so that the bin as a whole adds exactly what the Jaccard loss grows from its start to its end.
    at_end = 1 - (total - true_end) / (total + false_end).clamp(min=1)
    at_start = 1 - (total - true_end + true_count) / (total + false_end - false_count).clamp(min=1)
    estimate = true_count * true_weight + false_count * false_weight
    scale = (at_end - at_start) / estimate.clamp(min=1e-12) * (total > 0)
    return true_weight * scale, false_weight * scale


def class_weights(pixels: Tensor, exponent: float) -> Tensor | None:
    """Median-frequency weights (Eigen & Fergus, 2015) of classes with ``pixels`` (K,) in training, tempered.

    ``exponent`` 0 gives None (no weighting), 1 the full ratio; weights stay within [0.1, 10] and a class that
    never occurs gets 1.
    """
    if exponent == 0:
        return None
    seen = pixels > 0
    frequency = pixels.float() / pixels.sum().clamp(min=1)
    median = frequency[seen].median() if bool(seen.any()) else frequency.new_ones(())
    weights = (median / frequency.clamp(min=1e-12)) ** exponent
    return weights.clamp(0.1, 10).where(seen, 1.0)
