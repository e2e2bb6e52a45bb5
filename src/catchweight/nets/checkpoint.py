"""One file a network: what to build, its weights, and a note."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CatchweightError
from .backbones.files import read_torch
from .build import build_from_spec
from .segmentation import NetSpec, SegmentationNet
from .tensor_file import write_tensors

FORMAT = 1


def save_network(path: Path | str, net: SegmentationNet, meta: Mapping[str, Any] | None = None) -> None:
    """Write ``{format, spec, weights, pretrained, meta}`` to ``path`` in one step.

    Args:
        path: a .pt file; an older one stays whole until the new one is.
        net: on any device, in any mode.
        meta: numbers, text, lists and dicts (what JSON has), or tensors.

    Raises:
        CatchweightError: the folder is read-only or the disk is full.
    """
    content = {
        "format": FORMAT,
        "spec": net.spec.to_json(),
        "weights": {name: tensor.detach().cpu() for name, tensor in net.saved_state().items()},
        "pretrained": net.pretrained,
        "meta": dict(meta or {}),
    }
    write_tensors(Path(path), content)


def load_network(path: Path | str) -> tuple[SegmentationNet, dict[str, Any]]:
    """The network (on the CPU, in eval mode) and the note that ``save_network`` wrote.

    Raises:
        CatchweightError: absent, damaged, hostile, or not such a file; names the file.
    """
    path = Path(path)
    content = read_torch(path)
    try:
        if not isinstance(content, Mapping):
            raise TypeError(f"a {type(content).__name__} instead of a table")
        if content["format"] != FORMAT:
            raise CatchweightError(
                f"{path} is a network file of format {content['format']}; this version reads {FORMAT}"
            )
        spec, weights = NetSpec.from_json(content["spec"]), content["weights"]
        pretrained, meta = bool(content["pretrained"]), dict(content["meta"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CatchweightError(
            f"{path} is not a saved network: it lacks spec, weights or meta ({error!r}); "
            "give a file that `catchweight fit` or `save_network` wrote, e.g. model.pt"
        ) from error
    net = _rebuilt(path, spec, weights)
    net.pretrained = pretrained
    return net.eval(), meta


def _rebuilt(path: Path, spec: NetSpec, weights: Any) -> SegmentationNet:
    try:
        net = build_from_spec(spec)
        net.load_state_dict(weights)
    except CatchweightError as error:
        raise CatchweightError(f"{path}: {error}") from error
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CatchweightError(
            f"{path}: its weights do not fit the network {spec.name}: {str(error).splitlines()[-1].strip()}"
        ) from error
    return net
