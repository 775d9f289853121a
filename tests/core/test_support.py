"""docs/SUPPORT.md says what the host tests load, no more and no less."""

from __future__ import annotations

from support import cells, table
from support.architectures import ARCHITECTURES


def test_the_page_has_the_declared_cells():
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.in_page(page) == table.rendered(), "run python -m tests.support.table"


def test_limits_are_on_cells_and_hosts_that_there_are():
    for (architecture, form), reasons in cells.NOT_ON.items():
        assert architecture in ARCHITECTURES and form in (*cells.FORMATS, cells.EVERY)
        assert reasons.keys() <= set(table.VERSIONS)


def test_a_cell_that_one_host_cannot_run_says_so_with_the_reason():
    limits = {("FLUX", "LoHa"): {"0.3": "no such thing"}, ("SDXL", cells.EVERY): {"0.3": "unknown", "0.4": "gone"}}
    lines = table.rendered(cells.declared(limits), ["0.3", "0.4"]).splitlines()
    rows = {line.split(" | ")[0].removeprefix("| "): line.strip("| ").split(" | ")[1:] for line in lines}
    loha = list(cells.FORMATS).index("LoHa")
    assert rows["FLUX"][loha] == "0.4" and rows["FLUX"][loha + 1] == "yes"
    assert set(rows["SDXL"]) == {"no"} and "- FLUX, LoHa, ComfyUI 0.3: no such thing" in lines
    assert rows["FLUX"][list(cells.FORMATS).index("old diffusers")] == "-"
