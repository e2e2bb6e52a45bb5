"""FasterSeg's co-search of a teacher and a student in one supernet, by gradient (Chen et al., ICLR 2020).

The supernet is pre-trained at several widths. Then architectures and weights take turns: Adam moves the architecture
parameters of both, the student's towards low loss and low expected latency, and SGD moves the weights. After each
epoch both networks are read off, and lambda follows the student's latency.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ...data import SegmentationData
from ...data.cache import PixelCache
from ...errors import CatchweightError
from ...spaces.fasterseg import ArchitectureLogits, FasterSegLatency, FasterSegSpace, OpTimes
from ...train.checkpoints import all_finite, load_state
from ..strategy import Say, silent
from .phases import Pretraining, Searching, about, refuse_other
from .result import CoSearchResult
from .settings import CoSearchSettings
from .steps import CoSearch


def co_search(
    data: SegmentationData,
    settings: CoSearchSettings,
    folder: Path,
    times: OpTimes,
    *,
    cache: PixelCache | None = None,
    pretrained: Path | None = None,
    deadline: float | None = None,
    say: Say = silent,
) -> CoSearchResult:
    """Search a student and its teacher. Killed at any moment and called again, it ends with the same networks.

    Args:
        data: has the splits "train", which is cut into halves, and "val".
        folder: takes ``epochs/*.json`` (probabilities, latencies, lambda), ``result.json`` and, while the search
            runs, its state.
        times: milliseconds of the space's operators on the target, see :class:`.MeasuredTimes`.
        cache: decoded pixels on disk.
        pretrained: weights made by :func:`pretrain`, to share between searches; by default they are made first.
        deadline: in seconds of ``time.monotonic``; the epoch during which it passes is the last one.
        say: receives a line an epoch, and at most one every half minute between.

    Raises:
        CatchweightError: a loss or a weight is not finite, or the folder holds another search; the last good state is
            kept.
    """
    folder, done = Path(folder), Path(folder) / "result.json"
    if not done.exists():
        weights = pretrained or pretrain(data, settings, folder / "pretrain", cache=cache, deadline=deadline, say=say)
        search = supernet(data, settings)
        search.space.load_state_dict(load_state(weights)["weights"])
        if not all_finite(search.weights):  # of an earlier version, which did not look before it stored them
            raise CatchweightError(
                f"{weights} holds infinite or NaN weights: pre-train with a lower pretrain.lr in a fresh folder"
            )
        latency = student_latency(search.space, settings, times)
        Searching(data, settings, folder, search, cache, say, latency, deadline).run()
    refuse_other(folder, about("search", data, settings))
    return CoSearchResult.load(done)


def pretrain(
    data: SegmentationData,
    settings: CoSearchSettings,
    folder: Path,
    *,
    cache: PixelCache | None = None,
    deadline: float | None = None,
    say: Say = silent,
) -> Path:
    """Train the supernet's weights at even architectures; the file they are in. Goes on as :func:`co_search` does."""
    folder, done = Path(folder), Path(folder) / "weights.pt"
    if not done.exists():
        Pretraining(data, settings, folder, supernet(data, settings), cache, say, deadline).run()
    refuse_other(folder, about("pretrain", data, settings))
    return done


def supernet(data: SegmentationData, settings: CoSearchSettings) -> CoSearch:
    """A new supernet with both sets of architecture parameters, on the GPU if there is one."""
    torch.manual_seed(settings.seed)
    space = FasterSegSpace(
        len(data.classes), [settings.image_size], layers=settings.layers, base=settings.base, widths=settings.widths,
        width=settings.width,
    )  # fmt: skip
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    space.to("cuda" if torch.cuda.is_available() else "cpu").to(memory_format=layout)
    return CoSearch(
        space,
        ArchitectureLogits(space.lattice, widths=False),
        ArchitectureLogits(space.lattice, widths=True),
        coupled=settings.regularisation == "coupled",
        groups=settings.groups,
        channels_last=settings.channels_last,
        mixed=settings.precision == "bf16-mixed",
    )


def student_latency(space: FasterSegSpace, settings: CoSearchSettings, times: OpTimes) -> FasterSegLatency:
    """Expected latency of the student."""
    head = space.supernet.roles["student"]
    return FasterSegLatency(space.lattice, settings.latency_size, space.spec.classes, times, stem=head, head=head)


__all__ = ["co_search", "pretrain", "student_latency", "supernet"]
