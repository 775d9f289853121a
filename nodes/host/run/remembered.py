"""What other nodes keep from one call of the model to the next, apart for each model that has a say.

Caches and guidance nodes keep activations in their patches: in attributes, in closures, in lists and dictionaries, or
on the network itself. A pass of the RL model must find there what the RL model left, never what the base did.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

MOST_HOLDERS = 5000
"""Of larger states only a part is kept apart; a pass that they cut short is found out all the same."""

FOREIGN = (
    "aiohttp",
    "app",
    "asyncio",
    "comfy",
    "concurrent",
    "execution",
    "logging",
    "queue",
    "server",
    "threading",
    "torch",
)
"""Packages whose objects are not looked into: they are the host's own, or shared with other threads."""

MODULE_INTERNALS = frozenset(vars(nn.Module()))


class NetworkAttributes:
    """The plain attributes of a network as a holder of values, without its parameters and modules."""

    def __init__(self, network: nn.Module):
        self.network = network

    def copy(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self.network).items() if name not in MODULE_INTERNALS}

    def clear(self) -> None:
        for name in self.copy():
            del vars(self.network)[name]

    def update(self, held: dict[str, Any]) -> None:
        vars(self.network).update(held)


Holder = dict | list | set | types.CellType | NetworkAttributes
Contents = dict[int, tuple[Holder, Any]]
"""By the holder's id: the holder, and a shallow copy of what it held."""


def _held(holder: Holder) -> Any:
    if not isinstance(holder, types.CellType):
        return holder.copy()
    try:
        return [holder.cell_contents]
    except ValueError:  # not filled yet
        return []


def _put_back(holder: Holder, held: Any) -> None:
    """Gives `holder` back what it held, in place: whoever else refers to it goes on seeing the same object."""
    if isinstance(holder, types.CellType):
        if held:
            holder.cell_contents = held[0]
    elif isinstance(holder, list):
        holder[:] = held
    else:
        holder.clear()
        holder.update(held)


def _is_same(a: Any, b: Any) -> bool:
    """Whether two copies of what one holder held have the very same objects in them."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(b[name] is value for name, value in a.items())
    if isinstance(a, set):
        return a == b
    return len(a) == len(b) and all(x is y for x, y in zip(a, b))


def _values(held: Any) -> Iterator[Any]:
    yield from held.values() if isinstance(held, dict) else held


def _holders(thing: Any) -> list[Holder]:
    """The holders that `thing` is or has: containers, the cells of closures, the attributes of objects."""
    if isinstance(thing, (dict, list, set, NetworkAttributes)):
        return [thing]
    if isinstance(thing, (tuple, frozenset)):
        return [holder for item in thing for holder in _holders(item)]
    if isinstance(thing, types.FunctionType):
        return list(thing.__closure__ or ())
    if isinstance(thing, types.MethodType):
        return _holders((thing.__self__, thing.__func__))
    if isinstance(thing, functools.partial):
        return _holders((thing.func, thing.args, thing.keywords))
    foreign = type(thing).__module__.partition(".")[0] in FOREIGN or isinstance(thing, (nn.Module, Tensor, type))
    attributes = None if foreign else getattr(thing, "__dict__", None)
    return [attributes] if isinstance(attributes, dict) and not isinstance(thing, types.ModuleType) else []


def contents(roots: Sequence[Any]) -> Contents:
    """What everything that can be reached from `roots` holds now."""
    found: Contents = {}
    waiting = _holders(tuple(roots))
    while waiting and len(found) < MOST_HOLDERS:
        holder = waiting.pop()
        if id(holder) not in found:
            held = _held(holder)
            found[id(holder)] = (holder, held)
            waiting += [inner for value in _values(held) for inner in _holders(value)]
    return found


class Remembered:
    """The state of other nodes' patches during a run, and from run to run of one model.

    Once a pass has left tensors behind in it (`keeps_tensors`), it is kept apart by owner: a role, or the roles of a
    batch. Until then it is left alone, as counters and the like are no activations.
    """

    def __init__(self) -> None:
        self.owner: Hashable = None
        self.initial: Contents | None = None
        self.of: dict[Hashable, Contents] = {}
        self.before: set[int] = set()
        self.keeps_tensors = False

    def hand_over(self, owner: Hashable, roots: Sequence[Any]) -> None:
        """Makes what `roots` hold what they held when `owner` was last at work, or before the first pass."""
        if not roots:
            return
        now = contents(roots)
        if self.initial is None:
            self.initial = now
        if self.keeps_tensors and owner != self.owner:
            self.of[self.owner] = now
            for key, (holder, held) in self.of.get(owner, self.initial).items():
                if key not in now or not _is_same(held, now[key][1]):
                    _put_back(holder, held)
        elif not self.keeps_tensors:
            self.before = {id(value) for value in tensors(now)}
        self.owner = owner

    def look(self, roots: Sequence[Any]) -> None:
        """Notices tensors that the pass since the last `hand_over` has left behind."""
        if roots and not self.keeps_tensors:
            self.keeps_tensors = any(id(value) not in self.before for value in tensors(contents(roots)))

    def rest(self) -> Remembered | None:
        """What the next run may go on from, with what the current owner leaves behind; None if nothing is kept."""
        if not self.keeps_tensors:
            return None
        self.of[self.owner] = {key: (holder, _held(holder)) for key, (holder, _) in self.initial.items()}
        return self

    def goes_on(self, roots: Sequence[Any]) -> bool:
        """Whether `roots` hold what the last run left there: nothing has cleared or changed it since."""
        now, left = contents(roots), self.of[self.owner]
        changed = [key for key, (_, held) in left.items() if not _is_same(held, self.initial[key][1])]
        return bool(changed) and all(key in now and _is_same(left[key][1], now[key][1]) for key in changed)


def tensors(found: Contents) -> Iterator[Tensor]:
    for _, held in found.values():
        for value in _values(held):
            items = value if isinstance(value, (tuple, frozenset)) else (value,)
            yield from (item for item in items if isinstance(item, Tensor))
