"""RLG Trace: what guidance did at each step. Only its linearised check takes a model evaluation more."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..rlg_core.errors import RunError
from ..rlg_core.report.plot import plot
from ..rlg_core.report.trace import panels
from ..rlg_core.trace import TraceLog
from .host.run.attach import with_trace
from .host.schema import schema
from .types import TraceType


class RLGTrace(io.ComfyNode):
    """Watches a model with RLG on it while it samples."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGTrace",
            display_name="RLG Trace",
            description=(
                "Records what guidance does at each step. Wire the model into the sampler and the trace into RLG Trace "
                "Plot. It adds at most one model evaluation to a run: the check whether a plain LoRA strength would "
                "do."
            ),
            search_aliases=["watch", "debug guidance", "monitor", "KL divergence"],
            inputs=[io.Model.Input("model", tooltip="A model with RLG on it.")],
            outputs=[io.Model.Output(display_name="model"), TraceType.Output(display_name="trace")],
        )

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        log = TraceLog()
        return io.NodeOutput(with_trace(model, log), log)


class RLGTracePlot(io.ComfyNode):
    """Shows a trace once its run is over."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGTracePlot",
            shows=True,
            display_name="RLG Trace Plot",
            description="Shows the trace of the run that made the latent, as a plot and as JSON.",
            search_aliases=["plot", "chart", "debug guidance", "KL divergence"],
            inputs=[
                TraceType.Input("trace", tooltip="From RLG Trace."),
                io.Latent.Input("after", tooltip="The sampler's latent: the plot waits for it and passes it through."),
            ],
            outputs=[
                io.Image.Output(display_name="plot"),
                io.String.Output(display_name="json"),
                io.Latent.Output(display_name="latent"),
            ],
        )

    @classmethod
    def execute(cls, trace, after) -> io.NodeOutput:
        if not trace.entries:
            raise RunError(
                "The trace is empty: no sampler has run the model of this RLG Trace node. Wire that model into the "
                "sampler."
            )
        picture = plot(panels(trace.entries))[None]
        return io.NodeOutput(picture, trace.to_json(), after, ui=ui.PreviewImage(picture, cls=cls))


NODES = [RLGTrace, RLGTracePlot]
