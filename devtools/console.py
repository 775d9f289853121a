"""Progress lines and failures that say what to do."""

import difflib
import os
import re
import signal
import sys
import time

STARTED = float(os.environ.setdefault("RLG_STARTED", str(time.time())))  # one clock for dev.py and what it becomes


class Failure(Exception):
    """Something outside this program is missing or broken; the message says what to do about it."""


def say(text):
    """Print one line of progress with the seconds since `dev.py` started."""
    print(f"[{time.time() - STARTED:5.0f} s] {text}", flush=True)


def nearest(word, known):
    """Return "; did you mean ...?" with the known word that is nearest to `word`, "" where none is near."""
    found = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def end_in_order():
    """Have a kill, or the terminal's end, end this program as an error does, so that what it started ends too."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores it
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def tail(path, lines=30):
    """Return the last lines of a log, without its colours."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return "\n".join(re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()[-lines:])
