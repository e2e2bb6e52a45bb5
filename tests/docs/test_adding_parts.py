"""The pages on adding a part: with the one line that they name, the part is understood wherever it is asked for."""

from __future__ import annotations

import random

import pytest
import torch
from pages import DOCS, run_page

from catchweight.config import override
from catchweight.errors import UsageError
from catchweight.fitting import FitSettings
from catchweight.nets import build, build_network, load_network, network_names, save_network
from catchweight.search import STRATEGIES, strategy_named
from catchweight.targets import RUNTIMES, Target, listing


@pytest.fixture
def defined(monkeypatch, tmp_path):
    """Run a page; what its Python defined."""
    monkeypatch.chdir(tmp_path)
    return lambda name: run_page(DOCS / f"{name}.md", monkeypatch, slow=False)


def test_a_network_of_the_page_is_built_by_name_and_read_back(defined, monkeypatch, tmp_path):
    family = defined("add-a-network")["FAMILY"]
    with pytest.raises(UsageError, match="plain"):
        build_network("plain", 5)
    monkeypatch.setattr(build, "FAMILIES", (*build.FAMILIES, family))
    assert "plain" in network_names()
    net = build_network("plain", 5).eval()
    save_network(tmp_path / "plain.pt", net, {})
    again, _ = load_network(tmp_path / "plain.pt")
    image = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(again.eval()(image), net(image))
    assert [f.stride for f in net.feature_info] == [2, 4, 8]
    for place, info in zip(net.feature_places, net.feature_info, strict=True):
        assert net.get_submodule(place)[0].out_channels == info.channels


def test_a_strategy_of_the_page_is_a_setting_of_fit(defined, monkeypatch):
    names = defined("add-a-strategy")
    with pytest.raises(UsageError, match='unknown search strategy "climb"'):
        override(FitSettings(), ["search.explore=climb"])
    monkeypatch.setitem(STRATEGIES, "climb", names["HillClimbing"])
    assert override(FitSettings(), ["search.explore=climb"]).search.explore == "climb"
    problem, budget = names["problem"], names["budget"]
    allowed = {arch for arch in every(problem.decisions) if budget.allows(problem.cost(arch))}
    found = strategy_named("climb").search(problem, len(allowed))
    assert {candidate.arch for candidate in found.candidates} <= allowed
    assert found.best(budget).score == pytest.approx(max(map(names["score"], allowed)))
    assert problem.decisions.size() == 192, "as the page says"


def every(decisions):
    """All architectures, by walking from one to its neighbours."""
    todo = [decisions.sample(random.Random(0))]
    known = set(todo)
    while todo:
        new = [arch for arch in decisions.neighbours(todo.pop()) if arch not in known]
        known.update(new)
        todo += new
    assert len(known) == decisions.size()
    return known


def test_a_target_of_the_page_is_parsed_listed_and_computes_what_torch_does(defined, monkeypatch):
    names = defined("add-a-target")
    kind = names["OnnxReference"]
    monkeypatch.setitem(RUNTIMES, kind.name, kind)
    assert listing()["onnx-reference:cpu"] is None
    target = Target.parse("onnx-reference:cpu", threads=1)
    session = target.prepare(names["net"], (9, 13))
    (image,) = session._feed.values()
    (logits,) = session._evaluator.run(None, session._feed)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(logits), names["net"](torch.from_numpy(image)), rtol=1e-4, atol=1e-4
        )
