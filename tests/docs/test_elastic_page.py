"""The page on the elastic space: its code runs, and what it says is so."""

from __future__ import annotations

import re

import torch

from catchweight.spaces.elastic_pyramid import ElasticPyramid
from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "spaces.md").read_text()


def test_the_code_runs_and_shows_what_it_says() -> None:
    known: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, known)
    net, same = known["net"].eval(), known["same"]
    assert net.state_dict().keys() == same.state_dict().keys()
    assert net.spec.name == known["name"]
    assert known["macs"] > 1e6
    with torch.no_grad():
        torch.testing.assert_close(known["logits"], net(torch.zeros(1, 3, 96, 128)), rtol=1e-5, atol=1e-5)


def test_the_table_is_that_of_the_default() -> None:
    space = ElasticPyramid(11, [(64, 64)])
    options = space.choices()
    assert f"{space.size():.1e} architectures".replace("e+", "e") in PAGE
    for first, last in re.findall(r"`([a-z]+\d)` \.\.\. `([a-z]+\d)`", PAGE):
        kind = first[:-1]
        numbered = [name for name in options if re.fullmatch(rf"{kind}\d", name)]
        assert (min(numbered), max(numbered)) == (first, last)
    neck, repeats = re.search(r"\| ([\d, or]+) channels; ([\d, or]+) layers", PAGE).groups()
    assert tuple(map(int, re.findall(r"\d+", neck))) == options["neck"]
    assert tuple(map(int, re.findall(r"\d+", repeats))) == options["repeats"]
