"""The table of systems, and the checks' machinery end to end at quick sizes."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from catchweight.errors import CatchweightError, UsageError
from catchweight.nets import build_network
from catchweight.nets.backbones import PUBLISHED
from catchweight.run import Run
from catchweight.systems import SYSTEMS, CheckResult, run_check, table
from catchweight.systems.backbone import compare, proof_conditions
from catchweight.systems.efficientdet import bifpn_params
from catchweight.systems.eseg import zero_coarse_outputs
from catchweight.systems.ffnet import QUICK, matched_arms, matched_sizes
from catchweight.systems.result import SHIPPED, Verdict
from catchweight.systems.system import CheckContext
from catchweight.targets.counts import count_macs


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_every_row_is_complete_and_points_to_what_exists(system) -> None:  # type: ignore[no-untyped-def]
    assert system.title
    assert system.paper
    assert system.claim.endswith(".")
    assert 2012 <= system.year <= 2030
    assert callable(system.check)
    assert system.where
    for place in system.where:
        module, _, name = place.partition(":")
        found = importlib.import_module(module)
        assert not name or hasattr(found, name), place


def test_every_published_backbone_has_a_row() -> None:
    titles = {system.title for system in SYSTEMS.values()}
    assert {entry.family for entry in PUBLISHED} <= titles


def test_table_shows_every_system_and_its_last_result(tmp_path: Path) -> None:
    shown = table(tmp_path)
    names = list(shown.columns[0].cells)
    assert names == list(SYSTEMS)
    assert {*shown.columns[-1].cells} <= {"not run", *(_shipped_words())}


def _shipped_words() -> list[str]:
    results = [CheckResult.load(path) for path in SHIPPED.glob("*.json")]
    return [f"{result.word}, {result.date[:10]}" for result in results]


def test_shipped_results_are_full_runs_of_known_systems() -> None:
    for path in SHIPPED.glob("*.json"):
        result = CheckResult.load(path)
        assert result.name == path.stem
        assert result.name in SYSTEMS
        assert not result.quick


def test_wrong_requests_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='did you mean "eseg"'):
        run_check("esegg", out=tmp_path)
    with pytest.raises(UsageError, match="--data"):
        run_check("ffnet", out=tmp_path)


def test_efficientnet_lite_check_passes_and_is_stored(tmp_path: Path) -> None:
    result = run_check("efficientnet_lite", quick=True, out=tmp_path)
    assert result == CheckResult.load(tmp_path / "efficientnet_lite-quick.json")
    assert result.passed is None
    assert result.control_failed
    assert all(condition["met"] for condition in result.claim), result.claim
    assert result.seconds > 0


def test_quick_ffnet_check_runs_every_part_and_resumes(tmp_path: Path) -> None:
    result = run_check("ffnet", quick=True, out=tmp_path)
    assert result.passed is None
    assert len(result.claim) == 5
    assert len(result.control) == 2
    assert result.figures["miou"].keys() == {"bottleneck", "dilated", "control"}
    assert all(radii[0] > 0 for radii in result.figures["field_radius_px"].values())
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "ffnet-quick" / "stages").iterdir()}
    again = run_check("ffnet", quick=True, out=tmp_path)
    assert again.figures == result.figures
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "ffnet-quick" / "stages").iterdir()}


def test_quick_eseg_check_runs_every_part(tmp_path: Path) -> None:
    result = run_check("eseg", quick=True, out=tmp_path)
    assert result.passed is None
    figures = result.figures
    assert figures["setup"]["p5"] >= figures["setup"]["p9"]
    assert 0 < figures["far_share"]["p9"][0] < 1
    assert len(figures["zeroed_miou"]) == 1


def test_matched_arms_have_equal_macs() -> None:
    sizes = matched_sizes(QUICK, classes=8)
    macs = {name: count_macs(arm.build(), QUICK.size) for name, arm in matched_arms(QUICK, 8, sizes).items()}
    for name in ("bottleneck", "mixed"):
        assert abs(macs[name] / macs["basic"] - 1) <= 0.02
        assert sizes[name]["macs"] == macs[name]
    assert macs["dilated"] > 2 * macs["basic"]


def test_zeroing_coarse_outputs_changes_only_those() -> None:
    net = build_network("eseg_lite_s:width=8,repeats=1", 3).eval()
    x = torch.randn(1, 3, 64, 64)
    kept: list[list[torch.Tensor]] = []
    net.get_submodule("neck").register_forward_hook(zero_coarse_outputs)
    net.get_submodule("head").register_forward_pre_hook(lambda module, inputs: kept.append(list(inputs[0])))
    with torch.no_grad():
        net(x)
    assert len(kept[0]) == 8
    assert all(level.abs().sum() > 0 for level in kept[0][:4])
    assert all(level.abs().sum() == 0 for level in kept[0][4:])


def test_bifpn_closed_form_counts_a_layer_by_hand() -> None:
    """Three levels of width 2: four nodes of 18 + 4 + 4 weights, fusing 2 + 2 + 3 + 2 maps."""
    assert bifpn_params(width=2, levels=3, repeats=1) == 4 * 26 + 9


def test_parity_is_refused_when_logits_or_classes_differ() -> None:
    net = build_network("ffnet_22s_bcc_mobile", 3, width=0.125).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        logits = net(x).numpy()
    assert compare(net, x, logits) == {"relative": 0.0, "changed": 0.0}
    swapped = logits[:, [1, 0, 2]]
    proof = {
        "losses": [1.0, 0.9],
        "silent": [],
        "parity": compare(net, x, swapped),
        "disturbed": compare(net, x, swapped),
    }
    claim, control = proof_conditions(proof)
    assert [condition.met for condition in claim] == [True, True, False, False]
    assert not control[0].met


def test_a_parameter_without_gradient_fails_the_proof() -> None:
    fine = {"relative": 0.0, "changed": 0.0}
    claim, _ = proof_conditions({"losses": [1.0, 0.9], "silent": ["a"], "parity": fine, "disturbed": fine})
    assert not claim[1].met


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    Run(tmp_path / "efficientdet-quick", {"check": "efficientdet", "quick": True, "data": "other"})
    with pytest.raises(CatchweightError, match="data="):
        run_check("efficientdet", quick=True, out=tmp_path)


def test_a_check_of_another_protocol_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored of a check says nothing once its sizes are others."""
    system = SYSTEMS["halp"]
    assert system.protocol(True) != system.protocol(False)

    class EnoughError(Exception):
        pass

    def check(context: CheckContext) -> Verdict:
        raise EnoughError

    def begin(**sizes: object) -> None:
        changed = replace(system.protocols[1], **sizes)
        monkeypatch.setitem(SYSTEMS, "halp", replace(system, check=check, protocols=(system.protocols[0], changed)))
        run_check("halp", quick=True, out=tmp_path)

    for sizes in ({}, {}):
        with pytest.raises(EnoughError):
            begin(**sizes)
    with pytest.raises(CatchweightError, match=r"protocol\.steps=2, not 3"):
        begin(steps=3)


@pytest.mark.parametrize("system", [s for s in SYSTEMS.values() if s.protocols[0] is not None], ids=lambda s: s.name)
def test_protocols_are_plain_and_the_same_in_every_process(system) -> None:  # type: ignore[no-untyped-def]
    for quick in (False, True):
        text = json.dumps(system.protocol(quick))
        assert " object at 0x" not in text
        assert json.loads(text) == system.protocol(quick)
