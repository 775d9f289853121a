"""Messages for the user: in the log, and on the node if a browser shows it."""

from __future__ import annotations

import logging

from server import PromptServer

log = logging.getLogger(__name__)


def notice(text: str, node_id: str | None) -> None:
    """Writes `text` to the log and, while the server runs a graph, onto the node `node_id`."""
    log.warning("RLG: %s", text)
    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)
