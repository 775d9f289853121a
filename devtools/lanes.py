"""`python dev.py test`: ruff, then every test lane, on every host."""

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

from . import hosts
from .console import Failure, say
from .paths import ROOT

COUNTED = ("passed", "failed", "skipped")
INI = "tests/pytest.ini"
HOST_INI = "tests/host/pytest.ini"  # keeps the pack's own `nodes` from hiding the host's
AT_ONCE = 2  # lanes side by side, one thread each


@dataclass(frozen=True)
class Lane:
    """One child process: its name, its command, and what it needs to know of a host."""

    name: str
    command: list
    environment: dict = field(default_factory=dict)

    def run(self):
        """Return (exit status, output, seconds)."""
        started = time.time()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **self.environment}
        process = subprocess.run(
            self.command,
            cwd=ROOT,
            env=environment,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return process.returncode, process.stdout, time.time() - started


def lanes(tested):
    """Return every lane for the hosts under test, the longest first."""
    found = [
        Lane(f"{kind} {host.version}", pytest(ini, f"tests/{kind}"), hosts.to_environment(host))
        for kind, ini in (("host", HOST_INI), ("browser", INI), ("server", INI))
        for host in tested
    ]
    return [*found, Lane("core", pytest(INI, "tests/core")), Lane("ruff", ruff())]


def pytest(ini, folder):
    """Return the command that runs one folder of tests."""
    return [sys.executable, "-m", "pytest", "-q", "-c", ini, folder]


def ruff():
    """Return the command that checks the style."""
    return [sys.executable, "-m", "ruff", "check", "."]


def tested_hosts():
    """Return the user's own ComfyUI where one is named, else both supported releases."""
    own = hosts.own_host()
    return [own] if own else [hosts.fetch(release, sys.executable) for release in hosts.RELEASES]


def count(lane, status, output):
    """Return {passed, failed, skipped} of a lane; one that ended badly without a count has one failure."""
    if lane.name == "ruff":
        return {"passed": int(status == 0), "failed": int(status != 0), "skipped": 0}
    summary = output.strip().splitlines()[-1] if output.strip() else ""
    found = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", summary)}
    failed = found.get("failed", 0) + found.get("error", 0)
    return {
        "passed": found.get("passed", 0),
        "failed": max(failed, int(status != 0)),
        "skipped": found.get("skipped", 0),
    }


def main():
    """Run every lane, print each one's output as it ends, and one summary line; return 1 on any failure."""
    total = dict.fromkeys(COUNTED, 0)
    say("running the tests")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {pool.submit(lane.run): lane for lane in lanes(tested_hosts())}
        for ended in as_completed(running):
            lane = running[ended]
            status, output, seconds = ended.result()
            say(f"{lane.name}: {'ok' if status == 0 else 'FAILED'} after {seconds:.0f} s")
            print(output.rstrip(), flush=True)
            for word, number in count(lane, status, output).items():
                total[word] += number
    print(", ".join(f"{total[word]} {word}" for word in COUNTED), flush=True)
    return int(total["failed"] > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        say(f"failed: {failure}")
        sys.exit(1)
