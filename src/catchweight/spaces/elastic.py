"""Modules with choices in them: where the choices are, and the plain network that they stand for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import UsageError
from .choices import Choice
from .decisions import Decision, Decisions

Condition = tuple[Choice[Any], frozenset[int]]
"""A choice and the options, by index, under which something is used."""
Convert = Callable[[nn.Module], nn.Module]


class Elastic(nn.Module):
    """A module whose ``forward`` reads choices, kept as attributes (alone or in a tuple, list or dict).

    A module that only *contains* such modules, and whose own code knows no choice, is an ordinary ``nn.Module``.
    """

    def conditions(self) -> dict[str, Condition]:
        """When each child is used, by the child's name; those left out always are."""
        return {}

    def to_plain(self, convert: Convert) -> nn.Module:
        """The module that the present options stand for, without choices: new layers with copies of the weights.

        Args:
            convert: gives the plain form of a child; the same child always the same one.
        """
        raise NotImplementedError(f"{type(self).__name__} needs to_plain: it says what stays once its choices are made")


@dataclass(frozen=True)
class Place:
    """A module in a network, and when it is used."""

    path: str
    module: nn.Module
    conditions: tuple[Condition, ...]

    @property
    def live(self) -> bool:
        """Whether the present options use it."""
        return all(choice.index in allowed for choice, allowed in self.conditions)


def walk(module: nn.Module, path: str = "", conditions: tuple[Condition, ...] = ()) -> Iterator[Place]:
    """Every module, parents first; a module used in several places comes several times."""
    yield Place(path, module, conditions)
    gates = module.conditions() if isinstance(module, Elastic) else {}
    for name, child in module._modules.items():
        if child is not None:
            gate = (gates[name],) if name in gates else ()
            yield from walk(child, f"{path}.{name}" if path else name, conditions + gate)


def own_choices(module: nn.Module) -> Iterator[tuple[str, Choice[Any]]]:
    """Choices among a module's attributes, with the attribute's name."""
    for name, value in vars(module).items():
        if name.startswith("_"):  # torch's own tables
            continue
        if isinstance(value, Choice):
            yield name, value
        elif isinstance(value, (tuple, list, dict)):
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            yield from ((f"{name}.{key}", entry) for key, entry in entries if isinstance(entry, Choice))


def named_choices(root: nn.Module) -> dict[str, Choice[Any]]:
    """The choices of a network by name, in its order; tied ones once.

    A choice without a name is called after its kind if it is the only such one, else after its first place.

    Raises:
        UsageError: two different choices have one name.
    """
    first: dict[int, tuple[str, Choice[Any]]] = {}
    for place in walk(root):
        for attribute, choice in own_choices(place.module):
            path = f"{place.path}.{attribute}" if place.path else attribute
            first.setdefault(id(choice.leader), (path, choice.leader))
    kinds = [choice.kind for _, choice in first.values() if choice.name is None]
    taken = {choice.name for _, choice in first.values()}
    found: dict[str, Choice[Any]] = {}
    for path, choice in first.values():
        alone = kinds.count(choice.kind) == 1 and choice.kind not in taken
        name = choice.name or (choice.kind if alone else path)
        if name in found:
            raise UsageError(
                f'two choices of {type(root).__name__} are called "{name}": pass the same object to tie them, '
                "or give one another name"
            )
        found[name] = choice
    return found


def decisions(root: nn.Module) -> Decisions:
    """The choices of a network as data."""
    named = named_choices(root)
    names = {id(choice): name for name, choice in named.items()}
    places: dict[str, list[tuple[tuple[str, frozenset[int]], ...]]] = {name: [] for name in named}
    for place in walk(root):
        where = tuple((names[id(choice.leader)], allowed) for choice, allowed in place.conditions)
        for _, choice in own_choices(place.module):
            places[names[id(choice.leader)]].append(where)
    return Decisions([Decision(n, choice.options, tuple(dict.fromkeys(places[n]))) for n, choice in named.items()])


def to_plain(root: nn.Module) -> nn.Module:
    """Copy of a network with every elastic module replaced by what its present options stand for.

    Ordinary modules are deep-copied; in the copy an attribute that was a choice is its option.
    """
    # deepcopy asks its memo first: what is in there takes the original's place wherever it is met.
    memo: dict[int, Any] = {}
    live = [place.module for place in walk(root) if place.live]
    for module in live:
        memo |= {id(choice): choice.value for _, choice in own_choices(module)}
    for module in reversed(live):  # children before parents
        if isinstance(module, Elastic) and id(module) not in memo:
            memo[id(module)] = plain = module.to_plain(lambda child: copy.deepcopy(child, memo))
            plain.training = module.training
    found: nn.Module = copy.deepcopy(root, memo)
    return found


class Subnet(nn.Module):
    """A member of a space: plain layers, run by the ``forward`` that the space's author wrote.

    It has the attributes of the space, but of its class only what the author wrote, nothing of :class:`.Space`.

    Args:
        author: the space's class.
        base: the classes from here up are left out.
        state: the attributes.

    Raises:
        UsageError: ``forward`` calls ``super()``, which only an instance of its own class can.
    """

    def __init__(self, author: type[nn.Module], base: type[nn.Module], state: dict[str, Any]) -> None:
        super().__init__()
        self.__dict__.update(state)
        self._author, self._base = author, base
        if "__class__" in author.forward.__code__.co_freevars:
            raise UsageError(
                f"{author.__name__}.forward calls super(), which its subnets cannot: put the shared part into a module"
            )

    def forward(self, image: Tensor) -> Any:
        return self._author.forward(self, image)

    def __getattr__(self, name: str) -> Any:
        for owner in _written(self.__dict__.get("_author"), self.__dict__.get("_base")):
            if name in vars(owner):
                found = vars(owner)[name]
                return found.__get__(self, type(self)) if hasattr(found, "__get__") else found
        return super().__getattr__(name)

    def _get_name(self) -> str:
        return self._author.__name__


def _written(author: type | None, base: type | None) -> Iterator[type]:
    """The classes of ``author`` below ``base``."""
    for owner in author.__mro__ if author else ():
        if base is not None and base in owner.__mro__ and owner is not base:
            yield owner


__all__ = ["Condition", "Convert", "Elastic", "Place", "Subnet", "decisions", "named_choices", "own_choices",
           "to_plain", "walk"]  # fmt: skip
