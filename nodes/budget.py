"""What a run with RLG may save."""

from __future__ import annotations

from comfy_api.latest import io

from ..rlg_core.budget import BATCHING, EVALUATE, Budget
from .host.run.attach import with_budget
from .host.schema import schema


class RLGBudget(io.ComfyNode):
    """Fewer evaluations of the base for a measured error."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGBudget",
            display_name="RLG Budget",
            description=(
                "Trades exactness for evaluations. Exact RLG costs two models a step; refresh_every 2 costs 1.5, linearised 1. "
                "The errors measured are in the help page. One a model, after RLG nodes."
            ),
            inputs=[
                io.Model.Input("model", tooltip="A model with RLG on it."),
                io.Combo.Input(
                    "evaluate",
                    options=list(EVALUATE),
                    default="exact",
                    tooltip=(
                        "exact: base and RL model (neutral). linearised: one evaluation of the base with the adapter at strength w, "
                        "what a LoRA strength slider does; a preview, good at small scales. Needs an adapter, not a checkpoint."
                    ),
                ),
                io.Int.Input(
                    "refresh_every",
                    default=1,
                    min=1,
                    max=16,
                    tooltip=(
                        "The base is evaluated at one step in so many, denser where sigma falls fast; between them the difference is "
                        "extrapolated. Neutral: 1."
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
                        "Above 0, decides by its own error estimate when to evaluate the base, at the latest after refresh_every "
                        "steps: 0.01 is a good start. Neutral: 0."
                    ),
                ),
                io.Combo.Input(
                    "batching",
                    options=list(BATCHING),
                    default="auto",
                    tooltip=(
                        "auto: base and RL rows in one pass where they fit and can be told apart (neutral). sequential: a pass "
                        "each, less memory. batched: always one pass."
                    ),
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model, evaluate, refresh_every, tolerance, batching) -> io.NodeOutput:
        return io.NodeOutput(with_budget(model, Budget(evaluate, refresh_every, tolerance, batching)))


NODES = [RLGBudget]
