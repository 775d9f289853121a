"""One progress bar for a list of scales. The host has one for each run of a list, which starts at 0 again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from comfy.patcher_extension import WrapperExecutor
from torch import Tensor

from ....rlg_core.sweep import ListedScale


class Progress:
    """Tells the sampler's steps as those of the whole list."""

    def __init__(self, scale: ListedScale):
        self.place, self.count = scale.place, scale.count

    def sampler_sample(
        self,
        executor: WrapperExecutor,
        model: Any,
        sigmas: Tensor,
        extra_args: Mapping[str, Any],
        callback: Callable[..., None] | None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """`WrappersMP.SAMPLER_SAMPLE`: samples with `callback(step, x0, x, total_steps)` told of the list's steps."""

        def of_the_list(step: int, x0: Tensor, x: Tensor, total_steps: int) -> None:
            callback(self.place * total_steps + step, x0, x, self.count * total_steps)

        told = of_the_list if callback is not None else None
        return executor(model, sigmas, extra_args, told, *args, **kwargs)
