"""What a network costs, and the upper limits a user sets on it.

The language: ``latency<=15ms, params<=5M, memory<=64MB, size<=10MB, macs<=2G, energy<=0.2J``. The case of a unit does
not matter, with two exceptions that guard against a limit a thousand or a million times too wide:

- ``m`` is a million for counts (``params<=5m`` is ``5M``: there is no thousandth of a parameter), but for latency it
  is refused: it could be minutes or milliseconds.
- A capital ``M`` is never milli: ``energy<=5MJ`` and ``latency<=5MS`` are refused.

``b`` is always a byte; ``kB``, ``MB``, ``GB`` are powers of 1000 and ``KiB``, ``MiB``, ``GiB`` powers of 1024.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields
from decimal import Context, Decimal
from typing import Any

from .errors import CatchweightError, UsageError, unknown


@dataclass(frozen=True)
class Cost:
    """Cost of one network on one target; ``None`` means "not measured". Smaller is better.

    Units: ``latency_ms`` milliseconds for one batch (median), ``macs`` multiply-adds per image, ``params`` count,
    ``memory_bytes`` peak memory, ``file_bytes`` size of the exported file, ``energy_j`` joules for one batch.

    Raises:
        CatchweightError: a value is negative, infinite or not a number; what was not measured is ``None``.
    """

    latency_ms: float | None = None
    macs: float | None = None
    params: float | None = None
    memory_bytes: float | None = None
    file_bytes: float | None = None
    energy_j: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 <= value < math.inf:
                raise CatchweightError(f"{name} is {value}: a cost is finite and not negative; None if not measured")

    def to_json(self) -> dict[str, float | None]:
        """Field names to values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Cost:
        """Inverse of :meth:`to_json`; keys of later versions are ignored."""
        return cls(**{field.name: values.get(field.name) for field in fields(cls)})

    def stated(self) -> tuple[str, ...]:
        """Names of the quantities that have a value, e.g. ``("latency", "params")``."""
        return tuple(name for name in QUANTITIES if measured(name, self) is not None)


@dataclass(frozen=True)
class _Quantity:
    """One thing that can be limited: the field of :class:`Cost` and its units as factors."""

    field: str
    units: dict[str, Decimal]
    show: tuple[str, ...]
    """Units for messages, from large to small."""


def _units(**factors: str) -> dict[str, Decimal]:
    return {unit.strip("_"): Decimal(factor) for unit, factor in factors.items()}


_COUNT = _units(_="1", k="1e3", M="1e6", G="1e9", T="1e12")
_BYTES = _units(
    B="1", kB="1e3", MB="1e6", GB="1e9",
    KiB=str(2**10), MiB=str(2**20), GiB=str(2**30),
)  # fmt: skip

QUANTITIES: dict[str, _Quantity] = {
    "latency": _Quantity("latency_ms", _units(ms="1", s="1e3", us="1e-3"), ("s", "ms")),
    "params": _Quantity("params", _COUNT, ("G", "M", "k", "")),
    "macs": _Quantity("macs", _COUNT, ("G", "M", "k", "")),
    "memory": _Quantity("memory_bytes", _BYTES, ("GB", "MB", "kB", "B")),
    "size": _Quantity("file_bytes", _BYTES, ("GB", "MB", "kB", "B")),
    "energy": _Quantity("energy_j", _units(J="1", mJ="1e-3", uJ="1e-6", kJ="1e3"), ("J", "mJ", "uJ")),
}

_TERM = re.compile(r"([a-z_]+)\s*(<=|=<|≤|>=|=>|≥|<|>|==?)\s*(.*)", re.IGNORECASE | re.DOTALL)
_AMOUNT = re.compile(
    r"([+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf(?:inity)?))\s*([^\W\d_]*)", re.IGNORECASE
)
_EXACT = Context(prec=60)
"""Decimal arithmetic that no limit rounds in, so that a limit written out reads back as the same float."""


def measured(name: str, cost: Cost) -> float | None:
    """The cost's value of quantity ``name``, in the unit of its field; ``None`` where it was not measured.

    Raises:
        UsageError: no such quantity.
    """
    if name not in QUANTITIES:
        raise unknown("cost quantity", name, QUANTITIES)
    value: float | None = getattr(cost, QUANTITIES[name].field)
    return value


@dataclass(frozen=True)
class Limit:
    """One upper limit, ``value`` in the unit of the cost's field.

    Raises:
        UsageError: no such quantity, or a value that is not positive and finite.
    """

    name: str
    value: float

    def __post_init__(self) -> None:
        if self.name not in QUANTITIES:
            raise unknown("budget quantity", self.name, QUANTITIES)
        if not 0 < self.value < math.inf:
            raise UsageError(f"{self.name}<={self.value} limits nothing sensibly: a limit is a positive, finite number")

    @property
    def field(self) -> str:
        """Field of :class:`Cost` that is limited."""
        return QUANTITIES[self.name].field

    def measured(self, cost: Cost) -> float | None:
        """The cost's value for this limit, or ``None`` where it was not measured."""
        return measured(self.name, cost)

    def __str__(self) -> str:
        """The limit without loss: reading it back gives the same value."""
        unit, _ = display_unit(self.name, self.value)
        exact = _EXACT.divide(Decimal(repr(float(self.value))), QUANTITIES[self.name].units[unit])
        return f"{self.name}<={_plain(exact)}{unit}"


@dataclass(frozen=True)
class Budget:
    """Upper limits that must all hold, written ``latency<=15ms, params<=5M``; ``str`` writes them without loss.

    Raises:
        UsageError: two different limits of one quantity.
    """

    limits: tuple[Limit, ...]

    def __post_init__(self) -> None:
        limits = tuple(dict.fromkeys(self.limits))
        smallest: dict[str, Limit] = {}
        for limit in limits:
            other = smallest.setdefault(limit.name, limit)
            if other != limit:
                keep = min(limit, other, key=lambda twice: twice.value)
                raise UsageError(f'the budget limits {limit.name} twice, "{other}" and "{limit}": keep "{keep}"')
        object.__setattr__(self, "limits", limits)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read the budget language.

        Raises:
            UsageError: unknown quantity or unit, anything but ``<=``, a limit that is not positive and finite, or
                two different limits of one quantity.
        """
        limits = [_parse_term(term.strip(), text) for term in text.split(",") if term.strip()]
        if not limits:
            raise UsageError('the budget is empty: write for example "latency<=15ms" or "latency<=15ms, params<=5M"')
        return cls(tuple(limits))

    def corner(self) -> Cost:
        """The cost that just makes the budget: every limited quantity at its limit, the others not stated."""
        return Cost(**{limit.field: limit.value for limit in self.limits})

    def tightened(self, headroom: float) -> Budget:
        """Every limit smaller by the share ``headroom`` (0 <= headroom < 1)."""
        return Budget(tuple(Limit(limit.name, limit.value * (1 - headroom)) for limit in self.limits))

    def violations(self, cost: Cost) -> list[str]:
        """One sentence for each limit that ``cost`` breaks or does not state; empty means it makes weight."""
        return [sentence for limit in self.limits if (sentence := _violation(limit, cost))]

    def allows(self, cost: Cost) -> bool:
        """Whether every limit is met by a stated cost."""
        return not self.violations(cost)

    def __str__(self) -> str:
        return ", ".join(str(limit) for limit in self.limits)


def _parse_term(term: str, text: str) -> Limit:
    found = _TERM.fullmatch(term)
    if found is None:
        raise UsageError(_unreadable(term, text))
    name, relation, rest = found[1].lower(), found[2], found[3]
    if name not in QUANTITIES:
        raise unknown("budget quantity", name, QUANTITIES)
    if relation not in ("<=", "≤"):
        raise UsageError(f'a budget is an upper limit: write "{name}<={rest}", not "{name}{relation}{rest}"')
    amount = _AMOUNT.fullmatch(rest)
    if amount is None:
        raise UsageError(_unreadable(term, text))
    if not 0 < float(amount[1]) < math.inf:
        raise UsageError(
            f'"{term}" is no limit: the number must be positive and finite. Leave {name} out of the budget '
            "if it is not to be limited"
        )
    value = _scaled(amount[1], QUANTITIES[name].units[_find_unit(name, amount[2], amount[1])])
    if not 0 < value < math.inf:
        raise UsageError(f'"{term}" is beyond the range of numbers: check its exponent and unit')
    return Limit(name, value)


def _unreadable(term: str, text: str) -> str:
    return (
        f'cannot read "{term}" in budget "{text}": write name<=number unit, e.g. latency<=15ms; '
        "terms are parted by commas, numbers have a decimal point and no separator of thousands"
    )


def _scaled(number: str, factor: Decimal) -> float:
    """``number * factor``, rounded once."""
    return float(_EXACT.multiply(Decimal(number), factor))


def _find_unit(name: str, unit: str, number: str) -> str:
    """The canonical spelling of ``unit``; case is ignored where it cannot mislead."""
    units = QUANTITIES[name].units
    plain = unit.replace("\N{MICRO SIGN}", "u").replace("\N{GREEK SMALL LETTER MU}", "u")
    known = plain if plain in units else next((u for u in units if u.lower() == plain.lower()), None)
    if known is None and not unit:
        raise UsageError(f'"{name}<={number}" has no unit: write one of {", ".join(units)} behind the number')
    if known is None and name == "latency" and plain.lower() == "m":
        raise UsageError(f'"latency<={number}{unit}" could be minutes or milliseconds: write {number}ms, or seconds')
    if known is None:
        raise unknown(f"unit of {name}", unit, [u for u in units if u])
    if plain.startswith("M") and known.startswith("m"):
        raise UsageError(f'"{unit}" begins with M for mega: write "{name}<={number}{known}" if milli is meant')
    return known


def _violation(limit: Limit, cost: Cost) -> str | None:
    value = limit.measured(cost)
    if value is None:
        return f"{limit.name} was not measured"
    if value <= limit.value:
        return None
    over = value / limit.value - 1
    share = f"{over:.0%}" if over >= 0.01 else f"{100 * over:.1g}%"
    for digits in (3, 6, 17):
        shown, allowed = (format_quantity(limit.name, v, digits) for v in (value, limit.value))
        if shown != allowed:  # never "10ms is over 10ms"
            break
    return f"{limit.name} {shown} is {share} over {allowed}"


def display_unit(name: str, value: float) -> tuple[str, float]:
    """The unit that shows ``value`` best, and its factor: ``display_unit("params", 4_380_000)`` is ``("M", 1e6)``."""
    quantity = QUANTITIES[name]
    units = [(unit, float(quantity.units[unit])) for unit in quantity.show]
    return next(((unit, factor) for unit, factor in units if value >= factor), units[-1])


def format_quantity(name: str, value: float, digits: int = 3) -> str:
    """``format_quantity("params", 4_380_000)`` gives ``4.38M``, rounded to ``digits`` significant digits."""
    rounded = float(f"{value:.{digits - 1}e}")  # before the unit is chosen: 999.9 kB is 1 MB
    unit, factor = display_unit(name, rounded)
    return f"{_plain(Decimal(f'{rounded / factor:.{digits - 1}e}'))}{unit}"


def _plain(value: Decimal) -> str:
    """Shortest digits; with an exponent only where there would be many zeros."""
    value = value.normalize(_EXACT)
    return f"{value:f}" if -7 < value.adjusted() < 16 else f"{value:e}"
