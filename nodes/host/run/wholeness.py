"""Telling passes that ran whole from those that a cache of another node cut short."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping

from torch import nn

from ....rlg_core.errors import RunError
from ....rlg_core.rows import Pass

Ran = frozenset[str]
"""Which blocks of the network ran in a pass, by their sentinels."""

CAUSES = (
    "A cache node that answers for a part of the model (TeaCache, first-block caches), a node that replaces or "
    "compiles its layers by itself, or one that leaves blocks out may be the cause: remove it, or put ComfyUI's own "
    "EasyCache or TorchCompileModel in its place."
)


class Wholeness:
    """What one run has seen of whole passes, by the kind of call."""

    def __init__(self) -> None:
        self.blocks: dict[Hashable, Ran] = {}
        self.layers: dict[Hashable, Ran] = {}

    def require_terms(self, kind: Hashable, seen: Pass, ran: Ran, answered_by_uuid: bool) -> None:
        """Raises `RunError` if terms of the RL model were passed by where the blocks around them ran.

        Terms that never ran would leave the base's picture under the RL model's name.
        """
        whole = self.blocks.setdefault(kind, ran)
        if not seen.watched or ran < whole or not ran and answered_by_uuid:
            return  # of blocks that did not run, `require_whole` decides
        layers = frozenset(seen.ran)
        expected = self.layers.setdefault((kind, seen.watched), layers)
        if layers and layers == expected:
            return
        missing = sorted((expected or seen.watched) - layers)
        raise RunError(
            f"The RL model changes {len(seen.watched)} layers, and {len(missing)} of them did not run where expected, "
            f"first {', '.join(missing[:3])}: its prediction would be the base's in part. {CAUSES}"
        )

    def require_whole(
        self,
        kind: Hashable,
        ran: Mapping[Hashable, Ran],
        before: Hashable,
        answered_by_uuid: bool,
        kept_apart: bool,
        stateless: bool,
    ) -> None:
        """Raises `RunError` where a pass of this call left blocks out and may have used what another model left behind.

        `ran` are the passes of the call by their owner, `before` is the owner of the pass before them. A pass that left
        blocks out can be trusted where it went on from its owner's own pass, where other nodes' activations are
        `kept_apart` by owner, or where a `stateless` patch leaves out the same blocks for everyone.
        """
        whole = self.blocks[kind] = self.blocks.get(kind, frozenset()).union(*ran.values())
        short = [blocks for blocks in ran.values() if blocks != whole and (blocks or not answered_by_uuid)]
        goes_on = len(ran) == 1 and before in ran
        for_everyone = stateless and len(set(ran.values())) == 1 and all(ran.values())
        if short and not (kept_apart or goes_on or for_everyone):
            raise RunError(
                f"{len(whole - short[0])} of {len(whole)} blocks of the network did not run in a pass of the base or "
                f"RL model, which could have got the other's activations in their place. {CAUSES}"
            )


def require_same_functions(base: nn.Module, own: nn.Module, patched: Collection[str]) -> None:
    """Raises `RunError` where a function of the base's network is replaced and the same one of an RL checkpoint is not.

    Cache nodes replace it for the time of a call, in the one network that they know. Object patches (`patched`) are
    told apart elsewhere.
    """
    replaced = [name for name, value in vars(base).items() if callable(value) and name not in vars(own)]
    replaced = [name for name in replaced if f"diffusion_model.{name}" not in patched]
    if replaced:
        raise RunError(
            f"A node (TeaCache, say) replaces {', '.join(replaced)} in the base while it runs, and the RL checkpoint "
            "goes without. Remove that node, or use an RL adapter (Load RL Adapter) in place of the RL checkpoint."
        )
