"""Killed, paused, stopped or out of space: a training goes on exactly where it was."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from training_helpers import IMAGES, RECIPE, assert_same, recipe_with, run, tiny_net

from catchweight.data import SegmentationData
from catchweight.errors import CatchweightError
from catchweight.nets import load_network
from catchweight.train import train
from catchweight.train.checkpoints import load_state, save_state

pytest_plugins = ["training_helpers"]

# A server that has imported everything forks each training, so that a kill costs no second start of torch.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["training_helpers"])


def weights_of(folder: Path) -> dict:
    net, _ = load_network(folder / "best.pt")
    return net.state_dict()


def start(scenes: Path, folder: Path, kill: tuple[int, float] | None = None) -> multiprocessing.process.BaseProcess:
    changes = {"epochs": 10, "checkpoint_every_s": 1e-3, "accumulate": 2}
    process = CONTEXT.Process(target=run, args=(scenes, folder, changes), kwargs={"kill": kill})
    process.start()
    return process


def test_killed_again_and_again_it_ends_with_the_same_bits(scenes: Path, tmp_path: Path) -> None:
    straight = start(scenes, tmp_path / "straight")
    chance, reached = random.Random(1), []
    for _ in range(5):
        process = start(scenes, tmp_path / "killed", kill=(chance.randint(1, 4), chance.uniform(0, 0.1)))
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        progress = load_state(tmp_path / "killed" / "last.pt")["progress"]
        reached.append((progress["epoch"], progress["step"]))
    process = start(scenes, tmp_path / "killed")
    process.join()
    straight.join()
    assert process.exitcode == straight.exitcode == 0
    assert len(reached) >= 2, "hardly ever killed"
    assert reached == sorted(reached), f"it fell back: {reached}"
    assert any(step > 0 for _, step in reached), f"never killed within an epoch: {reached}"
    assert_same(load_state(tmp_path / "straight" / "last.pt"), load_state(tmp_path / "killed" / "last.pt"))
    assert_same(weights_of(tmp_path / "straight"), weights_of(tmp_path / "killed"))


def test_a_full_disk_is_said_and_the_last_good_checkpoint_stays(scenes: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from training_helpers import run\n"
        "from catchweight.errors import CatchweightError\n"
        "try: run(Path(sys.argv[2]), Path(sys.argv[3]), {'tensorboard': True}, limit_bytes=50_000)\n"
        "except CatchweightError as error: print(error); sys.exit(7)\n"
    )
    here = str(Path(__file__).parent)
    ended = subprocess.run(
        [sys.executable, "-c", code, here, str(scenes), str(tmp_path)], capture_output=True, text=True, timeout=280
    )
    assert ended.returncode == 7, ended.stderr
    assert "cannot write" in ended.stdout
    assert "last.pt" in ended.stdout or "best.pt" in ended.stdout
    state = load_state(tmp_path / "last.pt")
    assert state["progress"]["epoch"] == 1
    run(scenes, tmp_path, {"tensorboard": True})
    assert load_state(tmp_path / "last.pt")["progress"]["epoch"] == RECIPE.epochs


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_folder_that_cannot_be_made_is_named(data: SegmentationData, tmp_path: Path, tensorboard: bool) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CatchweightError, match="file/run"):
        train(
            tiny_net(len(data.classes)),
            data,
            recipe_with(tensorboard=tensorboard),
            tmp_path / "file" / "run",
            quiet=True,
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_a_read_only_folder_is_named(data: SegmentationData, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    with pytest.raises(CatchweightError, match="locked"):
        train(tiny_net(len(data.classes)), data, RECIPE, folder, quiet=True)


def test_pausing_and_stopping_change_nothing_and_a_finished_training_returns_at_once(
    data: SegmentationData,
    tmp_path: Path,
) -> None:
    classes = len(data.classes)
    straight = train(tiny_net(classes), data, RECIPE, tmp_path / "straight", quiet=True)
    assert (straight.status, straight.epochs) == ("finished", 3)

    folder = tmp_path / "parts"
    paused = train(tiny_net(classes), data, RECIPE, folder, until_epoch=1, quiet=True)
    assert (paused.status, paused.epochs) == ("paused", 1)
    assert not (folder / "score.json").exists()
    stopped = train(tiny_net(classes), data, RECIPE, folder, deadline=time.monotonic(), quiet=True)
    assert (stopped.status, stopped.epochs) == ("stopped", 2)
    assert (folder / "examples.png").exists()
    finished = train(tiny_net(classes), data, RECIPE, folder, quiet=True)
    assert finished.status == "finished"
    assert_same(load_state(straight.last), load_state(finished.last))
    assert finished.score == straight.score == max(row["val_miou"] for row in finished.history)

    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    events: list[str] = []
    again = train(tiny_net(classes), data, RECIPE, folder, on_event=lambda kind, row: events.append(kind), quiet=True)
    assert events == []
    assert again == finished
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_the_scale_of_the_loss_under_16_mixed_goes_on_where_it_was(data: SegmentationData, tmp_path: Path) -> None:
    def trained(folder: Path, until: int) -> dict:
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
        fabric = Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
        recipe = recipe_with(precision="16-mixed", accelerator="cpu")
        train(tiny_net(len(data.classes)), data, recipe, folder, fabric=fabric, until_epoch=until, quiet=True)
        return load_state(folder / "last.pt")

    straight = trained(tmp_path / "straight", 2)
    assert straight["precision"]["scale"] > 4
    first = trained(tmp_path / "parts", 1)
    assert_same(straight, trained(tmp_path / "parts", 2))
    del first["precision"]  # as earlier versions wrote it
    save_state(tmp_path / "parts" / "last.pt", first)
    assert trained(tmp_path / "parts", 2)["progress"]["epoch"] == 2


def test_another_recipe_or_network_is_refused_by_the_names_that_differ(
    data: SegmentationData,
    tmp_path: Path,
) -> None:
    classes = len(data.classes)
    train(tiny_net(classes), data, RECIPE, tmp_path, until_epoch=1, quiet=True)
    other = recipe_with(lr=0.5, loss={"ce": 2.0}, workers=0)
    with pytest.raises(CatchweightError, match=r"recipe\.loss\.ce \(stored 1\.0, now 2\.0\); recipe\.lr") as caught:
        train(tiny_net(classes), data, other, tmp_path, quiet=True)
    assert "workers" not in str(caught.value)
    with pytest.raises(CatchweightError, match=r"network\.name"):
        train(tiny_net(classes, "timm/test_resnet+fpn:width=24"), data, RECIPE, tmp_path, quiet=True)


def test_a_cut_off_checkpoint_is_named(data: SegmentationData, tmp_path: Path) -> None:
    train(tiny_net(len(data.classes)), data, RECIPE, tmp_path, until_epoch=1, quiet=True)
    content = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CatchweightError, match=r"last\.pt"):
        train(tiny_net(len(data.classes)), data, RECIPE, tmp_path, quiet=True)


@pytest.mark.parametrize("of", ["network", "supernet"])
def test_two_processes_keep_the_same_weights(scenes: Path, tmp_path: Path, of: str) -> None:
    script = Path(__file__).parent / "training_helpers.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    arguments = [str(scenes), str(tmp_path), json.dumps({"epochs": 2, "accelerator": "cpu"}), of]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=280, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["checksum"] == second["checksum"]
    assert first["epochs"] == second["epochs"] == 2
    progress = load_state(tmp_path / "last.pt")["progress"]
    assert progress["epoch"] == 2
    assert all(row["val_miou"] > 0 for row in progress["history"])


@pytest.mark.slow
def test_the_command_runs_under_torchrun_and_speaks_once(scenes: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [
        "-m",
        "catchweight",
        "train",
        str(scenes),
        "--network",
        "timm/test_efficientnet+fpn:width=8",
        "--out",
        str(tmp_path / "out"),
    ]
    settings = ["epochs=2", "batch=4", "accelerator=cpu", "workers=0"]
    ended = subprocess.run(
        [*launcher, *command, "--weights", "none", *(word for one in settings for word in ("--set", one))],
        capture_output=True, text=True, timeout=280, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("best val mIoU") == 1
    state = load_state(tmp_path / "out" / "last.pt")
    assert (state["identity"]["processes"], state["progress"]["epoch"]) == (2, 2)


def test_in_epoch_checkpoints_hold_the_steps_done(data: SegmentationData, tmp_path: Path) -> None:
    """A loss that fails late in an epoch leaves the checkpoint of the step before."""
    net = tiny_net(len(data.classes))
    calls = 0

    def poison(module: torch.nn.Module, _: object, out: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += module.training
        return out * float("nan") if calls == 3 else out

    next(m for m in net.modules() if isinstance(m, torch.nn.Conv2d)).register_forward_hook(poison)
    with pytest.raises(CatchweightError, match="epoch 1, step 3"):
        train(net, data, recipe_with(checkpoint_every_s=1e-9), tmp_path, quiet=True)
    progress = load_state(tmp_path / "last.pt")["progress"]
    assert IMAGES // RECIPE.batch == 3
    assert (progress["epoch"], progress["step"], progress["loss_count"]) == (0, 2, 2)
