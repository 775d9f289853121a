"""Random numbers drawn inside the model: every pass of one call sees the same, and the run goes on as one model's."""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

State = tuple[Any, ...]
log = logging.getLogger(__name__)


def _state(device: torch.device) -> State:
    """The state of all generators that code inside a model may draw from."""
    module, where = _generator_of(device)
    return (torch.get_rng_state(), module and module.get_rng_state(*where), random.getstate(), np.random.get_state())


def _set_state(state: State, device: torch.device) -> None:
    on_cpu, on_device, python, numpy = state
    torch.set_rng_state(on_cpu)
    module, where = _generator_of(device)
    if module is not None:
        module.set_rng_state(on_device, *where)
    random.setstate(python)
    np.random.set_state(numpy)


def _generator_of(device: torch.device) -> tuple[Any, tuple]:
    """The module with the generator of `device`, None for the CPU's, and what its functions take to name the device."""
    if device.type == "cpu":
        return None, ()
    module = getattr(torch, device.type, None)
    if not hasattr(module, "get_rng_state"):
        _warn_of_unreadable(device.type)
        return None, ()
    return module, () if device.type == "mps" else (device,)


@functools.cache
def _warn_of_unreadable(kind: str) -> None:
    log.warning(
        "torch cannot save the state of the random generator of %r (DirectML, say). Nodes that draw random numbers on "
        "it inside the model (TomePatchModel, HyperTile) draw others for the base than for the RL model.",
        kind,
    )


@functools.cache
def _warn_of_two_kinds(ours: str, theirs: str) -> None:
    log.warning(
        "Base and RL model are on devices of two kinds (%s, %s). Nodes that draw random numbers on the device inside "
        "the model (TomePatchModel, HyperTile) draw others for the base than for the RL model.",
        ours,
        theirs,
    )


class SameStart:
    """Starts every pass of one model call from the same state of the generators."""

    def __init__(self, device: torch.device):
        self.device, self.before = device, _state(device)
        self.after: State | None = None
        self.passes = 0

    @contextmanager
    def one_pass(self, device: torch.device) -> Iterator[None]:
        """A pass on `device`, the call's own or that of a model which the user has put elsewhere."""
        self.passes += 1
        if self.passes > 1:
            _set_state(self.before, self.device)
        with self._lent_to(device):
            yield
            if self.after is None and device.type == self.device.type:  # a pass that fails is none
                self.after = _state(device)

    @contextmanager
    def _lent_to(self, device: torch.device) -> Iterator[None]:
        """Has another device draw what this one would have drawn, and then go on as before."""
        if device == self.device:
            yield
            return
        if device.type != self.device.type:
            _warn_of_two_kinds(self.device.type, device.type)
            yield
            return
        module, where = _generator_of(device)
        before = module and module.get_rng_state(*where)
        _set_state(self.before, device)
        try:
            yield
        finally:
            if module is not None:
                module.set_rng_state(before, *where)

    def end(self) -> None:
        """Leaves the generators as the first whole pass left them, however many there were."""
        if self.passes > 1 and self.after is not None:
            _set_state(self.after, self.device)


@contextmanager
def same_for_every_pass(device: torch.device) -> Iterator[SameStart]:
    """For one model call, each pass of which runs within `one_pass`.

    Merging of tokens, tiling and the like draw from the global generators. Base and RL model must draw the same, or
    their difference is noise; and what the sampler draws next must not depend on how many passes there were.
    """
    start = SameStart(device)
    try:
        yield start
    finally:
        start.end()
