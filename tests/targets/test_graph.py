"""Export to ONNX and reading it back: parity, mode, atomicity, and files that must be refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

from catchweight.errors import CatchweightError, UsageError
from catchweight.targets.tracing.graph import MODULE_KEY, check_onnx, fixed_input, load_graph, to_onnx
from departures import departs


class SameNet(nn.Module):
    """Strided "same" convolutions, a norm, a skip and an upsampling: what segmentation networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv2dSame(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.down = Conv2dSame(8, 8, 5, stride=2, groups=8, bias=False)
        self.mix = nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, 4, 1)
        nn.init.uniform_(self.norm.running_mean, -1, 1)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.relu(self.norm(self.stem(x)))
        coarse = self.mix(self.down(fine))
        joined = fine + F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return F.interpolate(self.head(joined), size=x.shape[-2:], mode="bilinear", align_corners=False)


@pytest.fixture
def net() -> SameNet:
    torch.manual_seed(0)
    return SameNet()


@pytest.mark.parametrize("size", [(64, 64), (65, 77)])
def test_fixed_size_computes_the_same_and_holds_no_padding_node(net: SameNet, tmp_path: Path, size) -> None:
    path = to_onnx(net, tmp_path / "a.onnx", size, batch=2)
    assert departs(path, net, (2, 3, *size)) < 1e-5
    kinds = {node.op_type for node in load_graph(path).graph.node}
    assert kinds == {"Conv", "Relu", "Add", "Resize"}  # norm and padding are merged, shapes are constants


def test_free_size_computes_the_same_at_odd_sizes(net: SameNet, tmp_path: Path) -> None:
    path = to_onnx(net, tmp_path / "a.onnx", (64, 96), dynamic=True)
    for shape in [(1, 3, 64, 96), (3, 3, 65, 77), (2, 3, 66, 101), (1, 3, 127, 64)]:
        assert departs(path, net, shape) < 1e-5
    names = [dim.dim_param for dim in load_graph(path).graph.input[0].type.tensor_type.shape.dim]
    assert names == ["batch", "", "height", "width"]
    assert fixed_input(path) == (None, None)
    assert "forward" not in vars(net.stem), "the traced forward is taken away again"


def test_free_batch_keeps_the_size(net: SameNet, tmp_path: Path) -> None:
    path = to_onnx(net, tmp_path / "a.onnx", (64, 70), dynamic="batch")
    assert departs(path, net, (1, 3, 64, 70)) < 1e-5
    assert departs(path, net, (4, 3, 64, 70)) < 1e-5
    assert fixed_input(path) == (None, (64, 70))


def test_free_size_alone_keeps_the_batch(net: SameNet, tmp_path: Path) -> None:
    path = to_onnx(net, tmp_path / "a.onnx", (64, 70), batch=2, dynamic="size")
    assert departs(path, net, (2, 3, 64, 70)) < 1e-5
    assert departs(path, net, (2, 3, 101, 66)) < 1e-5
    assert fixed_input(path) == (2, None)


def test_channels_last_weights_are_exported_right(net: SameNet, tmp_path: Path) -> None:
    path = to_onnx(net.to(memory_format=torch.channels_last), tmp_path / "a.onnx", (64, 64))
    assert departs(path, net, (1, 3, 64, 64)) < 1e-5


def test_modes_are_restored_one_by_one_and_nothing_is_printed(net: SameNet, tmp_path: Path, capfd) -> None:
    net.train()
    net.norm.eval()
    before = net.norm.running_mean.clone()
    to_onnx(net, tmp_path / "a.onnx", (64, 64))
    assert net.training
    assert net.stem.training
    assert not net.norm.training
    assert torch.equal(before, net.norm.running_mean)
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]


def test_nodes_name_their_module_and_no_path_of_this_machine(net: SameNet, tmp_path: Path) -> None:
    path = to_onnx(net, tmp_path / "a.onnx", (64, 64))
    nodes = load_graph(path).graph.node
    modules = [entry.value for node in nodes for entry in node.metadata_props if entry.key == MODULE_KEY]
    assert modules == ["norm", "down", "mix", "head"]
    assert b".py" not in path.read_bytes()


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_exported_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_text("old")
    with pytest.raises(CatchweightError, match="Branching cannot be exported"):
        to_onnx(Branching(), path, (64, 64))
    assert path.read_text() == "old"


@pytest.mark.parametrize("wrong", [{"size": (0, 64)}, {"batch": 0}, {"dynamic": "height"}])
def test_senseless_requests(net: SameNet, tmp_path: Path, wrong) -> None:
    with pytest.raises(UsageError):
        to_onnx(net, tmp_path / "a.onnx", **{"size": (64, 64), **wrong})


def external(folder: Path, location: str, inside: bool = False) -> Path:
    """A file whose weights lie at ``location``, plainly or in a branch of an If node."""
    weights = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], bytes(4), raw=True)
    onnx.external_data_helper.set_external_data(weights, location)
    weights.ClearField("raw_data")
    out = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1])
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1])
    if inside:
        branch = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], ["b"])], "b", [], [], [weights])
        nodes = [onnx.helper.make_node("If", ["image"], ["logits"], then_branch=branch, else_branch=branch)]
        graph = onnx.helper.make_graph(nodes, "g", [image], [out])
    else:
        nodes = [onnx.helper.make_node("Add", ["image", "w"], ["logits"])]
        graph = onnx.helper.make_graph(nodes, "g", [image], [out], [weights])
    path = folder / "external.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return path


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "a/../../secret.bin"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str, inside: bool) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = external(folder, location, inside)
    for read in (check_onnx, load_graph, fixed_input):
        with pytest.raises(CatchweightError, match="outside its folder"):
            read(path)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4))
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(CatchweightError, match="outside its folder"):
        check_onnx(external(folder, "weights.bin"))


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    np.array([2.5], np.float32).tofile(tmp_path / "weights.bin")
    model = load_graph(external(tmp_path, "weights.bin"))
    assert onnx.numpy_helper.to_array(model.graph.initializer[0]) == [2.5]


@pytest.mark.parametrize("content", [b"", b"hello, not onnx", bytes(range(256))])
def test_files_that_are_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(CatchweightError, match="not an ONNX file"):
        check_onnx(path)
    with pytest.raises(CatchweightError, match="cannot read"):
        check_onnx(tmp_path / "absent.onnx")
