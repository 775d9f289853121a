"""The private Python environment: what is in it, and how it is made to work on any torch build."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .console import Failure, say, tail
from .paths import HOME

TORCH = "torch==2.13.0"
BESIDE_TORCH = ("torchvision==0.28.0", "torchaudio==2.11.0")  # without dependencies: they would pull another torch
FOR_TESTS = (
    *("diffusers==0.42.1", "peft==0.21.2", "accelerate", "matplotlib"),
    *("pytest>=8", "pytest-timeout", "hypothesis>=6", "ruff>=0.6", "playwright"),
    *("onnxruntime", "opencv-python-headless", "pyclipper", "shapely", "six"),  # what the OCR below needs
)
SWEEP = ("ray>=2.60", "pyarrow>=20", "rich>=13")  # the extra of pyproject.toml
FOR_PACKS = ("gguf>=0.13", "color-matcher", "mss", "PyWavelets")  # what ComfyUI-GGUF, KJNodes and RES4LYF import
# The OCR of the text reward, without dependencies and whatever its Python: it would pull the OpenCV that needs a
# desktop's libraries, and calls itself unfit for Python 3.13, which it is not.
OCR = "rapidocr-onnxruntime==1.4.4"
LEFT_OUT = {"torch", "torchvision", "torchaudio", "comfyui-workflow-templates"}  # templates: 1 GB, not needed

PYTHON = HOME / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

# Run at every start of the private Python where torchvision's compiled part does not load: the operators it would
# have registered are declared just before torchvision is first imported, so that its Python part does.
OPERATORS = '''
import sys


class DeclareOperators:
    """Import hook: declare nms and qnms when torchvision is about to be imported."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "torchvision":
            return
        sys.meta_path.remove(cls)
        import torch

        if hasattr(torch.ops.torchvision, "nms"):
            return
        cls.library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            cls.library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, DeclareOperators)
'''


def install(requirements, extras):
    """Install a host's requirements.txt and what the extras ("tests", "sweep") need; skip what is there."""
    base = [TORCH, *BESIDE_TORCH]
    wanted = host_requirements(requirements)
    if stale("host", [*base, *wanted]):
        say(f"installing {TORCH} (the largest download)")
        pip(PYTHON, "install", "--no-compile", TORCH)
        pip(PYTHON, "install", "--no-compile", "--no-deps", *BESIDE_TORCH)
        say("installing what ComfyUI needs")
        pip(PYTHON, "install", "--no-compile", *wanted, *base[:2])
        repair()
        stamp("host", [*base, *wanted])
    if "sweep" in extras and stale("sweep", SWEEP):
        say("installing what sweeps need")
        pip(PYTHON, "install", *SWEEP, *base[:2])  # compiled: Ray gives the processes that it starts 15 s to be up
        stamp("sweep", SWEEP)
    if "tests" in extras and stale("tests", [*FOR_TESTS, OCR]):
        say("installing what the tests need")
        pip(PYTHON, "install", "--no-compile", *FOR_TESTS, *base[:2])
        pip(PYTHON, "install", "--no-compile", "--no-deps", "--ignore-requires-python", OCR)
        stamp("tests", [*FOR_TESTS, OCR])


def packages_for_packs():
    """Return the folder of what third-party packs import, installed beside the environment and not into it."""
    folder = HOME / "packs"
    if stale("packs", FOR_PACKS):
        say(f"installing what third-party packs import ({', '.join(FOR_PACKS)}) into {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        pip(PYTHON, "install", "--no-compile", "--no-deps", "--target", str(folder), *FOR_PACKS)
        shutil.rmtree(folder / "tests", ignore_errors=True)  # color-matcher's own, under a name of everybody's
        stamp("packs", FOR_PACKS)
    return str(folder)


def stale(group, requirements):
    """Tell whether a group of requirements is yet to be installed as it now stands."""
    file = HOME / "venv" / f"rlg-{group}.txt"
    return not file.exists() or file.read_text() != "\n".join(requirements)


def stamp(group, requirements):
    """Note that a group of requirements is installed."""
    (HOME / "venv" / f"rlg-{group}.txt").write_text("\n".join(requirements))


def host_requirements(requirements):
    """Return the lines of ComfyUI's requirements.txt that the environment installs as they stand."""
    lines = [line.split("#")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    return sorted(line for line in lines if line and re.match(r"[\w.-]+", line).group().lower() not in LEFT_OUT)


def create():
    """Make the empty virtual environment."""
    if PYTHON.exists():
        return
    say(f"making a private Python environment in {HOME}")
    shutil.rmtree(HOME / "venv", ignore_errors=True)  # one whose Python is gone
    command = [sys.executable, "-m", "venv", str(HOME / "venv")]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        shutil.rmtree(HOME / "venv", ignore_errors=True)  # half of one would pass for whole in the next run
        raise Failure(
            f"{sys.executable} cannot make a virtual environment: {(made.stdout + made.stderr).strip()}\n"
            "On Debian and Ubuntu `apt install python3-venv` helps; else start dev.py with another Python."
        )


def repair():
    """Make torchvision and torchaudio importable where their compiled parts do not fit this torch build."""
    error = import_error()
    if "torchvision::nms" in error:
        say("torchvision's compiled part does not fit this torch: declaring its operators")
        (site_packages() / "rlg_torchvision_operators.py").write_text(OPERATORS)
        (site_packages() / "rlg_torchvision_operators.pth").write_text("import rlg_torchvision_operators\n")
        error = import_error()
    if error:
        say("torchaudio's compiled part does not fit this torch: taking it out")
        for library in (site_packages() / "torchaudio" / "lib").glob("*torchaudio*"):
            library.unlink()
        error = import_error()
    if error:
        raise Failure(f"torch does not work in {HOME}: {error}\nDelete that folder and run again.")


def import_error():
    """Return the last line of what importing the torch packages in the private environment raises, "" if nothing."""
    command = [PYTHON, "-c", "import torch, torchvision, torchaudio"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return run.stderr.strip().splitlines()[-1] if run.returncode else ""


def site_packages():
    """Return the folder the private environment installs packages into."""
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    return Path(subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.strip())


def pip(python, action, *arguments):
    """Run pip, tell its large downloads as they start, keep its output in a log, raise Failure with advice."""
    log = HOME / "logs" / "pip.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    quiet = ("--no-input", "--disable-pip-version-check", "--progress-bar", "off")
    command = [str(python), "-m", "pip", action, *quiet, *arguments]
    with log.open("a", encoding="utf-8") as record:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        for line in process.stdout:
            record.write(line)
            if re.search(r"Downloading .*\((\d{2,}[.\d]* MB|[.\d]+ GB)\)|Installing collected|Building wheel", line):
                say("  " + line.strip()[:110])
    if process.wait():
        end = tail(log, 15)
        raise Failure(f"pip {action} {' '.join(arguments)}\n{end}\n{advice(end)}\nThe whole log: {log}")


def advice(log):
    """Return what to do about a pip failure."""
    if "No matching distribution found for torch" in log:
        return f"There is no {TORCH} for this machine and Python {sys.version.split()[0]}: try Python 3.10 to 3.14."
    if "No space left" in log:
        return "The disk is full: free about 8 GB, or let RLG_HOME name a folder on another disk."
    return "Check the network and `pip config list`, then run the same command again: it goes on where it stopped."
