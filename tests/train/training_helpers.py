"""A tiny training that every test of this room uses; also a program, for tests that need processes of their own."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from catchweight.data import SegmentationData, open_data
from catchweight.data.loading import Augment
from catchweight.data.scenes import make_scenes
from catchweight.nets import SegmentationNet, build_network
from catchweight.spaces import ElasticPyramid
from catchweight.train import Recipe, train
from catchweight.train.supernet import Sandwich

IMAGES = 12
RECIPE = Recipe(
    epochs=3,
    batch=4,
    size=(64, 64),
    lr=4e-3,
    warmup=0.5,
    clip=5.0,
    tensorboard=False,
    augment=Augment(scale=(0.8, 1.5)),
)
TIMES = {"seconds", "data_wait_share", "images_per_s"}


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of drawn scenes, 64 x 64."""
    return make_scenes(tmp_path_factory.mktemp("scenes"), {"train": IMAGES, "val": 4}, (64, 64))


@pytest.fixture
def data(scenes: Path) -> SegmentationData:
    return open_data(scenes)


def tiny_net(classes: int, name: str = "timm/test_resnet+fpn:width=16") -> SegmentationNet:
    """A small real network with dropout after its first convolution, so that resuming must get that right too."""
    torch.manual_seed(0)
    net = build_network(name, classes)
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda module, _, out: F.dropout(out, 0.1, module.training))
    return net


def recipe_with(**changes: Any) -> Recipe:
    return Recipe.model_validate(RECIPE.model_dump() | changes)


def die(last: Path, checkpoints: int, delay: float) -> None:
    """SIGKILL this process ``delay`` seconds after ``last`` has changed so many times."""

    def stamp() -> int:
        return last.stat().st_mtime_ns if last.exists() else 0

    seen = stamp()
    while checkpoints:
        time.sleep(0.001)
        now = stamp()
        seen, checkpoints = now, checkpoints - (now != seen)
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGKILL)


def run(
    scenes: Path,
    folder: Path,
    changes: dict[str, Any],
    limit_bytes: int | None = None,
    kill: tuple[int, float] | None = None,
    supernet: bool = False,
) -> None:
    """Train in this process a small network, or one random member of a supernet a step.

    ``limit_bytes`` is what a file may grow to after the first epoch, as on a full disk; ``kill`` are the last two
    arguments of ``die``, whose thread watches from inside, so that a busy machine does not let the training escape.
    """
    if kill is not None:
        threading.Thread(target=die, args=(folder / "last.pt", *kill), daemon=True).start()
    torch.set_num_threads(1)
    data = open_data(scenes)

    def after_epoch(kind: str, row: dict[str, Any]) -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    net, objective = tiny_net(len(data.classes)), None
    if supernet:
        net = ElasticPyramid(len(data.classes), [RECIPE.size], backbone="test_efficientnet")
        objective = Sandwich(rule="uniform", members=1)
    result = train(net, data, recipe_with(**changes), folder, on_event=after_epoch, objective=objective, quiet=True)
    checksum = sum(float(p.detach().double().abs().sum()) for p in net.parameters())
    line = {"rank": int(os.environ.get("RANK", "0")), "checksum": checksum, "epochs": result.epochs}
    (folder / f"rank{line['rank']}.json").write_text(json.dumps(line))


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Nested values are equal, tensors bit by bit; what was only timed may differ."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if key not in TIMES | {"wait_s", "epoch_s", "checkpoint_every_s"}:
                assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{index}")
    elif isinstance(one, Tensor):
        assert torch.equal(one, other), f"{where} differs by {(one - other).abs().max()}"
    else:
        assert one == other, f"{where}: {one} and {other}"


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), supernet=sys.argv[4:] == ["supernet"])
