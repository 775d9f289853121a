"""The lanes of the test run: which of them a command line means, and what each runs."""

import os
import sys
from argparse import ArgumentTypeError
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import environment, hosts
from .console import Failure, nearest
from .paths import ROOT

ON_HOSTS = ("host", "browser", "sweep", "server", "device", "packs")  # once per host, the longest first
KINDS = (*ON_HOSTS, "core", "ruff")
ON_DEVICE = ("tests/device", "tests/host/test_guidance.py", "tests/host/test_samplers.py", "tests/host/test_control.py")
"""What the device lane runs: the tests of its own, and some of the host lane's again."""
STYLE = {"ruff check": ("check", "."), "ruff format": ("format", "--check", ".")}


@dataclass(frozen=True)
class Lane:
    """One child process: its name, its command, and what it needs to know of a host; or why it is left out."""

    name: str
    command: tuple = ()
    environment: dict = field(default_factory=dict)
    left_out: str = ""


def part(text):
    """Return (kind, pytest target) that a lane's name, or a path below tests/ with ::name or without, stands for."""
    if text in KINDS:
        return text, f"tests/{text}"
    path, colons, name = text.partition("::")
    file = (ROOT / path).resolve()
    if not file.exists():
        raise ArgumentTypeError(
            f"{text!r} is no file and none of {', '.join(KINDS)}{nearest(path, [*KINDS, *files()])}"
        )
    below = file.relative_to(ROOT / "tests").parts if file.is_relative_to(ROOT / "tests") else ()
    if not below or below[0] not in KINDS:
        raise ArgumentTypeError(f"{text!r} lies in no lane's folder: tests/{', tests/'.join(KINDS[:-1])}")
    return below[0], "/".join(("tests", *below)) + colons + name


def files():
    """Return the test files as one would type them."""
    return [file.relative_to(ROOT).as_posix() for file in (ROOT / "tests").glob("*/test_*.py")]


def lanes(parts, version="", arguments=()):
    """Return the lanes that `parts` ask for, all where there are none; `arguments` are for pytest.

    `version` is that of the one host to test on, "" for all.
    """
    targets = {kind: [target for of, target in parts or map(part, KINDS) if of == kind] for kind in KINDS}
    targets["device"] = list(ON_DEVICE) if "tests/device" in targets["device"] else targets["device"]
    reason = why_no_packs() if targets["packs"] else ""
    kinds = [kind for kind in KINDS if targets[kind] and not (kind == "packs" and reason)]
    tested = tested_hosts(version) if set(kinds) & set(ON_HOSTS) else []
    found = [
        Lane(" ".join((kind, host.version, *pack)), pytest(kind, targets[kind], arguments), variables(host, *pack))
        for kind in kinds
        if kind in ON_HOSTS
        for host in tested
        for pack in (packs() if kind == "packs" else [()])
    ]
    if targets["browser"] == ["tests/browser"] and not hosts.own_host() and tested[0].version == hosts.CURRENT.version:
        found.append(newest_editor(tested[0], arguments))
    if "core" in kinds:
        found.append(Lane("core", pytest("core", targets["core"], arguments)))
    if "ruff" in kinds:
        found += [Lane(name, (sys.executable, "-m", "ruff", *options)) for name, options in STYLE.items()]
    return [*found, Lane("packs", left_out=reason)] if reason else found


def newest_editor(host, arguments):
    """Return the lane of the browser tests that are also run on the newest graph editor there is."""
    folder = hosts.newest_editor(host.python)
    if not folder:
        return Lane("browser, newest editor", left_out="the package index does not answer, and none is here")
    name = f"browser {host.version}, editor {folder.name}"
    environment = hosts.to_environment(replace(host, frontend=str(folder))) | {"RLG_SCREENSHOTS": name}
    return Lane(name, pytest("browser", ["tests/browser"], ("-m", "newest_editor", *arguments)), environment)


def pytest(kind, targets, arguments):
    """Return the command that runs tests of one kind, printing a numbered line for each."""
    own = ROOT / "tests" / kind / "pytest.ini"  # keeps `nodes` and `sweep` apart from others
    ini = own if own.exists() else ROOT / "tests" / "pytest.ini"
    numbered = ("-v", "--no-header", "-o", "console_output_style=count")
    return (sys.executable, "-m", "pytest", *numbered, "-c", str(ini), *targets, *arguments)


def packs():
    """Return the third-party packs that are there, each to be run alone: some replace functions of the host's."""
    return [(folder.name,) for folder in sorted(Path(os.environ["RLG_PACKS"]).iterdir()) if folder.is_dir()]


def variables(host, pack=""):
    """Return the environment variables that tell a lane of its host and, if it has one, of its pack."""
    own = {"RLG_PACK": pack, "PYTHONPATH": environment.packages_for_packs()} if pack else {}
    return {**hosts.to_environment(host), **own}


def why_no_packs():
    """Return why the tests with third-party packs cannot run, "" where they can."""
    folder = os.environ.get("RLG_PACKS")
    if not folder:
        return "RLG_PACKS names no folder of third-party packs"
    if not Path(folder).is_dir():
        raise Failure(f"RLG_PACKS is {folder}, and there is no such folder.")
    return "" if (ROOT / "tests" / "packs").is_dir() else "there is no tests/packs"


def versions():
    """Return the versions of the hosts there are to test on."""
    own = hosts.own_host()
    return [own.version] if own else [release.version for release in hosts.RELEASES]


def tested_hosts(version=""):
    """Return the user's own ComfyUI where one is named, else the supported releases, or the one of `version`."""
    own = hosts.own_host()
    if own:
        return [own]
    return [hosts.fetch(release, sys.executable) for release in hosts.RELEASES if version in ("", release.version)]
