"""A co-search of seconds, also run as a script by the test that kills it: ``gradient_tiny.py SCENES FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from catchweight.data import open_data
from catchweight.data.loading import Augment
from catchweight.search.gradient import CoSearchResult, CoSearchSettings, PhaseSettings, co_search
from catchweight.spaces.fasterseg import Part

SIZE = (64, 64)
TINY = CoSearchSettings(
    layers=5,
    base=2,
    widths=(8, 12),
    pretrain=PhaseSettings(epochs=1, batch=2, size=SIZE, lr=0.02),
    search=PhaseSettings(epochs=2, batch=2, size=SIZE, lr=0.01),
    augment=Augment(scale=(0.75, 1.25), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0),
    image_size=SIZE,
    latency_size=SIZE,
    window_ms=(0.001, 0.002),
    workers=0,
    checkpoint_every_s=1e-6,
)


def made_up_ms(wanted: Sequence[Part]) -> list[float]:
    """Milliseconds by multiply-adds."""
    return [0.001 + 1e-7 * p.inp * p.out * p.height * p.width * (2 if "2x" in p.op else 1) for p in wanted]


def tiny_search(scenes: Path, folder: Path, settings: CoSearchSettings = TINY) -> CoSearchResult:
    return co_search(open_data(scenes), settings, folder, made_up_ms, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    tiny_search(Path(sys.argv[1]), Path(sys.argv[2]))
