"""What the registry ships, which is what `.comfyignore` leaves: it stays small, and its graphs run from it."""

import shutil
import subprocess

import pytest

from devtools.paths import PACK, ROOT
from support.graphs import PUBLIC, load, pixels
from support.servers import running_server

AT_MOST = 16_000_000
STARTER = "Reinforcement Learning Guidance.json"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The pack as the registry has it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: git says which files are tracked")
    copy = tmp_path_factory.mktemp("registry") / PACK
    for name in tracked() - tracked("-i", "--exclude-from=.comfyignore"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    return copy


def tracked(*options):
    """Names of tracked files that are still there."""
    command = ["git", "ls-files", "-z", "-c", *options]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return {name for name in names if name and (ROOT / name).is_file()}


def test_it_is_small(copy):
    assert sum(path.stat().st_size for path in copy.rglob("*") if path.is_file()) <= AT_MOST


def test_every_demo_file_that_its_graphs_name_is_in_it(copy):
    names = {path.relative_to(copy / "demo" / "models").as_posix() for path in (copy / "demo" / "models").rglob("*")}
    public = {path.name for path in PUBLIC}
    for graph in (copy / "workflows" / "api").glob("*.json"):
        values = [value for node in load(graph).values() for value in node["inputs"].values()]
        named = {value for value in values if isinstance(value, str) and value.startswith("rlg-demo")}
        assert named or graph.name in public
        assert all(any(name.endswith(f"/{value}") for name in names) for value in named), graph.name


def test_every_graph_has_its_api_copy(copy):
    folder = copy / "workflows"
    assert {path.name for path in folder.glob("*.json")} == {path.name for path in (folder / "api").glob("*.json")}


def test_the_starter_runs_from_it(copy, tmp_path_factory):
    with running_server(tmp_path_factory, packs={PACK: copy}) as server:
        assert len(set(pixels(server, load(copy / "workflows" / "api" / STARTER)))) > 8, "the picture is flat"
