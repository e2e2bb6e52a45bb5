"""Short trainings on cached features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from catchweight.data.loading import EvalBatch
from catchweight.errors import CatchweightError
from catchweight.search.proxy import Features, Proxy, cached_features

CLASSES = 3


def batches(count: int = 8, size: tuple[int, int] = (16, 24)) -> list[EvalBatch]:
    """Images of horizontal stripes whose colour tells the class, in another order in each image."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(count):
        classes = torch.randint(0, CLASSES, (4,), generator=generator)
        mask = classes.repeat_interleave(size[0] // 4)[:, None].expand(size).to(torch.uint8)
        image = (mask[None] * 80 + torch.arange(3, dtype=torch.uint8)[:, None, None])[None]
        found.append(EvalBatch(image, [mask], (str(number),)))
    return found


def encode(images: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(images.float(), 2) / 255


@pytest.fixture
def features(tmp_path: Path) -> Features:
    return cached_features(tmp_path / "f.safetensors", encode, batches(), (8, 12), {"of": "stripes"})


def head() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, CLASSES, 1))


def test_features_are_computed_once_and_anew_for_another_key(tmp_path, features):
    def never(images: Tensor) -> Tensor:
        raise AssertionError("the backbone is asked again")

    assert features.maps.shape == (8, 3, 8, 12)
    assert features.maps.dtype == torch.float16
    assert features.labels.shape == (8, 8, 12)
    again = cached_features(tmp_path / "f.safetensors", never, batches(), (8, 12), {"of": "stripes"})
    assert torch.equal(again.maps, features.maps)
    assert torch.equal(again.labels, features.labels)
    other = cached_features(tmp_path / "f.safetensors", encode, batches(3), (8, 12), {"of": "three"})
    assert len(other) == 3


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "f.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CatchweightError, match=r"f\.safetensors cannot be read .* remove it"):
        cached_features(tmp_path / "f.safetensors", encode, batches(), (8, 12), {})


def test_features_beyond_float16_are_refused(tmp_path):
    with pytest.raises(CatchweightError, match="beyond the range of float16"):
        cached_features(tmp_path / "f.safetensors", lambda x: 1e9 * (1 + encode(x)), batches(), (8, 12), {})
    assert not list(tmp_path.iterdir())


def test_a_training_learns_what_can_be_learnt(features):
    proxy = Proxy(features.part(range(6)), features.part([6, 7]), CLASSES, batch=4)
    assert proxy.score(head, 60, seed=0) > 0.9
    assert proxy.score(head, 60, seed=0) > proxy.score(head, 0, seed=0)


def test_the_seed_decides(features):
    proxy = Proxy(features, features, CLASSES, batch=4)
    scores = [proxy.score(head, 3, seed) for seed in (1, 1, 2)]
    assert scores[0] == scores[1] != scores[2]


def test_permuted_labels_are_those_of_other_images_and_teach_little(features):
    permuted = features.permuted(seed=4)
    assert torch.equal(permuted.maps, features.maps)
    matches = [[i for i in range(8) if torch.equal(features.labels[i], mask)] for mask in permuted.labels]
    assert sorted(m for found in matches for m in found) == list(range(8)), "stripes differ in all images"
    assert all(found != [own] for own, found in enumerate(matches))
    broken = Proxy(permuted.part(range(6)), permuted.part([6, 7]), CLASSES, batch=4)
    assert broken.score(head, 60, seed=0) < 0.6
