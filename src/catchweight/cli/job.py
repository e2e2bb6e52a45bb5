"""``fit``, ``demo`` and ``train``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.console import Console
from rich.markup import escape

from .options import DataPath, Format, Seed, Settings, Size, Target, Threads, Weights, parse_minutes, parse_size

if TYPE_CHECKING:
    from ..data import SegmentationData
    from ..train.distill import Distiller
    from ..train.mgd import MultiGranularity

console = Console(highlight=False, soft_wrap=True)
DISTILL = "distill."
"""Settings of ``train`` that begin so are those of the distillation."""
MGD = "mgd."
"""The same of the distillation with images without labels."""
DEMO_BUDGET = "latency<=10ms"
DEMO_SETTINGS = (
    "search.strategy=whole",
    "search.networks=[eseg_lite_s, timm/tf_efficientnet_lite0+fpn]",
    "search.scales=[1.0, 0.7]",
    "search.most=3",
)
"""Few candidates, so that the demo ends within minutes on two cores."""


class Clock:
    """Prints progress lines behind the minutes since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, line: str) -> None:
        seconds = int(time.monotonic() - self.start)
        stage, colon, rest = line.partition(": ")
        shown = f"[bold]{escape(stage)}[/bold]{colon}{escape(rest)}"
        console.print(f"[dim]{seconds // 60:3d}:{seconds % 60:02d}[/dim] {shown}")


Run = Annotated[Path, typer.Option("--run", help="Run folder. The same command again goes on in it.")]
Budget = Annotated[str, typer.Option("--budget", help='Upper limits, e.g. "latency<=15ms, params<=5M".')]
Budgets = Annotated[
    list[str],
    typer.Option("--budget", help='Upper limits, e.g. "latency<=15ms, params<=5M". Repeat it for several networks.'),
]
Time = Annotated[
    str | None,
    typer.Option(
        "--time", metavar="20m", help="Bound on the whole job; training is planned to fit. Each call counts anew."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check the data, print the plan with minutes, and stop.")]


Compress = Annotated[
    str | None,
    typer.Option("--compress", help="int8, prune or all: search wider, then compress into the budget. Default: none."),
]
StepTolerance = Annotated[
    float | None,
    typer.Option("--tolerance", min=0.0, help="Points of val mIoU that a step of --compress may cost (0.5)."),
]


def fit(
    path: DataPath,
    budget: Budgets,
    target: Target = "onnxruntime:cpu",
    run: Run = Path("runs/fit"),
    size: Size = None,
    time: Time = None,
    threads: Threads = None,
    weights: Weights = "auto",
    seed: Seed = 0,
    format_: Format = "auto",
    compress: Compress = None,
    tolerance: StepTolerance = None,
    settings: Settings = None,
    dry_run: DryRun = False,
) -> None:
    """Find, train, export and prove the best network within a budget.

    Measures whether the budget can be made at all, trains a supernet that holds billions of networks, times some of
    them on this target so that the others can be predicted, scores those that make the budget, measures the best ones
    and trains them on. The ONNX file is compared with the trained network on the validation images and measured again.
    The run folder holds every result and report.html; kill it, and the same command goes on.

    Several --budget give several networks from one search. --size is the largest input considered (default: the size
    of the images). --set search.strategy=whole races published networks instead, as a short --time does by itself;
    --set reaches every setting, e.g. --set train.epochs=60 --set search.backbone=tf_efficientnet_lite1.

    --compress searches a second time under a relaxed latency, then prunes that winner (prune), quantises it (int8), or
    both (all) into the budget. A step is kept if it is measured faster and costs at most --tolerance points; the
    compressed network is taken if it beats the one found without. The report shows every step, and what each gave.
    """
    from ..data import open_data
    from ..fitting import describe_plan, prepare
    from ..fitting import fit as fit_

    wanted: dict[str, Any] = {
        "target": target, "run": run, "size": parse_size(size), "settings": None,
        "set_": [*_compression(compress, tolerance), *(settings or ())],
        "minutes": parse_minutes(time), "threads": threads, "weights": weights, "seed": seed, "say": Clock(),
    }  # fmt: skip
    data = open_data(path, format_, seed=seed)
    if dry_run:
        _show_plan(describe_plan(prepare(data, budget, **wanted)), bounded=time is not None)
        return
    result = fit_(data, budget, **wanted)
    for point in result.points:
        console.print(f"[bold green]within {escape(point.budget)}[/bold green]: {escape(str(point.file))}")
    console.print(f"next: catchweight predict IMAGES --model {escape(str(result.file))} --out predictions", style="dim")


def _compression(steps: str | None, tolerance: float | None) -> list[str]:
    """The options as settings.

    Raises:
        UsageError: no such steps.
    """
    from ..errors import unknown
    from ..fitting import CompressionSettings

    known = get_args(CompressionSettings.model_fields["steps"].annotation)
    if steps is not None and steps not in known:
        raise unknown("compression", steps, known)
    given = {"compress.steps": steps, "compress.tolerance": tolerance}
    return [f"{name}={value}" for name, value in given.items() if value is not None]


def _show_plan(plan: dict[str, Any], *, bounded: bool) -> None:
    console.print("[bold]plan[/bold] (nothing was trained or written)")
    for key, value in plan.items():
        told = ", ".join(f"{name} {one}" for name, one in value.items()) if isinstance(value, dict) else value
        console.print(f"  {key}: {told}", markup=False)
    if not bounded:
        console.print("less: --time 40m shares so much among the stages; a smaller --size trains faster", style="dim")


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the scenes and the run.")] = Path("runs/demo"),
    budget: Budget = DEMO_BUDGET,
    time: Time = "5m",
    threads: Threads = None,
    seed: Seed = 0,
    settings: Settings = None,
) -> None:
    """Run the main job on built-in street scenes: a few minutes from nothing to a measured network and a report."""
    from ..data import open_data
    from ..data.scenes import make_scenes
    from ..fitting import fit as fit_

    clock = Clock()
    scenes = out / "scenes"
    clock(f"scenes: drawing street scenes with exact masks into {scenes}")
    make_scenes(scenes, {"train": 160, "val": 40}, size=(128, 192), seed=seed)
    minutes = parse_minutes(time)
    result = fit_(
        open_data(scenes), budget, run=out / "run", minutes=minutes, threads=threads, seed=seed, say=clock,
        set_=[*DEMO_SETTINGS, *(settings or ())],
    )  # fmt: skip
    console.print(f"\nexported: {escape(str(result.file))}\nreport:   {escape(str(result.report))}")


def join(run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a fit that explores.")]) -> None:
    """Help a fit with its search: score members of its supernet until the exploration is done.

    Start as many as there are cores or machines to spare, once fit says "explore"; kill any of them at any time. On
    other machines the run folder must be there too, and the fit have a database, --set search.storage=postgresql://...
    """
    from ..fitting import join as join_

    front = join_(run, Clock())
    console.print(f"explored: {len(front.candidates)} members, {len(front.points)} of them on the front")


def train(
    path: DataPath,
    network: Annotated[str, typer.Option("--network", help="Name of a network; `catchweight networks` lists them.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints, curves and pictures.")],
    recipe: Annotated[str, typer.Option("--recipe", help="finetune (pretrained backbone) or scratch.")] = "finetune",
    size: Size = None,
    width: Annotated[float, typer.Option("--width", help="Multiplier of the channels that are not pretrained.")] = 1.0,
    weights: Weights = "auto",
    seed: Seed = 0,
    format_: Format = "auto",
    settings: Settings = None,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", help="A trained network (model.pt, best.pt) to learn from as well.")
    ] = None,
    teacher_size: Annotated[
        str | None,
        typer.Option("--teacher-size", metavar="HxW", help="Input size of the teachers. Default: the student's."),
    ] = None,
    deep_teacher: Annotated[
        Path | None,
        typer.Option("--deep-teacher", help="With --unlabelled: the thin and deep teacher; --teacher is the wide one."),
    ] = None,
    unlabelled: Annotated[
        Path | None, typer.Option("--unlabelled", help="Folder of images without labels to learn from as well (MGD).")
    ] = None,
) -> None:
    """Train one network; kill it at any moment, the same command goes on. `--set lr=0.01` overrides the recipe.

    With --teacher it is distilled: beside the labels it learns what the teacher says at each pixel. Settings such as
    `--set distill.kl=2` say what is compared: distill.kl, .kl_temperature, .cwd, .features, .layers with .layer_pairs.

    With few labels and many images, --unlabelled takes two teachers that were trained on the labels (MGD): --teacher,
    wide and shallow, and --deep-teacher, thin and deep. `--set mgd.region=50` and the like weigh its terms.

    On several GPUs: torchrun --nproc-per-node 2 -m catchweight train ... (batch is shared out among the processes).
    """
    import torch

    from ..config import override, save_yaml
    from ..data import open_data
    from ..data.cache import PixelCache
    from ..errors import UsageError, unknown
    from ..fitting import native_size
    from ..nets import build_network
    from ..train import RECIPES
    from ..train import train as train_

    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    if os.path.exists(out / "run.json"):
        raise UsageError(f"{out} is the folder of a run, which keeps trainings of its own: choose another --out")
    data = open_data(path, format_, seed=seed)
    values = RECIPES[recipe]().model_copy(update={"seed": seed, "size": parse_size(size) or native_size(data)})
    wanted = [setting.removeprefix("train.") for setting in settings or ()]
    values = override(values, [setting for setting in wanted if not setting.startswith((DISTILL, MGD))])
    about = {prefix: [s.removeprefix(prefix) for s in wanted if s.startswith(prefix)] for prefix in (DISTILL, MGD)}
    objective = _semi_supervised(unlabelled, teacher, deep_teacher, teacher_size, about, data) or _distiller(
        teacher, teacher_size, about[DISTILL], data
    )
    torch.manual_seed(values.seed)
    net = build_network(network, len(data.classes), width=width, weights=weights, aux=values.loss.aux > 0)

    def keep_settings() -> None:
        save_yaml(out / "recipe.yaml", values)
        if objective is not None:
            save_yaml(out / ("mgd.yaml" if unlabelled else "distill.yaml"), objective.terms)

    if not os.path.exists(out / "last.pt"):  # else the training there may be another one, whose settings stay
        keep_settings()
    result = train_(net, data, values, out, cache=PixelCache(), objective=objective)
    if os.environ.get("RANK", "0") == "0":  # one of several processes, when torchrun has started them
        keep_settings()
        console.print(f"best val mIoU {result.score:.4f} at epoch {result.best_epoch}: {escape(str(result.best))}")


def _distiller(teacher: Path | None, size: str | None, settings: list[str], data: SegmentationData) -> Distiller | None:
    """What ``--teacher`` and the settings below ``distill.`` ask for.

    Raises:
        UsageError: settings of distillation without a teacher, an unknown one, or a teacher of other classes.
    """
    from ..config import override
    from ..errors import UsageError
    from ..train.distill import Distiller, DistillTerms, load_teacher

    if teacher is None:
        if size is not None or settings:
            given = "--teacher-size" if size is not None else f"--set {DISTILL}{settings[0]}"
            raise UsageError(f"{given} is about distillation: name the teacher, e.g. --teacher runs/fit/model.pt")
        return None
    return Distiller(load_teacher(teacher, data.classes), override(DistillTerms(), settings), parse_size(size))


def _semi_supervised(
    folder: Path | None, wide: Path | None, deep: Path | None, size: str | None, settings: dict[str, list[str]],
    data: SegmentationData,
) -> MultiGranularity | None:  # fmt: skip
    """What ``--unlabelled`` and the settings below ``mgd.`` ask for.

    Raises:
        UsageError: one of the two teachers is missing, or options that go with plain distillation or without images.
    """
    from ..config import override
    from ..data.unlabelled import unlabelled_images
    from ..errors import UsageError
    from ..train.distill import load_teacher
    from ..train.mgd import MgdTerms, MultiGranularity

    if folder is None:
        if deep is not None or settings[MGD]:
            given = "--deep-teacher" if deep is not None else f"--set {MGD}{settings[MGD][0]}"
            raise UsageError(f"{given} is about images without labels: name their folder with --unlabelled")
        return None
    if wide is None or deep is None:
        raise UsageError(
            "--unlabelled takes two teachers trained on the labels: a wide and shallow one as --teacher, a thin and "
            "deep one as --deep-teacher"
        )
    if settings[DISTILL]:
        given = f"--set {DISTILL}{settings[DISTILL][0]}"
        raise UsageError(f"{given} is about plain distillation: with --unlabelled use --set {MGD}...")
    first, second = (load_teacher(path, data.classes) for path in (wide, deep))
    terms = override(MgdTerms(), settings[MGD])
    return MultiGranularity(first, second, unlabelled_images(folder, data), terms, size=parse_size(size))
