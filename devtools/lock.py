"""A lock on a folder: one process at a time works in it."""

import os
from contextlib import contextmanager

from .console import Failure


@contextmanager
def locked(folder, address):
    """Lock `folder` for this process; raise Failure where another one has, with that one's address."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "running.txt"
    with (folder / "running.lock").open("a") as file:
        try:
            lock(file)
        except OSError as error:
            holder = note.read_text(encoding="utf-8") if note.exists() else "another process"
            raise Failure(f"already running: {holder}. Open that address, or end that process first.") from error
        note.write_text(f"process {os.getpid()} on {address}", encoding="utf-8")
        yield


def lock(file):
    """Lock an open file until it is closed or this process ends, however it ends; OSError where another has it."""
    if os.name == "posix":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
