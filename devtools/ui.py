"""`python dev.py ui`: ComfyUI with the pack and the demo models, for the browser, until Ctrl-C."""

import sys

from . import hosts
from .console import Failure, end_in_order, say
from .paths import HOME
from .server import Server


def main():
    """Start the server, say where it is, and wait."""
    host = hosts.from_environment()
    say(f"starting ComfyUI {host.version}")
    with Server(host, HOME / "ui") as server:
        say(f"open {server.url} and choose Workflow > Browse Templates > ComfyUI-RLG; Ctrl-C ends it")
        say(f"pictures go to {server.folder / 'output'}, the log to {server.log}")
        server.process.wait()
    server.fail("ended")


if __name__ == "__main__":
    end_in_order()
    try:
        main()
    except KeyboardInterrupt:
        say("ended")
    except Failure as failure:
        say(f"failed: {failure}")
        sys.exit(1)
