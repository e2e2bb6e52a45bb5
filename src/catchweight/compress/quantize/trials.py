"""One float file on one target: the int8 graphs that can be made of it, their errors, scores and latencies."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...data import SegmentationData
from ...data.cache import PixelCache
from ...data.loading import EvalLoader
from ...deploy.export import KEY
from ...deploy.segmenter import Segmenter
from ...deploy.verify import onnx_predict
from ...files import write_json
from ...targets import Target, distinguishable, interleaved
from ...targets.runtimes.quantized import Ranges, prepare_graph, quantized_graph
from ...targets.tracing.graph import save_graph
from ...train.evaluate import evaluate
from .bias import corrected, inputs_of_convolutions
from .calibrate import calibrate, channel_means
from .check import FileCheck, check_file
from .equalise import equalised, find_pairs, unlimited
from .images import Images
from .layers import Layers
from .ledger import Ledger
from .nncf_graph import NNCF, nncf_graph
from .settings import Latency, QuantizeSettings, Recipe
from .simulate import Distance, answers, distance, runner, served

Timer = Callable[[Path, Path], Latency]
"""How the float file and an int8 file are timed against each other."""

CHECKED = 100
"""Validation images, at most, on which the finished file is verified."""

PLAIN, EQUALISED, UNLIMITED = "plain", "equalised", "equalised without limits"


@dataclass
class Trials:
    """One float file on one target with the images it is tried on; every figure goes through the ledger."""

    file: Path
    data: SegmentationData
    target: Target
    settings: QuantizeSettings
    folder: Path
    timer: Timer | None = None
    cache: PixelCache = field(default_factory=PixelCache)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "attempts.json")

    @cached_property
    def segmenter(self) -> Segmenter:
        return Segmenter(self.file, threads=1)

    @cached_property
    def plain(self) -> onnx.ModelProto:
        return prepare_graph(self.file)

    @cached_property
    def layers(self) -> Layers:
        return Layers.of(self.plain)

    @cached_property
    def calibration(self) -> Images:
        return Images(self.data, self.segmenter, "train", self.settings.images)

    @cached_property
    def probe(self) -> Images:
        return Images(self.data, self.segmenter, "train", self.settings.probe, self.calibration)

    @cached_property
    def expected(self) -> list[np.ndarray]:
        """The float file's logits on the probe images."""
        return answers(runner(self.file), self.probe)

    @cached_property
    def graphs(self) -> dict[str, onnx.ModelProto]:
        """The float graphs that int8 may be made from, by name; equalised ones only where there is a pair."""
        pairs = find_pairs(self.plain) if self.settings.equalise else []
        exact = list(unlimited(pairs))
        found = {PLAIN: self.plain}
        if exact:
            found[EQUALISED] = equalised(self.plain, exact)
        if len(pairs) > len(exact):
            found[UNLIMITED] = equalised(self.plain, pairs)
        return found

    def ranges(self, graph: str, method: str) -> Ranges:
        found = self.ledger.once(
            f"ranges, {graph}, {method}",
            lambda: {k: list(v) for k, v in calibrate(self.graphs[graph], self.calibration, method).items()},
        )
        return {name: (low, high) for name, (low, high) in found.items()}

    def means(self, graph: str) -> dict[str, np.ndarray]:
        found = self.ledger.once(f"means, {graph}", lambda: self._means(graph))
        return {name: np.asarray(values) for name, values in found.items()}

    def _means(self, graph: str) -> dict[str, list[float]]:
        model = self.graphs[graph]
        means = channel_means(model, inputs_of_convolutions(model), self.calibration)
        return {name: values.tolist() for name, values in means.items()}

    def int8(self, recipe: Recipe, left_float: Collection[str] = ()) -> onnx.ModelProto:
        """The int8 graph by a recipe, with the layers ``left_float`` in float."""
        model = self.graphs[recipe.graph]
        if recipe.method == NNCF:
            return nncf_graph(model, self.calibration, self.layers.nodes(left_float))
        made = quantized_graph(model, self.ranges(recipe.graph, recipe.method), self.layers.nodes(left_float))
        return corrected(made, model, self.means(recipe.graph)) if recipe.bias else made

    def error(self, recipe: Recipe, left_float: Collection[str] = (), alone: str | None = None) -> Distance:
        """How far the int8 graph's logits are from the float file's on the probe images.

        ``alone`` names the one layer that is not in ``left_float``, where that is shorter to write down.
        """
        told = f"; int8: {alone}" if alone else _told(left_float)
        found: Mapping[str, float] = self.ledger.once(
            f"error on others, {recipe}{told}",  # "error" alone was on images of the calibration
            lambda: distance(answers(runner(self.int8(recipe, left_float)), self.probe), self.expected).to_json(),
        )
        return Distance(**found)

    def write(self, path: Path, recipe: Recipe, left_float: Collection[str] = ()) -> Path:
        """The int8 file with the float file's metadata inside and beside it, and what int8 adds to it."""
        model = self.int8(recipe, left_float)
        facts = {**self.segmenter.metadata, "precision": "int8", "int8": self._facts(recipe, left_float)}
        kept = [entry for entry in model.metadata_props if entry.key != KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        model.metadata_props.add(key=KEY, value=json.dumps(facts, ensure_ascii=False))
        save_graph(model, path)
        write_json(path.with_suffix(".json"), facts)
        return path

    def _facts(self, recipe: Recipe, left_float: Collection[str]) -> dict[str, Any]:
        return {
            "ranges": recipe.method,
            "graph": recipe.graph,
            "bias_corrected": recipe.bias,
            "calibration_images": len(self.calibration),
            "float_layers": [name for name in self.layers.names if name in set(left_float)],
            "made_from": self.file.name,
        }

    def score(self, recipe: Recipe | None, left_float: Collection[str] = ()) -> float:
        """Validation mIoU, 0..1, of the int8 file by ``recipe``, or of the float file for None."""
        name = "score, float" if recipe is None else f"score, {recipe}{_told(left_float)}"
        return float(self.ledger.once(name, lambda: self._score(recipe, left_float)))

    def _score(self, recipe: Recipe | None, left_float: Collection[str]) -> float:
        path = self.file if recipe is None else self.write(self.folder / "attempt.onnx", recipe, left_float)
        segmenter = Segmenter(path, threads=1)
        loader = EvalLoader(self.data, "val", segmenter.size, 8, self.cache)
        return evaluate(onnx_predict(segmenter, served(path, self.target)), loader, self.data.classes).miou

    def latency(self, path: Path, recipe: Recipe, left_float: Collection[str] = ()) -> Latency:
        """The float file and the int8 file at ``path`` in turns on the target; asked again where it was undecided."""
        name = f"latency, {recipe}{_told(left_float)}"
        if name in self.ledger.results and Latency.from_json(self.ledger.results[name]).undecided:
            self.ledger.forget(name)
        return Latency.from_json(self.ledger.once(name, lambda: self._time(path).to_json()))

    def check(self, path: Path, recipe: Recipe, left_float: Collection[str] = ()) -> FileCheck:
        """The int8 file at ``path`` against its own simulation, on validation images."""
        images = Images(self.data, self.segmenter, "val", CHECKED)
        found: dict[str, Any] = self.ledger.once(
            f"check, {recipe}{_told(left_float)}", lambda: asdict(check_file(path, self.file, images, self.target))
        )
        return FileCheck(**{**found, "failures": tuple(found["failures"])})

    def _time(self, path: Path) -> Latency:
        timer = self.timer or in_turns(self.target, self.settings.seconds, self.segmenter.batch or 1)
        return timer(self.file, path)


def in_turns(target: Target, seconds: float, batch: int = 1) -> Timer:
    """The timer that runs both files on ``target`` in turns, for at most ``seconds`` each."""
    # The float precision's target reads both files as they are.
    place = replace(target, precision=target.precisions[0], batch=batch)

    def timer(plain: Path, int8: Path) -> Latency:
        first, second = interleaved([place.prepare(plain), place.prepare(int8)], seconds)
        return Latency.of((first, second), distinguishable(first, second))

    return timer


def _told(left_float: Collection[str]) -> str:
    return f"; float: {', '.join(sorted(left_float))}" if left_float else ""
