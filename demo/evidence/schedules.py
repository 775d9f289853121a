"""A scale that changes over the run."""

from __future__ import annotations

from dataclasses import asdict

from .measure import Bench, Outcome
from .page import DIVERSITY, TITLES, Figures, read, signed, summary, table, told
from .scores import CORRECT, SHIFT
from .sizes import Sizes
from .ways import Dial, Way, constant

DIALS = {
    "constant 1 (the RL model)": constant(1.0),
    "constant 2": constant(2.0),
    "2 in the first half, then 1": Dial("interval", 2.0, 1.0, 0.0, 0.5),
    "1 in the first half, then 2": Dial("interval", 2.0, 1.0, 0.5, 1.0),
    "2 in the middle (0.2 to 0.7), else 1": Dial("interval", 2.0, 1.0, 0.2, 0.7),
    "1 in the first half, then 0 (RL early, base late)": Dial("interval", 1.0, 0.0, 0.0, 0.5),
    "0 in the first half, then 1 (base early, RL late)": Dial("interval", 1.0, 0.0, 0.5, 1.0),
    "linear 3 to 1": Dial("linear", 3.0, 1.0),
    "linear 1 to 3": Dial("linear", 1.0, 3.0),
}
TWO, FIRST, SECOND = "constant 2", "2 in the first half, then 1", "1 in the first half, then 2"


def measure(bench: Bench, sizes: Sizes) -> dict:
    """{adapter: {"reward", "rows"}}, a row for each of `DIALS`, with differences to the RL model alone."""
    found = {}
    for expert in bench.pair.experts.values():
        if expert.is_main:
            outcomes = {title: bench(Way(((expert.name, dial),)), sizes.few) for title, dial in DIALS.items()}
            rl = outcomes[next(iter(DIALS))]
            found[expert.name] = {
                "reward": expert.reward,
                "rows": [_row(title, o, rl) for title, o in outcomes.items()],
            }
    return found


def _row(title: str, outcome: Outcome, rl: Outcome) -> dict:
    over = {name: asdict(outcome.over(rl, name)) for name in outcome.values}
    return {"dial": title, "values": summary(outcome), "over_rl": over}


def report(data: dict, figures: Figures) -> list[str]:
    lines = [
        "## Schedules",
        "",
        "Halves and windows are in the schedule's percent; SD3's shift puts its middle at the noise level 0.75.",
    ]
    for name, part in data.items():
        names = list(dict.fromkeys((part["reward"], CORRECT, DIVERSITY, SHIFT)))
        body = [[row["dial"], *(told(row["values"][n]) for n in names)] for row in part["rows"]]
        lines += ["", f"### {name}", *table(["scale", *(TITLES[n] for n in names)], body)]
        lines += [f"- {sentence}" for sentence in _sentences(part)]
    return lines


def _sentences(part: dict) -> list[str]:
    reward, rows = part["reward"], {row["dial"]: row for row in part["rows"]}
    best = max(part["rows"], key=lambda row: row["values"][reward]["mean"])
    said = [f"The highest reward: {best['dial']} ({told(best['values'][reward])})."]
    gains = {half: rows[half]["over_rl"][reward] for half in (FIRST, SECOND)}
    whole = rows[TWO]["over_rl"][reward]
    if read(whole).sign:
        said.append(
            f"Over the RL model, constant 2 changes the reward by {signed(whole)}, w = 2 in the first half alone by "
            f"{signed(gains[FIRST])}, in the second half alone by {signed(gains[SECOND])}."
        )
    else:
        said.append(
            f"Constant 2 changes the reward by no more than its error ({signed(whole)}): "
            "no half can be told to matter more."
        )
    kept = [row for row in part["rows"] if read(row["over_rl"][reward]).sign >= 0]
    most = max(kept, key=lambda row: row["values"][CORRECT]["mean"])
    correct = told(most["values"][CORRECT])
    said.append(
        f"Of those with no less reward than the RL model, {most['dial']} has the most fully correct scenes ({correct})."
    )
    return said
