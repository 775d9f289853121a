"""`python leash.py PARENT FOLDER COMMAND...`: run a command that ends when its parent does, however that ends.

A worker that is killed cannot end the server it started. This process, between the two, looks again and again whether
the worker is still its parent; once it is not, it ends the server and removes the server's folder.
"""

import os
import shutil
import signal
import subprocess
import sys

INTERVAL, PATIENCE = 0.5, 5  # seconds between two looks; seconds that the command has to end by itself


def main(parent, folder, *command):
    """Run the command to its end, or to the parent's, or to a SIGTERM."""
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    child = subprocess.Popen(command)
    while not told and os.getppid() == int(parent):
        try:
            return child.wait(INTERVAL)
        except subprocess.TimeoutExpired:
            pass
    end(child)
    if not told:
        shutil.rmtree(folder, ignore_errors=True)
    return 1


def end(child):
    """End the command: politely, then by force."""
    child.terminate()
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
