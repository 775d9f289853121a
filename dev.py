#!/usr/bin/env python3
"""Set up everything and show, test or measure this pack on a real ComfyUI.

    python dev.py demo       set up, sample the demo pair at several scales, leave a labelled contact sheet
    python dev.py test       set up, run every test on both supported releases of ComfyUI
    python dev.py ui         set up, start the same ComfyUI for the browser, until Ctrl-C
    python dev.py bench      set up, measure the cost
    python dev.py evidence   set up, measure what the scale does to the demo pair

Needs Python 3.10 or newer (`test`, `bench` and `evidence` 3.11) and pip's usual package index, nothing else. Everything it
makes lies in `.rlg/` (or in the folder RLG_HOME names) and can be deleted. COMFYUI_PATH=<folder> uses that ComfyUI, with its
own Python, instead.
"""

import os
import subprocess
import sys

COMMANDS = {
    "demo": "devtools.demo",
    "test": "devtools.lanes",
    "ui": "devtools.ui",
    "bench": "bench",
    "evidence": "demo.evidence",
}
# `python -m`, for Pythons that do not look into the current folder (those of ComfyUI's portable builds)
START = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module(sys.argv.pop(1), None, '__main__', True)"
)
ON_THE_HOST_ALONE = {"demo", "ui"}  # these run in a user's own ComfyUI as it is


def main(arguments):
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__.strip())
        return 0 if arguments in (["-h"], ["--help"]) else 2
    if sys.version_info < (3, 10):
        print("dev.py needs Python 3.10 or newer; this is Python " + sys.version.split()[0])
        return 2
    root = os.path.dirname(os.path.abspath(__file__))
    os.chdir(root)
    sys.path.insert(0, root)
    from devtools.console import Failure, say
    from devtools.provision import provision

    command = arguments[0]
    if command not in ON_THE_HOST_ALONE and sys.version_info < (3, 11):
        print(
            f"dev.py {command} needs Python 3.11 or newer, as diffusers does; this is Python " + sys.version.split()[0]
        )
        return 2
    try:
        python, environment = provision(everything=command not in ON_THE_HOST_ALONE)
    except Failure as failure:
        say("failed: " + str(failure))
        return 1
    return run([python, "-c", START, root, COMMANDS[command], *arguments[1:]], environment)


def run(command, environment):
    """Become `command`, so that Ctrl-C and a kill reach it; Windows has no such thing and waits for it."""
    sys.stdout.flush()
    environment = {**os.environ, **environment}
    if os.name == "posix":
        os.execve(command[0], command, environment)
    return subprocess.call(command, env=environment)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
