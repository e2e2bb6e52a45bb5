"""Predicting folders and videos: nothing overwritten, nothing half-written, broken inputs reported."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from colour_file import stripes, stripes_mask, write_colour_file
from PIL import Image

from catchweight.deploy.media import UnreadableError, Video, find_sources, video_writer
from catchweight.deploy.predict import PredictSummary, predict
from catchweight.deploy.segmenter import Segmenter
from catchweight.errors import CatchweightError, UsageError
from conftest import DATA


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return Segmenter(write_colour_file(tmp_path_factory.mktemp("onnx") / "model.onnx"), threads=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures with equal stems, odd names, and two that are broken."""
    root = tmp_path / "photos of höhe"
    for name in ("a.png", "a.jpg", "deep/a.png", "line\nbreak.png", "ß [x] & 'q\".bmp", "deep/er/b c.webp"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stripes()).save(root / name, quality=95)
    (root / "broken.jpg").write_bytes(b"no picture")
    (root / "notes.txt").write_text("not asked for")
    return root


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _shares(out: Path) -> dict[str, list[str]]:
    with (out / "shares.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[:2] == ["file", "result"]
    return {row[0]: row[1:] for row in rows}


def test_every_picture_gets_its_own_results(segmenter: Segmenter, folder: Path, tmp_path: Path) -> None:
    summary = predict(segmenter, folder, tmp_path / "out", batch=4)
    assert (summary.done, summary.skipped, summary.exit_code) == (6, 0, 1)
    assert [(path.name, reason.split(" (")[0]) for path, reason in summary.failed] == [
        ("broken.jpg", "not an image of a known format")
    ]
    masks = sorted((tmp_path / "out" / "masks").rglob("*.png"))
    assert len(masks) == 6
    for path in masks:
        mask = Image.open(path)
        assert mask.mode == "P"
        assert mask.getpalette()[:3] == [220, 20, 20]
        assert (np.asarray(mask) == stripes_mask()).mean() > 0.95
    assert len([p for p in (tmp_path / "out" / "overlays").rglob("*") if p.is_file()]) == 6
    shares = _shares(tmp_path / "out")
    assert set(shares) == {"a.png", "a.jpg", "deep/a.png", "line\nbreak.png", "ß [x] & 'q\".bmp", "deep/er/b c.webp"}
    for _name, *values in shares.values():
        assert sum(map(float, values)) == pytest.approx(1, abs=1e-5)


def test_overlay_shows_picture_and_class_colour(segmenter: Segmenter, tmp_path: Path) -> None:
    Image.fromarray(stripes()).save(tmp_path / "a.png")
    predict(segmenter, tmp_path / "a.png", tmp_path / "out")
    drawn = np.asarray(Image.open(tmp_path / "out" / "overlays" / "a.png")).astype(int)
    expected = (stripes()[20, 5].astype(int) + [220, 20, 20]) / 2
    assert np.abs(drawn[20, 5] - expected).max() <= 2


def test_finished_files_are_not_redone(segmenter: Segmenter, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(segmenter, folder, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.suffix in {".png", ".jpg"}}
    shares = (out / "shares.csv").read_text(encoding="utf-8")
    again = predict(segmenter, folder, out)
    assert (again.done, again.skipped, len(again.failed)) == (0, 6, 1)
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert (out / "shares.csv").read_text(encoding="utf-8") == shares


def test_what_changed_or_went_missing_is_redone(segmenter: Segmenter, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(segmenter, folder, out)
    (out / "masks" / "deep" / "a.png").unlink()
    Image.fromarray(stripes(30, 60)).save(folder / "a.png")
    os.utime(folder / "a.png", ns=(1, 1))
    again = predict(segmenter, folder, out)
    assert (again.done, again.skipped) == (2, 4)
    sizes = {Image.open(path).size for path in (out / "masks").rglob("*.png")}
    assert sizes == {(60, 48), (60, 30)}


def test_another_network_redoes_everything(segmenter: Segmenter, folder: Path, tmp_path: Path) -> None:
    predict(segmenter, folder, tmp_path / "out")
    other = Segmenter(write_colour_file(tmp_path / "other.onnx", stride=2))
    assert predict(other, folder, tmp_path / "out").skipped == 0
    assert predict(other, folder, tmp_path / "out", resume=False).done == 6


def test_same_name_from_elsewhere_is_kept_apart(segmenter: Segmenter, tmp_path: Path) -> None:
    for place, turn in (("x", 1), ("y", -1)):
        (tmp_path / place).mkdir()
        Image.fromarray(np.ascontiguousarray(stripes()[:, ::turn])).save(tmp_path / place / "a.png")
        assert predict(segmenter, tmp_path / place, tmp_path / "out").done == 1
    first, second = (np.asarray(Image.open(p)) for p in sorted((tmp_path / "out" / "masks").glob("*.png")))
    assert {int(first[20, 5]), int(second[20, 5])} == {0, 2}


def test_results_inside_the_source_are_not_predicted_again(segmenter: Segmenter, tmp_path: Path) -> None:
    Image.fromarray(stripes()).save(tmp_path / "a.png")
    for _ in range(2):
        summary = predict(segmenter, tmp_path, tmp_path)
    assert (summary.done, summary.skipped) == (0, 1)


def test_killed_in_the_middle_it_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """SIGKILL, and a torn last line; afterwards no torn file counts and the results equal an undisturbed run's."""
    model = write_colour_file(tmp_path / "model.onnx")
    (tmp_path / "in").mkdir()
    for index in range(40):
        Image.fromarray(np.roll(stripes(240, 300), index, 1)).save(tmp_path / "in" / f"{index:02d}.png")
    segmenter = Segmenter(model, threads=1)
    predict(segmenter, tmp_path / "in", tmp_path / "whole", batch=2)
    program = textwrap.dedent("""
        import sys
        from catchweight.deploy.predict import predict
        from catchweight.deploy.segmenter import Segmenter
        predict(Segmenter(sys.argv[1], threads=1), sys.argv[2], sys.argv[3], batch=2)
    """)
    command = [sys.executable, "-c", program, model, tmp_path / "in", tmp_path / "out"]
    process = subprocess.Popen(list(map(str, command)))
    _wait_for_masks(tmp_path / "out", 17, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    torn = tmp_path / "out" / "finished.jsonl"
    torn.write_bytes(torn.read_bytes()[:-7])
    summary = predict(segmenter, tmp_path / "in", tmp_path / "out", batch=2)
    assert 40 > summary.skipped >= 14
    assert summary.done + summary.skipped == 40
    ended, whole = _snapshot(tmp_path / "out"), _snapshot(tmp_path / "whole")
    for left in (ended, whole):
        del left["finished.jsonl"]
    assert {name for name in ended if ".part" not in name} == set(whole)
    assert all(ended[name] == whole[name] for name in whole)


def _wait_for_masks(out: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while len(list(out.glob("masks/*.png"))) < count and process.poll() is None:
        assert time.monotonic() < end, "no progress"
        time.sleep(0.005)


def test_an_unwritable_output_ends_with_a_message(segmenter: Segmenter, tmp_path: Path) -> None:
    Image.fromarray(stripes()).save(tmp_path / "a.png")
    (tmp_path / "out").write_text("a file where the folder should go")
    with pytest.raises(CatchweightError, match="cannot write"):
        predict(segmenter, tmp_path / "a.png", tmp_path / "out")


def test_progress_tells_done_total_and_a_printable_name(segmenter: Segmenter, folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    predict(segmenter, folder, tmp_path / "out", on_progress=lambda *what: seen.append(what))
    assert [done for done, _, _ in seen] == list(range(8))
    assert {total for _, total, _ in seen} == {7}
    assert all(name.isprintable() for _, _, name in seen)


@pytest.mark.parametrize(("pattern", "count"), [("*.png", 2), ("**/*.png", 3), ("deep/../*.jpg", 2)])
def test_patterns(segmenter: Segmenter, folder: Path, tmp_path: Path, pattern: str, count: int) -> None:
    found = find_sources(f"{folder}/{pattern}", tmp_path / "out")
    assert len(found) == count
    assert all(".." not in source.relative.parts and not source.relative.is_absolute() for source in found)


def test_nothing_to_predict_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        find_sources(tmp_path / "absent", tmp_path)
    with pytest.raises(UsageError, match="no picture or video"):
        find_sources(tmp_path, tmp_path / "out")


def test_exit_code_says_whether_anything_failed() -> None:
    assert PredictSummary(3, 0, [], 1.0).exit_code == 0
    assert PredictSummary(3, 0, [(Path("x"), "broken")], 1.0).exit_code == 1


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with video_writer(path, Fraction(10)) as write:
        for index in range(12):
            write(np.roll(stripes(48, 66), 4 * index, axis=1))
    return path


def test_video_becomes_an_overlay_video_and_frame_masks(segmenter: Segmenter, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = predict(segmenter, clip, out, batch=5, frame_masks=True)
    assert (summary.done, summary.exit_code) == (1, 0)
    with Video(out / "overlays" / "clip.mp4") as video:
        assert video.rate == 10
        frames = list(video.frames())
    assert len(frames) == 12
    assert frames[0].shape == (48, 66, 3)
    masks = sorted((out / "masks" / "clip").iterdir())
    assert [path.name for path in masks] == [f"{index:06d}.png" for index in range(12)]
    assert (np.asarray(Image.open(masks[0])) == stripes_mask(48, 66)).mean() > 0.9
    assert [float(value) for value in _shares(out)["clip.mp4"][1:]] == pytest.approx([1 / 3] * 3, abs=0.05)
    assert predict(segmenter, clip, out, frame_masks=True).skipped == 1


def test_progress_goes_on_within_a_video(segmenter: Segmenter, clip: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    predict(segmenter, clip, tmp_path / "out", batch=5, on_progress=lambda *what: seen.append(what))
    frames = [(0, 1, f"clip.mp4, frame {done} of 12") for done in (5, 10, 12)]
    assert seen == [(0, 1, ""), *frames, (1, 1, "clip.mp4")]


def test_memory_does_not_grow_with_the_length_of_a_video(segmenter: Segmenter, tmp_path: Path) -> None:
    peaks = []
    for frames in (12, 96):
        with video_writer(tmp_path / f"{frames}.mp4", Fraction(10)) as write:
            for index in range(frames):
                write(np.roll(stripes(96, 132), 4 * index, axis=1))
        tracemalloc.start()
        predict(segmenter, tmp_path / f"{frames}.mp4", tmp_path / "out", batch=4)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 20 * stripes(96, 132).nbytes, "84 more frames, but never as many in memory"


def test_odd_sizes_lose_a_row_and_a_column(tmp_path: Path) -> None:
    with video_writer(tmp_path / "odd.mp4", Fraction(5)) as write:
        write(stripes(49, 63))
    with Video(tmp_path / "odd.mp4") as video:
        assert [frame.shape for frame in video.frames()] == [(48, 62, 3)]


def test_broken_videos_are_reported_and_leave_nothing(segmenter: Segmenter, clip: Path, tmp_path: Path) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    whole = clip.read_bytes()
    (source / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (source / "junk.mov").write_bytes(b"junk" * 100)
    (source / "good.mp4").write_bytes(whole)
    summary = predict(segmenter, source, tmp_path / "out")
    assert (summary.done, summary.exit_code) == (1, 1)
    assert sorted(path.name for path, _ in summary.failed) == ["cut.mp4", "junk.mov"]
    assert [path.name for path in (tmp_path / "out" / "overlays").iterdir()] == ["good.mp4"]


def test_a_video_that_ends_early_is_broken(clip: Path) -> None:
    with Video(clip) as video:
        video.count = 100
        with pytest.raises(UnreadableError, match="ends after 12 of 100 frames"):
            list(video.frames())


def test_the_journal_is_one_json_line_a_file(segmenter: Segmenter, folder: Path, tmp_path: Path) -> None:
    predict(segmenter, folder, tmp_path / "out")
    lines = (tmp_path / "out" / "finished.jsonl").read_text(encoding="utf-8").splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"source", "stamp", "model", "name", "file", "shares"}] * 6


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "video").exists(), reason=f"no videos at {DATA / 'video'}: set CATCHWEIGHT_DATA")
def test_real_videos(segmenter: Segmenter, tmp_path: Path) -> None:
    """Every real clip comes out with all its frames."""
    for path in sorted((DATA / "video").glob("*.mp4")):
        summary = predict(segmenter, path, tmp_path / "out")
        assert summary.failed == []
        with Video(path) as before, Video(tmp_path / "out" / "overlays" / path.name) as after:
            assert after.count == before.count
