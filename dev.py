#!/usr/bin/env python3
"""Set up everything and show, test or measure this pack on a real ComfyUI.

{commands}

`python dev.py COMMAND --help` tells a command's options. Needs Python 3.10 or newer (3.11 for all but `demo` and `ui`)
and pip's usual package index, nothing else. Everything it makes lies in `.rlg/` (or in the folder RLG_HOME names) and
can be deleted. COMFYUI_PATH=<folder> uses that ComfyUI, with its own Python, instead.
"""

import os
import subprocess
import sys
from importlib import import_module
from typing import NamedTuple


class Command(NamedTuple):
    """What `python -m` runs in the prepared Python, and what that does.

    A module of devtools has `options(arguments)`, which needs the standard library alone: it refuses what it does not
    know before anything is installed. Other packages read their arguments when they start.
    """

    module: str
    does: str
    extras: tuple = ("tests",)  # groups of packages beside ComfyUI's; () runs in a user's own ComfyUI as it is


COMMANDS = {
    "demo": Command("devtools.demo", "sample three adapters of the demo model at several scales, a sheet each", ()),
    "test": Command("devtools.test", "run every test, or a part, on both releases of ComfyUI", ("tests", "sweep")),
    "ui": Command("devtools.ui", "start the same ComfyUI for the browser, until Ctrl-C", ()),
    "bench": Command("bench", "measure the cost"),
    "evidence": Command("demo.evidence", "measure what the scale does to the demo pair", ("tests", "sweep")),
    "sweep": Command("sweep", "run a workflow over prompts, seeds and scales, on Ray", ("sweep",)),
    "soak": Command("bench.soak", "run thousands of mixed prompts through one server"),
    "reliability": Command("devtools.reliability", "do again whatever bench/RELIABILITY.md tells", ("tests", "sweep")),
}
# `python -m`, for Pythons that do not look into the current folder (those of ComfyUI's portable builds)
START = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module(sys.argv.pop(1), None, '__main__', True)"
)


def main(arguments):
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if sys.version_info < (3, 10):
        print("dev.py needs Python 3.10 or newer; this is Python " + sys.version.split()[0])
        return 2
    root = os.path.dirname(os.path.abspath(__file__))
    os.chdir(root)
    sys.path.insert(0, root)
    from devtools.console import Failure, nearest, say
    from devtools.provision import provision

    name, *rest = arguments
    if name not in COMMANDS:
        print(f"dev.py has no command {name!r}{nearest(name, COMMANDS)}\n\n{usage()}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    if command.extras and sys.version_info < (3, 11):
        print(f"dev.py {name} needs Python 3.11 or newer, as its packages do; this is Python " + sys.version.split()[0])
        return 2
    try:
        if command.module.startswith("devtools."):
            import_module(command.module).options(rest)
        python, environment = provision(command.extras)
    except Failure as failure:
        say("failed: " + str(failure))
        return 1
    return run([python, "-c", START, root, command.module, *rest], environment)


def usage():
    """Return what dev.py is and the commands it has."""
    lines = [f"    python dev.py {name:<11} {command.does}" for name, command in COMMANDS.items()]
    return __doc__.strip().format(commands="\n".join(lines))


def run(command, environment):
    """Become `command`, so that Ctrl-C and a kill reach it; Windows has no such thing and waits for it."""
    sys.stdout.flush()
    # a console or a pipe that lacks a character shows "?" in its place: Windows' often do
    environment = {"PYTHONIOENCODING": ":replace", **os.environ, **environment}
    if os.name == "posix":
        os.execve(command[0], command, environment)
    process = subprocess.Popen(command, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            pass  # Windows has sent Ctrl-C to the command too, which ends in order


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
