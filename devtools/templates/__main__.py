"""`python -m devtools.templates`, in the prepared Python: write the templates, their API copies and pictures anew."""

import sys

from .. import hosts
from ..console import end_in_order, say
from ..paths import HOME, ROOT
from ..server import Server
from .all import TEMPLATES, written
from .pictures import write_pictures


def main() -> None:
    """Ask the oldest supported ComfyUI what its nodes look like, and write every template."""
    host = hosts.fetch(hosts.OLDEST, sys.executable)
    with Server(host, HOME / "templates") as server:
        for path, content in written(server.get("/object_info")).items():
            (ROOT / path).write_text(content, encoding="utf-8")
        for workflow in TEMPLATES:
            write_pictures(server, workflow, ROOT)
    say(f"{len(TEMPLATES)} templates are written")


if __name__ == "__main__":
    end_in_order()
    main()
