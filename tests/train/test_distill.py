"""Distillation: each distance against a plain computation, and what a training with a teacher does and stores."""

from __future__ import annotations

import math
import multiprocessing
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from training_helpers import RECIPE, assert_same, die, recipe_with, tiny_net

from catchweight.data import ClassSet, SegmentationData, open_data
from catchweight.data.loading import TrainLoader
from catchweight.errors import CatchweightError, UsageError
from catchweight.nets import SegmentationNet, build_network, load_network, save_network
from catchweight.tasks.losses import LossConfig, SegmentationLoss
from catchweight.train import Distiller, DistillTerms, train
from catchweight.train.batches import FinerImages
from catchweight.train.checkpoints import load_state
from catchweight.train.distill import channel_kl, imitation, load_teacher, network_hash, pixel_kl
from catchweight.train.distill.distiller import DistillStep, feature_pairs
from catchweight.train.distill.taps import Taps

pytest_plugins = ["training_helpers"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["training_helpers"])

MAPS = DistillTerms(cwd=3, features=1, cwd_features=1, layers=1, layer_pairs=(("neck[0]", "neck[0]"),))


def teacher_net(classes: int, name: str = "timm/test_resnet+fpn:width=24") -> SegmentationNet:
    torch.manual_seed(7)
    return build_network(name, classes)


def logits(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def step_of(
    net: SegmentationNet, teacher: SegmentationNet, terms: DistillTerms, size: tuple[int, int] | None = None
) -> DistillStep:
    step = Distiller(teacher, terms, size)(net, SegmentationLoss(LossConfig()), True)
    assert isinstance(step, DistillStep)
    return step


def batch(classes: int, size: tuple[int, int] = (64, 64)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (2, 3, *size), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, classes, (2, *size), generator=generator, dtype=torch.uint8)


# Distances


def test_pixel_kl_by_hand_in_both_reductions() -> None:
    student, teacher = logits(2, 5, 3, 4), logits(2, 5, 3, 4, seed=1)
    q = (teacher / 2).softmax(1)
    by_hand = 4 * (q * (q.log() - (student / 2).log_softmax(1))).sum(1)
    assert pixel_kl(student, teacher, 2.0) == pytest.approx(by_hand.mean().item(), rel=1e-5)
    assert pixel_kl(student, teacher, 2.0, "element") == pytest.approx(by_hand.mean().item() / 5, rel=1e-5)
    each = nn.KLDivLoss(reduction="none")(F.log_softmax(student, 1), teacher.softmax(1))
    assert pixel_kl(student, teacher, 1.0, "element") == pytest.approx(each.mean().item(), rel=1e-5)


def test_only_pixels_that_count_are_compared() -> None:
    student, teacher = logits(1, 3, 4, 4), logits(1, 3, 4, 4, seed=1)
    valid = torch.zeros(1, 8, 8, dtype=torch.bool)
    valid[:, :, :4] = True
    half = pixel_kl(student[..., :2], teacher[..., :2])
    assert pixel_kl(student, teacher, valid=valid) == pytest.approx(half.item(), rel=1e-5)
    assert pixel_kl(student, teacher, valid=torch.zeros_like(valid)) == 0


def test_channel_kl_by_hand() -> None:
    student, teacher = logits(2, 5, 3, 4), logits(2, 5, 3, 4, seed=1)
    q = (teacher / 4).flatten(2).softmax(2)
    by_hand = 16 * (q * (q.log() - (student / 4).flatten(2).log_softmax(2))).sum() / (2 * 5)
    assert channel_kl(student, teacher) == pytest.approx(by_hand.item(), rel=1e-5)


def test_imitation_is_half_the_mean_square_and_relative_on_request() -> None:
    student, teacher = logits(2, 5, 3, 4), logits(2, 5, 3, 4, seed=1)
    assert imitation(student, teacher, relative=False) == pytest.approx(((student - teacher) ** 2).mean().item() / 2)
    zero = torch.zeros_like(teacher)
    assert imitation(zero, teacher) == pytest.approx(0.5)
    assert imitation(1000 * student, 1000 * teacher) == pytest.approx(imitation(student, teacher).item(), rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shift=st.floats(-5, 5),
    temperature=st.floats(0.5, 8),
    kind=st.sampled_from(["pixel", "channel", "imitation"]),
)
def test_distances_are_zero_for_equal_maps_and_never_negative(
    seed: int, shift: float, temperature: float, kind: str
) -> None:
    student, teacher = logits(1, 4, 3, 3, seed=seed), logits(1, 4, 3, 3, seed=seed + 1)
    distance = {
        "pixel": lambda a, b: pixel_kl(a, b, temperature),
        "channel": lambda a, b: channel_kl(a, b, temperature),
        "imitation": imitation,
    }[kind]
    assert float(distance(student, teacher)) >= 0
    assert float(distance(teacher, teacher)) == pytest.approx(0, abs=1e-5)
    if kind != "imitation":  # a constant added to all logits changes no distribution
        assert float(distance(student + shift, teacher)) == pytest.approx(float(distance(student, teacher)), abs=1e-3)


def test_gradients_reach_the_student_alone_and_lead_to_the_teacher() -> None:
    student = logits(1, 4, 3, 3).requires_grad_()
    teacher = logits(1, 4, 6, 6, seed=1).requires_grad_()
    for distance in (pixel_kl, channel_kl, imitation):
        loss = distance(student, teacher)
        (gradient,) = torch.autograd.grad(loss, student, retain_graph=False)
        assert distance(student.detach() - 1e-2 * gradient / gradient.norm(), teacher) < loss
    assert teacher.grad is None


# The step


def test_the_default_step_is_the_loss_plus_the_kl(data: SegmentationData) -> None:
    classes = len(data.classes)
    net, teacher = tiny_net(classes).eval(), teacher_net(classes)
    images, masks = batch(classes)
    step = step_of(net, teacher, DistillTerms(kl=0.5))
    with torch.no_grad():
        mine = net.train_logits(net.normalise(images))
        theirs = teacher.eval().logits(teacher.normalise(images))
        expected = SegmentationLoss(LossConfig())(mine, masks) + 0.5 * pixel_kl(mine[0], theirs)
        assert step(images, masks).item() == pytest.approx(expected.item(), rel=1e-5)
    assert [name for name, _ in step.named_parameters() if not name.startswith("net.")] == []


def test_the_teacher_stays_as_it_is_and_out_of_the_state(data: SegmentationData) -> None:
    classes = len(data.classes)
    teacher = teacher_net(classes).train()
    before = network_hash(teacher)
    step = step_of(tiny_net(classes), teacher, MAPS).train()
    step(*batch(classes)).backward()
    assert network_hash(step.teacher.net) == network_hash(teacher) == before
    assert teacher.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert not step.teacher.net.training
    assert all(parameter.grad is None for parameter in step.teacher.net.parameters())
    assert {name.split(".")[0] for name in step.state_dict()} == {"net", "adapters"}
    assert all(parameter.grad is not None for parameter in step.adapters.parameters())


def test_hooks_are_gone_after_each_pass(data: SegmentationData) -> None:
    classes = len(data.classes)
    net = build_network("timm/test_resnet+fpn:width=16", classes)
    step_of(net, teacher_net(classes), MAPS)(*batch(classes))
    assert not any(module._forward_hooks for module in net.modules())


def test_equal_channels_begin_as_the_identity_so_a_copy_of_the_teacher_has_nothing_to_imitate(
    data: SegmentationData,
) -> None:
    classes = len(data.classes)
    teacher = teacher_net(classes)
    terms = DistillTerms(labels=0, kl=0, features=1, layers=1, layer_pairs=(("neck[0]", "neck[0]"),))
    student = teacher_net(classes).eval()
    assert step_of(student, teacher, terms)(*batch(classes)).item() == pytest.approx(0, abs=1e-10)


def test_a_teacher_of_another_size_sees_the_larger_image(data: SegmentationData) -> None:
    classes = len(data.classes)
    net, teacher = tiny_net(classes).eval(), teacher_net(classes).eval()
    fine, masks = batch(classes, (96, 128))[0], batch(classes)[1]
    step = step_of(net, teacher, DistillTerms(labels=0), (96, 128))
    seen: list[torch.Size] = []
    step.teacher.net.register_forward_pre_hook(lambda *_: None)
    step.teacher.net.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    net.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    with torch.no_grad():
        loss = step(fine, masks)
        theirs = teacher.logits(teacher.normalise(fine))
        reduced = F.interpolate(net.normalise(fine), size=(64, 64), mode="bilinear", antialias=True)
        expected = pixel_kl(net.logits(reduced), theirs)
    assert {tuple(shape[-2:]) for shape in seen[:2]} == {(64, 64), (96, 128)}
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_finer_images_are_the_same_views_with_the_masks_of_the_student(data: SegmentationData) -> None:
    def loader(size: tuple[int, int]) -> TrainLoader:
        return TrainLoader(data, size, 4, RECIPE.augment, seed=5)

    fine = FinerImages(loader((128, 128)), (64, 64))
    coarse = loader((64, 64))
    assert len(fine) == len(coarse)
    for one, other in zip(fine.epoch(1, 1), coarse.epoch(1, 1), strict=True):
        assert one.ids == other.ids
        assert one.images.shape == (4, 3, 128, 128)
        assert one.masks.shape == other.masks.shape
        assert (one.masks == other.masks).float().mean() > 0.9


@pytest.mark.parametrize("name", ["ffnet_22s_bcc_mobile", "fasterseg_student", "timm/test_resnet+bifpn"])
def test_feature_places_give_the_maps_of_feature_info(name: str) -> None:
    net = build_network(name, 3, width=0.25 if name.startswith("ff") else 1.0).eval()
    taps = Taps(net, net.feature_places)
    with torch.no_grad(), taps.caught() as maps:
        net(torch.zeros(1, 3, 128, 160))
    found = [(maps[place].shape[1], round(160 / maps[place].shape[3])) for place in net.feature_places]
    assert found == [(info.channels, info.stride) for info in net.feature_info]


# Wrong requests


def test_wrong_teachers_places_and_terms_are_named(data: SegmentationData, tmp_path: Path) -> None:
    classes = len(data.classes)
    net, teacher = tiny_net(classes), teacher_net(classes)
    with pytest.raises(UsageError, match=f"3 classes apart.* {classes}"):
        step_of(net, teacher_net(3), DistillTerms())
    with pytest.raises(UsageError, match='did you mean "neck"'):
        step_of(net, teacher, DistillTerms(layers=1, layer_pairs=(("nekc", "neck[0]"),)))
    with pytest.raises(UsageError, match=r'"neck" is \d maps: .*"neck\[0\]"'):
        step_of(net, teacher, DistillTerms(layers=1, layer_pairs=(("neck", "neck[0]"),)))
    with pytest.raises(UsageError, match=r'"neck\[9\]" does not exist'):
        step_of(net, teacher, DistillTerms(layers=1, layer_pairs=(("neck[9]", "neck[0]"),)))
    with pytest.raises(UsageError, match="layer_pairs names no layers"):
        step_of(net, teacher, DistillTerms(layers=1))
    with pytest.raises(UsageError, match="leave the teacher out"):
        step_of(net, teacher, DistillTerms(kl=0))
    save_network(tmp_path / "teacher.pt", teacher, {"classes": ClassSet(("a", "b")).to_json()})
    with pytest.raises(UsageError, match=r"teacher\.pt knows the classes a, b, but"):
        load_teacher(tmp_path / "teacher.pt", data.classes)


def test_encoders_without_a_common_stride_are_refused() -> None:
    class Strides:
        def __init__(self, *strides: int) -> None:
            self.feature_info = [type("Info", (), {"stride": s}) for s in strides]
            self.feature_places = [f"m{s}" for s in strides]
            self.spec = type("Spec", (), {"name": "net"})

    assert feature_pairs(Strides(4, 8, 8), Strides(8, 16)) == [("m8", "m8")]  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"\[4\].* of \[8\]"):
        feature_pairs(Strides(4), Strides(8))  # type: ignore[arg-type]


# Trainings


def run_distilled(scenes: Path, folder: Path, kill: tuple[int, float] | None = None) -> None:
    """A training with adapters, in this process."""
    import threading

    if kill is not None:
        threading.Thread(target=die, args=(folder / "last.pt", *kill), daemon=True).start()
    torch.set_num_threads(1)
    data = open_data(scenes)
    classes = len(data.classes)
    recipe = recipe_with(epochs=4, checkpoint_every_s=1e-3)
    train(tiny_net(classes), data, recipe, folder, objective=Distiller(teacher_net(classes), MAPS), quiet=True)


def test_killed_it_ends_with_the_same_bits_adapters_included(scenes: Path, tmp_path: Path) -> None:
    def start(folder: str, kill: tuple[int, float] | None = None) -> Any:
        process = CONTEXT.Process(target=run_distilled, args=(scenes, tmp_path / folder), kwargs={"kill": kill})
        process.start()
        return process

    straight = start("straight")
    chance, kills = random.Random(2), 0
    process = start("killed", (chance.randint(1, 4), chance.uniform(0, 0.1)))
    process.join()
    kills += process.exitcode == -signal.SIGKILL
    last = start("killed")
    last.join()
    straight.join()
    assert last.exitcode == straight.exitcode == 0
    assert kills >= 1
    one, other = (load_state(tmp_path / folder / "last.pt") for folder in ("straight", "killed"))
    assert_same(one, other)
    assert {name.split(".")[0] for name in one["beside"]} == {"adapters"}
    fresh = step_of(tiny_net(8), teacher_net(8), MAPS).adapters.state_dict()
    assert any(not torch.equal(one["beside"][f"adapters.{name}"], value) for name, value in fresh.items())


def test_what_is_kept_is_the_student_alone(data: SegmentationData, tmp_path: Path) -> None:
    classes = len(data.classes)
    objective = Distiller(teacher_net(classes), MAPS)
    result = train(tiny_net(classes), data, RECIPE, tmp_path, objective=objective, until_epoch=1, quiet=True)
    kept, _ = load_network(result.best)
    plain = tiny_net(classes)
    assert kept.state_dict().keys() == plain.state_dict().keys()
    state = load_state(result.last)
    assert state["net"].keys() == state["ema"].keys() == plain.state_dict().keys()
    moved = sum(len(group["params"]) for group in state["optimizer"]["param_groups"])
    assert moved == len(list(plain.parameters())) + len(state["beside"])


def test_another_teacher_or_term_is_refused(data: SegmentationData, tmp_path: Path) -> None:
    classes = len(data.classes)
    net, teacher = tiny_net(classes), teacher_net(classes)
    train(net, data, RECIPE, tmp_path, objective=Distiller(teacher), until_epoch=1, quiet=True)
    other = teacher_net(classes)
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    with pytest.raises(CatchweightError, match=r"objective\.teacher\.hash"):
        train(net, data, RECIPE, tmp_path, objective=Distiller(other), quiet=True)
    with pytest.raises(CatchweightError, match=r"objective\.terms\.kl "):
        train(net, data, RECIPE, tmp_path, objective=Distiller(teacher, DistillTerms(kl=2)), quiet=True)
    with pytest.raises(CatchweightError, match=r"objective\.kind"):
        train(net, data, RECIPE, tmp_path, quiet=True)


def test_the_same_recipe_starts_the_adapters_alike(data: SegmentationData, tmp_path: Path) -> None:
    classes = len(data.classes)
    for number, name in enumerate(("a", "b")):
        torch.manual_seed(number)
        objective = Distiller(teacher_net(classes), MAPS)
        train(tiny_net(classes), data, RECIPE, tmp_path / name, objective=objective, until_epoch=1, quiet=True)
    assert_same(load_state(tmp_path / "a" / "last.pt"), load_state(tmp_path / "b" / "last.pt"))


def test_a_student_comes_nearer_to_its_teacher_without_any_label(data: SegmentationData, tmp_path: Path) -> None:
    classes = len(data.classes)
    taught = train(tiny_net(classes), data, recipe_with(epochs=6), tmp_path / "teacher", quiet=True)
    teacher, _ = load_network(taught.best)
    objective = Distiller(teacher, DistillTerms(labels=0))
    result = train(tiny_net(classes), data, recipe_with(epochs=6), tmp_path / "s", objective=objective, quiet=True)
    losses = [row["train_loss"] for row in result.history]
    assert losses[-1] < 0.6 * losses[0]
    assert all(math.isfinite(loss) for loss in losses)


def test_a_larger_teacher_image_and_accumulation_train(data: SegmentationData, tmp_path: Path) -> None:
    classes = len(data.classes)
    objective = Distiller(teacher_net(classes), DistillTerms(), (96, 96))
    result = train(
        tiny_net(classes), data, recipe_with(accumulate=2), tmp_path, objective=objective, until_epoch=1, quiet=True
    )
    assert math.isfinite(result.history[0]["train_loss"])
    net, meta = load_network(result.best)
    assert meta["size"] == [64, 64]


@pytest.mark.slow
def test_a_compiled_step_with_adapters_trains(data: SegmentationData, tmp_path: Path) -> None:
    classes = len(data.classes)
    losses = []
    for on in (False, True):
        net = build_network("timm/test_resnet+fpn:width=16", classes)
        net.load_state_dict(teacher_net(classes, "timm/test_resnet+fpn:width=16").state_dict())
        objective = Distiller(teacher_net(classes), MAPS)
        folder = tmp_path / str(on)
        result = train(net, data, recipe_with(compile=on), folder, objective=objective, until_epoch=1, quiet=True)
        losses.append(result.history[0]["train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
