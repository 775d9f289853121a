"""Lanes on their way: how far each is, read from what it prints, and how that is shown."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

from .console import say
from .lanes import STYLE
from .paths import ROOT

# A test's line in pytest's output, as `lanes.pytest` asks for it: tests/core/test_a.py::test_b FAILED   [ 3/12]
RESULT = re.compile(r"(?P<name>\S+::.*?) (?P<word>PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b.*\[ *(\d+)/(\d+)\]$")
COLLECTED = re.compile(r"collect.*\bcollected (\d+) items?(?: /.* (\d+) selected)?$")
NO_TESTS = 5  # pytest's exit status where it found none
PATIENCE = 20  # seconds that an interrupted lane has to end what it started


class Run:
    """One lane on its way."""

    def __init__(self, lane):
        self.lane = lane
        self.process = None
        self.lines = []  # its output without the tests' own lines
        self.done = self.total = self.failures = 0
        self.seconds = 0.0

    def __str__(self):
        tests = f"{self.done} of {self.total}" if self.total else "starting"
        return f"{self.lane.name}: {tests}" + (f", {self.failures} failed" if self.failures else "")

    def follow(self, tell):
        """Run the lane to its end, passing to `tell` what is to be known at once."""
        started = time.time()
        tell(f"{self.lane.name}: started")
        environment = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8"}
        self.process = subprocess.Popen(
            self.lane.command,
            cwd=ROOT,
            env={**os.environ, **environment, **self.lane.environment},
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it through `stop` alone, once
        )
        for line in self.process.stdout:
            self.read(line.rstrip(), tell)
        self.process.wait()
        self.seconds = time.time() - started

    def read(self, line, tell):
        """Take one line of output: a test's counts, every other one is kept."""
        if collected := COLLECTED.match(line):
            self.total = int(collected[2] or collected[1])
        result = RESULT.match(line)
        if not result:
            self.lines.append(line)
            return
        self.done, self.total = int(result[3]), int(result[4])
        if result["word"] in ("FAILED", "ERROR"):
            self.failures += 1
            tell(f"{self.lane.name}: {result['word']} {result['name']}")

    def counts(self, may_be_empty=False):
        """Return {passed, failed, skipped} of the ended lane; one that ended badly without a count has one failure.

        `may_be_empty` says that no test is no failure.
        """
        good = self.process.returncode == 0 or (may_be_empty and self.is_empty())
        if self.lane.name in STYLE:
            return {"passed": int(good), "failed": int(not good), "skipped": 0}
        summary = next((line for line in reversed(self.lines) if line), "")
        found = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", summary)}
        failed = found.get("failed", 0) + found.get("error", 0)
        return {
            "passed": found.get("passed", 0),
            "failed": max(failed, int(not good)),
            "skipped": found.get("skipped", 0),
        }

    def is_empty(self):
        """Tell whether the ended lane found no test to run."""
        return self.lane.name not in STYLE and self.process.returncode == NO_TESTS


def let_lanes_be_interrupted():
    """Keep lanes from inheriting that Ctrl-C is ignored, as shells have it for what they start in the background."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)  # still ignored here, but a handler is not inherited


def stop(runs):
    """End lanes as Ctrl-C does, so that the servers their tests started end too; after a while by force."""
    running = [run.process for run in runs if run.process and run.process.poll() is None]
    if os.name == "posix":  # Windows has told them itself
        for process in running:
            process.send_signal(signal.SIGINT)
    for process in running:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()


class Board:
    """What a person sees meanwhile: lines that stay and, on a terminal, one below them that is renewed."""

    def __init__(self):
        self.renews = sys.stdout.isatty()
        self.interval = 1 if self.renews else 25  # seconds
        self.lock = threading.Lock()
        self.shown = 0  # characters in the renewed line

    def tell(self, text):
        """Print a line that stays, with the time."""
        with self.lock:
            self.wipe()
            say(text)

    def print(self, text):
        """Print lines that stay as they are."""
        with self.lock:
            self.wipe()
            print(text, flush=True)

    def show(self, runs):
        """Print how far the lanes are that have started."""
        text = "; ".join(str(run) for run in runs if run.process)
        if not self.renews:
            self.tell(text)
            return
        with self.lock:
            self.wipe()
            text = text[: shutil.get_terminal_size().columns - 1]
            print(text, end="", flush=True)
            self.shown = len(text)

    def wipe(self):
        """Take the renewed line away."""
        if self.shown:
            print("\r" + " " * self.shown + "\r", end="")
        self.shown = 0
