"""Quantisation-aware fine-tuning: rounding as ONNX Runtime rounds, straight-through gradients, a second verdict."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from quantize_files import colour_model, stripe_data, write
from test_quantize_run import QUICK, pace
from torch import Tensor, nn

from catchweight.compress.quantize import QuantizeResult, quantize, run, tune
from catchweight.compress.quantize.simulate import simulation
from catchweight.compress.quantize.tune import QuantAware, RoundedStep, rounded_activation, rounded_weight
from catchweight.data import SegmentationData
from catchweight.errors import UsageError
from catchweight.nets import build_network, load_network
from catchweight.targets.runtimes.quantized import calibrate, prepare_graph, quantized_graph
from catchweight.targets.tracing.graph import save_graph, to_onnx
from catchweight.tasks.losses import LossConfig, SegmentationLoss

SHORT = QUICK.model_copy(update={"equalise": False, "correct_bias": False, "most_float": 0.0, "tune_epochs": 1})


@pytest.fixture
def data(tmp_path: Path) -> SegmentationData:
    return stripe_data(tmp_path / "data")


class Regression(nn.Module):
    """A step: mean square error of ``net`` on one batch of noise."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, wanted: Tensor) -> Tensor:
        return F.mse_loss(self.net(images), wanted)


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))


def noise(seed: int = 0, count: int = 2) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_weights_are_rounded_channel_by_channel() -> None:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    scale = weight.abs().amax((1, 2, 3), keepdim=True).numpy() / 127
    expected = np.clip(np.rint(weight.numpy() / scale), -127, 127) * scale
    np.testing.assert_allclose(rounded_weight(weight, 0, 127).numpy(), expected, rtol=1e-5, atol=1e-7)


def test_activations_keep_zero_and_are_cut_off_at_the_range() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 0.004, 1.55, 9.0])
    found = rounded_activation(x, torch.tensor(-1.0), torch.tensor(1.55))
    assert found[2] == 0.0
    assert found[0] == found[1] == pytest.approx(-1.0)
    assert found[5] == found[4] == pytest.approx(1.55)
    assert float((found[3] - x[3]).abs()) <= 0.005 + 1e-6
    positive = rounded_activation(torch.tensor([0.5]), torch.tensor(0.5), torch.tensor(2.55))
    assert float(positive) == pytest.approx(0.5, abs=0.005), "the range is widened to hold zero"


def test_a_rounded_network_computes_what_the_int8_graph_does(tmp_path: Path) -> None:
    net, x = small_net().eval(), noise(count=1)
    prepared = prepare_graph(to_onnx(net, tmp_path / "net.onnx", (32, 32)))
    graph = quantized_graph(prepared, calibrate(prepared, [x.numpy()]))
    expected = simulation(save_graph(graph, tmp_path / "int8.onnx"))(x.numpy())
    step = RoundedStep(Regression(net), net)
    with torch.no_grad():
        plain = net(x)
        step.train()(x, torch.zeros_like(plain))  # the ranges are those of this very image
        step.eval()
        with step.rounded():
            found = net(x)
    width = float(plain.max() - plain.min()) / 255
    ours, theirs = (float((one - torch.from_numpy(expected)).square().mean().sqrt()) for one in (found, plain))
    assert ours < 0.45 * width, "the result of the graph is rounded as well, by 0.29 of a step; ties may fall apart"
    assert ours < theirs


def test_gradients_pass_the_rounding() -> None:
    net, x = nn.Conv2d(3, 4, 3), noise()
    step = RoundedStep(Regression(net), net).train()
    wanted = torch.zeros(2, 4, 30, 30)
    step(x, wanted).backward()
    entered = rounded_activation(x, step.low[0], step.high[0])
    weight = rounded_weight(net.weight.detach(), 0, step.limit).requires_grad_()
    F.mse_loss(F.conv2d(entered, weight, net.bias.detach()), wanted).backward()
    torch.testing.assert_close(net.weight.grad, weight.grad)


def test_outside_a_pass_the_network_is_what_it_was() -> None:
    net = small_net()
    names, x = list(net.state_dict()), noise()
    before = net(x)
    step = RoundedStep(Regression(net), net).train()
    step(x, torch.zeros_like(before)).backward()
    with pytest.raises(RuntimeError):
        step(torch.zeros(2, 4, 32, 32), torch.zeros(2, 4, 32, 32))  # four channels where three are taken
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)
    assert list(net.state_dict()) == names
    assert isinstance(net[0].weight, nn.Parameter)
    assert not net[0]._forward_pre_hooks


def test_ranges_follow_as_a_moving_average_and_stand_still_in_evaluation() -> None:
    net = nn.Conv2d(3, 4, 1)
    step = RoundedStep(Regression(net), net).train()
    wanted = torch.zeros(2, 4, 32, 32)
    first, second = noise(0), 3 * noise(1)
    step(first, wanted)
    assert float(step.high[0]) == pytest.approx(float(first.max()))
    step(second, wanted)
    followed = 0.95 * float(first.max()) + 0.05 * float(second.max())
    assert float(step.high[0]) == pytest.approx(followed, rel=1e-5)
    step.eval()(9 * noise(2), wanted)
    assert float(step.high[0]) == pytest.approx(followed, rel=1e-5)
    assert {"low", "high", "seen"} <= set(step.state_dict()), "so that a training goes on where it was"


def tuned_loss(base: nn.Module, wanted_of: nn.Module, aware: bool, steps: int) -> float:
    """Rounded loss of ``base`` after so many more steps with a falling rate, rounded or plain."""
    net = copy.deepcopy(base)
    step = RoundedStep(Regression(net), net).train()
    step.limit = 3
    optimiser = torch.optim.Adam(net.parameters(), 0.003)
    for number in range(steps):
        optimiser.param_groups[0]["lr"] = 0.003 * (1 - number / steps)
        x = noise(1000 + number)
        optimiser.zero_grad()
        (step if aware else step.step)(x, wanted_of(x).detach()).backward()
        optimiser.step()
    with torch.no_grad():
        for number in range(60):  # ranges of what it has become
            step(noise(number), wanted_of(noise(number)))
        return float(step.eval()(noise(999), wanted_of(noise(999))))


def test_a_trained_network_loses_less_to_rounding_when_it_is_trained_on_rounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With three bits, where rounding hurts, against as many plain steps and against none."""
    monkeypatch.setattr(tune, "LEVELS", 7)
    torch.manual_seed(3)
    wanted_of = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    base = small_net()
    optimiser = torch.optim.Adam(base.parameters(), 0.01)
    for number in range(400):
        optimiser.zero_grad()
        F.mse_loss(base(noise(number)), wanted_of(noise(number)).detach()).backward()
        optimiser.step()
    before, plain = tuned_loss(base, wanted_of, False, 0), tuned_loss(base, wanted_of, False, 300)
    assert tuned_loss(base, wanted_of, True, 300) < 0.75 * min(before, plain)


def test_it_wraps_another_objective(data: SegmentationData) -> None:
    net = build_network("timm/test_resnet+fpn:width=16,levels=2-3", 3)
    step = QuantAware()(net, SegmentationLoss(LossConfig(aux=0.0)), True)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    step.train()(images, torch.zeros(2, 64, 64, dtype=torch.uint8)).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert QuantAware().describe() == {"kind": "int8", "inner": {}}
    with pytest.raises(UsageError, match="no convolution"):
        RoundedStep(nn.Identity(), nn.Identity())


def test_fine_tuning_ends_with_a_network_like_any_other_and_is_not_done_twice(
    data: SegmentationData, tmp_path: Path
) -> None:
    net = build_network("timm/test_resnet+fpn:width=16,levels=2-3", 3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    path, epochs = tune.tuned(net, data, (64, 64), tmp_path / "tuned", epochs=2, lr=1e-3, deadline=time.monotonic())
    assert epochs == 1, "its time was up"
    better, meta = load_network(path)
    assert better.spec == net.spec
    assert any(not torch.equal(value, before[name]) for name, value in better.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    made = path.stat().st_mtime_ns
    again = tune.tuned(net, data, (64, 64), tmp_path / "tuned", epochs=2, lr=1e-3)
    assert (again, path.stat().st_mtime_ns) == ((path, 1), made)


def attempt(
    tmp_path: Path, data: SegmentationData, monkeypatch: pytest.MonkeyPatch, blunt: float, deadline: float | None = None
) -> QuantizeResult:  # fmt: skip
    """int8 of a network that eight bits destroy; fine-tuning, which is made up here, leaves one as blunt as told."""
    path = write(colour_model(blunt=3000), tmp_path / "float.onnx")
    asked: list[float] = []

    def made_up(net: object, data: object, size: tuple[int, int], folder: Path, **how: object) -> tuple[Path, int]:
        asked.append(float(str(how["epochs"])))
        folder.mkdir(exist_ok=True)
        facts = {"size": list(size)}
        write(colour_model(blunt=blunt), folder / "float.onnx").with_suffix(".json").write_text(json.dumps(facts))
        (folder / "model.pt").write_bytes(b"")
        (folder / "verification.json").write_text(json.dumps({"passed": True}))
        return folder / "model.pt", 1

    monkeypatch.setattr(run, "tuned", made_up)
    monkeypatch.setattr(run, "load_network", lambda path: (None, {}))
    result = quantize(
        path, data, timer=pace(1.0), folder=tmp_path / "run", settings=SHORT, checkpoint=tmp_path / "model.pt",
        deadline=deadline, say=lambda line: None,
    )  # fmt: skip
    assert asked == ([1.0] if deadline is None else [])
    return result


def test_where_int8_falls_short_it_is_tried_again_after_fine_tuning(
    tmp_path: Path, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = attempt(tmp_path, data, monkeypatch, blunt=1.0)
    assert result.accepted, result.reason
    assert "after 1 epochs of quantisation-aware fine-tuning" in result.reason
    assert result.file == tmp_path / "run" / "tuned" / "int8.onnx"
    assert result.tuned == tmp_path / "run" / "tuned" / "model.pt"
    assert result.float_file == tmp_path / "float.onnx"
    told = json.loads((tmp_path / "run" / "int8.verdict.json").read_text())
    assert (told["tuned"], told["file"]) == ("tuned/model.pt", "tuned/int8.onnx")
    assert not list((tmp_path / "run").rglob("attempt.onnx"))


def test_where_fine_tuning_does_not_help_the_float_file_stays(
    tmp_path: Path, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = attempt(tmp_path, data, monkeypatch, blunt=3000)
    assert not result.accepted
    assert result.file == result.float_file == tmp_path / "float.onnx"
    assert "nor after fine-tuning" in result.reason


def test_fine_tuning_does_not_begin_after_its_deadline(
    tmp_path: Path, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = attempt(tmp_path, data, monkeypatch, blunt=1.0, deadline=time.monotonic())
    assert not result.accepted
    assert result.reason.endswith("no time was left for fine-tuning")


def test_a_file_alone_cannot_be_fine_tuned(tmp_path: Path, data: SegmentationData) -> None:
    path = write(colour_model(), tmp_path / "float.onnx")
    with pytest.raises(UsageError, match="give the checkpoint"):
        quantize(path, data, folder=tmp_path / "run", settings=SHORT)


def test_a_run_without_fine_tuning_is_the_one_of_versions_that_had_none() -> None:
    assert "tune_epochs" not in QUICK.asked()
    assert SHORT.asked()["tune_epochs"] == 1


def test_openvino_serves_scores_and_verifies_the_int8_file(tmp_path: Path, data: SegmentationData) -> None:
    pytest.importorskip("openvino")
    path = write(colour_model(), tmp_path / "float.onnx")
    result = quantize(
        path, data, target="openvino:cpu", timer=pace(1.0), folder=tmp_path / "run", settings=QUICK,
        say=lambda line: None,
    )  # fmt: skip
    assert result.accepted, result.reason
    assert result.check is not None
    assert result.check["passed"]
    assert result.float_score > 0.9
    other = quantize(path, data, timer=pace(1.0), folder=tmp_path / "other", settings=QUICK, say=lambda line: None)
    assert result.float_score == pytest.approx(other.float_score, abs=1e-3)
    assert result.int8_score == pytest.approx(other.int8_score, abs=0.02)
