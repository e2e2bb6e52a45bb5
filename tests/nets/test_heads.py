"""Linear heads: whichever order is cheaper, the logits are the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from catchweight.nets.heads import AuxiliaryHead, LinearHead, WeightedHead
from catchweight.nets.layers import fusion_weights


@pytest.mark.parametrize("classes", [3, 40])
@pytest.mark.parametrize("weighted", [True, False])
def test_logits_are_the_classified_sum_of_all_levels(classes: int, weighted: bool) -> None:
    torch.manual_seed(0)
    head = (WeightedHead if weighted else LinearHead)(16, 3, classes)
    factors = torch.ones(3)
    if isinstance(head, WeightedHead):
        head.v.data = torch.tensor([0.5, 2.0, -1.0])
        factors = 3 * fusion_weights(head.v.data)
    torch.nn.init.normal_(head.classifier.bias)
    levels = [torch.randn(2, 16, 17, 25), torch.randn(2, 16, 9, 12), torch.randn(2, 16, 1, 1)]
    resized = [F.interpolate(x, size=(17, 25), mode="bilinear", align_corners=False) for x in levels]
    expected = head.classifier(sum(w * x for w, x in zip(factors, resized, strict=True)))
    torch.testing.assert_close(head(levels), expected)
    assert expected.shape == (2, classes, 17, 25)


def test_auxiliary_head_keeps_the_size() -> None:
    assert AuxiliaryHead(12, 8, 5)(torch.randn(2, 12, 9, 7)).shape == (2, 5, 9, 7)
