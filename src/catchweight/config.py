"""Typed configuration: pydantic values that round-trip through YAML and take ``key.path=value`` overrides."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import CatchweightError, UsageError, shown, unknown
from .files import parse_yaml, write_text

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every configuration value: frozen, unknown keys refused, docstrings under fields are the help.

    Numbers are finite: no setting means anything at infinity, and the JSON that remembers a request has no word for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    later: ClassVar[tuple[str, ...]] = ()
    """Fields that came when folders had already been written without them."""

    def asked(self) -> dict[str, Any]:
        """JSON values as a folder remembers a request: without the later fields that are at their default.

        So what was begun by a version that had none goes on.
        """
        values = self.model_dump(mode="json")
        values |= {name: value.asked() for name, value in self if isinstance(value, Config)}
        default = {name: type(self).model_fields[name].get_default(call_default_factory=True) for name in self.later}
        return {
            name: value for name, value in values.items() if name not in default or getattr(self, name) != default[name]
        }


def build(kind: type[C], values: dict[str, Any], where: str = "configuration") -> C:
    """Validate ``values`` as ``kind``.

    Raises:
        UsageError: names the first wrong key, the value found and, for an unknown key, the nearest known one.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _explain(error, kind, where) from None


def override(config: C, assignments: Iterable[str]) -> C:
    """Return ``config`` with ``["lr=0.01", "augment.flip=0"]`` applied; values are read as YAML scalars.

    Raises:
        UsageError: an assignment without ``=``, an unknown key (nearest one named) or a value of the wrong type.
    """
    values = config.model_dump(mode="json")
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f'"{assignment}" is not a setting: write key=value, e.g. train.lr=0.01')
        _set(type(config), values, key.strip(), _scalar(text, assignment))
    return build(type(config), values, where="--set")


def _scalar(text: str, assignment: str) -> Any:
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise UsageError(f'cannot read the value in "{assignment}": {error}') from None
    return float(value) if isinstance(value, str) and _is_float(value) else value


def _is_float(text: str) -> bool:
    """YAML 1.1 reads ``1e-3`` as a string (it wants ``1.0e-3``); people do not."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _set(kind: type[BaseModel], values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    seen = ""
    model: Any = kind
    for part in parents:
        model = _child(model, part, seen, key)
        if not isinstance(values.get(part), dict):
            raise UsageError(f'"{seen}{part}" is a plain value, so "{key}" names nothing')
        values, seen = values[part], f"{seen}{part}."
    _child(model, last, seen, key)
    values[last] = value


def _child(model: Any, part: str, seen: str, key: str) -> Any:
    """The type of field ``part`` of ``model``; free-form dicts accept any key."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    if part not in model.model_fields:
        raise unknown("setting", key, [f"{seen}{name}" for name in model.model_fields])
    return model.model_fields[part].annotation


def _explain(error: ValidationError, kind: type[BaseModel], where: str) -> UsageError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model: Any = kind
        for part in first["loc"][:-1]:
            model = model.model_fields[part].annotation
        prefix = key.rpartition(".")[0]
        return unknown(f"key in {where}", key, [f"{prefix}.{n}".lstrip(".") for n in model.model_fields])
    return UsageError(f"{where}: {key or kind.__name__} = {shown(first.get('input'))} is wrong: {first['msg']}")


def to_yaml(config: Config) -> str:
    """The configuration as YAML, keys in the order of the class."""
    values = config.model_dump(mode="json")
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if any(separator in text for separator in "\x85\u2028\u2029"):  # YAML would read them back as line ends
        text = yaml.safe_dump(values, sort_keys=False)
    return text


def save_yaml(path: Path, config: Config) -> None:
    """Write ``config`` beside and rename."""
    write_text(path, to_yaml(config))


def load_yaml(kind: type[C], path: Path) -> C:
    """Read a configuration file; YAML tags are refused (``safe_load``)."""
    try:
        values = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CatchweightError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not plain YAML: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold keys and values, but holds {type(values).__name__}")
    return build(kind, values, where=str(path))
