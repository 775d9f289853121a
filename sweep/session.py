"""A sweep from its files to its report."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from devtools import hosts, lock
from devtools.console import Failure, say

from . import choose, graph, report
from . import spec as sweep_file
from .board import Board, lasting
from .checks import graphs_of, literals, problems
from .cluster import Shape, cluster
from .drive import Driver, Hand
from .plan import Plan, Unit
from .recipe import recipe
from .server import Running
from .spec import PROMPT, SEED
from .store import Store
from .worker import Facts, Job


@dataclass(frozen=True)
class Order:
    """What is asked for on the command line."""

    workflow: Path
    sweep: Path
    results: str
    shape: Shape
    choose_w: bool = False
    dry_run: bool = False


class Session:
    """A sweep on workers that are up and checked."""

    def __init__(self, order: Order, plan: Plan, store: Store, hands: Sequence[Hand], facts: Sequence[Facts]):
        self.order, self.plan, self.store, self.hands, self.facts = order, plan, store, list(hands), facts

    def manifest(self) -> dict[str, Any]:
        """Return what the results folder says of the sweep: all that tells it from another one."""
        return {
            "format": 1,
            "mode": "choose-w" if self.order.choose_w else "grid",
            "graph": self.plan.recipe.graph,
            "spec": self.plan.spec.to_json(),
            "units": len(self.plan.units()),
            "apart": self.plan.recipe.apart,
            "host": self.facts[0].host,
            "pack": self.facts[0].pack,
            "files": dict(self.plan.files),
        }

    def run(self) -> int:
        """Run what is missing; return how many units failed."""
        manifest = self.manifest()
        self.store.claim(manifest)
        for hand in self.hands:
            hand.keeps = ray.get(hand.handle.sees.remote(manifest))
        there = self.store.done()
        reward = self.plan.spec.rewards[0].name if self.plan.spec.rewards else ""
        with Board() as board:
            driver = Driver(self.hands, self.store, self.plan.spec.run.timeout, board, reward)
            for units in self.batches():
                missing = [unit for unit in units if unit.key not in there]
                if len(missing) < len(units):
                    board.tell(f"{len(units) - len(missing)} of {len(units)} units are done already")
                driver.run(missing)
        return driver.tally.failed

    def batches(self) -> Iterator[list[Unit]]:
        """Yield the units to run: all at once, or round by round."""
        if not self.order.choose_w:
            yield self.plan.units()
            return
        searches = [Search(self.plan, self.store, own) for own in self.plan.by_setting()]
        for turn in range(max(len(search.rounds) for search in searches)):
            yield [unit for search in searches for unit in search.units(turn)]

    def evaluations(self) -> int:
        """Return how many pictures the sweep makes, where each run makes one."""
        scales, everything = len(self.plan.spec.scale.values), self.plan.by_setting()
        if not self.order.choose_w:
            return scales * sum(map(len, everything))
        return sum((r.end - r.start) * r.keep for own in everything for r in choose.rounds(scales, len(own)))

    def dry_run(self) -> None:
        """Say what the sweep will do, with times from units that are run for it and thrown away."""
        units, workers = self.plan.units(), len(self.hands)
        say(f"{len(units)} units, {self.evaluations()} pictures, {workers} workers")
        say(f"scales of a unit: {'one after the other, since ' + self.plan.recipe.apart if self.plan.recipe.apart else 'in one sampling run'}")
        for facts in self.facts:
            say(f"{facts.where}: ComfyUI {facts.host}, {facts.device}")
        first, size = probe(self.hands, units[:workers])
        later, size = probe(self.hands, units[workers : 2 * workers]) if len(units) > workers else (first, size)
        share = self.evaluations() / (len(units) * len(self.plan.spec.scale.values))
        seconds = first + later * max(0, math.ceil(len(units) * share / workers) - 1)
        say(f"a unit takes {first:.1f} s with loading, then {later:.1f} s; all of them {lasting(seconds)}")
        say(f"disk: {size * len(units) * share / 2**20:.0f} MB in {self.store.place}")
        say(f"{len(self.store.done())} units are there already")


@dataclass
class Search:
    """Successive halving in one setting: its combinations, and the scales that are left."""

    plan: Plan
    store: Store
    combinations: list[dict[str, Any]]
    keys: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.scales = list(self.plan.spec.scale.values)
        self.rounds = list(choose.rounds(len(self.scales), len(self.combinations)))
        self.combinations = shuffled(self.combinations)

    def units(self, turn: int) -> list[Unit]:
        """Return the units of a round, at the scales that the rounds before have left."""
        if turn >= len(self.rounds):
            return []
        now = self.rounds[turn]
        if turn:
            self.scales = choose.best(self.scores(), now.keep)
        units = [self.plan.unit(values, self.scales) for values in self.combinations[now.start : now.end]]
        self.keys += [unit.key for unit in units]
        return units

    def scores(self) -> dict[float, list[float]]:
        """Return the scores of the scales that are left, on the units so far."""
        reward, there = self.plan.spec.rewards[0].name, self.store.done()
        found: dict[float, list[float]] = {scale: [] for scale in self.scales}
        for row in self.store.rows([key for key in self.keys if key in there], ["scale", reward]):
            if row["scale"] in found:
                found[row["scale"]].append(row[reward])
        if not all(found.values()):
            raise Failure("No unit of a round of --choose-w succeeded: there is nothing to choose by.")
        return found


def shuffled(combinations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return combinations in an order in which the first few stand for all: any prompts, each once before any twice."""
    prompts = sorted({values[PROMPT] for values in combinations})
    random.Random(0).shuffle(prompts)
    seeds = list(dict.fromkeys(values[SEED] for values in combinations))
    return sorted(combinations, key=lambda values: (seeds.index(values[SEED]), prompts.index(values[PROMPT])))


def probe(hands: Sequence[Hand], units: Sequence[Unit]) -> tuple[float, float]:
    """Return the seconds and the bytes of a unit, run by all workers at once and thrown away."""
    started = time.monotonic()
    results = ray.get([hand.handle.run.remote(unit, False) for hand, unit in zip(hands, units)])
    for result in results:
        if result.error:
            raise Failure(f"the first units fail: {result.error['message']}")
    size = [sum(map(len, result.pictures.values())) + sum(len(r["thumbnail"]) for r in result.rows) for result in results]
    return time.monotonic() - started, sum(size) / len(size)


def start(order: Order) -> int:
    """Do what is asked for; return how many units failed."""
    workflow, spec = graph.read(order.workflow), sweep_file.read(order.sweep)
    if order.choose_w and not spec.rewards:
        raise Failure(f"{order.sweep} has no [rewards]: --choose-w chooses by the first of them.")
    how, store = recipe(workflow, spec), Store(order.results)
    # the ComfyUI of the development environment, for machines that name none of their own
    job = Job(how, order.results, spec.run.timeout, {} if order.shape.servers else started_with())
    with alone(store, order.dry_run):
        failed = at_work(order, Plan(how, spec, {}), store, job)
        return failed


def started_with() -> dict[str, str]:
    """Return the environment variables of the ComfyUI that dev.py set up; none where COMFYUI_PATH names another."""
    return {} if hosts.own_host() else hosts.to_environment(hosts.from_environment())
