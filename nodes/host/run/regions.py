"""Where the rows of a model call come from: which prompt, which area of the latent, which frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ....rlg_core.errors import RunError
from .calls import Batch

Area = tuple[int, ...]
"""The host's `(lengths..., offsets...)` over the spatial dimensions of the latent."""

FOREIGN = "another node's"
"""The name of a prompt that is none of the guider's."""


class Regions:
    """Places masks and prompt multipliers on rows, by the conditioning of one guider and the latent of one run."""

    def __init__(self, guider: Any, latent_shape: torch.Size):
        self.guider, self.latent_shape = guider, latent_shape

    def per_item(self, values: Tensor, batch: Batch) -> Tensor:
        """`values` [items] on the rows of the call: [rows, 1, ...].

        Raises `RunError` if the batch has another number of items.
        """
        values = values.to(batch.x.device)
        if getattr(batch.window, "dim", None) == 0:  # some of the items
            values = batch.window.get_tensor(values, device=values.device)
        if batch.items != len(values):
            raise RunError(
                f"The schedule has {len(values)} scales, one per batch item, but the latent has {batch.items} items. "
                "Use the latent of the same RLG Batch Sweep node."
            )
        return self._rows([values] * batch.chunks, batch)

    def prompts(self, batch: Batch) -> list[str]:
        """The prompt's name in the guider ("positive", "negative", ...) of each conditioning in the call."""
        return [self._prompt(u, index) for u, index in batch.conditionings]

    def per_prompt(self, values: dict[str, float], batch: Batch) -> Tensor:
        """`values` by prompt on the rows of the call: [rows, 1, ...]. Raises `RunError` for a prompt without one."""
        self._require_conditionings(batch)
        unknown = sorted(set(self.prompts(batch)) - values.keys())
        if FOREIGN in unknown:
            raise RunError(
                "A node on the model (Perp-Neg, say) has a prompt of its own, and RLG Branch multipliers expect only "
                "the positive and the negative one. Remove that node, or set both multipliers to 1."
            )
        if unknown:
            raise RunError(
                f"The guider has the prompts {unknown}, but RLG Branch multipliers expect only positive and negative."
            )
        per_row = [torch.full((batch.items,), values[name], device=batch.x.device) for name in self.prompts(batch)]
        return self._rows(per_row, batch)

    def mask(self, mask: Tensor, batch: Batch) -> Tensor:
        """`mask` [masks, H, W] in [0, 1], at any size, on the rows of the call: [rows, 1, ...] at the latents' size.

        Raises `RunError` if the number of masks does not fit, or the place of the call in the latent is unknown.
        """
        self._require_conditionings(batch)
        full = self._full(mask).to(batch.x.device)
        window = batch.window
        if window is not None:
            full = window.get_tensor(full, device=batch.x.device)
        placed = [self._cropped(full, area) for area in self._areas(batch)]
        rows = torch.cat([part.expand(batch.items, *part.shape[1:]) for part in placed])
        if rows.shape[2:] != batch.x.shape[2:]:
            raise RunError(
                f"A mask for latents of {tuple(rows.shape[2:])} meets a model call of {tuple(batch.x.shape[2:])}: "
                "another node cuts up the latent and does not say where. Use the mask without that node."
            )
        return rows

    def _full(self, mask: Tensor) -> Tensor:
        """The mask over the whole latent, [1 or items, 1, ...]."""
        batch, dims = self.latent_shape[0], len(self.latent_shape) - 2
        masks = mask.reshape(-1, *mask.shape[-2:])
        if dims < 2:
            raise RunError(f"A mask needs a latent with height and width, got one of shape {tuple(self.latent_shape)}.")
        pictures = all(length == 1 for length in self.latent_shape[2:-2])
        if not pictures:  # masks are frames of one video
            return comfy.utils.reshape_mask(masks.float(), (1, 1, *self.latent_shape[2:])).clamp(0.0, 1.0)
        if len(masks) not in (1, batch):
            raise RunError(f"{len(masks)} masks for {batch} images: expected one mask, or one for each image.")
        flat = comfy.utils.reshape_mask(masks.float(), (len(masks), 1, *self.latent_shape[-2:])).clamp(0.0, 1.0)
        return flat.reshape(len(masks), 1, *self.latent_shape[2:])

    @staticmethod
    def _cropped(full: Tensor, area: Area | None) -> Tensor:
        for dim in range(len(area) // 2 if area else 0):
            full = full.narrow(dim + 2, area[dim + len(area) // 2], area[dim])
        return full

    def _areas(self, batch: Batch) -> list[Area | None]:
        spatial = self.latent_shape[2:]
        areas = []
        for conditioning_id, _ in batch.conditionings:
            area = next((c["area"] for _, c in self._named(conditioning_id) if c.get("area") is not None), None)
            if area is not None:
                missing = len(spatial) - len(area) // 2
                half = len(area) // 2
                lengths = [*spatial[:missing], *area[:half]]
                offsets = [*[0] * missing, *area[half:]]
                lengths = [min(n, size - at) for n, size, at in zip(lengths, spatial, offsets)]
                area = (*lengths, *offsets)
            areas.append(area)
        return areas

    def _prompt(self, conditioning_id: Any, index: int) -> str:
        names = list(dict.fromkeys(name for name, _ in self._named(conditioning_id)))
        if not names:
            return FOREIGN
        # A copy of one prompt's area conditioning under the other keeps its id: the call's own order tells them apart.
        return names[0] if len(names) == 1 else ("positive", "negative")[index] if index < 2 else "unknown"

    def _named(self, conditioning_id: Any) -> Iterator[tuple[str, dict]]:
        for name, conditionings in self.guider.conds.items():
            yield from ((name, c) for c in conditionings if c.get("uuid") == conditioning_id)

    def _require_conditionings(self, batch: Batch) -> None:
        if not batch.conditionings:
            raise RunError(
                "A sampler called the model without saying for which prompts (`uuids` and `cond_or_uncond` are empty), "
                "so masks and RLG Branch multipliers have no rows to act on. Use a stock sampler, or RLG without them."
            )

    @staticmethod
    def _rows(values: list[Tensor], batch: Batch) -> Tensor:
        return torch.cat(values).reshape(-1, *[1] * (batch.x.ndim - 1))
