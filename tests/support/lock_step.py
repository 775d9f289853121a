"""Two whole runs in lock step: what RLG must equal in any graph, samplers and guiders included.

Each model has its own nodes, its own guider and its own sampler, with whatever state these keep. Only the predictions
below CFG are exchanged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import torch

from .oracle import generators, set_generators

Run = Callable[[Any], Any]
"""Samples a model, behind whatever nodes the graph has, and returns the result."""


def two_runs(host: SimpleNamespace, model: Any, rl_model: Any, scale: float, run: Run) -> Any:
    """`run(model)`, its predictions below CFG being `base + scale (rl - base)`.

    `rl` is what `run(rl_model)` predicts for the same latents, on weights of its own and with the same random numbers.
    """
    assert rl_model.model is not model.model
    follower = Follower(host, rl_model, run)

    def lead(executor, network, conds, x, timestep, options):
        base = executor(network, conds, x, timestep, options)
        rl = follower.predict(x, timestep)
        mean = [b + scale * (r - b) for b, r in zip(base, rl, strict=True)]
        follower.mean = mean
        return mean

    with follower:
        return run(with_predictions(host, model, lead))


def with_predictions(host: SimpleNamespace, model: Any, function: Callable[..., Any]) -> Any:
    """A clone of `model` whose conditionings are answered by `function`."""
    clone = model.clone()
    clone.add_wrapper_with_key(host.comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "lock step", function)
    return clone


class Stopped(Exception):
    """The leading run failed."""


MORE = "one of the two runs calls its model more often than the other"


class Follower:
    """A run in a thread of its own. Only one of the two is at work at a time; each has its own random numbers."""

    def __init__(self, host: SimpleNamespace, model: Any, run: Run):
        self.orders, self.answers, self.state = SimpleQueue(), SimpleQueue(), generators()
        self.order = self.mean = None
        self.inference, self.threads = torch.is_inference_mode_enabled(), torch.get_num_threads()
        self.thread = threading.Thread(target=self._work, args=(run, with_predictions(host, model, self._follow)))

    def __enter__(self) -> Follower:
        self.thread.start()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        """Lets the run end with the last prediction, or stops it where the leading run failed."""
        if self.thread.is_alive():
            answer = self._ask(None if kind is None else Stopped())
            if kind is None and answer is not None:
                raise answer

    def predict(self, x: Any, timestep: Any) -> list:
        """What the following run predicts for the latents of the leading one."""
        answer = self._ask((x, timestep))
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None, MORE
        return answer

    def _ask(self, order: Any) -> Any:
        own = generators()
        set_generators(self.state)
        self.orders.put(order)
        answer = self.answers.get()
        self.state = generators()
        set_generators(own)
        if not isinstance(answer, list):
            self.thread.join()
        return answer

    # In the thread

    def _work(self, run: Run, model: Any) -> None:
        torch.set_num_threads(self.threads)
        self.order, answer = self.orders.get(), None
        try:
            with torch.inference_mode(self.inference):
                run(model)
        except Stopped:
            pass
        except Exception as error:
            answer = error
        self.answers.put(answer)

    def _follow(self, executor, network, conds, x, timestep, options):
        assert self.order is not None, MORE
        if isinstance(self.order, Stopped):
            raise self.order
        self.answers.put(executor(network, conds, *self.order, options))
        self.order = self.orders.get()  # by now, the leading run has combined this prediction
        if isinstance(self.order, Stopped):
            raise self.order
        return self.mean
