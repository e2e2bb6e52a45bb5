"""Semi-supervised training: which images keep labels, how batches are put together, and MGD's terms by hand."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from training_helpers import RECIPE, assert_same, recipe_with, tiny_net

from catchweight.data import IGNORE, SegmentationData, open_data
from catchweight.data.cache import PixelCache
from catchweight.data.loading import TrainLoader
from catchweight.data.unlabelled import UNLABELLED, labelled_share, unlabelled_images
from catchweight.errors import CatchweightError, UsageError
from catchweight.nets import SegmentationNet, build_network
from catchweight.tasks.losses import LossConfig, SegmentationLoss
from catchweight.train import train
from catchweight.train.batches import Triples, interleaved, taken_apart
from catchweight.train.checkpoints import load_state
from catchweight.train.mgd import (
    MgdStep,
    MgdTerms,
    MultiGranularity,
    cutmix_boxes,
    image_difference,
    pixel_labels,
    region_difference,
    self_similarity,
)

pytest_plugins = ["training_helpers"]


def net_of(classes: int, seed: int, name: str = "timm/test_resnet+fpn:width=24") -> SegmentationNet:
    torch.manual_seed(seed)
    return build_network(name, classes)


def objective_for(data: SegmentationData, **terms: float) -> tuple[SegmentationData, MultiGranularity]:
    labelled, unlabelled = labelled_share(data, 0.34)
    classes = len(data.classes)
    return labelled, MultiGranularity(net_of(classes, 1), net_of(classes, 2), unlabelled, MgdTerms(**terms))


# Labels set aside


def test_a_share_is_seeded_nested_and_loses_nothing(data: SegmentationData) -> None:
    def ids(records: tuple) -> set[str]:
        return {record.id for record in records}

    everything = ids(data.splits["train"])
    small, rest = labelled_share(data, 1 / 4, seed=3)
    large, _ = labelled_share(data, 1 / 2, seed=3)
    assert len(small.splits["train"]) == round(len(everything) / 4)
    assert ids(small.splits["train"]) | ids(rest.splits["train"]) == everything
    assert not ids(small.splits["train"]) & ids(rest.splits["train"])
    assert ids(small.splits["train"]) < ids(large.splits["train"])
    assert small.splits["val"] == data.splits["val"]
    assert set(rest.splits) == {"train"}
    chosen = {frozenset(ids(labelled_share(data, 1 / 2, seed)[0].splits["train"])) for seed in range(8)}
    assert len(chosen) > 1


def test_label_files_are_never_opened(scenes: Path, tmp_path: Path) -> None:
    """Even with the masks gone, unlabelled images are read, cached and loaded."""
    copy = tmp_path / "scenes"
    shutil.copytree(scenes, copy)
    data = open_data(copy)
    _, rest = labelled_share(data, 0.34)
    for record in data.splits["train"]:
        assert record.mask is not None
        record.mask.unlink()
    assert all(record.mask is None for record in rest.splits["train"])
    sample = rest.read(rest.splits["train"][0])
    assert (sample.mask == UNLABELLED).all()
    cache = PixelCache(tmp_path / "cache")
    loader = TrainLoader(rest, (64, 64), 4, RECIPE.augment, cache=cache)
    seen = {int(value) for batch in loader.epoch(0) for value in batch.masks.unique()}
    assert seen == {UNLABELLED, IGNORE}, "padding must be told from pixels without a label"
    assert rest.fingerprint() != replace(data, splits=rest.splits).fingerprint()


def test_a_folder_of_pictures_is_unlabelled_data(data: SegmentationData, scenes: Path, tmp_path: Path) -> None:
    found = unlabelled_images(scenes / "images", data)
    assert len(found.splits["train"]) == sum(1 for _ in (scenes / "images").rglob("*.png"))
    assert found.classes == data.classes
    sample = found.read(found.splits["train"][0])
    assert (sample.mask == UNLABELLED).all()
    for nothing in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CatchweightError, match="has no picture in or below it"):
            unlabelled_images(nothing, data)


def test_a_share_that_is_none_is_refused(data: SegmentationData) -> None:
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(UsageError, match="must lie in"):
            labelled_share(data, share)
    with pytest.raises(UsageError, match='did you mean "train"'):
        labelled_share(data, 0.5, split="trian")


# Batches


def loaders(data: SegmentationData, batch: int = 2) -> Triples:
    labelled, unlabelled = labelled_share(data, 0.34)
    rest = [TrainLoader(unlabelled, (64, 64), batch, seed=seed) for seed in (1, 2)]
    return Triples(TrainLoader(labelled, (64, 64), batch), *rest)


def test_triples_take_turns_and_go_round_the_labelled_images(data: SegmentationData) -> None:
    triples = loaders(data)
    assert len(triples) == 4  # 8 unlabelled images in pairs
    batches = list(triples.epoch(0))
    labelled = {record.id for record in labelled_share(data, 0.34)[0].splits["train"]}
    for batch in batches:
        assert batch.images.shape == (6, 3, 64, 64)
        assert [name in labelled for name in batch.ids] == [True, False, False] * 2
    names = [name for batch in batches for name in batch.ids]
    assert {name: names.count(name) for name in labelled} == dict.fromkeys(labelled, 2)
    assert len(set(names[1::3])) == len(set(names[2::3])) == 8
    assert names[1::3] != names[2::3]


def test_fewer_images_than_a_batch_has_are_told(data: SegmentationData) -> None:
    labelled, unlabelled = labelled_share(data, 0.34)
    count = len(labelled.splits["train"])
    with pytest.raises(UsageError, match=f"there are {count} labelled .* batches of 6: use --set batch={count}"):
        loaders(data, batch=6)
    few = replace(unlabelled, splits={"train": unlabelled.splits["train"][:2]})
    with pytest.raises(UsageError, match="there are 2 unlabelled images for batches of 3"):
        Triples(*(TrainLoader(one, (64, 64), 3) for one in (labelled, few, few)))


@pytest.mark.parametrize("start", [1, 3])
def test_an_epoch_of_triples_is_entered_anywhere(data: SegmentationData, start: int) -> None:
    whole = list(loaders(data).epoch(2))
    part = list(loaders(data).epoch(2, start))
    assert [batch.ids for batch in part] == [batch.ids for batch in whole[start:]]
    assert all(torch.equal(a.images, b.images) for a, b in zip(part, whole[start:], strict=True))


def test_taking_apart_undoes_interleaving(data: SegmentationData) -> None:
    batch = next(iter(loaders(data).epoch(0)))
    parts = taken_apart(batch.images, 3)
    again = interleaved([batch._replace(images=p, masks=p[:, 0], ids=batch.ids[:2]) for p in parts])
    assert torch.equal(again.images, batch.images)


# Terms


def test_self_similarity_by_hand_and_blind_to_channels_and_scale() -> None:
    maps = torch.randn(2, 5, 14, 21, generator=torch.Generator().manual_seed(0))
    found = self_similarity(maps, 7)
    regions = maps.unflatten(2, (7, 2)).unflatten(4, (7, 3)).mean((3, 5)).flatten(2)
    for image in range(2):
        for i, j in ((0, 0), (3, 17), (48, 5)):
            expected = F.cosine_similarity(regions[image, :, i], regions[image, :, j], dim=0)
            assert found[image, i, j] == pytest.approx(expected.item(), abs=1e-5)
    turned = torch.einsum("oc,bchw->bohw", torch.linalg.qr(torch.randn(5, 5))[0], maps)
    assert region_difference(3 * turned, maps) == pytest.approx(0, abs=1e-6)
    assert region_difference(torch.randn(2, 9, 10, 10), maps) > 1e-3


def test_image_difference_is_that_of_the_mean_logits() -> None:
    student, teacher = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 8, 8)
    teacher[0, 1] = 2.0
    teacher[1, :, :4] = -1.0
    assert image_difference(student, teacher) == pytest.approx((2.0 + 3 * 0.5) / 2)


def test_padding_counts_for_nothing_in_pixel_labels() -> None:
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    guess = logits.argmax(1)
    padding = torch.zeros(1, 4, 4, dtype=torch.bool)
    padding[:, :, 2:] = True
    expected = F.cross_entropy(logits[..., :2], guess[..., :2])
    assert pixel_labels(logits, [guess, guess], padding) == pytest.approx(2 * expected.item(), rel=1e-5)
    assert pixel_labels(logits, [guess], torch.ones_like(padding)) == 0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    boxes=st.integers(1, 4),
    size=st.tuples(st.integers(8, 60), st.integers(8, 60)),
    low=st.floats(0.05, 0.5),
)
def test_boxes_are_seeded_and_cover_no_more_than_asked(
    seed: int, boxes: int, size: tuple[int, int], low: float
) -> None:
    high = low + 0.3
    torch.manual_seed(seed)
    shown = cutmix_boxes(3, size, boxes, (low, high))
    torch.manual_seed(seed)
    assert torch.equal(shown, cutmix_boxes(3, size, boxes, (low, high)))
    assert shown.shape == (3, *size)
    # Rounding moves each edge by half a pixel at most.
    slack = boxes * (size[0] + size[1] + 1) / (size[0] * size[1])
    assert (shown.float().mean((1, 2)) <= high + slack).all()
    if boxes == 1:
        assert (shown.float().mean((1, 2)) >= low - slack).all()
        for one in shown.numpy():
            rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
            if len(rows):
                assert one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


# The step and the training


def test_the_step_is_the_sum_of_its_terms(data: SegmentationData) -> None:
    classes = len(data.classes)
    batch = next(iter(loaders(data).epoch(0)))
    student = tiny_net(classes).eval()
    alone = dict.fromkeys(("pixel", "region", "image"), 0.0)

    def loss(**terms: float) -> float:
        _, how = objective_for(data, **(alone | terms))
        step = how(student, SegmentationLoss(LossConfig()), True)
        assert isinstance(step, MgdStep)
        torch.manual_seed(0)
        with torch.no_grad():
            return float(step(batch.images, batch.masks))

    base = loss()
    with torch.no_grad():
        plain = SegmentationLoss(LossConfig())(
            student.train_logits(student.normalise(batch.images[::3])), batch.masks[::3]
        )
    assert base == pytest.approx(plain.item(), rel=1e-5)
    extra = {name: loss(**{name: 1.0}) - base for name in alone}
    assert all(value > 1e-4 for value in extra.values()), extra
    assert loss(pixel=2.0, region=3.0, image=0.5) == pytest.approx(
        base + 2 * extra["pixel"] + 3 * extra["region"] + 0.5 * extra["image"], rel=1e-4
    )


def test_teachers_stay_as_they_are_and_only_the_student_learns(data: SegmentationData) -> None:
    _, how = objective_for(data)
    before = how.describe()
    step = how(tiny_net(len(data.classes)), SegmentationLoss(LossConfig()), True).train()
    batch = next(iter(loaders(data).epoch(0)))
    step(batch.images, batch.masks).backward()
    assert how.describe() == before
    assert {name.split(".")[0] for name in step.state_dict()} == {"net"}
    assert all(parameter.grad is not None for parameter in step.parameters())


def test_teachers_see_the_same_mixtures_finer_than_the_student(data: SegmentationData) -> None:
    """Of images that repeat every pixel, reduced for the student, the terms on mixtures are those at its own size."""
    _, how = objective_for(data, image=1.0)
    student = tiny_net(len(data.classes)).eval()
    batch = next(iter(loaders(data).epoch(0)))
    finer = batch.images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    sizes: dict[str, set[tuple[int, int]]] = {"student": set(), "teacher": set()}

    def step_of(how: MultiGranularity) -> MgdStep:
        step = how(student, SegmentationLoss(LossConfig()), True)
        assert isinstance(step, MgdStep)
        step.wide.net.backbone.register_forward_pre_hook(lambda _, x: sizes["teacher"].add(tuple(x[0].shape[-2:])))
        return step

    student.backbone.register_forward_pre_hook(lambda _, x: sizes["student"].add(tuple(x[0].shape[-2:])))
    with torch.no_grad():
        torch.manual_seed(0)
        loss = step_of(replace(how, size=(128, 128)))(finer, batch.masks)
        torch.manual_seed(0)
        at_its_size = step_of(replace(how, size=(64, 64)))(finer, batch.masks)
    assert sizes == {"student": {(64, 64)}, "teacher": {(128, 128), (64, 64)}}
    torch.manual_seed(0)
    with torch.no_grad():
        plain = step_of(how)(batch.images, batch.masks)
    assert at_its_size == pytest.approx(plain.item(), rel=0.05), "mixtures have the same boxes at both sizes"
    assert loss != pytest.approx(plain.item(), rel=1e-3), "finer images tell the teachers something else"


def test_batches_of_finer_images_have_the_students_masks(data: SegmentationData) -> None:
    labelled, how = objective_for(data)
    recipe = recipe_with(size=(64, 64), batch=2)

    def make(**changes: Any) -> TrainLoader:
        return TrainLoader(**({"data": labelled, "size": (64, 64), "batch": 2} | changes))

    for size, images in (((128, 160), (128, 160)), ((32, 48), (64, 64)), (None, (64, 64))):
        batch = next(iter(replace(how, size=size).batches(make, recipe).epoch(0)))
        assert batch.images.shape == (6, 3, *images)
        assert batch.masks.shape == (6, 64, 64)


def test_a_training_with_unlabelled_images_pauses_and_goes_on_with_the_same_bits(
    data: SegmentationData, tmp_path: Path
) -> None:
    classes = len(data.classes)
    labelled, how = objective_for(data)
    recipe = recipe_with(epochs=2, accumulate=2)
    straight = train(tiny_net(classes), labelled, recipe, tmp_path / "straight", objective=how, quiet=True)
    parts = tmp_path / "parts"
    train(tiny_net(classes), labelled, recipe, parts, objective=how, until_epoch=1, quiet=True)
    finished = train(tiny_net(classes), labelled, recipe, parts, objective=how, quiet=True)
    assert_same(load_state(straight.last), load_state(finished.last))
    assert all(math.isfinite(row["train_loss"]) for row in finished.history)
    fewer, _ = objective_for(data)
    other = replace(how, terms=MgdTerms(region=1.0))
    with pytest.raises(CatchweightError, match=r"objective\.terms\.region"):
        train(tiny_net(classes), fewer, recipe, parts, objective=other, quiet=True)


def test_classes_that_differ_are_refused(data: SegmentationData) -> None:
    _, how = objective_for(data)
    with pytest.raises(UsageError, match="classes apart"):
        how(tiny_net(3), SegmentationLoss(LossConfig()), True)
