"""The checks of distillation, deep thin networks and MGD end to end at toy size, and their verdicts by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from catchweight.errors import UsageError
from catchweight.systems import deep_thin, distillation, mgd, run_check
from catchweight.systems.result import Verdict
from catchweight.systems.trials import PairedTrial


def trial(*differences: float) -> PairedTrial:
    seeds = tuple(range(len(differences)))
    return PairedTrial(seeds, tuple(50 + d for d in differences), (50.0,) * len(differences))


def stages(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()}


@pytest.mark.parametrize(
    ("name", "claims", "trained"),
    [
        ("distillation", 2, {"teacher-seed100", "plain-seed0", "distilled-seed0", "untrained-seed0"}),
        ("deep_thin", 5, {"wide-seed0", "scratch-seed0", "distilled-seed0", "narrowed-seed0", "untrained-seed0"}),
        (
            "mgd",
            5,
            {
                *(f"{arm}-1_4-seed0" for arm in ("wide", "deep", "supervised", "distilled", "mgd", "untrained")),
                *("no-region-1_4-seed0", "no-image-1_4-seed0"),
            },
        ),
    ],
)
def test_quick_checks_run_every_arm_and_go_on(name: str, claims: int, trained: set[str], tmp_path: Path) -> None:
    result = run_check(name, quick=True, out=tmp_path)
    assert result.passed is None
    assert (len(result.claim), len(result.control)) == (claims, 1)
    done = stages(tmp_path / f"{name}-quick")
    assert trained <= {stage.removesuffix(".json") for stage in done}
    again = run_check(name, quick=True, out=tmp_path)
    assert again.figures == result.figures
    assert stages(tmp_path / f"{name}-quick") == done


def test_merging_holds_in_the_quick_check_of_deep_thin(tmp_path: Path) -> None:
    claim = run_check("deep_thin", quick=True, out=tmp_path).claim
    assert [condition["met"] for condition in claim[:2]] == [True, True]


def test_deep_thin_needs_its_own_kind_of_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data"):
        run_check("deep_thin", out=tmp_path)
    with pytest.raises(UsageError, match="Fashion-MNIST"):
        run_check("deep_thin", data=tmp_path, out=tmp_path)


def test_a_chain_is_deep_thin_and_every_block_ends_in_a_linear_layer() -> None:
    net = deep_thin.chain(784, 16, 10, 20)
    assert len(net) == 20
    assert all(isinstance(block[-1], nn.Linear) for block in net)
    assert net(torch.zeros(2, 784)).shape == (2, 10)


def test_batches_of_the_stream_are_shuffled_repeatable_and_whole() -> None:
    order, again = deep_thin.stream(10, 4, seed=1), deep_thin.stream(10, 4, seed=1)
    first = [next(order) for _ in range(4)]
    assert all(torch.equal(a, next(again)) for a in first)
    assert all(len(batch) == 4 for batch in first)
    assert len({*first[0].tolist(), *first[1].tolist()}) == 8


def verdicts(gain: float, broken: float) -> list[Verdict]:
    """Of all three checks when every arm gains ``gain`` and the broken one ``broken``."""
    by_labels = {
        "labels alone": trial(gain, gain, gain),
        "distilled on the labelled": trial(gain, gain, gain),
        "without region": trial(-gain, -gain, -gain),
        "without image": trial(-gain, -gain, -gain),
        "untrained teachers": trial(broken, broken, broken),
    }
    narrowed = {"merging_changed": 1e-6, "added_parameters": 0}
    trials = {name: trial(gain, gain, gain) for name in ("scratch", "distilled")} | {"untrained": trial(broken)}
    return [
        distillation._verdict(distillation.FULL, trial(gain, gain, gain), trial(broken), 70.0, "none"),
        mgd._verdict(mgd.FULL, by_labels, {}),
        deep_thin._verdict(deep_thin.FULL, trials, {f"narrowed-seed{seed}": narrowed for seed in (0, 1, 2)}),
    ]


def test_verdicts_hold_fail_and_are_void() -> None:
    assert [verdict.passed for verdict in verdicts(3.0, 0.0)] == [True] * 3
    assert [verdict.passed for verdict in verdicts(0.2, 0.0)] == [False] * 3
    assert [verdict.passed for verdict in verdicts(-1.0, -5.0)] == [False] * 3
    assert [verdict.passed for verdict in verdicts(3.0, 3.0)] == [None] * 3


def test_a_gain_in_one_seed_of_three_is_not_enough() -> None:
    lucky = distillation._verdict(distillation.FULL, trial(9.0, -1.0, -1.0), trial(0.0), 70.0, "none")
    assert lucky.passed is False


@pytest.mark.parametrize(("images", "steps"), [(45, 5), (92, 11), (321, 40)])
def test_every_arm_of_mgd_takes_about_the_same_steps(images: int, steps: int) -> None:
    recipe = mgd.recipe_for(mgd.FULL, images)
    assert abs(recipe.epochs * steps / mgd.FULL.steps - 1) <= 0.02
    assert recipe.eval_every == recipe.epochs
    assert recipe.warmup * steps == pytest.approx(mgd.FULL.warmup)
