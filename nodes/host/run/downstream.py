"""What other nodes put on the model after RLG: it is meant for base and RL model alike."""

from __future__ import annotations

import uuid

from comfy.model_patcher import ModelPatcher

from ....rlg_core.errors import PairError, RunError
from ..models.patches import depends_on_weight, difference
from ..models.relation import KEY, SharedWeights, TwoCheckpoints
from .record import Record


def mirror(patcher: ModelPatcher, record: Record) -> None:
    """Puts weight patches added after the RLG node (a style LoRA, say) on RL checkpoints too.

    Shared weights have them for both already. Raises `PairError` or `RunError` for those that cannot be shared.
    """
    for expert in record.experts:
        if isinstance(expert.relation, SharedWeights):
            _refuse_rescaled_weights(patcher, expert.relation)
        else:
            for checkpoint in patcher.get_additional_models_with_key(KEY):
                if checkpoint.model is expert.relation.model:
                    _mirror_patches(patcher, expert.relation, checkpoint)


def _refuse_rescaled_weights(model: ModelPatcher, relation: SharedWeights) -> None:
    """Patches put on `model` after it met its RL model reach both where they add to weights that both share.

    Raises `PairError` for a merge, a DoRA and the like on a weight that has terms: those are for the weight as it was.
    """
    names = set(relation.bank.names)
    for key in (key for key in model.patches if key.rsplit(".", 1)[0] in names):
        removed, added = difference(relation.base_patches.get(key, []), model.patches[key])
        if removed or any(depends_on_weight(patch) for patch in added):
            raise PairError(
                f"{key} is merged or replaced after the RLG node (Model Merge, DoRA, ...), which would leave the RL "
                "model's difference as it was. Do it before the model goes into the RLG node and into the RL model's "
                "loader."
            )


def _mirror_patches(patcher: ModelPatcher, relation: TwoCheckpoints, checkpoint: ModelPatcher) -> None:
    patches = {key: list(own) for key, own in relation.patcher.patches.items()}
    changed = False
    for key, later in patcher.patches.items():
        removed, added = difference(relation.base_patches.get(key, []), later)
        if removed:
            raise RunError(
                f"{key}: a weight patch of the base was removed after the RLG node. Apply it before, or not at all."
            )
        if added:
            patches[key] = [*patches.get(key, []), *added]
            changed = True
    if changed:
        checkpoint.patches = patches
        # The same patches get the same id in every run, so that the host reloads weights only when they changed.
        checkpoint.patches_uuid = uuid.uuid5(relation.patcher.patches_uuid, str(patcher.patches_uuid))
