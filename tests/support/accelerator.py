"""A computer's second device without the hardware: torch's own device tensors, whose bytes lie in ordinary memory.

What only a GPU shows, short of speed, shows on it: an operation on tensors of two devices fails, the device has random
numbers and memory of its own, and what crosses between it and the processor is counted. The host takes it for what
torch calls `npu`, one of the devices that it supports, and has `DEVICES` of them.

The bytes are shared by DLPack: a tensor of the processor is handed over as one of the device, and back for the time of
one operation, which the processor then computes.
"""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, partialmethod
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import backend_registration
from torch.utils.dlpack import from_dlpack, to_dlpack

NAME, DEVICES = "npu", 2
CAPACITY = 8 * 2**30
"""Bytes of memory of each device, unless a test sets another in `Memory.capacity`."""

CPU = torch.device("cpu")
aten = torch.ops.aten
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
"""Which take indices on the processor, as they do on a GPU."""
WAITING = (aten._local_scalar_dense, aten.equal, aten.masked_select, aten.nonzero, aten._unique2)
"""Whose result, or its shape, the processor has to wait for."""


# Memory, and what is counted


class Memory:
    """The bytes of one device that are in use. Raises `torch.OutOfMemoryError` beyond its capacity."""

    def __init__(self) -> None:
        self.capacity = CAPACITY
        self._held: list[tuple[StorageWeakRef, int]] = []
        self._at_most = 0

    def used(self) -> int:
        self._held = [(storage, size) for storage, size in self._held if not storage.expired()]
        self._at_most = sum(size for _, size in self._held)
        return self._at_most

    def take(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._held.append((StorageWeakRef(storage), storage.nbytes()))
        self._at_most += storage.nbytes()
        # What was given back is looked for only when it matters.
        if (self._at_most > self.capacity or len(self._held) > 10_000) and self.used() > self.capacity:
            raise torch.OutOfMemoryError(f"{NAME} out of memory: {self._at_most} of {self.capacity} bytes")


memories = [Memory() for _ in range(DEVICES)]
generators = [torch.Generator().manual_seed(0) for _ in range(DEVICES)]
counts: Counter[str] = Counter()
"""`launches` of operations, `waits` of the processor, `uploads` and `uploaded` bytes, since a test has cleared them."""


# Bytes that are taken for the device's, and back

KINDS = {"cpu": 1, NAME: 12}  # of DLPack: a processor, and an extension
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class _Described(ctypes.Structure):
    """The beginning of DLPack's description of a tensor."""

    _fields_ = [("data", ctypes.c_void_p), ("kind", ctypes.c_int32), ("index", ctypes.c_int32)]


def _bytes_of(tensor: Tensor) -> Tensor:
    """All the bytes of what holds `tensor`, in a row."""
    whole = tensor.detach()
    whole.as_strided_((whole.untyped_storage().nbytes() // whole.itemsize,), (1,), 0)
    return whole.view(torch.uint8)


def _shaped(held: Tensor, like: Tensor) -> Tensor:
    """The part of `held` bytes that `like` is of the same bytes elsewhere."""
    return held.view(like.dtype).as_strided_(like.shape, like.stride(), like.storage_offset())


def _handed_over(tensor: Tensor, device: torch.device) -> Tensor:
    """The same bytes as a tensor of `device`."""
    capsule = to_dlpack(_bytes_of(tensor))
    described = _Described.from_address(_pointer(capsule, b"dltensor"))
    described.kind, described.index = KINDS[device.type], device.index or 0
    return _shaped(from_dlpack(capsule), tensor)


def _placed(tensor: Tensor, device: torch.device) -> Tensor:
    """New memory of `device` with what `tensor` of the processor holds."""
    placed = _handed_over(tensor, device)
    memories[device.index].take(placed)
    return placed


def _named(device: Any) -> torch.device:
    named = torch.device(device)
    return named if named.index is not None else torch.device(named.type, backend.current_device())


# Operations


def _operation(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Any operation on tensors of the device, computed by the processor on their bytes."""
    devices: set[torch.device] = set()
    strangers: list[Tensor] = []
    ours: list[tuple[Tensor, Tensor]] = []

    def lent(value: Any) -> Any:
        if isinstance(value, torch.device):
            devices.add(_named(value))
            return CPU
        if not isinstance(value, Tensor):
            return value
        if value.device.type != NAME:
            strangers.extend([value] if value.ndim else [])  # a number may stand anywhere
            return value
        devices.add(value.device)
        empty = value.untyped_storage().nbytes() == 0
        ours.append((torch.empty(value.shape, dtype=value.dtype) if empty else _handed_over(value, CPU), value))
        return ours[-1][0]

    with _plain():
        lent_args, lent_kwargs = _each(lent, (_numbers_as_tensors(operation, args), kwargs))
        if len(devices) > 1 or (strangers and operation.overloadpacket not in INDEXING):
            found = sorted({str(device) for device in devices} | {str(tensor.device) for tensor in strangers})
            raise RuntimeError(f"Expected all tensors to be on the same device, but {operation} got {found}")
        (device,) = devices
        with _own_random_numbers(operation, device):
            result = operation(*lent_args, **lent_kwargs)
        made = _each(lambda value: _returned(value, ours, device), result)
    _count(operation, result, ours)
    return made


def _numbers_as_tensors(operation: Any, args: tuple) -> list:
    """The arguments with a tensor for each number where the operation takes tensors: torch hands them on bare."""
    wanted = _takes_tensors(operation)
    return [torch.tensor(v) if takes and isinstance(v, (int, float)) else v for takes, v in zip(wanted, args)]


@cache
def _takes_tensors(operation: Any) -> list[bool]:
    return [isinstance(argument.type, torch.TensorType) for argument in operation._schema.arguments]


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    """`function` of all that an operation takes or returns, in the lists it may be in."""
    if isinstance(value, (list, tuple)):
        return type(value)([_each(function, inner) for inner in value])
    if isinstance(value, dict):
        return {name: _each(function, inner) for name, inner in value.items()}
    return function(value)


def _returned(value: Any, ours: list[tuple[Tensor, Tensor]], device: torch.device) -> Any:
    """A result of the processor as the device's: one of `ours` itself, another view of one, or new memory."""
    if not isinstance(value, Tensor):
        return value
    for lent, own in ours:
        if value is lent:
            if lent.shape != own.shape:  # one that torch made empty for a result
                own.data = _placed(lent, device)
            return own
        if value.untyped_storage().data_ptr() == lent.untyped_storage().data_ptr() != 0:
            return _shaped(_bytes_of(own), value)
    return _placed(value, device)


def _count(operation: Any, result: Any, ours: list[tuple[Tensor, Tensor]]) -> None:
    if operation.overloadpacket in WAITING:
        counts["waits"] += 1
    lent = {tensor.untyped_storage().data_ptr() for tensor, _ in ours}
    if not (isinstance(result, Tensor) and _is_view(operation) and result.untyped_storage().data_ptr() in lent):
        counts["launches"] += 1


def _is_view(operation: Any) -> bool:
    returned = operation._schema.returns
    return any(value.alias_info is not None and not value.alias_info.is_write for value in returned)


@contextmanager
def _plain() -> Iterator[None]:
    """As below autograd, where a backend's operations run."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@contextmanager
def _own_random_numbers(operation: Any, device: torch.device) -> Iterator[None]:
    """Has the processor draw from the device's generator, where the operation draws."""
    if torch.Tag.nondeterministic_seeded not in operation.tags:
        yield
        return
    before, own = torch.get_rng_state(), generators[device.index]
    torch.set_rng_state(own.get_state())
    try:
        yield
    finally:
        own.set_state(torch.get_rng_state())
        torch.set_rng_state(before)


def _copied(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """`target.copy_(source)`, where one of them at least is the device's."""
    with _plain():
        own = [t if t.device.type == "cpu" else _handed_over(t, CPU) for t in (source, target)]
        own[1].copy_(own[0])
    if source.device.type == "cpu":
        counts["uploads"] += 1
        counts["uploaded"] += source.nbytes
    elif target.device.type == "cpu":
        counts["waits"] += 1
    else:
        counts["launches"] += 1
    return target


def _empty(size: Any, *, dtype: Any = None, device: Any = None, memory_format: Any = None, **rest: Any) -> Tensor:
    with _plain():
        shape = {} if memory_format is None else {"memory_format": memory_format}
        return _placed(torch.empty(size, dtype=dtype, **shape), _named(device))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, device: Any = None, **rest: Any) -> Tensor:
    with _plain():
        return _placed(torch.empty_strided(size, stride, dtype=dtype), _named(device))


class _Generator(torch.Generator):
    """A generator of this device is one of the processor's, of which the processor draws."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:
        return _generator("cpu" if torch.device(device).type == NAME else device)


_generator = torch.Generator


def _deep_copied(tensor: Tensor, memo: dict[int, Any], by_torch: Callable[..., Tensor]) -> Tensor:
    """torch copies what holds a tensor, with an allocator that this device does not have."""
    if tensor.device.type != NAME or type(tensor) is not Tensor:
        return by_torch(tensor, memo)
    return memo.setdefault(id(tensor), tensor.detach().clone())


# What torch and the host ask


class Backend(ModuleType):
    """The module `torch.npu`."""

    def __init__(self) -> None:
        super().__init__(f"torch.{NAME}")
        self._current = 0

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return DEVICES

    def current_device(self) -> int:
        return self._current

    def set_device(self, device: Any) -> None:
        self._current = device if isinstance(device, int) else _named(device).index

    def get_device_name(self, device: Any = None) -> str:
        return "a device in ordinary memory"

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        memory = memories[_named(device or NAME).index]
        return max(0, memory.capacity - memory.used()), memory.capacity

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        used = memories[_named(device or NAME).index].used()
        return {"active_bytes.all.current": used, "reserved_bytes.all.current": used}

    def empty_cache(self) -> None:
        pass

    def synchronize(self, device: Any = None) -> None:
        pass

    def manual_seed_all(self, seed: int) -> None:
        for generator in generators:
            generator.manual_seed(seed)

    def get_rng_state(self, device: Any = NAME) -> Tensor:
        return generators[_named(device).index].get_state()

    def set_rng_state(self, state: Tensor, device: Any = NAME) -> None:
        generators[_named(device).index].set_state(state)


backend = Backend()
KERNELS: dict[str, Callable[..., Any]] = {
    "empty.memory_format": _empty,
    "empty_strided": _empty_strided,
    "_copy_from": _copied,
    "convolution_overrideable": partial(_operation, aten.convolution.default),
}
_registered: list[torch.library.Library] = []  # for as long as the process lives


def is_possible() -> bool:
    """Whether this torch can have a device that is made in Python."""
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


def install() -> None:
    """Makes the devices known to torch, for the rest of this process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=backend)
    every, own = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(_operation, "PrivateUse1")
    for name, kernel in KERNELS.items():
        own.impl(name, kernel, "PrivateUse1")
    _registered.extend((every, own))
    torch.Generator = _Generator
    torch.Tensor.__deepcopy__ = partialmethod(_deep_copied, by_torch=torch.Tensor.__deepcopy__)


@contextmanager
def found_by_the_host() -> Iterator[None]:
    """While the host is imported, which asks for the package that makes the device known to torch."""
    package = f"torch_{NAME}"
    sys.modules[package] = ModuleType(package)
    sys.modules[package].__spec__ = ModuleSpec(package, None)
    try:
        yield
    finally:
        del sys.modules[package]
