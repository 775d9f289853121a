"""Records a conversion of tensors that have no values, to make one of its results later from values read then."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Read = Callable[[], Tensor]
IN_PLACE = re.compile(r"__setitem__|__i[a-z]+__|[a-z]\w*[a-z0-9]_")
"""Names of functions that write into their first argument."""


@dataclass(frozen=True)
class Call:
    """A call of a function on tensors, and what came of it."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any

    def read(self) -> list[Tensor]:
        return [*_tensors(self.args), *_tensors(tuple(self.kwargs.values()))]

    def written(self) -> list[Tensor]:
        """What came of it, and the tensor it wrote into, if they are without values."""
        in_place = IN_PLACE.fullmatch(getattr(self.function, "__name__", "")) is not None
        return [tensor for tensor in _tensors((self.result, self.args[:1] * in_place)) if tensor.is_meta]


class Recording(TorchFunctionMode):
    """Inside it, every call on tensors without values (on the meta device) is recorded.

    Tensors with values may take part: they are taken as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.writers: dict[int, list[int]] = {}
        """By storage: the calls that made it, made a view of it or wrote into it."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        call = Call(function, args, kwargs or {}, function(*args, **(kwargs or {})))
        storages = {_storage(tensor) for tensor in call.written()}
        for storage in storages:
            self.writers.setdefault(storage, []).append(len(self.calls))
        if storages:
            self.calls.append(call)
        return call.result

    def value(self, result: Tensor, sources: Mapping[int, Read]) -> Tensor:
        """`result` with values, on the CPU.

        `sources` read the tensors that the recorded calls began with, by `id`. Only those that `result` depends on are
        read.
        """
        values = _Values(sources)
        for call in self._needed(result):
            args, kwargs = values.of(call.args), {name: values.of(value) for name, value in call.kwargs.items()}
            made = call.function(*args, **kwargs)
            values.known |= zip(map(id, _tensors((call.result,))), _tensors((made,)))
        return values.of(result)

    def is_untouched(self, tensor: Tensor) -> bool:
        """Whether no recorded call has made `tensor` or written into it, so that it is what the calls began with."""
        return _storage(tensor) not in self.writers

    def _needed(self, result: Tensor) -> Iterator[Call]:
        """The calls that `result` depends on, in their order."""
        storages, done, needed = [result], set(), set()
        while storages:
            storage = _storage(storages.pop())
            if storage in done:
                continue
            done.add(storage)
            for index in self.writers.get(storage, ()):
                needed.add(index)
                storages += [tensor for tensor in self.calls[index].read() if tensor.is_meta]
        return (self.calls[index] for index in sorted(needed))


class _Values:
    """The values of recorded tensors, by `id`: those that are `known`, and those that `sources` read.

    No closure that calls itself: it would be garbage in a circle, and keep all these values until it is collected.
    """

    def __init__(self, sources: Mapping[int, Read]):
        self.known: dict[int, Tensor] = {}
        self.sources = sources

    def of(self, item: Any) -> Any:
        """`item`, or what is in it, with values."""
        if isinstance(item, (tuple, list)):
            return type(item)(map(self.of, item))
        if isinstance(item, torch.device) and item.type == "meta":
            return torch.device("cpu")
        if not isinstance(item, Tensor) or not item.is_meta:
            return item
        if id(item) not in self.known:
            self.known[id(item)] = self.sources[id(item)]()
        return self.known[id(item)]


def _tensors(items: tuple[Any, ...]) -> list[Tensor]:
    found = []
    for item in items:
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, (tuple, list)):
            found += _tensors(tuple(item))
    return found


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
