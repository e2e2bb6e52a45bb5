"""Small real graphs and data for the tests of int8: built by hand, solved without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from catchweight.data import SegmentationData, open_data

NAMES = ("red", "green", "blue")
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
SIZE = (48, 64)


@dataclass
class GraphBuilder:
    """Writes a graph node by node; each method returns the name of the tensor it makes."""

    size: tuple[int, int] = SIZE
    batch: int | str = 1
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, values: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def conv(
        self,
        source: str,
        name: str,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        groups: int = 1,
        stride: int = 1,
    ) -> str:
        """weight (O, C / groups, k, k), padded so that stride 1 keeps the size."""
        inputs = [source, self.constant(f"{name}.weight", weight.astype(np.float32))]
        if bias is not None:
            inputs.append(self.constant(f"{name}.bias", bias.astype(np.float32)))
        pads = [weight.shape[2] // 2, weight.shape[3] // 2] * 2
        self.nodes.append(
            helper.make_node("Conv", inputs, [name], f"node_{name}", group=groups, pads=pads, strides=[stride] * 2)
        )
        return name

    def op(self, kind: str, sources: Sequence[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(sources), [name], f"node_{name}", **attributes))
        return name

    def clip(self, source: str, name: str, high: float = 6.0) -> str:
        low = self.constant(f"{name}_low", np.float32(0))
        return self.op("Clip", [source, low, self.constant(f"{name}_high", np.float32(high))], name)

    def resize(self, source: str, name: str, shape: Sequence[int]) -> str:
        sizes = self.constant(f"{name}_sizes", np.asarray(shape, np.int64))
        return self.op(
            "Resize", [source, "", "", sizes], name, mode="linear", coordinate_transformation_mode="half_pixel"
        )

    def model(self, output: str, channels: int, size: tuple[int, int] | None = None) -> onnx.ModelProto:
        shape = [self.batch, channels, *(size or self.size)]
        graph = helper.make_graph(
            self.nodes,
            "built",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [self.batch, 3, *self.size])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        facts = {
            "classes": [{"name": name, "color": [40 * i, 80, 120]} for i, name in enumerate(NAMES[:channels])],
            "mean": MEAN, "std": STD, "size": list(self.size),
        }  # fmt: skip
        model.metadata_props.add(key="catchweight", value=json.dumps(facts))
        onnx.checker.check_model(model)
        return model


def colour_model(size: tuple[int, int] = SIZE, hidden: int = 12, blunt: float = 1.0, batch: int = 1) -> onnx.ModelProto:
    """Tells red, green and blue stripes apart at half resolution: dense, depthwise, scaled, summed, resized.

    ``blunt`` over 1 multiplies one hidden channel between the first layer and the third, which divides by it again. The
    function stays as it is, but one range has to hold all channels there: from some hundreds on, eight bits leave
    nothing of the others.
    """
    rng = np.random.default_rng(0)
    spread = np.zeros((hidden, 3, 1, 1))
    for channel in range(3):
        spread[channel, channel] = STD[channel]
    spread[3:] = 0.1 * rng.standard_normal((hidden - 3, 3, 1, 1))
    shift = np.concatenate([np.array(MEAN), np.full(hidden - 3, 0.5)])
    spread[-1], shift[-1] = spread[-1] * blunt, shift[-1] * blunt
    box = np.full((hidden, 1, 3, 3), 1 / 9)
    half = 0.5 * np.eye(hidden)[:, :, None, None]
    sharp = half.copy()
    sharp[-1] /= blunt
    head = np.zeros((3, hidden, 1, 1))
    head[range(3), range(3)] = 4
    none = np.zeros(hidden)
    built = GraphBuilder(size, batch)
    stem = built.op("Relu", [built.conv("image", "stem", spread, shift)], "stem_relu")
    mixed = built.op("Relu", [built.conv(stem, "mix", box, none, groups=hidden, stride=2)], "mix_relu")
    point = built.conv(mixed, "point", sharp, none)
    halved = built.op("Mul", [point, built.constant("half", np.float32(0.5))], "halved")
    summed = built.op("Add", [halved, built.conv(point, "narrow", half, none)], "summed")
    logits = built.conv(summed, "head", head, np.zeros(3))
    return built.model(built.resize(logits, "logits", (batch, 3, *size)), 3)


def write(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def stripes(height: int, width: int, shade: int) -> np.ndarray:
    """(H, W, 3) uint8: a red, a green and a blue third."""
    image = np.full((height, width, 3), shade, np.uint8)
    for channel in range(3):
        image[:, channel * width // 3 : (channel + 1) * width // 3, channel] = 230 - shade
    return image


def stripe_data(root: Path, images: int = 4) -> SegmentationData:
    """Striped pictures of several sizes and shades with their masks, splits train and val."""
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "masks" / split).mkdir(parents=True)
        for index in range(images):
            height, width = 60 + 12 * index, 66 + 6 * index
            Image.fromarray(stripes(height, width, 20 + 10 * index)).save(root / "images" / split / f"{index}.png")
            mask = np.repeat(np.arange(3, dtype=np.uint8), width // 3)[None].repeat(height, axis=0)
            Image.fromarray(mask).save(root / "masks" / split / f"{index}.png")
    (root / "classes.json").write_text(json.dumps({"classes": NAMES}))
    return open_data(root)


def noise(count: int = 4, size: tuple[int, int] = SIZE, seed: int = 0) -> list[np.ndarray]:
    """Normalised batches (1, 3, H, W) of seeded noise."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, 3, *size), dtype=np.float32) for _ in range(count)]
