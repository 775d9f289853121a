"""Errors as people see them: the file's name first, the folder last, a short class."""

from __future__ import annotations

import pickle

import pytest

from rlg_core import errors
from rlg_core.errors import AdapterError, RLGError, problem


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("/models/loras/rl.safetensors: bad. Fix it.", "rl.safetensors: bad. Fix it.\nFolder: /models/loras"),
        ("C:\\loras\\my rl.safetensors: bad.", "my rl.safetensors: bad.\nFolder: C:\\loras"),
        ("\\\\nas\\share\\rl.safetensors: bad.", "rl.safetensors: bad.\nFolder: \\\\nas\\share"),
        ("/rl.safetensors: bad.", "rl.safetensors: bad.\nFolder: /"),
        ("/loras/rl/adapter_model.safetensors: bad.", "rl/adapter_model.safetensors: bad.\nFolder: /loras"),
        ("/loras/a.sft: /loras/a.json is not of it.", "a.sft: a.json is not of it.\nFolder: /loras"),
        ("scale is 1: expected /models/x.", "scale is 1: expected /models/x."),
        ("'x': no adapter below models/loras (/a/b).", "'x': no adapter below models/loras (/a/b)."),
    ],
)
def test_a_path_gives_way_to_the_name(message, told):
    error = AdapterError(message)
    assert str(error) == told
    assert error.first_line == told.partition("\nFolder:")[0]


def test_the_class_is_told_without_the_path_of_the_pack():
    raised = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RLGError)]
    assert {kind.__module__ for kind in raised} == {"RLG"} and len(raised) == 5


def test_errors_survive_the_way_to_another_process():
    error = AdapterError("/a/b.safetensors: bad.")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is AdapterError and str(back) == str(error)


def test_a_problem_is_what_the_error_says():
    def refuse(value):
        raise AdapterError(f"/a/{value}: bad.")

    assert problem(refuse, "b") == "b: bad.\nFolder: /a"
    assert problem(dict) is True
