"""What the pack's nodes show in the graph editor: reports, notices, presets, and what is wrong."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from support.editor import add_node, connect, open_workflow, reopen, run, set_widget, text_on, widgets

APPLY, LOADER, SCHEDULE = "RLGApply", "RLGAdapterLoader", "RLGSchedule"
NODE_ERRORS = "JSON.stringify(app.lastNodeErrors ?? {})"
LAST_ERROR = "({...app.lastExecutionError})"


@pytest.fixture
def starter(page):
    open_workflow(page)
    return page


@pytest.mark.newest_editor
def test_the_report_stays_on_the_loader(starter, screenshots):
    set_widget(starter, LOADER, "strength", 0.9)  # no other test has run this loader: cached nodes report nothing
    assert run(starter, 1001) == "execution_success"
    report = text_on(starter, LOADER)
    assert "alpha: 16" in report and "adapter_config.json" in report
    assert run(starter, 1002) == "execution_success"
    assert text_on(starter, LOADER) == report, "the second run takes the loader's result from the first"
    starter.screenshot(path=screenshots / "report.png")
    saved = starter.evaluate("app.graph.serialize().nodes.find(n => n.type == 'RLGAdapterLoader').widgets_values")
    assert report not in saved


def test_a_notice_stays_until_the_wires_are_right(starter, screenshots):
    assert run(starter, 1003) == "execution_success" and text_on(starter, APPLY) == ""
    connect(starter, LOADER, 0, APPLY, "model")
    connect(starter, "UNETLoader", 0, APPLY, "rl_model")
    assert run(starter, 1003) == "execution_success"
    starter.screenshot(path=screenshots / "notice.png")
    assert "the two inputs are swapped" in text_on(starter, APPLY)
    connect(starter, "UNETLoader", 0, APPLY, "model")
    connect(starter, LOADER, 0, APPLY, "rl_model")
    assert run(starter, 1004) == "execution_success" and text_on(starter, APPLY) == ""


def test_what_a_preset_and_a_schedule_replace_is_greyed_out(starter, screenshots):
    add_node(starter, SCHEDULE)
    set_widget(starter, SCHEDULE, "preset", "RL early, base late")
    found = widgets(starter, SCHEDULE)
    values = {"shape": "interval", "scale_from": 1, "scale_to": 0, "start_percent": 0, "end_percent": 0.6}
    assert {name: found[name] for name in values} == {name: (value, True) for name, value in values.items()}
    connect(starter, SCHEDULE, 0, APPLY, "schedule")
    greyed = {name for name, (_, disabled) in widgets(starter, APPLY).items() if disabled}
    assert greyed == {"scale", "start_percent", "end_percent"}
    starter.screenshot(path=screenshots / "preset.png")
    set_widget(starter, SCHEDULE, "preset", "custom")
    assert not any(disabled for _, disabled in widgets(starter, SCHEDULE).values())
    starter.evaluate("app.graph.remove(app.graph.nodes.find(n => n.type == 'RLGSchedule'))")
    assert not any(disabled for _, disabled in widgets(starter, APPLY).values())


@pytest.mark.newest_editor
def test_after_a_preset_the_users_own_numbers_come_back(starter):
    add_node(starter, SCHEDULE)
    own = {"shape": "power", "scale_from": 2.25, "scale_to": 0.5, "start_percent": 0.1, "end_percent": 0.8, "power": 3}
    for name, value in own.items():
        set_widget(starter, SCHEDULE, name, value)
    set_widget(starter, SCHEDULE, "preset", "paper")
    set_widget(starter, SCHEDULE, "preset", "limited interval")
    reopen(starter)
    shown = widgets(starter, SCHEDULE)
    assert shown["scale_from"] == (2.5, True) and shown["power"][0] != own["power"]
    set_widget(starter, SCHEDULE, "preset", "custom")
    shown = widgets(starter, SCHEDULE)
    assert {name: shown[name] for name in own} == {name: (value, False) for name, value in own.items()}
    set_widget(starter, SCHEDULE, "power", 2)
    set_widget(starter, SCHEDULE, "preset", "custom")
    assert widgets(starter, SCHEDULE)["power"][0] == 2, "nothing is covered any more"


def broken_file(server, name):
    path = server.folder / "models" / "loras" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.newest_editor
def test_a_broken_file_is_red_before_anything_runs(starter, server, screenshots):
    broken_file(server, "page.safetensors").write_bytes(b"<!DOCTYPE html><html></html>")
    set_widget(starter, LOADER, "lora_name", "page.safetensors")
    starter.evaluate("app.queuePrompt(0)")
    starter.wait_for_function("Object.keys(app.lastNodeErrors ?? {}).length > 0")
    starter.wait_for_timeout(500)
    starter.screenshot(path=screenshots / "red.png")
    assert "page.safetensors: this is a web page" in starter.evaluate(NODE_ERRORS)
    assert starter.evaluate("Object.values(app.lastNodeErrors).map(e => e.class_type)") == [LOADER]
    close_dialogs(starter)


def test_an_error_begins_with_the_file(starter, server, screenshots):
    save_file({"a.lora_A.weight": np.full((2, 4), np.nan, np.float32)}, broken_file(server, "nan.safetensors"))
    set_widget(starter, LOADER, "lora_name", "nan.safetensors")
    set_widget(starter, LOADER, "alpha", 2)
    assert run(starter, 1005) == "execution_error"
    starter.wait_for_timeout(500)
    starter.screenshot(path=screenshots / "error.png")
    error = starter.evaluate(LAST_ERROR)
    assert error["exception_type"] == "RLG.AdapterError"
    assert error["exception_message"].startswith("nan.safetensors: ")
    assert "Folder: " in error["exception_message"].splitlines()[1]
    close_dialogs(starter)


def close_dialogs(page):
    """Put away what the editor shows of an error, so that the next test sees the graph."""
    page.keyboard.press("Escape")
    page.evaluate("app.lastNodeErrors = null; app.lastExecutionError = null")
