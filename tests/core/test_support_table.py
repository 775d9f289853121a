"""The README claims what the host tests saw, no more and no less."""

from __future__ import annotations

import importlib.util
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def support_table():
    spec = importlib.util.spec_from_file_location("support_table", TESTS / "support_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_has_the_table_the_tests_made():
    table = support_table()
    readme = (TESTS.parent / "README.md").read_text(encoding="utf-8")
    assert table.in_readme(readme) == table.render(), "run python tests/support_table.py"


def test_cells_tell_hosts_apart():
    table = support_table()
    hosts = {"0.3": {"A": ["x"]}, "0.30": {"A": ["x", "y"]}}
    assert [table.cell(hosts, "A", name) for name in "xyz"] == ["yes", "0.30", "-"]
