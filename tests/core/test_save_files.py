"""Adapter files on disk: whole or not there, readable by whom the user's umask lets read, refused in plain words."""

import errno
import multiprocessing
import os
import random
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlg_core.errors import AdapterError
from rlg_core.formats import read_adapter
from rlg_core.save import files, write, write_peft

REPOSITORY = Path(__file__).resolve().parents[2]
TENSORS = {"a": torch.ones(3)}


def left(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no umask")
def test_the_umask_decides_who_reads(tmp_path, umask):
    write(tmp_path / "x.safetensors", TENSORS, {})
    write_peft(tmp_path / "folder", TENSORS, {"r": 1}, {})
    for path in (tmp_path / "x.safetensors", *(tmp_path / "folder").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, error):
    real = files.save_file

    def fails_at_the_end(tensors, path, metadata):
        real(tensors, path, metadata)
        raise error

    monkeypatch.setattr(files, "save_file", fails_at_the_end)
    expected = AdapterError if isinstance(error, OSError) else KeyboardInterrupt
    for save in (
        lambda: write(tmp_path / "x.safetensors", TENSORS, {}),
        lambda: write_peft(tmp_path / "p", TENSORS, {}, {}),
    ):
        with pytest.raises(expected) as raised:
            save()
        assert expected is KeyboardInterrupt or "No space left on device" in str(raised.value)
    assert left(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="Windows has no limit for the size of files")
@pytest.mark.parametrize("save", ["write(folder / 'x.safetensors', big, {})", "write_peft(folder / 'p', big, {}, {})"])
def test_a_disk_that_fills_up(tmp_path, save):
    """The real writer where no file may grow beyond 64 KiB, as on a disk with so much left."""
    code = f"""
import pathlib, resource, signal, torch
from rlg_core.save import write, write_peft
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
folder, big = pathlib.Path({str(tmp_path)!r}), {{"a": torch.ones(65536)}}
{save}
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert "AdapterError" in run.stderr and "cannot be written" in run.stderr
    assert left(tmp_path) == []


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(AdapterError, match="cannot be written"):
        write(tmp_path / "out" / "x.safetensors", TENSORS, {})


def test_nothing_is_overwritten(tmp_path):
    write(tmp_path / "x.safetensors", TENSORS, {})
    with pytest.raises(AdapterError, match="not overwritten"):
        write(tmp_path / "x.safetensors", {"a": torch.zeros(3)}, {})
    (tmp_path / "p").mkdir()
    with pytest.raises(AdapterError, match="not overwritten"):
        write_peft(tmp_path / "p", TENSORS, {}, {})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_killed_while_writing(tmp_path):
    """Whatever has its final name is whole, wherever the writer was when it was killed."""
    draw, big = random.Random(0), {f"tensor {k}": torch.full((4096,), float(k)) for k in range(60)}
    context = multiprocessing.get_context("fork")
    for number in range(20):
        folder, enough = tmp_path / str(number), draw.randint(1, 3)
        writer = context.Process(target=_write_on, args=(folder, big))
        writer.start()
        while len(list(folder.glob("*.safetensors"))) < enough and writer.is_alive():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.02))
        writer.kill()
        writer.join()
    whole = [path for path in tmp_path.rglob("*.safetensors") if ".tmp" not in str(path)]
    assert len(whole) >= 20
    for path in whole:
        assert load_file(path).keys() == big.keys()
    for folder in (path for path in tmp_path.glob("*/peft *") if path.suffix != ".tmp"):
        assert left(folder) == ["adapter_config.json", "adapter_model.safetensors"]


def _write_on(folder, tensors):
    for number in range(10_000):
        write(folder / f"{number}.safetensors", tensors, {})
        write_peft(folder / f"peft {number}", tensors, {"r": number}, {})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("save", [write, write_peft], ids=lambda save: save.__name__)
def test_a_folder_without_permission_to_write(save):
    """As a user who is not root: what lies there loads, and what cannot be saved there is refused by name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = {f"transformer.a.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}
        write(folder / "rl.safetensors", weights, {})
        (folder / "rl.safetensors").chmod(0o644)
        folder.chmod(0o555)
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=_as_nobody, args=(theirs, folder, save))
        process.start()
        process.join(60)
        changes, refusal = ours.recv()
        folder.chmod(0o755)
        assert changes == ["transformer.a"] and left(folder) == ["rl.safetensors"]
        assert refusal.startswith("new.safetensors: cannot be written") and "Permission denied" in refusal


def _as_nobody(told, folder, save):
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)
    changes = [change.module for change in read_adapter(folder / "rl.safetensors", alpha=4.0).changes]
    try:
        save(folder / "new.safetensors", TENSORS, {}, *([{}] if save is write_peft else []))
    except AdapterError as error:
        told.send((changes, str(error)))
