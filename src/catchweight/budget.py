"""What a network costs, and the upper limits a user sets on it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import UsageError, unknown


@dataclass(frozen=True)
class Cost:
    """Cost of one network on one target; ``None`` means "not measured". Smaller is better.

    Units: ``latency_ms`` milliseconds for one batch (median), ``macs`` multiply-adds per image, ``params`` count,
    ``memory_bytes`` peak memory, ``file_bytes`` size of the exported file.
    """

    latency_ms: float | None = None
    macs: float | None = None
    params: float | None = None
    memory_bytes: float | None = None
    file_bytes: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """Field names to values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Cost:
        """Inverse of :meth:`to_json`; keys of later versions are ignored."""
        return cls(**{field.name: values.get(field.name) for field in fields(cls)})


@dataclass(frozen=True)
class _Quantity:
    """One thing that can be limited: the field of :class:`Cost` and its units as factors."""

    field: str
    units: dict[str, float]
    show: tuple[tuple[float, str], ...]  # (factor, unit) from large to small, for messages


_SI = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
_COUNT = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_SIZE = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))

QUANTITIES: dict[str, _Quantity] = {
    "latency": _Quantity("latency_ms", {"ms": 1.0, "s": 1e3, "us": 1e-3}, ((1.0, "ms"),)),
    "params": _Quantity("params", _SI, _COUNT),
    "macs": _Quantity("macs", _SI, _COUNT),
    "memory": _Quantity("memory_bytes", _BYTES, _SIZE),
    "size": _Quantity("file_bytes", _BYTES, _SIZE),
}

_TERM = re.compile(r"\s*([a-z_]+)\s*(<=|<|>=|>|==?)\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Limit:
    """One upper limit, ``value`` in the unit of the cost's field."""

    name: str
    value: float

    @property
    def field(self) -> str:
        """Field of :class:`Cost` that is limited."""
        return QUANTITIES[self.name].field

    def measured(self, cost: Cost) -> float | None:
        """The cost's value for this limit, or ``None`` where it was not measured."""
        value: float | None = getattr(cost, self.field)
        return value

    def __str__(self) -> str:
        return f"{self.name}<={format_quantity(self.name, self.value)}"


@dataclass(frozen=True)
class Budget:
    """Upper limits that must all hold, written ``latency<=15ms, params<=5M``."""

    limits: tuple[Limit, ...]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read the budget language.

        Raises:
            UsageError: unknown quantity or unit, anything but ``<=``, a limit of zero, or a quantity named twice.
        """
        limits = [_parse_term(term, text) for term in text.split(",") if term.strip()]
        if not limits:
            raise UsageError('the budget is empty: write for example "latency<=15ms" or "latency<=15ms, params<=5M"')
        names = [limit.name for limit in limits]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise UsageError(f'budget "{text}" limits {twice} twice; keep the smaller one')
        return cls(tuple(limits))

    def violations(self, cost: Cost) -> list[str]:
        """One sentence for each limit that ``cost`` breaks or does not state; empty means it makes weight."""
        return [sentence for limit in self.limits if (sentence := _violation(limit, cost))]

    def allows(self, cost: Cost) -> bool:
        """Whether every limit is met by a stated cost."""
        return not self.violations(cost)

    def __str__(self) -> str:
        return ", ".join(str(limit) for limit in self.limits)


def _parse_term(term: str, text: str) -> Limit:
    match = _TERM.fullmatch(term)
    if match is None:
        raise UsageError(
            f'cannot read "{term.strip()}" in budget "{text}": write name<=number unit, e.g. latency<=15ms'
        )
    name, relation, number, unit = match.group(1).lower(), match.group(2), match.group(3), match.group(4)
    if name not in QUANTITIES:
        raise unknown("budget quantity", name, QUANTITIES)
    if relation != "<=":
        raise UsageError(f'a budget is an upper limit: write "{name}<={number}{unit}", not "{name}{relation}"')
    units = QUANTITIES[name].units
    if unit.lower() not in units:
        raise unknown(f"unit of {name}", unit or "(none)", [u for u in units if u])
    try:
        value = float(number) * units[unit.lower()]
    except ValueError:
        raise UsageError(f'"{number}" in budget "{text}" is not a number') from None
    if not 0 < value < float("inf"):
        raise UsageError(f'"{term.strip()}" allows nothing: the limit must be a positive number')
    return Limit(name, value)


def _violation(limit: Limit, cost: Cost) -> str | None:
    measured = limit.measured(cost)
    if measured is None:
        return f"{limit.name} was not measured"
    if measured <= limit.value:
        return None
    shown = format_quantity(limit.name, measured)
    return f"{limit.name} {shown} is {measured / limit.value - 1:.0%} over {format_quantity(limit.name, limit.value)}"


def format_quantity(name: str, value: float) -> str:
    """``format_quantity("params", 4_380_000)`` gives ``4.38M``."""
    for factor, unit in QUANTITIES[name].show:
        if value >= factor or factor == 1.0:
            return f"{value / factor:.3g}{unit}" if factor != 1.0 or name == "latency" else f"{value:g}{unit}"
    raise AssertionError("the last factor is 1")
