"""A tiny real segmentation network, its data, and its exported file, for the tests of this room."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from catchweight.data.classes import ClassSet
from catchweight.data.loading import EvalBatch
from catchweight.nets.segmentation import FeatureInfo, NetSpec, SegmentationNet

CLASSES = ClassSet(("road", "sky", "tree", "car"))
SIZE = (64, 72)


class TinyNet(SegmentationNet):
    """Encoder, neck and head of a few channels: a folded norm, a shared layer, an in-place activation, a skip."""

    def __init__(self) -> None:
        super().__init__(NetSpec("tiny", len(CLASSES)))
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.down = nn.Conv2d(8, 8, 3, 2, 1)
        self.neck = nn.ModuleDict({"x": nn.Conv2d(8, 8, 1), "y": nn.Conv2d(8, 8, 1)})
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, len(CLASSES), 1)

    @property
    def feature_info(self) -> list[FeatureInfo]:
        return [FeatureInfo("stem", 8, 2), FeatureInfo("down", 8, 4)]

    def logits(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        coarse = self.shared(self.neck["x"](self.down(fine)))
        up = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.head(self.shared(torch.relu(self.neck["y"](fine) + up)))


def tiny_net(seed: int = 0) -> TinyNet:
    torch.manual_seed(seed)
    net = TinyNet()
    norm = net.stem[1]
    nn.init.uniform_(norm.running_mean, -0.5, 0.5)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.uniform_(net.head.bias, -0.1, 0.1)
    return net


def batches(count: int = 5, size: tuple[int, int] = SIZE, per_batch: int = 2) -> list[EvalBatch]:
    """Smooth random images with masks twice their size; the last batch is smaller."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    images = (F.interpolate(coarse, size=size, mode="bilinear") * 255).to(torch.uint8)
    masks = torch.randint(0, len(CLASSES), (count, 2 * size[0], 2 * size[1]), generator=generator).to(torch.uint8)
    masks[:, :10] = 255
    ids = tuple(f"image{index}" for index in range(count))
    return [
        EvalBatch(images[at : at + per_batch], list(masks[at : at + per_batch]), ids[at : at + per_batch])
        for at in range(0, count, per_batch)
    ]
