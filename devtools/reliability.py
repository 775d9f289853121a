"""`python dev.py reliability`: does again whatever bench/RELIABILITY.md tells, one command after the other."""

import argparse
import os
import subprocess
import sys
from typing import NamedTuple

from . import hosts
from .console import Failure, end_in_order, nearest, say, tail
from .paths import HOME, ROOT

RELEASES = {release.version: release for release in hosts.RELEASES}


class Part(NamedTuple):
    """What `python -m` runs, once or on each host, and how many lines at the end of its output tell the figures.

    `{host}` in the command stands for the host's version, `{amount}` for how much is done: in full, or for a look.
    """

    command: str
    full: str = ""
    quick: str = ""
    on_hosts: bool = True
    closing: int = 1


PARTS = {
    "soak": Part("bench.soak --host {host} --prompts {amount}", "2000", "60", closing=32),
    "faults": Part(
        "devtools.test tests/host/test_faults.py tests/host/test_robustness.py --host {host} -- --places {amount}",
        *("all", "ten"),
    ),
    "servers": Part("devtools.test tests/server/test_faults.py --host {host}"),
    "files": Part(
        "devtools.test tests/core/test_adapter_files.py tests/core/test_save_files.py tests/core/test_patterns.py",
        on_hosts=False,
    ),
    "fuzz": Part("devtools.test tests/core/test_fuzz.py -- --fuzz-cases {amount}", "50000", "3000", on_hosts=False),
    "inputs": Part("devtools.test tests/host/test_inputs.py tests/host/test_hostile_inputs.py --host {host}"),
    "mutations": Part(
        "devtools.test tests/server/test_mutated_graphs.py --host {host} -- --mutations {amount}", "400", "40"
    ),
    "determinism": Part("bench.determinism", closing=5),
    "upgrades": Part("devtools.test tests/host/test_upgrades.py --host {host}"),
    "security": Part("devtools.test tests/core/test_security.py", on_hosts=False),
    "sweep-kills": Part("bench.sweep_kills --units {amount}", "500", "60", on_hosts=False, closing=5),
    "sweep-nodes": Part("bench.sweep_nodes --units {amount}", "200", "40", on_hosts=False, closing=5),
    "sweep-hangs": Part("bench.sweep_hangs", on_hosts=False, closing=6),
    "sweep-driver": Part(
        "devtools.test tests/sweep/test_driver.py tests/sweep/test_killed.py --host {host}", on_hosts=False
    ),
}


def options(arguments):
    """Return the options of the command line (parts, host, quick), or end with the usage."""
    parser = argparse.ArgumentParser(
        prog="python dev.py reliability",
        description="Do again whatever bench/RELIABILITY.md tells, or the named parts. In full it takes hours.",
    )
    parser.add_argument("parts", nargs="*", type=part, metavar="PART", help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--host", choices=RELEASES, help="on this release alone")
    parser.add_argument("--quick", action="store_true", help="a little of each part, for a look")
    return parser.parse_args(arguments)


def part(text):
    """Return the name of a part."""
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(PARTS)}{nearest(text, PARTS)}")
    return text


def runs(chosen):
    """Return (part's name, host's version) of all that was asked for."""
    versions = [chosen.host] if chosen.host else [*RELEASES]
    return [
        (name, version)
        for name in chosen.parts or PARTS
        for version in (versions if PARTS[name].on_hosts else versions[:1])
    ]


def command(name, version, quick):
    """Return what `python -m` runs for a part."""
    part = PARTS[name]
    return part.command.format(host=version, amount=part.quick if quick else part.full).split()


def main(arguments):
    """Run the parts, print how each one ends; return 1 where one did not hold."""
    chosen = options(arguments)
    asked = runs(chosen)
    failed = [" on ".join(run) for run in asked if not holds(*run, chosen.quick)]
    say(f"{len(asked) - len(failed)} of {len(asked)} held" + "".join(f"; not {name}" for name in failed))
    return int(bool(failed))


def holds(name, version, quick):
    """Run a part on a host, print its closing lines, and return whether it ended well."""
    log = HOME / "reliability" / f"{name} {version}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = command(name, version, quick)
    host = hosts.fetch(RELEASES[version], sys.executable)
    say(f"{name} on {version}: python -m {' '.join(words)}; its output goes to {log}")
    status = ended([sys.executable, "-m", *words], os.environ | hosts.to_environment(host), log)
    print(tail(log, PARTS[name].closing))
    say(f"{name} on {version}: {'held' if status == 0 else f'did NOT hold, status {status}'}")
    return status == 0


def ended(command, environment, log):
    """Run a command with its output in `log` until its end; return its status."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    end_in_order()
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        say("ended")
        sys.exit(130)
    except Failure as failure:
        say(f"failed: {failure}")
        sys.exit(1)
