"""A real ONNX file that needs no training: one 1x1 convolution that tells red, green and blue apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = [
    {"name": "red", "color": [220, 20, 20]},
    {"name": "green", "color": [20, 200, 20]},
    {"name": "blue <b>", "color": [20, 20, 220]},
]
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)


def write_colour_file(
    path: Path, size: tuple[int, int] = (48, 64), batch: int | str = 1, stride: int = 1, metadata: object = None
) -> Path:
    """Logits are the pixel values 0..1 (undoing MEAN and STD), averaged over ``stride`` by ``stride`` pixels."""
    weight = np.diag(np.array(STD, np.float32)).reshape(3, 3, 1, 1)
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[stride] * 2, strides=[stride] * 2),
        helper.make_node("Conv", ["pooled", "weight", "bias"], ["logits"]),
    ]
    low = [size[0] // stride, size[1] // stride]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, *size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3, *low])],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.array(MEAN, np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    facts = {"classes": CLASSES, "mean": MEAN, "std": STD, "size": size} if metadata is None else metadata
    if facts:
        text = facts if isinstance(facts, str) else json.dumps(facts)
        model.metadata_props.add(key="catchweight", value=text)
    onnx.save(model, path)
    return path


def stripes(height: int = 48, width: int = 60) -> np.ndarray:
    """(H, W, 3) uint8: a red, a green and a blue third, from left to right."""
    image = np.full((height, width, 3), 30, np.uint8)
    for channel in range(3):
        image[:, channel * width // 3 : (channel + 1) * width // 3, channel] = 230
    return image


def stripes_mask(height: int = 48, width: int = 60) -> np.ndarray:
    """The classes of :func:`stripes`, (H, W) uint8."""
    return np.repeat(np.arange(3, dtype=np.uint8), width // 3)[None].repeat(height, axis=0)
