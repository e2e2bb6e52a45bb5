"""Memory of activations: closed forms, an interpreter that frees what is not read again, and ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from catchweight.errors import UsageError
from catchweight.nets import build_network
from catchweight.targets.tracing.graph import to_onnx
from catchweight.targets.tracing.liveness import live_bytes, liveness
from catchweight.targets.tracing.runtime_steps import BLOCK, Step, runtime_steps
from catchweight.targets.tracing.trace import IMAGE, trace

H, W = 16, 24
IMAGE_BYTES = 4 * 3 * H * W
MAP = 4 * H * W  # one channel


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, BLOCK, 1)
        self.conv, self.norm = nn.Conv2d(BLOCK, BLOCK, 3, padding=1), nn.BatchNorm2d(BLOCK)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.relu(self.norm(self.conv(x)) + x).mean((2, 3))


def test_norm_and_activation_share_the_convolutions_buffer() -> None:
    traced = trace(nn.Sequential(nn.Conv2d(3, BLOCK, 1), nn.BatchNorm2d(BLOCK), nn.ReLU(), nn.MaxPool2d(2)), (H, W))
    runtime, eager = liveness(traced), liveness(traced, "eager")
    # The pooled map, and its copy out of the blocked layout, are a quarter each.
    assert runtime.curve == (*(IMAGE_BYTES + BLOCK * MAP,) * 3, IMAGE_BYTES + BLOCK * MAP * 5 // 4)
    assert eager.curve == tuple(IMAGE_BYTES + BLOCK * MAP * n for n in (1, 2, 2, 1.25))
    assert runtime.peak_op == "max_pool2d"


def test_a_residual_sum_needs_two_maps_fused_and_three_eager() -> None:
    traced = trace(Residual(), (H, W))
    assert liveness(traced).peak_bytes == IMAGE_BYTES + 2 * BLOCK * MAP
    assert liveness(traced, "eager").peak_bytes == IMAGE_BYTES + 3 * BLOCK * MAP


class Dynamic(nn.Module):
    """A convolution by a weight that is made from the image, and to its result another map is added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, BLOCK, 1), nn.Conv2d(3, BLOCK, 1)
        self.make = nn.Linear(BLOCK, BLOCK * BLOCK)

    def forward(self, x: Tensor) -> Tensor:
        side, y = self.side(x), self.stem(x)
        weight = self.make(y.mean((2, 3))).view(BLOCK, BLOCK, 1, 1)
        return nn.functional.conv2d(y, weight) + side


def test_a_weight_made_from_the_image_is_read_and_not_added() -> None:
    traced = trace(Dynamic(), (H, W))
    image, side, weight = (traced.by_name[name] for name in ("conv2d_1", "conv2d", "view"))
    last = runtime_steps(traced)[-1]
    assert last.reads == (f"{image.name} copy", weight.name, f"{side.name} copy")
    assert last.over == (f"{side.name} copy",)
    # While a map is copied out of blocks it exists twice, beside the other one and the weights.
    assert liveness(traced).peak_bytes == IMAGE_BYTES + 3 * BLOCK * MAP + weight.out.bytes


def test_channels_are_filled_up_to_blocks_and_copied_out() -> None:
    traced = trace(nn.Conv2d(3, BLOCK - 1, 1), (H, W))
    assert liveness(traced).peak_bytes == IMAGE_BYTES + BLOCK * MAP + (BLOCK - 1) * MAP


def test_reshapes_share_and_permutations_copy() -> None:
    flat = trace(nn.Flatten(2), (H, W))
    assert liveness(flat).peak_bytes == liveness(flat, "eager").peak_bytes == IMAGE_BYTES

    class Permuted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 2, 3, 1)

    permuted = trace(Permuted(), (H, W))
    assert liveness(permuted).peak_bytes == 2 * IMAGE_BYTES
    assert liveness(permuted, "eager").peak_bytes == IMAGE_BYTES
    # With one channel the same permutation moves nothing.
    assert liveness(trace(nn.Sequential(nn.Conv2d(3, 1, 1), Permuted()), (H, W))).peak_bytes < IMAGE_BYTES + 20 * MAP


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="eager"):
        liveness(trace(nn.ReLU(), (H, W)), "eagre")


@st.composite
def programs(draw: st.DrawFn) -> list[Step]:
    names, steps = [IMAGE], []
    for index in range(draw(st.integers(1, 12))):
        reads = tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)))
        view = draw(st.booleans()) and draw(st.booleans())
        over = reads if draw(st.booleans()) and not view else ()
        size = draw(st.sampled_from((4, 8)))
        steps.append(Step((), reads, f"v{index}", 0 if view else size, over, reads[0] if view else None))
        names.append(f"v{index}")
    return steps


@settings(max_examples=200, deadline=None)
@given(programs(), st.data())
def test_against_running_the_program(steps: list[Step], data: st.DataObject) -> None:
    """Run step by step with a table of owners: a buffer is freed when no value in it is read or returned later."""
    outputs = set(data.draw(st.lists(st.sampled_from([step.result for step in steps]), max_size=2)))
    buffer, size, seen = {IMAGE: 0}, {0: 8}, []

    def wanted(after: int) -> set[int]:
        later = {name for step in steps[after:] for name in (*step.reads,)} | outputs | {IMAGE}
        return {buffer[name] for name in later if name in buffer}

    for index, step in enumerate(steps):
        needed = wanted(index) | {buffer[name] for name in step.reads}
        # Only what nobody else wants, counting values that come to share the buffer by this very step, may be reused.
        spare = [buffer[name] for name in step.over if buffer[name] not in wanted(index + 1)]
        spare = [one for one in spare if size[one] == step.bytes]
        if step.view:
            target = buffer[step.view]
        elif spare:
            target = spare[0]
        else:
            target = len(size)
            size[target] = step.bytes
        buffer[step.result] = target
        seen.append(sum(size[one] for one in needed | {target}))
    assert live_bytes(steps, 8, outputs) == seen


class Tracking(Interpreter):
    """Runs a graph, forgets every value after its last reader, and sums the distinct storages that remain."""

    def __init__(self, module: torch.fx.GraphModule, image: Tensor) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.image, self.peak = image, 0
        self.weights = {tensor.untyped_storage().data_ptr() for tensor in module.state_dict().values()}

    def run_node(self, n: Node) -> object:
        result = super().run_node(n)
        held: dict[int, int] = {}
        for value in (*self.env.values(), result, self.image):
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.weights:
                    held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(held.values()))
        return result


@pytest.mark.parametrize("name", ["ffnet_22s_bcc_mobile", "timm/mobilenetv3_small_100+fpn", "timm/resnet18+bifpn"])
def test_eager_against_an_interpreter_that_counts_storages(name: str) -> None:
    traced = trace(build_network(name, 11).eval(), (64, 96))
    image = torch.zeros(1, 3, 64, 96)
    tracking = Tracking(traced.program.module(), image)
    with torch.no_grad():
        tracking.run(image)
    assert liveness(traced, "eager").peak_bytes == pytest.approx(tracking.peak, rel=0.01)


def test_runtime_against_what_onnx_runtime_asks_its_allocator_for(tmp_path: Path) -> None:
    """A pyramid on blocked and plain maps; benchmarks/memory.py has more networks."""
    net, size = build_network("timm/mobilenetv3_small_100+fpn", 11).eval(), (128, 192)
    counted = liveness(trace(net, size)).peak_bytes - 4 * 3 * size[0] * size[1]  # the image is not the runtime's
    assert counted == pytest.approx(requested_bytes(to_onnx(net, tmp_path / "net.onnx", size), size), rel=0.1)


def requested_bytes(path: Path, size: tuple[int, int]) -> int:
    """The most bytes that a session has requested for activations, by its own profiler; buffers freed when done."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_reuse = options.enable_mem_pattern = False
    options.enable_profiling, options.profile_file_prefix = True, str(path.with_suffix(""))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    session.run(None, {"image": np.zeros((1, 3, *size), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    return max(int(event["args"]["mem_bytes_requested_in_use"]) for event in events if event.get("cat") == "Node")
