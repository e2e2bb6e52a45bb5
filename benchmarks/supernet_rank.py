"""Does the supernet rank its members as training each of them alone does?

    python benchmarks/supernet_rank.py RUN --members 12 --epochs 10 --out benchmarks/results/supernet_rank.json

RUN is the folder of a one-shot `catchweight fit`. Random members are scored with the supernet's weights and then
trained alone, each from its slice of the pretrained backbone. Kendall's tau between both scores, with a bootstrap
interval, and beside it the tau of mere size (MACs). Killed, it goes on.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau

from catchweight.files import read_json, write_json
from catchweight.fitting.join import job_of
from catchweight.fitting.one_shot import OneShotRoute
from catchweight.run import Run
from catchweight.spaces.segmentation import input_size
from catchweight.spaces.whole import label
from catchweight.targets.counts import count_macs
from catchweight.train import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--members", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/supernet_rank.json"))
    asked = parser.parse_args()
    route = OneShotRoute(job_of(Run(asked.run)))
    job, rng = route.job, random.Random(asked.seed)
    folder = asked.run / "alone"
    rows = []
    for arch in [route.space.sample(rng) for _ in range(asked.members)]:
        path = folder / f"{label(arch)}-{asked.epochs}.json"
        if not path.exists():
            shared = route.score(arch)
            torch.manual_seed(asked.seed)
            alone = type(route)(job).space.subnet(arch)
            result = train(
                alone, job.data, job.recipe(input_size(arch), asked.epochs), folder / label(arch), cache=job.cache
            )
            macs = count_macs(alone, input_size(arch))
            write_json(path, {"arch": arch.to_json(), "supernet": shared, "alone": result.score, "macs": macs})
        rows.append(read_json(path))
        print(f"{label(arch)}: supernet {rows[-1]['supernet']:.3f}, alone {rows[-1]['alone']:.3f}", flush=True)
    supernet, alone, macs = (np.array([row[key] for row in rows]) for key in ("supernet", "alone", "macs"))
    draws = np.random.default_rng(0).integers(0, len(rows), (1000, len(rows)))
    taus = [kendalltau(supernet[d], alone[d]).statistic for d in draws]
    summary = {
        "members": len(rows), "epochs": asked.epochs, "tau": float(kendalltau(supernet, alone).statistic),
        "tau_90": [float(value) for value in np.nanquantile(taus, [0.05, 0.95])],
        "tau_macs": float(kendalltau(macs, alone).statistic),
    }  # fmt: skip
    write_json(asked.out, {**summary, "rows": rows})
    print(summary)


if __name__ == "__main__":
    main()
