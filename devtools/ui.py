"""`python dev.py ui`: ComfyUI with the pack and the demo models, for the browser, until Ctrl-C."""

import argparse
import shutil
import sys

from . import hosts
from .console import Failure, end_in_order, say
from .lock import locked
from .paths import HOME, ROOT
from .server import Server, listens

PORT = 8188  # ComfyUI's own
STARTER = ROOT / "workflows" / "Reinforcement Learning Guidance"
# The editor opens /?template=NAME&source=PACK for names of letters, digits, "_" and "-" only. The starter's has spaces,
# so a copy of it stands under such a name in a pack of its own, without nodes.
SHELF, NAME = "RLG-starter", "Reinforcement-Learning-Guidance"


def options(arguments):
    """Return the options of the command line, or end with the usage."""
    parser = argparse.ArgumentParser(
        prog="python dev.py ui",
        description="Start ComfyUI with the pack and the demo models, for the browser, until Ctrl-C.",
    )
    parser.add_argument("--port", type=port, default=PORT, metavar="N", help=f"listen on this port (else {PORT})")
    return parser.parse_args(arguments)


def port(text):
    """Return a port as a number."""
    if not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is no port: they go from 1 to 65535")
    return int(text)


def main(arguments):
    """Start the server, say where it is, and wait."""
    chosen = options(arguments).port
    host = hosts.from_environment()
    folder = HOME / "ui"
    with locked(folder, f"http://127.0.0.1:{chosen}"):
        if listens(chosen):
            raise Failure(f"port {chosen} is taken by another program: end that one, or choose a port with --port N.")
        address = place_starter(folder)
        say(f"starting ComfyUI {host.version}")
        with Server(host, folder, port=chosen) as server:
            server.read("/settings/Comfy.TutorialCompleted", True)  # else its dialog covers the starter
            say(f"open {server.url}{address} for the starter template; Ctrl-C ends it")
            say("the other templates: Workflow > Browse Templates > ComfyUI-RLG")
            say(f"pictures go to {folder / 'output'}, the log to {server.log}")
            server.process.wait()
        server.fail("ended")


def place_starter(folder):
    """Put the starter template where the editor can be told to open it; return the address's path."""
    shelf = folder / "custom_nodes" / SHELF
    (shelf / "example_workflows").mkdir(parents=True, exist_ok=True)
    (shelf / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n", encoding="utf-8")
    for ending in (".json", ".jpg"):
        shutil.copyfile(f"{STARTER}{ending}", shelf / "example_workflows" / f"{NAME}{ending}")
    return f"/?template={NAME}&source={SHELF}"


if __name__ == "__main__":
    end_in_order()
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        say("ended")
    except Failure as failure:
        say(f"failed: {failure}")
        sys.exit(1)
