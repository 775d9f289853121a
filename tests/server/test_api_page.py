"""The lines of docs/API.md, run as they stand: only the port is another."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from devtools.paths import ROOT
from support.graphs import MAIN, changed, load

PAGE = (ROOT / "docs" / "API.md").read_text(encoding="utf-8")
BASH = re.findall(r"```bash\n(.+?)```", PAGE, re.DOTALL)
(PYTHON,) = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
QUEUE, LOOK, CANCEL = BASH
NO_PROXY = {**os.environ, "NO_PROXY": "*", "no_proxy": "*"}


@pytest.fixture
def folder(tmp_path):
    """The pack's folder as a user has it; its graphs may be changed."""
    shutil.copytree(ROOT / "workflows" / "api", tmp_path / "workflows" / "api")
    return tmp_path


def start(server, folder, *command):
    """Start a command whose last word is the page's text."""
    command = [*command[:-1], command[-1].replace("http://127.0.0.1:8188", server.url)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True, env=NO_PROXY)


def curl(server, folder, text):
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    process = start(server, folder, "bash", "-ec", text)
    told, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint
    return told


def python(server, folder):
    process = start(server, folder, sys.executable, "-c", PYTHON)
    told, complaint = process.communicate(timeout=300)
    return process.returncode, told, complaint


def put(folder, graph):
    (folder / "workflows" / "api" / MAIN.name).write_text(json.dumps(graph), encoding="utf-8")


def test_curl(server, folder):
    (server.folder / "output").mkdir(exist_ok=True)
    run = json.loads(curl(server, folder, QUEUE))["prompt_id"]
    outputs = server.outputs(run)
    looked = LOOK.replace("RLG_00001_.png", outputs["save"]["images"][0]["filename"])
    assert f'"{run}"' in curl(server, folder, looked)
    assert Image.open(folder / "picture.png").size == (96, 96)


def test_python(server, folder):
    code, told, complaint = python(server, folder)
    assert code == 0, complaint
    assert re.search(r"^sampler: step 20 of 20$", told, re.MULTILINE)
    assert Image.open(folder / "picture.png").size == (96, 96)


def test_a_refusal_names_the_key_and_the_input(server, folder):
    put(folder, changed(load(), "RLGAdapterLoader", lora_name="not there"))
    code, _, complaint = python(server, folder)
    assert code and complaint.startswith("refused") and "rl_adapter" in complaint and "not there" in complaint


def test_an_error_names_the_key_and_the_file(server, folder):
    adapters = server.folder / "models" / "loras"
    adapters.mkdir(parents=True, exist_ok=True)
    (adapters / "torn.safetensors").write_bytes(b"<html>not an adapter</html>")
    put(folder, changed(load(), "RLGAdapterLoader", lora_name="torn.safetensors"))
    code, _, complaint = python(server, folder)
    assert code and "rl_adapter" in complaint and "torn.safetensors" in complaint


def test_cancelling(server, folder):
    put(folder, changed(load(), "KSampler", steps=5000))
    process = start(server, folder, sys.executable, "-c", PYTHON)
    assert process.stdout.readline().startswith("sampler: step")
    curl(server, folder, CANCEL)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode and complaint.strip() == "sampler: interrupted"
