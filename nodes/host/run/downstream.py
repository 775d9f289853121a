"""What other nodes put on the model after RLG: it is meant for base and RL model alike, in each run anew."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from comfy.model_patcher import ModelPatcher

from ....rlg_core.errors import RunError
from ..compat import CASTING
from ..models.patches import Patch, at_work, depends_on_weight, difference
from ..models.relation import KEY, PREDICTING, Relation, SharedWeights, TwoCheckpoints, differing_injections
from ..models.term_bank import KEPT, term_bank
from .record import Record

PLAIN: tuple[Any, ...] = (str, int, float, bool, type(None), torch.dtype)
"""Values of object patches that are the same for any model."""


@contextmanager
def brought_up_to_date(patcher: ModelPatcher, record: Record) -> Iterator[Record]:
    """The record for one run of `patcher`, and while it lasts the models that it needs.

    What came after RLG is on all of them.

    Raises `RunError` for what cannot be on both models.
    """
    relations = [_up_to_date(patcher, expert.relation) for expert in record.experts]
    experts = tuple(replace(expert, relation=relation) for expert, relation in zip(record.experts, relations))
    before = patcher.get_additional_models_with_key(KEY)
    patcher.set_additional_models(KEY, [relation.patcher for relation in relations])
    try:
        yield replace(record, experts=experts)
    finally:
        patcher.set_additional_models(KEY, before)


def _up_to_date(patcher: ModelPatcher, relation: Relation) -> Relation:
    later = _later_patches(patcher, relation)
    if isinstance(relation, SharedWeights):
        return replace(relation, patcher=_bank_under(patcher, relation, later).clone())
    checkpoint = relation.patcher.clone()
    own = checkpoint.patches
    checkpoint.patches = own | {key: [*own.get(key, []), *added] for key, added in later.items()}
    _mirror_objects(patcher, relation, checkpoint)
    if later or checkpoint.force_cast_weights != relation.patcher.force_cast_weights:
        # The same patches get the same id in every run, so that the host reloads weights only when they changed.
        checkpoint.patches_uuid = uuid.uuid5(relation.patcher.patches_uuid, str(patcher.patches_uuid))
    return replace(relation, patcher=checkpoint)


def _later_patches(patcher: ModelPatcher, relation: Relation) -> dict[str, list[Patch]]:
    """The weight patches that were added to the base after it met its RL model."""
    later = {}
    for key, patches in patcher.patches.items():
        removed, added = difference(at_work(relation.base.patches.get(key, [])), at_work(patches))
        if removed:
            raise RunError(
                f"{key}: a weight patch of the base was removed after the RLG node. Apply it before, or not at all."
            )
        if added:
            later[key] = added
    return later


# Shared weights


_under: WeakKeyDictionary[ModelPatcher, OrderedDict[uuid.UUID, ModelPatcher]] = WeakKeyDictionary()
"""RL models with later patches on them, by their terms and the base's patches, the most recently used last."""


def _bank_under(patcher: ModelPatcher, relation: SharedWeights, later: dict[str, list[Patch]]) -> ModelPatcher:
    """The terms under `later` patches.

    What adds to a weight adds to base and RL model alike and leaves their difference as it was. What depends on the
    weight (merges, multipliers, DoRA) changes the difference on weights that have terms.
    """
    names = set(relation.bank.names)
    if not any(key.rsplit(".", 1)[0] in names and any(map(depends_on_weight, added)) for key, added in later.items()):
        return relation.patcher
    known = _under.setdefault(relation.patcher, OrderedDict())
    if patcher.patches_uuid not in known:
        rl_model = patcher.clone()
        # Only its patches count. It must not keep alive the terms that it is kept by.
        rl_model.parent = None
        rl_model.remove_attachments(KEY)
        rl_model.remove_additional_models(KEY)
        keys = dict.fromkeys([*relation.rl_patches, *later])
        rl_model.patches = {key: [*relation.rl_patches.get(key, []), *later.get(key, [])] for key in keys}
        known[patcher.patches_uuid] = rl_model
    known.move_to_end(patcher.patches_uuid)
    while len(known) > KEPT:
        known.popitem(last=False)
    bank = term_bank(patcher, known[patcher.patches_uuid])
    if bank is None:
        raise RunError(
            "A node after RLG (Model Merge at ratio 0, say) leaves nothing of the RL model's difference: base and RL "
            "model are the same. Put that node before RLG, or remove one of the two."
        )
    return bank


# Two checkpoints


def _mirror_objects(patcher: ModelPatcher, relation: TwoCheckpoints, checkpoint: ModelPatcher) -> None:
    """Object patches that hold no weights go to both models; others, and injected modules, are made for one of them."""
    met = relation.base.objects
    for name, value in patcher.object_patches.items():
        if name in met and met[name] is value:
            continue
        if name not in PREDICTING and not isinstance(value, PLAIN):
            raise RunError(
                f"A node after RLG replaces {name} in the base, and the RL checkpoint would go without it. Put that "
                "node before both models, or use an RL adapter (Load RL Adapter) in place of the RL checkpoint."
            )
        checkpoint.add_object_patch(name, value)
        checkpoint.force_cast_weights |= name in CASTING
    injected = differing_injections(patcher.injections, relation.base.injections)
    if injected:
        raise RunError(
            f"A node after RLG injects modules ({', '.join(injected)}) into the base, as a LoRA in bypass mode does, "
            "and the RL checkpoint would go without them. Load that LoRA without bypass."
        )
