"""From a trained network to an int8 file that is faster here and within the tolerance, or to the reason why not."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...data import ClassSet, SegmentationData, open_data
from ...data.loading import EvalLoader
from ...deploy.export import export
from ...deploy.segmenter import Segmenter
from ...deploy.verify import verify
from ...errors import CatchweightError, StorageError, UsageError, unknown
from ...files import read_json, write_json
from ...nets import load_network
from ...nets.segmentation import SegmentationNet
from ...run import Run
from ...targets import Target
from ...targets.runtimes.quantized import is_quantized
from ...targets.tracing.graph import fixed_input
from ...train import Recipe as Training
from ...train import finetune
from ..digest import weights_digest
from .calibrate import METHODS
from .check import FileCheck
from .layers import milliseconds
from .nncf_graph import NNCF, NncfError, require_nncf
from .search import order, sensitivities, shortest_prefix
from .settings import TOLERANCE, Latency, QuantizeResult, QuantizeSettings, Recipe
from .trials import EQUALISED, PLAIN, UNLIMITED, Timer, Trials
from .tune import is_tuned, tuned

Say = Callable[[str], None]
RUNTIMES = ("onnxruntime:cpu", "openvino:cpu")
"""Targets on which int8 files are served, scored and verified."""


def quantize(
    network: SegmentationNet | Path | str,
    data: SegmentationData | Path | str,
    *,
    target: Target | str = "onnxruntime:cpu",
    tolerance: float = TOLERANCE,
    folder: Path | str,
    size: tuple[int, int] | None = None,
    settings: QuantizeSettings | None = None,
    checkpoint: Path | None = None,
    timer: Timer | None = None,
    recipe: Training | None = None,
    deadline: float | None = None,
    say: Say = print,
) -> QuantizeResult:
    """Quantise a trained network to int8 after training, and keep it only where it pays.

    Static quantisation for ONNX Runtime (QDQ; weights int8 per channel, activations uint8), calibrated on training
    images. Ranges, cross-layer equalisation and bias correction are chosen by the logit error on other training images.
    The int8 file must be faster than the float file on the target, measured in turns, and lose at most ``tolerance``
    points of validation mIoU; layers that cost most accuracy per millisecond go back to float until it does. Where that
    is not enough, ``settings.tune_epochs`` of quantisation-aware fine-tuning may be.
    Each step is written to ``folder`` before the next; called again with the same arguments, it goes on.

    Args:
        network: a checkpoint (.pt), a file written by ``export`` (.onnx, fixed size), or a network (with ``size``).
        data: the data set it was trained on, or its path; needs the splits train and val.
        target: where latency counts.
        tolerance: points of mIoU (0.5 is 0.005 of mIoU).
        folder: run folder; another request in it is refused.
        size: (H, W) to export a network for; a checkpoint knows its own.
        checkpoint: the network behind an .onnx file, to be fine-tuned where ``settings`` ask for that.
        timer: times two files against each other; default: in turns on ``target``. For a device that is elsewhere.
        recipe: of a fine-tuning; its length, learning rate and size are those of ``settings`` and the file.
        deadline: in seconds of ``time.monotonic``; fine-tuning ends with the epoch during which it passes, and does not
            begin after it.
        say: receives progress lines.

    Returns:
        The verdict; ``result.file`` is the file to use, float or int8.

    Raises:
        UsageError: a target that cannot serve int8 files, a file that is int8 already or of free size, a negative
            tolerance, a network without ``size``, or a fine-tuning of a file without its ``checkpoint``.
        CatchweightError: a file cannot be read, exported or quantised, or the data set has other classes.
    """
    settings, folder = settings or QuantizeSettings(), Path(folder)
    place = _checked(target, tolerance, settings)
    trainable = _trainable(network, checkpoint, settings)
    opened = data if isinstance(data, SegmentationData) else open_data(Path(data))
    run = Run(folder, _as_begun(folder, _request(network, opened, place, tolerance, settings, size), network, opened))
    with run.locked():
        file = _quantisable(_float_file(network, opened, folder, size))
        trials = Trials(file, opened, place, settings, folder, timer)
        _same_classes(trials, opened)
        result = _Verdict(trials, tolerance, say).reach()
        if result.too_coarse and trainable is not None:
            result = _after_tuning(trials, result, trainable, tolerance, recipe or finetune(), deadline, say)
        write_json(folder / "int8.verdict.json", result.to_json())
        for leftover in (*folder.glob("attempt.*n*"), *folder.glob("tuned/attempt.*n*")):
            if leftover.suffix in (".onnx", ".json"):
                leftover.unlink()
    say(f"int8: {result.reason}")
    return result


class _Verdict:
    """The order in which things are tried, and the sentence it ends with."""

    def __init__(self, trials: Trials, tolerance: float, say: Say, float_score: float | None = None) -> None:
        self.trials, self.tolerance, self.say = trials, tolerance, say
        self.float_score = trials.score(None) if float_score is None else float_score
        say(
            f"int8: the float file has {self.float_score:.4f} val mIoU; calibrating on {len(trials.calibration)} images"
        )

    def reach(self) -> QuantizeResult:
        recipe = self._recipe()
        base, latency = self._fastest(recipe)
        if not latency.faster:
            return self._refused(latency.verdict, latency)
        kept = self._within_tolerance(recipe, base)
        if kept is None:
            lost = self._too_coarse(recipe, base)
            return self._refused(lost, latency, self.trials.score(recipe, base), too_coarse=True)
        return self._final(recipe, kept, len(kept) > len(base))

    def _recipe(self) -> Recipe:
        """The recipe with the smallest logit error, refined one step after the other; the simpler one at a tie."""
        settings = self.trials.settings
        best = self._best([Recipe(PLAIN, method) for method in settings.methods])
        graphs = [name for name in (EQUALISED, UNLIMITED) if name in self.trials.graphs]
        best = self._best([best, *(replace(best, graph=name) for name in graphs)])
        if settings.correct_bias and best.method != NNCF:  # which corrects them itself
            best = self._best([best, replace(best, bias=True)])
        self.say(f"int8: {best}: {self.trials.error(best)}")
        return best

    def _best(self, recipes: list[Recipe]) -> Recipe:
        errors: dict[Recipe, float] = {}
        for recipe in recipes:
            try:
                errors[recipe] = self.trials.error(recipe).error
            except NncfError as error:
                if len(recipes) == 1:
                    raise
                self.say(f"int8: {error}")
        return min(errors, key=lambda recipe: errors[recipe])

    def _fastest(self, recipe: Recipe) -> tuple[list[str], Latency]:
        """Every layer in int8, or, should that not pay, only those that are faster in it by the runtime's profile."""
        everything = self._latency(recipe, [])
        if everything.faster:
            return [], everything
        float_ms, int8_ms = self._profiles(recipe)
        slower = [name for name, ms in int8_ms.items() if ms >= float_ms[name]]
        if not slower or len(slower) == len(int8_ms):
            return [], everything
        self.say(f"int8: {everything}; trying with {len(slower)} layers in float that int8 makes slower")
        return slower, self._latency(recipe, slower)

    def _latency(self, recipe: Recipe, kept: list[str]) -> Latency:
        path = self.trials.write(self.trials.folder / "attempt.onnx", recipe, kept)
        found = self.trials.latency(path, recipe, kept)
        self.say(f"int8: {len(kept)} layers in float: {found}")
        return found

    def _profiles(self, recipe: Recipe) -> tuple[dict[str, float], dict[str, float]]:
        trials = self.trials

        def profiled() -> list[dict[str, float]]:
            graphs = (trials.plain, trials.int8(recipe))
            return [milliseconds(trials.target, graph, trials.layers, trials.plain) for graph in graphs]

        float_ms, int8_ms = trials.ledger.once(f"profile, {recipe}", profiled)
        return float_ms, int8_ms

    def _within_tolerance(self, recipe: Recipe, base: list[str]) -> list[str] | None:
        """Layers to leave in float so that the score holds; None when none or too many would have to be."""
        if self._holds(recipe, base):
            return base
        if not self.trials.settings.search:
            return None
        ordered = [name for name in self._ordered(recipe) if name not in base]
        most = int(self.trials.settings.most_float * len(self.trials.layers.names))
        prefix = shortest_prefix(ordered, lambda names: self._holds(recipe, [*base, *names]), most)
        return None if prefix is None else [*base, *prefix]

    def _holds(self, recipe: Recipe, kept: list[str]) -> bool:
        score = self.trials.score(recipe, kept)
        lost = 100 * (self.float_score - score)
        self.say(f"int8: {len(kept)} layers in float: {score:.4f} val mIoU, {lost:+.2f} points lost")
        return lost <= self.tolerance

    def _ordered(self, recipe: Recipe) -> list[str]:
        float_ms, int8_ms = self._profiles(recipe)
        names = self.trials.layers.names
        self.say(f"int8: looking for the layers that cost most, {len(names)} to try")
        errors = {
            name: self.trials.error(recipe, [other for other in names if other != name], name).error for name in names
        }
        return order(sensitivities(errors, float_ms, int8_ms))

    def _too_coarse(self, recipe: Recipe, base: list[str]) -> str:
        score = self.trials.score(recipe, base)
        lost = 100 * (self.float_score - score)
        searched = (
            f" even with {self.trials.settings.most_float:.0%} of the layers in float"
            if self.trials.settings.search
            else ""
        )
        return (
            f"int8 costs {lost:.2f} points of val mIoU ({self.float_score:.4f} to {score:.4f}); more than "
            f"{self.tolerance:g} are lost{searched}"
        )

    def _final(self, recipe: Recipe, kept: list[str], slowed: bool) -> QuantizeResult:
        """Written, measured again as it will be served, and verified.

        Args:
            slowed: whether more layers stayed in float than speed asked for.
        """
        trials = self.trials
        path = trials.write(trials.folder / "int8.onnx", recipe, kept)
        latency = trials.latency(path, recipe, kept)
        score = trials.score(recipe, kept)
        check = trials.check(path, recipe, kept)
        self.say(f"int8: {check.message}")
        if not latency.faster:
            where = f"within tolerance with {len(kept)} layers in float, but {latency.verdict}"
            return self._refused(where, latency, score, check, too_coarse=slowed)
        if not check.passed:
            return self._refused(check.message, latency, score, check)
        lost = 100 * (self.float_score - score)
        reason = (
            f"accepted: {latency}; val mIoU {self.float_score:.4f} to {score:.4f} ({lost:+.2f} points lost, "
            f"{self.tolerance:g} allowed), {len(kept)} of {len(trials.layers.names)} layers in float"
        )
        return self._result(True, path, reason, latency, score, tuple(kept), recipe, check)

    def _refused(
        self, why: str, latency: Latency | None, score: float | None = None, check: FileCheck | None = None,
        *, too_coarse: bool = False,
    ) -> QuantizeResult:  # fmt: skip
        (self.trials.folder / "int8.onnx").unlink(missing_ok=True)
        (self.trials.folder / "int8.json").unlink(missing_ok=True)
        return self._result(
            False, self.trials.file, f"refused, the float file stays: {why}", latency, score, (), None, check,
            too_coarse=too_coarse,
        )  # fmt: skip

    def _result(
        self, accepted: bool, file: Path, reason: str, latency: Latency | None, score: float | None,
        kept: tuple[str, ...], recipe: Recipe | None, check: FileCheck | None, too_coarse: bool = False,
    ) -> QuantizeResult:  # fmt: skip
        return QuantizeResult(
            accepted=accepted,
            file=file,
            float_file=self.trials.file,
            reason=reason,
            latency=latency,
            float_score=self.float_score,
            int8_score=score,
            tolerance=self.tolerance,
            kept_float=kept,
            recipe=recipe,
            check=check.to_json() if check else None,
            folder=self.trials.folder,
            too_coarse=too_coarse,
        )


def _after_tuning(
    trials: Trials, refused: QuantizeResult, trainable: SegmentationNet | Path, tolerance: float, recipe: Training,
    deadline: float | None, say: Say,
) -> QuantizeResult:  # fmt: skip
    """Fine-tune, and try again; held against the score and the file of the network as it was."""
    settings, folder = trials.settings, trials.folder / "tuned"
    late = deadline is not None and time.monotonic() >= deadline
    if late and not is_tuned(folder):
        return replace(refused, reason=f"{refused.reason}; no time was left for fine-tuning")
    net = trainable if isinstance(trainable, SegmentationNet) else load_network(trainable)[0]
    say(f"int8: {refused.reason.removeprefix('refused, the float file stays: ')}; {settings.tune_epochs} epochs of "
        "quantisation-aware fine-tuning")  # fmt: skip
    size = trials.segmenter.size
    model, epochs = tuned(
        net, trials.data, size, folder, epochs=settings.tune_epochs, lr=settings.tune_lr, recipe=recipe,
        cache=trials.cache, deadline=deadline,
    )  # fmt: skip
    file = folder / "float.onnx"
    if not (folder / "verification.json").exists():
        better, meta = load_network(model)
        export(better, file, size=size, classes=trials.data.classes, meta=meta)
        checked = verify(file, better, EvalLoader(trials.data, "val", size, 8, trials.cache), trials.data.classes)
        write_json(folder / "verification.json", checked.to_json())
    checked = read_json(folder / "verification.json")
    if not checked["passed"]:
        return replace(refused, reason=f"{refused.reason}; nor after fine-tuning: {checked['message']}")
    again = Trials(file, trials.data, trials.target, settings, folder, trials.timer, trials.cache)
    result = _Verdict(again, tolerance, say, refused.float_score).reach()
    if not result.accepted:
        return replace(refused, reason=f"{refused.reason}; nor after fine-tuning: {result.reason}")
    reason = f"{result.reason}, after {epochs} epochs of quantisation-aware fine-tuning"
    return replace(result, reason=reason, float_file=trials.file, folder=trials.folder, tuned=model)


def _trainable(
    network: SegmentationNet | Path | str, checkpoint: Path | None, settings: QuantizeSettings
) -> SegmentationNet | Path | None:
    """What a fine-tuning would begin with; None where none is asked for."""
    if not settings.tune_epochs:
        return None
    if isinstance(network, SegmentationNet):
        return network
    if Path(network).suffix == ".pt":
        return Path(network)
    if checkpoint is None:
        raise UsageError(
            f"quantisation-aware fine-tuning trains on, which {network} cannot: give the checkpoint (.pt) it was made "
            "of, or leave tune_epochs at 0"
        )
    return Path(checkpoint)


def _checked(target: Target | str, tolerance: float, settings: QuantizeSettings) -> Target:
    place = Target.parse(target) if isinstance(target, str) else target
    if place.name not in RUNTIMES:
        raise UsageError(f"{place} does not serve our int8 files; int8 is made for {' or '.join(RUNTIMES)}")
    if not tolerance >= 0:
        raise UsageError(f"the tolerance is in points of mIoU and 0 or more, but got {tolerance:g}")
    known = (*METHODS, NNCF)
    for method in settings.methods:
        if method not in known:
            raise unknown("calibration", method, known)
    if not settings.methods:
        raise UsageError(f"name at least one calibration: {', '.join(known)}")
    if NNCF in settings.methods:
        require_nncf()
    return place


def _request(
    network: SegmentationNet | Path | str, data: SegmentationData, target: Target, tolerance: float,
    settings: QuantizeSettings, size: tuple[int, int] | None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "int8": network.spec.name if isinstance(network, SegmentationNet) else Path(network).name,
        "weights": _digest(network),
        "data": data.fingerprint(),
        "target": target.fingerprint(),
        "tolerance": tolerance,
        "settings": settings.asked(),
        "size": list(size) if size else None,
    }


def _as_begun(
    folder: Path, request: dict[str, Any], network: SegmentationNet | Path | str, data: SegmentationData
) -> dict[str, Any]:
    """The request, in the words of an earlier version where the folder has them: what was begun so goes on."""
    try:
        known = Run(folder).request
    except CatchweightError:  # nothing was begun; or what is wrong will be said when the folder is opened
        return request
    weights = weights_digest(network) if isinstance(network, SegmentationNet) else _bytes_digest(Path(network))
    earlier = {"weights": weights, "data": str(data.root.resolve())}
    return request | {key: value for key, value in earlier.items() if known.get(key) == value}


def _digest(network: SegmentationNet | Path | str) -> str:
    """Tells one network from another: one that was trained on since is another request.

    Of a checkpoint what is built from it counts, not the bytes: pruning notes every measurement in its file.
    """
    if not isinstance(network, SegmentationNet) and Path(network).suffix != ".pt":
        return _bytes_digest(Path(network))
    net, meta = (network, {}) if isinstance(network, SegmentationNet) else load_network(network)
    about = [net.spec.to_json(), meta.get("size"), meta.get("classes"), weights_digest(net)]
    return hashlib.sha256(repr(about).encode()).hexdigest()


def _bytes_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def _float_file(
    network: SegmentationNet | Path | str, data: SegmentationData, folder: Path, size: tuple[int, int] | None
) -> Path:
    """The ONNX file to start from; what is not one yet is exported once."""
    if not isinstance(network, SegmentationNet):
        path = Path(network)
        if path.suffix == ".onnx":
            return path
        if path.suffix != ".pt":
            raise UsageError(f"{path}: give a checkpoint (.pt) or an exported file (.onnx)")
    out = folder / "float.onnx"
    if out.exists() and out.with_suffix(".json").exists():
        return out
    net, meta = (network, {}) if isinstance(network, SegmentationNet) else load_network(network)
    wanted = size or meta.get("size")
    if wanted is None:
        raise UsageError("give the size (H, W) to export the network for")
    classes = ClassSet.from_json(meta["classes"]) if "classes" in meta else data.classes
    return export(net, out, size=(int(wanted[0]), int(wanted[1])), classes=classes, meta=meta)


def _quantisable(path: Path) -> Path:
    batch, size = fixed_input(path)
    if batch is None or size is None:
        raise UsageError(f"{path} leaves its batch or size free; int8 needs fixed shapes: export it without --dynamic")
    if is_quantized(path):
        raise UsageError(f"{path} is quantised already: give the float file or the checkpoint")
    return path


def _same_classes(trials: Trials, data: SegmentationData) -> None:
    names: tuple[str, ...] = Segmenter(trials.file, threads=1).names
    if names != data.classes.names:
        raise CatchweightError(
            f"{trials.file} predicts {len(names)} classes ({', '.join(names[:4])}...), but the data set has "
            f"{len(data.classes)} ({', '.join(data.classes.names[:4])}...): quantise with the data it was trained on"
        )
