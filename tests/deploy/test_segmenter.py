"""The served network: same masks as evaluation, from any kind of picture, without torch."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from colour_file import CLASSES, MEAN, STD, stripes, stripes_mask, write_colour_file
from PIL import Image

from catchweight.data import open_data
from catchweight.data.loading import EvalLoader
from catchweight.data.scenes import make_scenes
from catchweight.deploy.export import export
from catchweight.deploy.segmenter import Segmenter, read_rgb, upsample
from catchweight.errors import CatchweightError, UsageError
from catchweight.nets import build_network
from catchweight.train.evaluate import best_class, eager_predict
from conftest import CAMVID, needs_camvid


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_file(tmp_path_factory.mktemp("onnx") / "model.onnx")


def test_serves_without_the_training_libraries(colours: Path, tmp_path: Path) -> None:
    Image.fromarray(stripes()).save(tmp_path / "a.png")
    program = """
        import sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {"torch", "torchvision", "timm", "lightning_fabric", "onnx", "scipy",
                                          "pydantic", "typer", "matplotlib", "av", "rich", "psutil", "yaml"}:
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Refuse())
        from catchweight import Segmenter
        mask = Segmenter(sys.argv[1])(sys.argv[2])
        print(mask.shape, mask.dtype, [int(mask[20, x]) for x in (5, 30, 55)])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(colours), str(tmp_path / "a.png")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "(48, 60) uint8 [0, 1, 2]", done.stderr


def test_mask_has_the_size_of_the_image_and_the_right_classes(colours: Path) -> None:
    segment = Segmenter(colours)
    mask = segment(stripes(96, 120))
    assert mask.dtype == np.uint8
    assert (mask == stripes_mask(96, 120)).mean() > 0.98
    assert segment.names == ("red", "green", "blue <b>")
    assert segment.colors[0] == (220, 20, 20)
    assert segment.size == segment.fixed_size == (48, 64)


def test_prepare_normalises_as_a_network_does(colours: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    expected = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    prepared = Segmenter(colours).prepare(image)
    assert prepared.shape == (1, 3, 48, 64)
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(360, 480), (180, 240), (37, 501), (90, 100), (1, 1)])
def test_upsample_is_torchs_bilinear(size: tuple[int, int]) -> None:
    logits = np.random.default_rng(1).normal(size=(11, 180, 240)).astype(np.float32) * 10
    expected = F.interpolate(torch.from_numpy(logits)[None], size=size, mode="bilinear", align_corners=False)[0]
    # Slopes are up to 50 a pixel, and versions of torch differ in the last bit of a position (240 * 6e-8 pixels).
    np.testing.assert_allclose(upsample(logits, size), expected, atol=5e-4)


def test_finish_is_the_best_class_of_the_upsampled_logits(colours: Path) -> None:
    logits = np.random.default_rng(2).normal(size=(1, 11, 90, 120)).astype(np.float32)
    mask = Segmenter(colours).finish(logits, (1000, 777))
    np.testing.assert_array_equal(mask, upsample(logits[0], (1000, 777)).argmax(0))


def test_masks_agree_with_evaluation(tmp_path: Path) -> None:
    """Pillow's resize and this file's upsampling against the evaluation loader and torch, on textured scenes."""
    make_scenes(tmp_path / "scenes", {"train": 1, "val": 4}, size=(150, 210), seed=3)
    data = open_data(tmp_path / "scenes")
    segment = Segmenter(write_colour_file(tmp_path / "m.onnx", size=(64, 96), stride=2))
    agree = []
    for batch in EvalLoader(data, "val", (64, 96), 1):
        record = next(r for r in data.splits["val"] if r.id == batch.ids[0])
        logits = F.avg_pool2d(batch.images.float() / 255, 2)
        expected = best_class(logits[0], batch.masks[0].shape).numpy()
        agree.append(float((segment(record.image) == expected).mean()))
        levels = (segment.prepare(record.image) - segment.normalise(batch.images.numpy())) * 255
        assert np.abs(levels * np.reshape(STD, (3, 1, 1))).max() < 1.01, "resizes must agree to a grey level"
    assert np.mean(agree) >= 0.998, agree


@pytest.mark.slow
@needs_camvid
def test_masks_agree_with_evaluation_on_photos(tmp_path: Path) -> None:
    """A whole network on CamVid frames, exported: share of equal pixels."""
    data = open_data(CAMVID)
    torch.manual_seed(0)
    net = build_network("ffnet_22s_bcc_mobile", len(data.classes), width=0.25).eval()
    segment = Segmenter(export(net, tmp_path / "model.onnx", size=(180, 240), classes=data.classes), threads=1)
    predict = eager_predict(net)
    agree = []
    for record, batch in zip(data.splits["val"][:8], EvalLoader(data, "val", (180, 240), 1), strict=False):
        expected = best_class(predict(batch.images)[0], batch.masks[0].shape).numpy()
        agree.append(float((segment(record.image) == expected).mean()))
    assert np.mean(agree) >= 0.998, agree


def test_probabilities_sum_to_one_and_lead_to_the_mask(colours: Path) -> None:
    segment = Segmenter(colours)
    probabilities = segment.probabilities(stripes())
    assert probabilities.shape == (3, 48, 60)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(0), segment(stripes()))


@pytest.mark.parametrize("batch", [1, 4, "batch"])
def test_batches_of_any_length_and_mixed_sizes(tmp_path: Path, batch: int | str) -> None:
    segment = Segmenter(write_colour_file(tmp_path / "m.onnx", batch=batch, stride=2))
    images = [stripes(40 + 6 * k, 60 + 30 * k) for k in range(6)]
    masks = segment.predict_batch(images)
    assert [mask.shape for mask in masks] == [image.shape[:2] for image in images]
    for image, mask in zip(images, masks, strict=True):
        np.testing.assert_array_equal(mask, segment(image))
    assert segment.predict_batch([]) == []


def _kinds() -> dict[str, Image.Image]:
    rgb = Image.fromarray(stripes())
    grey = Image.fromarray(stripes()[..., 1])
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    return {"RGBA": rgb.convert("RGBA"), "CMYK": rgb.convert("CMYK"), "P": rgb.quantize(16), "grey": grey, "16": deep}


@pytest.mark.parametrize("kind", ["RGBA", "CMYK", "P", "grey", "16"])
def test_every_kind_of_picture_becomes_rgb(kind: str, tmp_path: Path) -> None:
    image = _kinds()[kind]
    path = tmp_path / ("a.tif" if kind == "CMYK" else "a.png")
    image.save(path)
    source = stripes()[..., 1:2].repeat(3, 2) if kind in {"grey", "16"} else stripes()
    got = np.asarray(read_rgb(path)).astype(int)
    assert got.shape == source.shape
    assert np.abs(got - source).max() <= 8


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    upright = Image.fromarray(stripes())
    exif = Image.Exif()
    exif[0x0112] = 6  # show turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_rgb(tmp_path / "turned.png")), stripes())


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 3, 3), np.uint8)]
)
def test_arrays_of_another_kind_are_refused(array: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"\(H, W, 3\) uint8"):
        read_rgb(array)


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_bytes(b"not a picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name in ("no.jpg", "cut.png", "absent.png"):
        with pytest.raises(CatchweightError, match=name):
            read_rgb(tmp_path / name)


def _without(key: str) -> dict[str, object]:
    facts: dict[str, object] = {"classes": CLASSES, "mean": MEAN, "std": STD, "size": [48, 64]}
    del facts[key]
    return facts


@pytest.mark.parametrize(
    ("metadata", "message"),
    [("", "without Catchweight metadata"), ("{", "not JSON"), (_without("mean"), "export it again")]
)  # fmt: skip
def test_files_without_usable_metadata_are_refused(tmp_path: Path, metadata: object, message: str) -> None:
    path = write_colour_file(tmp_path / "m.onnx", metadata=metadata)
    with pytest.raises(CatchweightError, match=message):
        Segmenter(path)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"junk")
    with pytest.raises(CatchweightError, match=r"m\.onnx"):
        Segmenter(tmp_path / "m.onnx")
    with pytest.raises(CatchweightError, match="no such"):
        Segmenter(tmp_path / "absent.onnx")
