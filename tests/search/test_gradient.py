"""Search by gradient: its two steps, its controller, and a whole tiny co-search that is killed and goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gradient_tiny import SIZE, TINY, made_up_ms, tiny_search

from catchweight.data import open_data
from catchweight.data.loading import Batch, EvalLoader
from catchweight.data.scenes import make_scenes
from catchweight.errors import CatchweightError, UsageError
from catchweight.nets import build_network
from catchweight.nets.fasterseg import fasterseg_config
from catchweight.search.gradient import CoSearchResult, LambdaController, co_search, pretrain
from catchweight.search.gradient.cosearch import student_latency, supernet
from catchweight.search.gradient.halves import HalfLoader
from catchweight.search.gradient.result import chosen, pair_scores, trade
from catchweight.search.gradient.steps import CoSearch, five_losses
from catchweight.spaces.fasterseg import PAIRS, PREDICTIONS
from catchweight.tasks.losses import log_probabilities, ohem_cross_entropy
from catchweight.train.checkpoints import load_state, save_state
from catchweight.train.evaluate import eager_predict, evaluate


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), {"train": 8, "val": 2}, SIZE)


@pytest.fixture
def search(scenes: Path) -> CoSearch:
    found = supernet(open_data(scenes), TINY)
    return replace(found, latency=student_latency(found.space, TINY, made_up_ms))


@pytest.fixture(scope="module")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CoSearchResult, Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the killed one: sums depend on the number of threads
    folder = tmp_path_factory.mktemp("undisturbed")
    result = tiny_search(scenes, folder)
    torch.set_num_threads(threads)
    return result, folder


def batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 3, *SIZE), generator=generator, dtype=torch.uint8)
    masks = torch.randint(0, 3, (2, *SIZE), generator=generator, dtype=torch.uint8)
    return Batch(images, masks, ("a", "b"))


# --- Steps


def test_loss_is_of_every_eighth_pixel_and_of_all_predictions() -> None:
    torch.manual_seed(0)
    predictions = {ends: torch.randn(2, 4, 9, 8) for ends in PREDICTIONS}
    masks = torch.randint(0, 4, (2, 67, 64), dtype=torch.uint8)
    masks[:, 8] = 255
    labels = torch.stack([mask[::8, ::8] for mask in masks]).long()
    single = [
        ohem_cross_entropy(log_probabilities(y, labels.shape[-2:]), labels, 0.7, 1 / 16) for y in predictions.values()
    ]
    torch.testing.assert_close(five_losses(predictions, masks), torch.stack(single).sum())


def test_architecture_step_moves_no_weight_and_the_other_no_architecture(search: CoSearch) -> None:
    for parameter in (*search.weights, *search.architecture):
        parameter.grad = torch.full_like(parameter, 1e6)  # left over; must not be added to
    torch.manual_seed(0)
    search.architecture_gradient(batch(), 0.1)
    assert all(weight.grad is None for weight in search.weights)
    first = [vector.grad.clone() for vector in search.architecture if vector.grad is not None]
    assert len(first) == len(search.architecture)
    assert max(float(g.abs().max()) for g in first) < 1e5
    search.weights_gradient(batch())
    assert all(vector.grad is None for vector in search.architecture)
    assert any(weight.grad is not None for weight in search.weights)
    assert all(weight.grad is None or float(weight.grad.abs().max()) < 1e5 for weight in search.weights)


def test_latency_is_the_students_alone_and_weighted(search: CoSearch) -> None:
    """The gradient's difference between two weights is that of the latency: none for the teacher."""
    search.space.eval()  # norms that do not move, so that both passes see the same network
    found = []
    for weight in (0.0, 1e4):
        torch.manual_seed(0)
        search.architecture_gradient(batch(), weight)
        found.append([vector.grad.clone() for vector in search.architecture])
    teachers = len(list(search.teacher.parameters()))
    moved = [not torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(*found, strict=True)]
    assert not any(moved[:teachers])
    assert sum(moved[teachers:]) > len(moved[teachers:]) / 2
    assert search.latency_ms > 0


def test_mixed_precision_moves_the_same_parameters_the_same_way(search: CoSearch) -> None:
    search.space.eval()  # norms that do not move, so that both passes see the same network
    found, losses = [], []
    for mixed in (False, True):
        search.mixed = mixed
        torch.manual_seed(0)
        losses.append(search.architecture_gradient(batch(), 0.1))
        found.append(torch.cat([vector.grad.clone().flatten() for vector in search.architecture]))
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)
    assert all(gradient.dtype == torch.float32 for gradient in found)
    assert torch.cosine_similarity(*found, dim=0) > 0.99


def test_architecture_of_the_student_follows_latency_alone_to_the_narrowest(search: CoSearch) -> None:
    """With a latency that outweighs any loss, widths become narrow: the sign of the gradient is right."""
    search.coupled = True
    adam = torch.optim.Adam(search.architecture, 0.05)
    for step in range(8):
        torch.manual_seed(step)
        search.architecture_gradient(batch(), 1e6)
        adam.step()
    widths = search.student.widths.softmax()
    assert all(float(vector[0]) > 0.55 for vector in widths.values())


def test_pretraining_runs_the_widest_the_narrowest_and_two_random_widths(search: CoSearch) -> None:
    torch.manual_seed(3)
    members = list(search.pretrain_members())
    widths = [[v for n, v in values.items() if n.startswith("width")] for _, values in members]
    assert [set(w) for w in widths[:2]] == [{12}, {8}]
    assert [set(w) for w in widths[2:]] == [{8, 12}] * 2
    assert widths[2] != widths[3]
    assert [role for role, _ in members] == ["teacher"] * 4


def test_search_runs_both_roles_and_the_students_extremes(search: CoSearch) -> None:
    members = list(search.search_members())
    assert [role for role, _ in members] == ["teacher", "student", "student", "student"]
    names = search.space.lattice.open_widths()
    assert {members[0][1][name] for name in names} == {12}
    assert all(isinstance(members[1][1][name], torch.Tensor) for name in names)
    assert [{values[name] for name in names} for _, values in members[2:]] == [{12}, {8}]


def test_halves_share_no_image_and_make_up_all(scenes: Path) -> None:
    data = open_data(scenes)
    halves = [HalfLoader(data, TINY.search, TINY, half, None) for half in (0, 1)]
    ids = [{record.id for record in loader.records} for loader in halves]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {record.id for record in data.splits["train"]}
    other = HalfLoader(data, TINY.search, TINY.model_copy(update={"seed": 7}), 0, None)
    assert {record.id for record in other.records} != ids[0]
    seen = {name for b in halves[0].epoch(0) for name in b.ids}
    assert seen == ids[0]


# --- Controller and choice


def test_controller_halves_when_one_candidate_is_fast_and_doubles_when_one_is_slow() -> None:
    controller = LambdaController.from_fps(0.01, (155.0, 175.0))
    assert controller.window_ms == (1000 / 175, 1000 / 155)
    assert controller.update([6.0, 6.2]) == 0.01
    assert controller.update([6.0, 7.0]) == 0.02
    assert controller.update([5.0, 7.0]) == 0.01
    assert controller.update([1000 / 175, 6.0]) == 0.005
    assert controller.update([6.0, 1000 / 155]) == 0.01


def test_kept_pair_trades_score_against_latency() -> None:
    assert trade(0.5, 8.3, 8.3, -0.07) == 0.5
    assert trade(0.5, 16.6, 8.3, -0.07) == pytest.approx(0.5 * 2**-0.07)
    record = {"candidates": {"a": {"miou": 0.50, "ms": 8.3}, "b": {"miou": 0.51, "ms": 16.6}}}
    assert chosen(record, 8.3, -0.07) == record["candidates"]["a"]
    assert chosen(record, 8.3, 0.0) == record["candidates"]["b"]


def test_pair_scores_are_those_of_the_held_supernet(scenes: Path, search: CoSearch) -> None:
    data = open_data(scenes)
    loader = EvalLoader(data, "val", SIZE, 2)
    values = search.student.likeliest()
    found = pair_scores(search.space, values, "student", loader, data.classes)
    for ends in PAIRS:
        with search.space.held(values, "student", ends):
            truth = evaluate(eager_predict(search.space), loader, data.classes).miou
        assert found[ends] == pytest.approx(truth, abs=1e-9)


def test_unknown_roles_and_predictions_are_named(search: CoSearch) -> None:
    with pytest.raises(UsageError, match='did you mean "student"'), search.space.held({}, "students", (32, 8)):
        pass
    with pytest.raises(UsageError, match="prediction"), search.space.held({}, "student", (16, 8)):
        pass


# --- The whole


def test_co_search_finds_two_networks_and_tells_every_epoch(undisturbed: tuple[CoSearchResult, Path]) -> None:
    result, folder = undisturbed
    for name, role, width in ((result.student, "student", 8), (result.teacher, "teacher", 12)):
        assert name.startswith(f"fasterseg_{role}:")
        config = fasterseg_config(name)
        assert config.stem == config.head == width
        assert len(config.branches) == 2
        with torch.device("meta"):
            build_network(name, 3)
    assert all(len(branch.ops) == 5 for branch in fasterseg_config(result.teacher).branches)
    records = [json.loads(file.read_text()) for file in sorted((folder / "epochs").glob("*.json"))]
    assert records == json.loads(json.dumps(list(result.history)))
    assert [record["epoch"] for record in records] == [1, 2]
    # The made-up window is faster than any network, so lambda doubles epoch by epoch.
    assert [record["lambda"] for record in records] == [0.01, 0.02]
    assert result.latency_weight == 0.04
    for record in records:
        assert record["expected_ms"] > 0
        for role in ("teacher", "student"):
            assert set(record[role]["candidates"]) == {"32+8", "32+16"}
            assert all(0 <= c["miou"] <= 1 and c["ms"] > 0 for c in record[role]["candidates"].values())
        assert sum(record["student"]["probabilities"]["width1.8"]) == pytest.approx(1)
    first, last = (record["student"]["probabilities"]["op1.8"] for record in (records[0], records[-1]))
    assert first != last
    assert not list(folder.rglob("state.pt"))


def test_killed_search_ends_as_an_undisturbed_one(
    scenes: Path, undisturbed: tuple[CoSearchResult, Path], tmp_path: Path
) -> None:
    command = [sys.executable, str(Path(__file__).parent / "gradient_tiny.py"), str(scenes), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("search epoch 1/2"):
                break
        else:
            pytest.fail("the search ended before it could be killed")
        wait_for_change(tmp_path / "state.pt")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "result.json").exists()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["progress"]["epoch"] >= 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = tiny_search(scenes, tmp_path)
    torch.set_num_threads(threads)
    assert replace(result, seconds=0.0) == replace(undisturbed[0], seconds=0.0)


def wait_for_change(path: Path, timeout: float = 60.0) -> None:
    """Until a file is replaced: a step of the epoch under way has been stored."""
    before, deadline = path.stat().st_mtime_ns, time.monotonic() + timeout
    while path.stat().st_mtime_ns == before and time.monotonic() < deadline:
        time.sleep(0.001)


def test_other_settings_are_refused(scenes: Path, undisturbed: tuple[CoSearchResult, Path]) -> None:
    result, folder = undisturbed
    with pytest.raises(CatchweightError, match="arch_lr=0.0003, not 0.1"):
        tiny_search(scenes, folder, TINY.model_copy(update={"arch_lr": 0.1}))
    again = tiny_search(scenes, folder, TINY.model_copy(update={"workers": 1}))
    assert again == result


def test_a_loss_that_is_no_number_stops_the_search(scenes: Path, tmp_path: Path) -> None:
    wild = TINY.model_copy(update={"pretrain": TINY.pretrain.model_copy(update={"lr": 1e30, "epochs": 3})})
    with pytest.raises(CatchweightError, match="pretrain.lr"):
        tiny_search(scenes, tmp_path, wild)


def test_pretrained_weights_of_other_settings_are_refused_and_older_ones_taken(
    scenes: Path, undisturbed: tuple[CoSearchResult, Path], tmp_path: Path
) -> None:
    data, folder = open_data(scenes), undisturbed[1] / "pretrain"
    for name, other in (("image_size", (128, 128)), ("precision", "bf16-mixed")):
        with pytest.raises(CatchweightError, match=f"with {name}="):
            pretrain(data, TINY.model_copy(update={name: other}), folder)
    shutil.copytree(folder, tmp_path / "old")
    about = json.loads((folder / "about.json").read_text())
    del about["image_size"], about["precision"]  # as earlier versions wrote it
    (tmp_path / "old" / "about.json").write_text(json.dumps(about))
    assert pretrain(data, TINY, tmp_path / "old") == tmp_path / "old" / "weights.pt"
    with pytest.raises(CatchweightError, match="with seed="):
        pretrain(data, TINY.model_copy(update={"seed": 1}), tmp_path / "old")


@pytest.mark.parametrize(
    ("gradient", "moved", "setting"),
    [
        ("pretrain_gradient", "weights", "pretrain.lr"),
        ("weights_gradient", "weights", "search.lr"),
        ("architecture_gradient", "architecture", "arch_lr"),
    ],
)
def test_a_gradient_that_overflows_in_the_last_step_ends_in_no_file(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gradient: str, moved: str, setting: str
) -> None:
    """The loss of that step is a number, and there is no step after it whose loss would tell."""
    real = getattr(CoSearch, gradient)

    def overflowing(self: CoSearch, *asked: object) -> float:
        loss = real(self, *asked)
        getattr(self, moved)[0].grad.fill_(float("inf"))
        return loss

    if gradient == "architecture_gradient":  # else it is seen in the loss of the weights, in the same step
        monkeypatch.setattr(CoSearch, "weights_gradient", lambda self, batch: 1.0)
    monkeypatch.setattr(CoSearch, gradient, overflowing)
    short = TINY.search.model_copy(update={"epochs": 1, "batch": 4})
    with pytest.raises(CatchweightError, match=f"weights became infinite or NaN.*lower {setting}"):
        tiny_search(scenes, tmp_path, TINY.model_copy(update={"pretrain": short, "search": short}))
    assert not (tmp_path / "result.json").exists()
    assert (tmp_path / "pretrain" / "weights.pt").exists() == (gradient != "pretrain_gradient")


def test_pretrained_weights_that_are_no_numbers_are_refused(
    scenes: Path, undisturbed: tuple[CoSearchResult, Path], tmp_path: Path
) -> None:
    state = load_state(undisturbed[1] / "pretrain" / "weights.pt")
    next(value for value in state["weights"].values() if value.is_floating_point() and value.dim() == 4)[0] = torch.nan
    save_state(tmp_path / "weights.pt", state)
    with pytest.raises(CatchweightError, match=r"weights\.pt holds infinite or NaN weights: .* lower pretrain\.lr"):
        co_search(open_data(scenes), TINY, tmp_path / "search", made_up_ms, pretrained=tmp_path / "weights.pt")
