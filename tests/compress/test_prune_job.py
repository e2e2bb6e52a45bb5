"""The whole job on drawn scenes: from a trained network to a measured verdict, by function and by command."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import catchweight.compress.halp as job
import catchweight.compress.modules as modules
import catchweight.compress.quantize as quantize_module
from analytic_table import analytic_table
from catchweight.cli.compress import _tolerated
from catchweight.compress import HalpSettings, PruneResult, find_groups, load_pruned, prune, prune_module, save_pruned
from catchweight.compress.halp import latency_limit
from catchweight.compress.tables import pruning_predictor
from catchweight.data import SegmentationData, open_data
from catchweight.data.scenes import make_scenes
from catchweight.errors import CatchweightError, UsageError
from catchweight.files import read_json
from catchweight.nets import SegmentationNet, build_network, load_network, save_network
from catchweight.nets.shrink import shapes
from catchweight.targets import Target
from catchweight.targets.runtimes.quantized import is_quantized
from catchweight.train import Distiller, finetune, train
from formula_target import formula

SIZE = (64, 64)
RECIPE = finetune().model_copy(update={"epochs": 1, "batch": 4, "size": SIZE, "tensorboard": False, "workers": 0})
CLOSE = 0.1
SETTINGS = HalpSettings(steps=2, interval=2, close=CLOSE)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("pruning"), {"train": 8, "val": 4}, SIZE)


@pytest.fixture(scope="module")
def data(scenes: Path) -> SegmentationData:
    return open_data(scenes)


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """A device whose latencies are a formula: what is asked for can be reached, on any machine."""
    with formula():
        yield Target.parse("onnxruntime:cpu", threads=1)


def network(classes: int) -> SegmentationNet:
    torch.manual_seed(0)
    return build_network("timm/test_resnet+fpn:width=32,levels=2-3", classes)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, data: SegmentationData, target: Target) -> Path:
    return analytic_table(network(len(data.classes)), SIZE, target, tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def pruned(
    tmp_path_factory: pytest.TempPathFactory, data: SegmentationData, target: Target, table: Path
) -> tuple[Path, float, list[str]]:
    """One job that is killed after its first step and called again: its folder, the limit, and what it said."""
    folder = tmp_path_factory.mktemp("job")
    net = network(len(data.classes))
    limit = 0.5 * target.measure(net, SIZE, seconds=1).median_ms
    lines: list[str] = []
    killed: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("prune: step 1") and not killed:
            killed.append(line)
            raise KeyboardInterrupt

    def call() -> None:
        prune(
            net, data, target, f"latency<={limit:.6f}ms", RECIPE, folder / "prune", settings=SETTINGS, variants=0,
            table=table, objective=Distiller(net, size=SIZE), say=say, quiet=True,  # as the command does
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        call()
    call()
    return folder / "prune", limit, lines


def test_the_result_is_smaller_measured_and_told(pruned: tuple[Path, float, list[str]], data: SegmentationData) -> None:
    folder, limit, _ = pruned
    result = read_json(folder / "result.json")
    assert result["limit_ms"] == pytest.approx(limit, abs=1e-5)
    assert (1 - CLOSE) * limit <= result["latency_ms"] <= result["limit_ms"]
    assert result["met"]
    assert result["message"].startswith("within")
    assert 0 < result["kept"] < 1
    assert any(after < before for before, after in result["widths"].values())
    net, meta = load_network(folder / "model.pt")
    whole = network(len(data.classes))
    assert sum(p.numel() for p in net.parameters()) < sum(p.numel() for p in whole.parameters())
    assert tuple(meta["size"]) == SIZE
    assert meta["pruned"]["limit_ms"] == result["limit_ms"]


def test_what_was_done_is_not_done_again(pruned: tuple[Path, float, list[str]]) -> None:
    lines = pruned[2]
    assert sum(line.startswith("start:") for line in lines) == 1
    assert sum(line.startswith("prune: step 1") for line in lines) == 1


def test_a_pruned_network_trains_on_and_resumes(
    pruned: tuple[Path, float, list[str]], data: SegmentationData, tmp_path: Path
) -> None:
    ends = []
    for name, pauses in (("straight", ()), ("paused", (1,))):
        for until in (*pauses, None):
            net, _ = load_network(pruned[0] / "model.pt")
            recipe = RECIPE.model_copy(update={"epochs": 2})
            train(net, data, recipe, tmp_path / name, until_epoch=until, quiet=True)
        ends.append(net.state_dict())
    assert all(torch.equal(one, ends[1][name]) for name, one in ends[0].items())


def test_another_request_is_refused(
    pruned: tuple[Path, float, list[str]], data: SegmentationData, target: Target
) -> None:
    with pytest.raises(CatchweightError, match="limit_ms"):
        prune(network(len(data.classes)), data, target, "latency<=0.01ms", RECIPE, pruned[0], settings=SETTINGS)


def test_a_network_that_is_quick_enough_is_left_alone(data: SegmentationData, target: Target, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ask for less"):
        prune(network(len(data.classes)), data, target, "latency<=60s", RECIPE, tmp_path, say=lambda line: None)


def test_only_latency_is_a_limit() -> None:
    assert latency_limit("latency<=10ms") == 10
    for wrong in ("params<=1M", "latency<=10ms, params<=1M"):
        with pytest.raises(UsageError, match="works towards a latency"):
            latency_limit(wrong)


class Classifier(nn.Module):
    """A user's own network: images to class scores."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
                                  nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())  # fmt: skip
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Dense(Classifier):
    """The same for every pixel: a network of the user's own for segmentation, with a skip and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(64 + 16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        coarse = F.interpolate(self.body(F.max_pool2d(fine, 2)), scale_factor=2.0, mode="nearest")
        return F.interpolate(self.head(torch.cat([coarse, fine], 1)), scale_factor=2.0, mode="bilinear")


@pytest.mark.parametrize("kind", [Classifier, Dense])
def test_any_module_is_pruned_saved_and_loaded(
    kind: type[Classifier], table: Path, target: Target, tmp_path: Path
) -> None:
    net = kind()

    def loss(net: nn.Module, iteration: int) -> Tensor:
        generator = torch.Generator().manual_seed(iteration)
        labels = torch.randint(0, 3, (4,), generator=generator)
        images = torch.randn(4, 3, *SIZE, generator=generator) + labels[:, None, None, None]
        scores = net(images)
        return F.cross_entropy(scores, labels if scores.dim() == 2 else labels[:, None, None].expand(4, *SIZE))

    limit = 0.5 * target.measure(net, SIZE, seconds=1).median_ms
    net.stem.requires_grad_(False)  # pruned, but not trained
    small, landing = prune_module(
        net, loss, SIZE, target, limit, tmp_path / "run", settings=SETTINGS, variants=0, table=table,
        say=lambda line: None,
    )  # fmt: skip
    assert shapes(net) == shapes(kind())
    assert landing.met
    assert {n for n, p in small.named_parameters() if not p.requires_grad} == {
        "stem.0.weight",
        "stem.0.bias",
        "stem.1.weight",
        "stem.1.bias",
    }
    assert torch.equal(small.stem[0].weight, net.stem[0].weight), "the first layer is not pruned, and was frozen"
    assert landing.widths["body.0"][1] < 64 or landing.widths["body.3"][1] < 64
    save_pruned(tmp_path / "small.pt", small, {"labels": ["a", "b", "c"]})
    again, meta = load_pruned(tmp_path / "small.pt", kind)
    image = torch.randn(1, 3, *SIZE)
    assert torch.allclose(again(image), small.eval()(image), atol=1e-6)  # the memory format differs
    assert meta == {"labels": ["a", "b", "c"]}
    with pytest.raises(CatchweightError, match="no .* that could be pruned|do not fit"):
        load_pruned(tmp_path / "small.pt", lambda: nn.Conv2d(3, 3, 1))
    (tmp_path / "bad.pt").write_bytes(b"not a file of ours")
    with pytest.raises(CatchweightError, match="cannot load"):
        load_pruned(tmp_path / "bad.pt", kind)


def test_other_weights_or_another_recipe_are_another_job(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, other = Classifier(), Classifier()
    nn.init.ones_(other.head.bias)
    monkeypatch.setattr(modules, "descend", lambda net, *_, **__: (net, None))

    def call(net: nn.Module, **changed: object) -> None:
        prune_module(net, lambda net, _: net(torch.zeros(1)), SIZE, target, 1e-3, tmp_path, **changed)  # type: ignore[arg-type]

    call(net)
    call(net)
    assert read_json(tmp_path / "run.json")["request"]["recipe"]["accelerator"] == "cpu", "where the network is"
    for changed, names in (
        (lambda: call(other), "weights"),
        (lambda: call(net, recipe=RECIPE), "recipe"),
        (lambda: call(net, variants=2), "variants"),
    ):
        with pytest.raises(CatchweightError, match=rf"differs in: {names}"):
            changed()


def test_a_job_that_goes_on_predicts_as_it_did(
    data: SegmentationData, table: Path, target: Target, tmp_path: Path
) -> None:
    """Networks profiled meanwhile are taken over only where the table was of no use before."""
    net, source, own = network(len(data.classes)), tmp_path / "source", tmp_path / "own"
    groups, (last, *files) = find_groups(net), sorted(table.glob("*.parquet"))
    source.mkdir()
    for file in files:
        shutil.copyfile(file, source / file.name)

    def known() -> int:
        pruning_predictor(net, groups, SIZE, target, own, variants=0, table=source)
        return len(list(own.glob("*.parquet")))

    with pytest.raises(CatchweightError, match="too few to predict from"):
        known()
    shutil.copyfile(last, source / last.name)
    assert known() == len(files) + 1
    shutil.copyfile(last, source / "later.parquet")
    assert known() == len(files) + 1


def test_a_pruning_whose_time_is_up_ends_on_the_latency(
    data: SegmentationData, table: Path, target: Target, tmp_path: Path
) -> None:
    net, lines = network(len(data.classes)), list[str]()
    limit = 0.5 * target.measure(net, SIZE, seconds=1).median_ms
    recipe = RECIPE.model_copy(update={"epochs": 3})
    result = prune(
        net, data, target, f"latency<={limit:.6f}ms", recipe, tmp_path / "prune", settings=SETTINGS, variants=50,
        table=table, deadline=time.monotonic(), say=lines.append, quiet=True,
    )  # fmt: skip
    assert result.met, result.message
    assert any(line.startswith("profile: stopped after 0 of 50") for line in lines)
    assert any(line.startswith("prune: stopped before step 1") for line in lines)
    assert "for want of time in 1 of" in result.message
    assert len((tmp_path / "prune" / "finetune" / "metrics.csv").read_text().splitlines()) == 2  # one epoch


def test_int8_scores_on_the_split_of_the_command(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a val split of its own the data set is split by the seed, and training images are not to be scored."""
    given: list[SegmentationData] = []

    def quantized(network: Path, data: SegmentationData, **_: object) -> None:
        given.append(data)
        raise CatchweightError("seen")

    monkeypatch.setattr(quantize_module, "quantize", quantized)
    scenes = make_scenes(tmp_path / "scenes", {"train": 10}, SIZE)
    save_network(tmp_path / "net.pt", network(3), {"size": list(SIZE)})
    cli("compress", tmp_path / "net.pt", "--data", scenes, "--int8", "--out", tmp_path / "run", "--seed", 7)
    (data,) = given
    assert data.splits == open_data(scenes, seed=7).splits != open_data(scenes).splits


def test_the_command_goes_on_exports_and_says_whether_it_was_met(
    pruned: tuple[Path, float, list[str]], cli: Callable[..., tuple[int, str, str]],
    data: SegmentationData, scenes: Path, tmp_path: Path,
) -> None:  # fmt: skip
    """The same request by command finds the job of the function done: it measures again, exports and verifies."""
    folder, limit, _ = pruned
    before = (folder / "pruned.pt").stat().st_mtime_ns
    save_network(
        tmp_path / "net.pt",
        network(len(data.classes)),
        {"size": list(SIZE), "classes": data.classes.to_json()},
    )
    given = {
        "train.tensorboard": "false",
        "prune.interval": 2,
        "prune.close": CLOSE,
        "train.batch": 4,
        "train.workers": 0,
    }
    code, said, _ = cli(
        "compress", tmp_path / "net.pt", "--data", scenes, "--prune", f"latency<={limit:.6f}ms",
        "--out", folder.parent, "--threads", 1, "--steps", 2, "--epochs", 1, "--variants", 0,
        *(part for key, value in given.items() for part in ("--set", f"{key}={value}")),
    )  # fmt: skip
    result = read_json(folder / "result.json")
    assert code == 0
    assert result["met"]
    assert "pruned channels" in said
    assert "the file computes what was trained" in said
    assert (folder.parent / "model.onnx").exists()
    assert (folder / "pruned.pt").stat().st_mtime_ns == before
    assert read_json(folder.parent / "model.json")["pruned"]["met"], "the file tells what became of the network"


def test_a_tolerance_counts_for_pruning_where_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    lost = PruneResult(Path("m.pt"), 5.0, 4.9, 9.0, 0.60, 0.62, 0.9, {}, True, "")
    assert _tolerated(lost, None)
    assert _tolerated(lost, 2.1)
    assert not _tolerated(lost, 1.9)
    assert "pruning costs 2.00 points of val mIoU, more than --tolerance 1.9" in capsys.readouterr().out


def test_one_command_prunes_and_then_quantises_what_is_left(
    pruned: tuple[Path, float, list[str]], cli: Callable[..., tuple[int, str, str]],
    data: SegmentationData, scenes: Path, tmp_path: Path,
) -> None:  # fmt: skip
    folder, limit, _ = pruned
    shutil.copytree(folder, tmp_path / "run" / "prune")
    meta = {"size": list(SIZE), "classes": data.classes.to_json()}
    save_network(tmp_path / "net.pt", network(len(data.classes)), meta)
    given = {
        "train.tensorboard": "false", "prune.interval": 2, "prune.close": CLOSE, "train.batch": 4, "train.workers": 0,
        "int8.methods": "[minmax]", "int8.images": 2, "int8.probe": 1, "int8.equalise": "false",
    }  # fmt: skip
    code, said, _ = cli(
        "compress", tmp_path / "net.pt", "--data", scenes, "--prune", f"latency<={limit:.6f}ms", "--int8",
        "--tolerance", 100, "--out", tmp_path / "run", "--threads", 1, "--steps", 2, "--epochs", 1, "--variants", 0,
        *(part for key, value in given.items() for part in ("--set", f"{key}={value}")),
    )  # fmt: skip
    assert code == 0
    verdict = read_json(tmp_path / "run" / "int8" / "int8.verdict.json")
    assert verdict["accepted"], verdict["reason"]
    assert verdict["recipe"]["method"] == "minmax"
    assert f"int8: {tmp_path / 'run' / 'int8' / 'int8.onnx'}" in said
    small, _ = load_network(folder / "model.pt")
    weights = onnx.load(tmp_path / "run" / "int8" / "float.onnx").graph.initializer
    convolutions = sorted(tuple(m.weight.shape) for m in small.modules() if isinstance(m, nn.Conv2d))
    assert sorted(tuple(w.dims) for w in weights if len(w.dims) == 4) == convolutions, "int8 is made of what was pruned"
    assert is_quantized(tmp_path / "run" / "int8" / "int8.onnx")


def test_the_command_refuses_what_makes_no_sense(
    cli: Callable[..., tuple[int, str, str]], scenes: Path, tmp_path: Path
) -> None:
    save_network(tmp_path / "net.pt", network(3), {"size": list(SIZE)})
    common = ("compress", tmp_path / "net.pt", "--data", scenes, "--out", tmp_path / "run")
    code, _, err = cli(*common)
    assert code == 2
    assert "compress what?" in err
    code, _, err = cli(*common, "--prune", "latency<=1ms", "--method", "halpp")
    assert code == 2
    assert 'did you mean "halp"' in err
    code, _, err = cli(*common, "--prune", "latency<=1ms")
    assert code == 1
    assert "give the data it was trained on" in err


def test_losses_repeat_from_anywhere(data: SegmentationData) -> None:
    net = network(len(data.classes))
    forth, back = (job.SegmentationLosses(data, RECIPE, net, None) for _ in range(2))
    first = [float(forth(net, number).detach()) for number in range(4)]
    assert [float(back(net, number).detach()) for number in (3, 1)] == [first[3], first[1]]
