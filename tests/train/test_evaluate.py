"""Evaluation at native label resolution against a plain computation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix
from training_helpers import tiny_net

from catchweight.data import ClassSet, SegmentationData
from catchweight.data.loading import EvalBatch, EvalLoader
from catchweight.train import eager_predict, evaluate

pytest_plugins = ["training_helpers"]

CLASSES = ClassSet(("road", "sky", "tree"))


def batches() -> list[EvalBatch]:
    """Two batches whose masks have sizes of their own; the class "tree" occurs nowhere."""
    generator = torch.Generator().manual_seed(0)

    def mask(height: int, width: int) -> Tensor:
        values = torch.randint(0, 2, (height, width), generator=generator, dtype=torch.uint8)
        return values.where(torch.rand(height, width, generator=generator) > 0.1, torch.tensor(255, dtype=torch.uint8))

    images = torch.randint(0, 256, (2, 3, 16, 20), generator=generator, dtype=torch.uint8)
    return [
        EvalBatch(images, [mask(33, 41), mask(16, 20)], ("a", "b")),
        EvalBatch(images[:1], [mask(50, 21)], ("c",)),
    ]


def predict(images: Tensor) -> Tensor:
    """Logits at a quarter of the size, never for the third class."""
    x = images.float() / 255
    return F.avg_pool2d(torch.stack([x[:, 0], x[:, 1], x[:, 2] * 0 - 1], dim=1), 4)


def test_logits_are_upsampled_to_each_mask_before_the_best_class_is_taken() -> None:
    score = evaluate(predict, batches(), CLASSES, boundary=True)
    theirs = MulticlassConfusionMatrix(3, ignore_index=255)
    for batch in batches():
        for logits, mask in zip(predict(batch.images), batch.masks, strict=True):
            large = F.interpolate(logits[None], size=mask.shape, mode="bilinear", align_corners=False)
            theirs.update(large.argmax(1), mask[None].long())
    assert torch.equal(torch.from_numpy(score.confusion), theirs.compute())
    assert score.absent == ("tree",)
    assert set(score.per_class) == {"road", "sky"}
    assert score.miou == pytest.approx(sum(score.per_class.values()) / 2)
    assert [name for name, _ in score.per_image] == ["a", "b", "c"]
    assert score.boundary_f is not None
    assert 0 < score.boundary_f < 1


def test_right_everywhere_scores_one() -> None:
    batch = batches()[1]
    truth = F.one_hot(batch.masks[0].long().clamp(max=2), 3).permute(2, 0, 1)[None].float()
    score = evaluate(lambda images: truth, [batch], CLASSES, boundary=True)
    assert score.miou == score.pixel_accuracy == score.boundary_f == 1.0


def test_eager_networks_are_evaluated_in_evaluation_mode(data: SegmentationData) -> None:
    net = tiny_net(len(data.classes)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    loader = EvalLoader(data, "val", (64, 64), batch=3)
    first, second = (evaluate(eager_predict(net), loader, data.classes) for _ in range(2))
    assert first.miou == second.miou
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
