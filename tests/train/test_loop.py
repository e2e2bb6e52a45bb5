"""The loop: what it writes, what it refuses, and that its options do what they say."""

from __future__ import annotations

import csv
import math
from importlib import import_module
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn
from training_helpers import IMAGES, RECIPE, recipe_with, tiny_net

from catchweight.data import SegmentationData
from catchweight.errors import CatchweightError, UsageError
from catchweight.nets import NetSpec, SegmentationNet, load_network
from catchweight.tasks import LossConfig
from catchweight.train import train
from catchweight.train.checkpoints import load_state
from catchweight.train.epoch import step_seed
from catchweight.train.logs import to_csv
from catchweight.train.progress import describe

pytest_plugins = ["training_helpers"]


class PixelNet(SegmentationNet):
    """One 1x1 convolution: no norms, so gradients of part batches add up exactly."""

    def __init__(self, classes: int) -> None:
        super().__init__(NetSpec("pixel", classes))
        torch.manual_seed(0)
        self.classifier = nn.Conv2d(3, classes, 1)

    feature_info = []  # noqa: RUF012

    def logits(self, x: Tensor) -> Tensor:
        return self.classifier(x)


def first_convolution(net: nn.Module) -> nn.Conv2d:
    return next(module for module in net.modules() if isinstance(module, nn.Conv2d))


def test_a_training_learns_and_writes_everything_it_promises(data: SegmentationData, tmp_path: Path) -> None:
    recipe = recipe_with(epochs=6, eval_every=2, tensorboard=True, loss={"ce": 1, "lovasz": 0.5, "class_balance": 0.5})
    result = train(tiny_net(len(data.classes)), data, recipe, tmp_path, quiet=True)
    losses = [row["train_loss"] for row in result.history]
    assert losses[-1] < losses[0]
    names = ["best.pt", "last.pt", "metrics.csv", "curves.png", "confusion.png", "examples.png", "score.json"]
    assert all((tmp_path / name).stat().st_size > 0 for name in names)
    assert list((tmp_path / "tensorboard").glob("events*"))

    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == list("123456")
    assert [bool(row["val_miou"]) for row in rows] == [False, True] * 3
    assert all(f"iou/{name}" in rows[0] for name in data.classes.names)
    assert all(0 <= float(row["data_wait_share"]) <= 1 and float(row["images_per_s"]) > 0 for row in rows)
    assert float(rows[-1]["lr"]) < float(rows[0]["lr"])

    net, meta = load_network(result.best)
    assert meta["val_miou"] == result.score == result.history[result.best_epoch - 1]["val_miou"]
    assert net.spec.classes == len(data.classes)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    data: SegmentationData, tmp_path: Path, where: str
) -> None:
    net = tiny_net(len(data.classes))
    steps = IMAGES // RECIPE.batch
    calls = 0

    def poison(value: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return value * math.nan if calls == steps + 2 else value  # the second step of the second epoch

    if where == "loss":
        first_convolution(net).register_forward_hook(lambda m, _, out: poison(out) if m.training else out)
    else:
        first_convolution(net).weight.register_hook(poison)
    with pytest.raises(CatchweightError) as caught:
        train(net, data, recipe_with(clip=0.0), tmp_path, quiet=True)
    message = str(caught.value)
    assert "epoch 2, step " in message
    named = [record for record in data.splits["train"] if f"{record.image.relative_to(data.root)}" in message]
    assert len(named) == RECIPE.batch
    state = load_state(tmp_path / "last.pt")
    assert state["progress"]["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in state["net"].values())


def test_accumulation_takes_the_same_steps_as_whole_batches(data: SegmentationData, tmp_path: Path) -> None:
    results = []
    for parts in (1, 2):
        net = PixelNet(len(data.classes))
        # No padding, so that every part has as many valid pixels as the others.
        augment = {"scale": (1.0, 1.5)}
        recipe = recipe_with(optimizer="sgd", lr=0.1, accumulate=parts, augment=augment)
        train(net, data, recipe, tmp_path / str(parts), until_epoch=1, quiet=True)
        results.append(net.classifier.weight.detach())
    assert not torch.equal(results[0], PixelNet(len(data.classes)).classifier.weight)
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_scaled_loss_is_clipped_by_its_own_gradient(data: SegmentationData, tmp_path: Path, optimizer: str) -> None:
    """16-mixed multiplies the loss by 65,536 before its backward pass: clipping must not see that."""
    weights = {}
    for precision in ("32-true", "16-mixed"):
        net = PixelNet(len(data.classes))
        scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu")) if precision == "16-mixed" else None
        fabric = Fabric(accelerator="cpu", devices=1, plugins=scaled)
        recipe = recipe_with(optimizer=optimizer, lr=0.5, momentum=0, warmup=0, clip=0.01, precision=precision)
        train(net, data, recipe, tmp_path / precision, until_epoch=1, fabric=fabric, quiet=True)
        weights[precision] = net.classifier.weight.detach() - PixelNet(len(data.classes)).classifier.weight.detach()
    moved = float(weights["32-true"].norm())
    assert moved > 1e-3
    assert float((weights["16-mixed"] - weights["32-true"]).norm()) < 0.05 * moved


def test_the_gradient_is_no_longer_than_clip(data: SegmentationData, tmp_path: Path) -> None:
    net = PixelNet(len(data.classes))
    before = torch.nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    recipe = recipe_with(
        optimizer="sgd", lr=1.0, momentum=0, weight_decay=0, warmup=0, schedule="constant", clip=1e-3, batch=IMAGES
    )
    train(net, data, recipe, tmp_path, until_epoch=1, quiet=True)
    after = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    assert float((after - before).norm()) == pytest.approx(1e-3, rel=1e-3)  # one step, its gradient far longer


def test_bf16_trains(data: SegmentationData, tmp_path: Path) -> None:
    net = tiny_net(len(data.classes))
    seen = []
    first_convolution(net).register_forward_hook(lambda m, _, out: seen.append(out.dtype) if m.training else None)
    result = train(net, data, recipe_with(precision="bf16-mixed"), tmp_path, until_epoch=1, quiet=True)
    assert set(seen) == {torch.bfloat16}
    assert math.isfinite(result.history[0]["train_loss"])
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())


@pytest.mark.slow
def test_compiled_steps_train(data: SegmentationData, tmp_path: Path) -> None:
    plain, compiled = (
        train(PixelNet(len(data.classes)), data, recipe_with(compile=on), tmp_path / str(on), until_epoch=1, quiet=True)
        for on in (False, True)
    )
    assert compiled.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"], rel=1e-3)


def test_auxiliary_heads_are_trained(data: SegmentationData, tmp_path: Path) -> None:
    class WithAux(PixelNet):
        def __init__(self, classes: int) -> None:
            super().__init__(classes)
            self.extra = nn.Conv2d(3, classes, 1)

        def train_logits(self, x: Tensor) -> list[Tensor]:
            return [self.logits(x), self.extra(x)]

    net = WithAux(len(data.classes))
    before = net.extra.weight.detach().clone()
    train(net, data, recipe_with(loss=LossConfig(aux=0.4)), tmp_path, until_epoch=1, quiet=True)
    assert not torch.equal(net.extra.weight, before)


def test_a_batch_that_cannot_be_shared_out_is_refused(data: SegmentationData, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch=4 .* 3 accumulated"):
        train(PixelNet(len(data.classes)), data, recipe_with(accumulate=3), tmp_path, quiet=True)


def test_an_unknown_split_is_named(data: SegmentationData, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vall"):
        train(PixelNet(len(data.classes)), data, RECIPE, tmp_path, split=("train", "vall"), quiet=True)


def test_one_line_an_epoch_without_a_terminal(
    data: SegmentationData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(PixelNet(len(data.classes)), data, RECIPE, tmp_path, until_epoch=2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["1/3", "2/3"]
    assert all("val mIoU" in line and "data wait" in line for line in lines)


def test_csv_leaves_what_was_not_measured_empty() -> None:
    row = {"epoch": 1, "train_loss": 0.5, "val_miou": None}
    assert to_csv([row, row | {"epoch": 2, "val_miou": 0.25}]) == "epoch,train_loss,val_miou\n1,0.5,\n2,0.5,0.25\n"


def test_an_epoch_in_one_line() -> None:
    row = {"epoch": 3, "lr": 1e-3, "train_loss": 0.5, "val_miou": None, "seconds": 61.2}
    line = describe(row | {"data_wait_share": 0.031, "images_per_s": 12.3}, 30, 0.4)
    assert line == "epoch 3/30  loss 0.5000  lr 1.00e-03  12.3 images/s  data wait 3.1%  61 s  about 28 min left"


def test_step_seeds_differ_between_steps_processes_and_seeds() -> None:
    seeds = {step_seed(seed, at, rank) for seed in range(5) for at in range(200) for rank in range(4)}
    assert len(seeds) == 5 * 200 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_it_gives_way_to_measurements_before_each_step_and_each_batch_of_an_evaluation(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("epoch", "evaluate"):
        module = import_module(f"catchweight.train.{name}")
        monkeypatch.setattr(module, "give_way", lambda name=name: asked.append(name))
    train(tiny_net(len(data.classes)), data, recipe_with(epochs=2), tmp_path, quiet=True)
    assert asked.count("epoch") == 2 * (len(data.splits["train"]) // RECIPE.batch)
    assert asked.count("evaluate") >= 2
