"""The page on adding a space: its code is what a third party would write, and passes the contract."""

from __future__ import annotations

import importlib.util
import re
import sys
from types import ModuleType

import pytest

from catchweight.spaces.testing import SpaceContract
from conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "add-a-space.md"
CHECKS = [name for name in dir(SpaceContract) if name.startswith("test_")]


def code() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The blocks of the page in order, as one file of somebody else's."""
    path = tmp_path_factory.mktemp("theirs") / "hourglass.py"
    path.write_text("\n\n".join(code()))
    spec = importlib.util.spec_from_file_location("hourglass", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["hourglass"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["hourglass"]


def test_a_space_takes_less_than_sixty_lines() -> None:
    assert 10 < len(code()[0].splitlines()) < 60


def test_the_page_says_what_its_code_prints(page: ModuleType) -> None:
    stated = re.search(r"(\d[\d,]*) architectures", PAGE.read_text())
    assert page.space.size() == int(stated[1].replace(",", ""))
    assert page.net(page.torch.zeros(1, 3, 64, 96)).shape == (1, 11, 32, 48)


@pytest.mark.parametrize("check", CHECKS)
def test_it_passes_the_contract(page: ModuleType, check: str) -> None:
    getattr(page.TestHourglass(), check)()
