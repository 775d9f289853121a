"""`python leash.py SERVER FOLDER`: end a server, and remove its folder, once the worker that started it has ended.

A worker that is killed can end nothing. It holds one end of a pipe, whose other end is this process's standard input:
however the worker ends, the pipe does too. Ray kills the children of a worker that ends in order, so this process
makes itself nobody's child; a worker that ended its server by itself says so.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

PATIENCE = 5
"""Seconds that a server has to end by itself."""


class Leash:
    """Ties a process, and a folder of its own, to this one."""

    def __init__(self, server, folder):
        command = [sys.executable, __file__, str(server), str(folder)]
        self.starter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.starter.wait()

    def release(self):
        """Say that the process has ended."""
        self.starter.stdin.write(b"ended")
        self.starter.stdin.close()


def watch(server, folder):
    """Wait for the worker's end, or for its word that there is nothing to end."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if sys.stdin.buffer.read():
        return
    end(server)
    shutil.rmtree(folder, ignore_errors=True)


def end(server):
    """End a process: politely, then by force."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                os.kill(server, kind)
            except ProcessLookupError:
                return
            time.sleep(0.1)


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2])
