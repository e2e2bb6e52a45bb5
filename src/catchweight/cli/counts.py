"""``count``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .options import Size, parse_size

if TYPE_CHECKING:
    from ..nets import SegmentationNet
    from ..targets.counts import Counts

console = Console(highlight=False, soft_wrap=True)
_SIZE = (180, 240)


def count(
    network: Annotated[str, typer.Argument(metavar="NETWORK|MODEL.pt", help="A name of `networks`, or a .pt file.")],
    size: Size = None,
    per: Annotated[str, typer.Option("--per", help="Rows of the table: module or op.")] = "module",
    depth: Annotated[
        int, typer.Option("--depth", min=0, help="Depth of the tree of modules; 0 shows the whole network alone.")
    ] = 2,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per run.")] = 1,
    classes: Annotated[int, typer.Option("--classes", min=1, help="Of a network given by its name.")] = 11,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Multiply-adds, parameters, weights and peak memory of activations, by module or operator; nothing is run.

    --size defaults to that of the .pt file, or 180x240.
    """
    from ..errors import unknown
    from ..files import write_json
    from ..targets.counts import count as count_

    if per not in ("module", "op"):
        raise unknown("value of --per", per, ("module", "op"))
    net, wanted = _network(network, classes)
    found = count_(net, parse_size(size) or wanted, batch)
    console.print(_by_module(found, depth) if per == "module" else _by_op(found))
    for line in _notes(found):
        console.print(line, markup=False)
    if json is not None:
        write_json(json, found.to_json())


def _network(name: str, classes: int) -> tuple[SegmentationNet, tuple[int, int]]:
    from ..nets import build_network, load_network

    if not name.endswith(".pt"):
        return build_network(name, classes), _SIZE
    net, meta = load_network(Path(name))
    height, width = meta.get("size", _SIZE)
    return net, (int(height), int(width))


def _by_module(found: Counts, depth: int) -> Table:
    table = _table(found, "module", "type", "MACs", "share", "params", "weights MB", "peak MB")
    for one in found.to_depth(depth):
        table.add_row(
            escape(one.path or "whole"), one.type, _millions(one.macs) + ("" if one.complete else " +?"),
            _share(one.macs, found.macs), _millions(one.params), _mb(one.weights_bytes), _mb(one.peak_bytes),
        )  # fmt: skip
    return table


def _by_op(found: Counts) -> Table:
    table = _table(found, "op", "module", "MACs", "share", "MB moved", "live MB")
    for op in found.ops:
        macs = "?" if op.macs is None else _millions(op.macs)
        share = _share(op.macs or 0, found.macs)
        table.add_row(op.kind, escape(op.module), macs, share, _mb(op.bytes), _mb(op.live_bytes))
    return table


def _table(found: Counts, *columns: str) -> Table:
    table = Table(title="batch {} at {}x{}".format(found.batch, *found.size))
    for name in columns:
        if name in ("module", "type", "op"):
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right")
    return table


def _notes(found: Counts) -> list[str]:
    lines = [
        f"{found.macs / 1e9:.3f} G multiply-adds, {found.params / 1e6:.3f} M parameters, "
        f"{found.weights_bytes / 1e6:.1f} MB of weights; activations peak at {found.activation_bytes / 1e6:.1f} MB, "
        f"in {found.peak_op}"
    ]
    for one in found.unsupported:
        places = ", ".join(place or "the network itself" for place in one.modules[:3])
        more = f" and {len(one.modules) - 3} more" if len(one.modules) > 3 else ""
        lines.append(f"not counted: {one.kind}, {one.calls} calls, in {places}{more}; the MACs are a lower bound")
    return lines


def _millions(number: int) -> str:
    return f"{number / 1e6:.3f}M"


def _mb(count: int) -> str:
    return f"{count / 1e6:.2f}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""
