"""Saving and loading whole networks; nothing in a file is ever run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from catchweight.errors import CatchweightError
from catchweight.nets import build_network, load_network, save_network

NAME = "timm/test_efficientnet+bifpn:levels=2-7,width=8"


def test_reloaded_network_computes_the_same(tmp_path: Path) -> None:
    net = build_network(NAME, 3, aux=True, width=1.5)
    net.train()(torch.randn(2, 3, 64, 64))  # statistics move
    save_network(tmp_path / "model.pt", net, {"score": 0.5, "classes": ["road", "sky"]})
    again, meta = load_network(tmp_path / "model.pt")
    assert meta == {"score": 0.5, "classes": ["road", "sky"]}
    assert (again.spec, again.training, again.pretrained) == (net.spec, False, False)
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        assert torch.equal(again(x), net.eval()(x))


def test_reloaded_network_knows_what_was_pretrained(tmp_path: Path) -> None:
    torch.save(build_network(NAME, 3).backbone.net.state_dict(), tmp_path / "backbone.pth")
    net = build_network(NAME, 3, weights=tmp_path / "backbone.pth")
    save_network(tmp_path / "model.pt", net)
    again, _ = load_network(tmp_path / "model.pt")
    assert again.pretrained_parameters() == net.pretrained_parameters() != set()


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (os.environ["CATCHWEIGHT_HOSTILE"],)


def test_hostile_file_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATCHWEIGHT_HOSTILE", str(tmp_path / "pwned"))
    torch.save({"format": 1, "spec": Hostile()}, tmp_path / "evil.pt")
    (tmp_path / "evil.pickle").write_bytes(pickle.dumps(Hostile(), protocol=2))
    for name in ("evil.pt", "evil.pickle"):
        with pytest.raises(CatchweightError, match=name):
            load_network(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_truncated_file_is_named(tmp_path: Path, keep: float) -> None:
    file = tmp_path / "model.pt"
    save_network(file, build_network(NAME, 3))
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CatchweightError, match=r"model\.pt"):
        load_network(file)


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatchweightError, match=r"cannot read .*gone\.pt"):
        load_network(tmp_path / "gone.pt")


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(CatchweightError, match="cannot read"):
        load_network(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"spec": {"name": "eseg_lite_s"}}, "not a saved network"),
        ({"spec": {"name": "nonsense", "classes": 3, "width": 1.0, "aux": False}}, "unknown network"),
        ({"spec": {"name": NAME, "classes": 4, "width": 1.0, "aux": False}}, "do not fit the network"),
        ({"weights": {}}, "do not fit the network"),
        ({"weights": 3}, "do not fit the network"),
        ({"meta": 3}, "not a saved network"),
    ],
)
def test_other_content_says_what_is_wrong(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = tmp_path / "model.pt"
    save_network(file, build_network(NAME, 3))
    torch.save(torch.load(file, weights_only=True) | change, file)
    with pytest.raises(CatchweightError, match=rf"model\.pt.*{message}"):
        load_network(file)


@pytest.mark.parametrize("content", [[1, 2], {"a": torch.zeros(1)}, torch.zeros(3), "text"])
def test_any_other_torch_file_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CatchweightError, match=r"other\.pt is not a saved network"):
        load_network(tmp_path / "other.pt")


def test_failed_save_leaves_the_last_good_file(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    net = build_network(NAME, 3)
    save_network(file, net, {"epoch": 1})
    with pytest.raises(AttributeError):
        save_network(file, net, {"epoch": lambda: 2})
    assert load_network(file)[1] == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
