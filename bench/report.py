"""RESULTS.md, written from the numbers of one run."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

import torch

from . import TITLES, bars, host, sections
from .budgets import STEPS, Errors
from .measure import Timing, quartiles
from .memory import Memory
from .profiles import PYTHON, Profile
from .suite import Compared, Results
from .ways import EXACT_BATCHED, PLAIN

HOW = """Every way samples from the same weights in one process, in rounds A B C A B C ...; a number is the median over
the rounds, in brackets the quartiles of the ratios to plain CFG of the same round. {clock} A run whose result is not
the exact one to rounding (1e-3) stops the benchmark, so all exact ways did the same computation. *Rows* are model
evaluations per step and image. *First step* is from loaded files and unloaded models to the end of the first step (RLG
verifies its batched pass in it, once per model and shape); *new scale* is the first step of a run after the scale was
changed; both in plain steps. *Weights* are all tensors alive between runs, *peak* those plus what a run adds; each in a
process of its own."""

CLOCK_CPU = (
    "Time is processor time of the process with {threads} thread: on an idle machine that is the time of the clock."
)
CLOCK_GPU = "Time is the clock's, the GPU synchronised at every step."

LIMITS = """What bounds each way. *Plain CFG*: its own arithmetic. *Exact RLG, batched*: twice that arithmetic plus the
terms (a few percent), one pass over the weights. *Two passes*: the same with every call and every byte of weights
twice. *Two checkpoints, two copies, core's shape*: twice arithmetic and twice weights; core's shape halves the batch of
each call on top. *The paper's loop*: as two passes, plus PEFT's layers around every adapted layer. *Patching*: as two
passes, plus a rebuild of all adapted weights twice per step, which grows with the model and not with the picture. *At
peak* is the arithmetic at the fastest matrix product seen here ({peak:.0f} GFLOP/s); the columns after it say where the
rest of the step goes."""

NO_DEMO = "Not measured: the demo pair's files are not there."


def write(results: Results, folder: Path) -> Path:
    """RESULTS.md and its plots in `folder`."""
    from . import plots

    if results.sweeps:
        plots.cost_growth(results.sweeps, folder / "growth.png")
    if results.budgets and any(modes["linearised"].error for modes in results.budgets.values()):
        plots.error_against_cost(results.budgets, folder / "budgets.png")
    path = folder / "RESULTS.md"
    others = sections.read(path)[1]
    path.write_text("\n".join(_sections(results)) + "\n", encoding="utf-8")
    head, own = sections.read(path)
    path.write_text(sections.joined(head, own | {k: v for k, v in others.items() if k in TITLES}), encoding="utf-8")
    return path


def _sections(results: Results) -> Iterable[str]:
    clock = CLOCK_GPU if torch.cuda.is_available() else CLOCK_CPU.format(threads=torch.get_num_threads())
    yield "# Benchmark\n\nWritten by `python dev.py bench`.\n"
    yield f"{machine()}\n\n{HOW.format(clock=clock)}\n\n## Bars\n"
    yield table(("bar", "measured", "holds"), bars.of(results))
    for name, compared in results.compared.items():
        yield (
            f"\n## {name[0].upper()}{name[1:]}\n\n{_comparison(compared)}\n\n"
            f"{_profiles(compared)}\n\n{_distance(compared)}"
        )
    yield f"\n## What limits each way\n\n{LIMITS.format(peak=results.peak_flops / 1e9)}"
    if results.sweeps:
        yield "\n## How cost grows\n\n![Cost by resolution and batch](growth.png)\n"
    yield from (f"{_sweep(sweep)}\n" for sweep in results.sweeps)
    yield f"\n## Budgets\n\n{_budgets(results.budgets)}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {_processor()}"
    return (
        f"{date.today().isoformat()}; {device}; {torch.get_num_threads()} thread; PyTorch {torch.__version__}, Python "
        f"{platform.python_version()}, ComfyUI {host.version()}, {platform.system()}."
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def spread(values: Sequence[float]) -> str:
    """`median (first quartile-third quartile)`"""
    middle, low, high = quartiles(values)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def _comparison(compared: Compared) -> str:
    floor, plain_memory = compared.timings[PLAIN.name], compared.memory[PLAIN.name]
    head = (
        "way",
        "ms per step",
        "x plain CFG",
        "rows",
        "first step",
        "new scale",
        "weights MB (x)",
        "peak MB",
        "off exact",
    )
    return table(
        head,
        [
            (
                name,
                f"{1000 * quartiles(timing.step)[0]:.1f}",
                spread(timing.ratios(floor, "step")),
                f"{timing.rows:.2g}",
                f"{quartiles(timing.ratios(floor, 'first'))[0]:.1f}",
                f"{quartiles(timing.ratios(floor, 'changed'))[0]:.1f}",
                *_remembered(compared.memory.get(name), plain_memory),
                f"{timing.error:.0e}",
            )
            for name, timing in compared.timings.items()
        ],
    )


def _remembered(memory: Memory | None, plain: Memory) -> tuple[str, str]:
    if memory is None:
        return "", ""
    return f"{memory.weights / 1e6:.1f} ({memory.weights / plain.weights:.2f})", f"{memory.peak / 1e6:.0f}"


def _profiles(compared: Compared) -> str:
    kinds = list(next(iter(compared.profiles.values())).seconds)
    head = (
        "a step of",
        "GFLOP",
        "at peak, ms",
        "measured, ms",
        *(f"{kind}, ms" for kind in kinds),
        f"{PYTHON}, ms",
        "torch calls",
    )
    return table(head, [_profile(name, p, compared.timings[name]) for name, p in compared.profiles.items()])


def _profile(name: str, profile: Profile, timing: Timing) -> tuple[str, ...]:
    measured = quartiles(timing.step)[0]
    operators = sum(profile.seconds.values())
    return (
        name,
        f"{profile.flops / 1e9:.1f}",
        f"{1000 * profile.limit:.1f}",
        f"{1000 * measured:.1f}",
        *(f"{1000 * seconds:.1f}" for seconds in profile.seconds.values()),
        f"{1000 * max(0.0, measured - operators):.1f}",
        f"{profile.calls:.0f}",
    )


def _distance(compared: Compared) -> str:
    """What exact RLG costs beyond twice plain CFG, or spares."""
    ours, plain = compared.profiles[EXACT_BATCHED.name], compared.profiles[PLAIN.name]
    ratio = quartiles(compared.timings[EXACT_BATCHED.name].ratios(compared.timings[PLAIN.name], "step"))[0]
    terms = ours.flops / plain.flops - 2
    return (
        f"Exact RLG does {2 + terms:.2f} times plain CFG's arithmetic (the terms are {100 * terms:.1f} % of a plain "
        f"step) in {ours.calls / plain.calls:.2f} times its torch calls and {ratio:.2f} times its time. A run's state "
        f"takes {1e3 * compared.attach[0]:.2f} ms to make; attaching and detaching takes "
        f"{1e6 * compared.attach[1]:.0f} us per model call."
    )


def _sweep(sweep) -> str:
    head = (f"{sweep.axis}, x plain CFG", *map(str, sweep.values))
    rows = [(name, *(f"{ratio:.2f}" for ratio in sweep.ratios(name))) for name in sweep.seconds]
    return table(head, rows)


def _budgets(budgets: Mapping[float, Mapping[str, Errors]]) -> str:
    if not any(modes["linearised"].error for modes in budgets.values()):
        return NO_DEMO
    count = len(next(iter(next(iter(budgets.values())).values())).error)
    head = ("mode", *(f"w = {scale:g}: x cost, median, 90th percentile, over 10 % off" for scale in budgets))
    rows = [
        (
            mode,
            *(_errors(e[mode]) for e in budgets.values()),
        )
        for mode in next(iter(budgets.values()))
    ]
    return (
        f"The demo pair, CFG 2, {STEPS} Euler steps, {count} runs per cell (seeds and adapters). Cost in model "
        "evaluations over plain CFG's (exact: 2); error of the final latent relative to the exact one; the share of "
        "runs that end more than 10 % off, which is another picture, with its 95 % interval (Wilson).\n\n"
        f"{table(head, rows)}\n\n"
        "![Error against cost](budgets.png)"
    )


def _errors(errors: Errors) -> str:
    share, low, high = (100 * value for value in errors.far)
    sizes = f"{errors.median_cost:.2f}, {100 * errors.median:.2f} %, {100 * errors.tail:.2f} %"
    return f"{sizes}, {share:.1f} % ({low:.1f}-{high:.1f})"


def timings(found: Mapping[str, Timing]) -> str:
    """The table of one case: the time of each way's step beside plain CFG's."""
    floor = found[PLAIN.name]
    return table(
        ("way", "ms per step", "x plain CFG", "rows", "off exact"),
        [
            (
                name,
                f"{1000 * quartiles(t.step)[0]:.1f}",
                spread(t.ratios(floor, "step")),
                f"{t.rows:.2g}",
                f"{t.error:.0e}",
            )
            for name, t in found.items()
        ],
    )
