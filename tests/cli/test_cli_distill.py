"""``train --teacher``: a student trained from the command line, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from catchweight.data.scenes import make_scenes
from catchweight.nets import load_network
from catchweight.train.checkpoints import load_state
from catchweight.train.distill import network_hash

QUICK = ("--weights", "none", "--set", "epochs=1", "--set", "batch=4", "--set", "train.tensorboard=false")


@pytest.fixture
def command(cli):
    """Exit code, and both outputs as one text."""

    def run(*arguments: object) -> tuple[int, str]:
        code, out, err = cli(*arguments)
        return code, out + err

    return run


def test_a_student_learns_from_a_trained_file(command, tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "scenes", {"train": 4, "val": 2}, size=(64, 96))
    network = ("--network", "timm/test_resnet+fpn:width=8")
    code, said = command("train", scenes, *network, "--out", tmp_path / "teacher", *QUICK)
    assert code == 0, said
    teacher = tmp_path / "teacher" / "best.pt"

    distilled = ("train", scenes, *network, "--out", tmp_path / "student", *QUICK, "--teacher", teacher)
    asked = ("--teacher-size", "128x192", "--set", "distill.kl=2", "--set", "distill.features=0.5")
    code, said = command(*distilled, *asked)
    assert code == 0, said
    objective = load_state(tmp_path / "student" / "last.pt")["identity"]["objective"]
    assert objective["teacher"]["hash"] == network_hash(load_network(teacher)[0])
    assert objective["size"] == [128, 192]
    assert yaml.safe_load((tmp_path / "student" / "distill.yaml").read_text())["kl"] == 2

    semi = (
        "--teacher",
        teacher,
        "--deep-teacher",
        teacher,
        "--unlabelled",
        scenes / "images",
        "--set",
        "mgd.region=50",
        "--teacher-size",
        "128x192",
    )
    code, said = command("train", scenes, *network, "--out", tmp_path / "semi", *QUICK, *semi)
    assert code == 0, said
    objective = load_state(tmp_path / "semi" / "last.pt")["identity"]["objective"]
    assert (objective["kind"], objective["size"]) == ("multi-granularity distillation", [128, 192])
    assert yaml.safe_load((tmp_path / "semi" / "mgd.yaml").read_text())["region"] == 50

    code, said = command(*distilled)
    assert (code, "objective.terms.kl" in said) == (1, True), said
    for arguments, expected in (
        (("--set", "distill.kl=2"), "--set distill.kl=2 is about distillation: name the teacher"),
        (("--teacher-size", "64x64"), "--teacher-size is about distillation"),
        (("--teacher", teacher, "--set", "distill.kll=2"), 'did you mean "kl"'),
        (("--teacher", teacher, "--set", "distill.kl=-1"), "kl"),
        (("--deep-teacher", teacher), "--deep-teacher is about images without labels"),
        (("--set", "mgd.region=2"), "--set mgd.region=2 is about images without labels"),
        (("--unlabelled", scenes, "--teacher", teacher), "takes two teachers"),
        ((*semi[:6], "--set", "distill.kl=2"), "--set distill.kl=2 is about plain distillation"),
    ):
        code, said = command("train", scenes, *network, "--out", tmp_path / "other", *QUICK, *arguments)
        assert (code, expected in said) == (2, True), said
    code, said = command(*distilled[:-1], tmp_path / "absent.pt")
    assert (code, "absent.pt" in said, "Traceback" in said) == (1, True, False), said
