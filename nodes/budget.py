"""RLG Budget: how many evaluations a run with RLG may save."""

from __future__ import annotations

from comfy_api.latest import io

from ..rlg_core.budget import BATCHING, EVALUATE, EXPERTS, Budget
from ..rlg_core.errors import problem
from .host.run.attach import with_budget
from .host.schema import schema


class RLGBudget(io.ComfyNode):
    """Fewer evaluations of the base, at a measured error."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGBudget",
            display_name="RLG Budget",
            description=(
                "Trades exactness for model evaluations. Exact RLG evaluates two models per step; refresh_every 2 "
                "costs 1.5 evaluations, linearised 1. The help page gives the measured errors. At most one per model, "
                "placed after the RLG nodes."
            ),
            search_aliases=["faster", "speed", "skip steps", "cache", "linearised", "segmented", "merge experts"],
            advanced=["tolerance", "batching"],
            inputs=[
                io.Model.Input("model", tooltip="A model with RLG on it."),
                io.Combo.Input(
                    "evaluate",
                    options=list(EVALUATE),
                    default="exact",
                    tooltip=(
                        "exact: base and RL model (neutral). linearised: one evaluation of the base with the adapter "
                        "at strength scale, as a LoRA strength slider does. It is a preview, good at small scales, "
                        "and needs an adapter, not a checkpoint. segmented: RLG without CFG where the scale is not "
                        "1, the RL model with CFG elsewhere; costs what plain CFG costs, and is another guidance."
                    ),
                ),
                io.Int.Input(
                    "refresh_every",
                    default=1,
                    min=1,
                    max=16,
                    tooltip=(
                        "Evaluates the base at about one step in this many, more densely where sigma falls fast, and "
                        "extrapolates the difference in between. Neutral: 1, every step."
                    ),
                ),
                io.Float.Input(
                    "tolerance",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.0005,
                    round=0.0001,
                    tooltip=(
                        "Above 0, decides by an error estimate when to evaluate the base, at the latest after "
                        "refresh_every steps. Measured on the demo pair: 0.02 with refresh_every 4. Neutral: 0, fixed "
                        "steps."
                    ),
                ),
                io.Combo.Input(
                    "batching",
                    options=list(BATCHING),
                    default="auto",
                    tooltip=(
                        "auto: base and RL rows in one pass if they fit in memory and can be told apart (neutral). "
                        "sequential: one pass per model, with less memory. batched: one pass without asking whether it "
                        "fits."
                    ),
                ),
                io.Combo.Input(
                    "experts",
                    options=list(EXPERTS),
                    default="exact",
                    optional=True,
                    tooltip=(
                        "For several RL models. exact: one evaluation each (neutral). merged: all of them in one, "
                        "each at its share of the total scale; needs adapters, and is an approximation."
                    ),
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def validate_inputs(
        cls, evaluate: str | None = None, refresh_every: int | None = None, tolerance: float | None = None
    ) -> bool | str:
        """Whether the three go together. Linked and missing values are None here."""
        return None in (evaluate, refresh_every, tolerance) or problem(Budget, evaluate, refresh_every, tolerance)

    @classmethod
    def execute(cls, model, evaluate, refresh_every, tolerance, batching, experts="exact") -> io.NodeOutput:
        return io.NodeOutput(with_budget(model, Budget(evaluate, refresh_every, tolerance, batching, experts)))


NODES = [RLGBudget]
