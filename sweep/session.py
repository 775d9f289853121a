"""A sweep from its files to its report."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from devtools import hosts, lock
from devtools.console import Failure, say

from . import choose, graph
from . import spec as sweep_file
from .board import Board, counted, lasting
from .checks import graphs_of, literals, problems
from .cluster import Shape, cluster
from .drive import Driver, Hand
from .plan import Plan, Unit
from .recipe import Recipe, recipe
from .search import Search
from .spec import Spec
from .store import Store
from .worker import Job


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

    def __init__(self, order: Order, plan: Plan, store: Store, hands: Sequence[Hand], about: Sequence[Any]):
        self.order, self.plan, self.store, self.hands, self.about = order, plan, store, list(hands), about

    def manifest(self) -> dict[str, Any]:
        """Return what the results folder says of the sweep: all that tells it from another one."""
        return {
            "format": 1,
            "mode": "choose-w" if self.order.choose_w else "grid",
            "graph": self.plan.recipe.graph,
            "spec": self.plan.spec.to_json(),
            "units": len(self.plan.units()),
            "apart": self.plan.recipe.apart,
            "host": self.hands[0].facts.host,
            "pack": self.hands[0].facts.pack,
            "files": dict(self.plan.files),
        }

    def run(self) -> int:
        """Run what is missing; return how many units failed."""
        manifest = self.manifest()
        self.store.claim(manifest)
        for hand in self.hands:
            (hand.keeps,) = told([hand.handle.sees.remote(manifest)])
            if not hand.keeps:
                say(f"{hand.name} does not reach {self.store.place}: its pictures come here first")
        there = self.store.done()
        reward = self.plan.spec.rewards[0].name if self.plan.spec.rewards else ""
        with Board() as board:
            driver = Driver(self.hands, self.store, self.plan.spec.run.timeout, board, reward, self.about)
            for units in self.batches():
                missing = [unit for unit in units if unit.key not in there]
                if len(missing) < len(units):
                    board.tell(f"{len(units) - len(missing)} of {counted(len(units), 'unit')} done already")
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
        if self.order.choose_w:
            say(choose.saved(self.evaluations(), len(units) * len(self.plan.spec.scale.values)))
        amounts = {"unit": len(units), "picture": self.evaluations(), "worker": workers}
        say(", ".join(counted(count, what) for what, count in amounts.items()))
        apart = self.plan.recipe.apart
        say(f"the scales of a unit: {f'one after the other, since {apart}' if apart else 'in one sampling run'}")
        for facts in (hand.facts for hand in self.hands):
            say(f"{facts.where}: ComfyUI {facts.host}, {facts.device}")
        first, size = probe(self.hands, units[:workers])
        later, size = probe(self.hands, units[workers : 2 * workers]) if len(units) > workers else (first, size)
        share = self.evaluations() / (len(units) * len(self.plan.spec.scale.values))
        seconds = first + later * max(0, math.ceil(len(units) * share / workers) - 1)
        say(f"a unit takes {first:.1f} s with loading, then {later:.1f} s; all of them {lasting(seconds)}")
        say(f"disk: {size * len(units) * share / 2**20:.0f} MB in {self.store.place}")
        say(f"{counted(len(self.store.done()), 'unit')} done already")


def probe(hands: Sequence[Hand], units: Sequence[Unit]) -> tuple[float, float]:
    """Return the seconds and the bytes of a unit, run by all workers at once and thrown away."""
    started = time.monotonic()
    results = told([hand.handle.run.remote(unit, False) for hand, unit in zip(hands, units)])
    for result in results:
        if result.error:
            raise Failure(f"the first units fail: {result.error['message']}")
    size = [
        sum(map(len, result.pictures.values())) + sum(len(r["thumbnail"]) for r in result.rows) for result in results
    ]
    return time.monotonic() - started, sum(size) / len(size)


def start(order: Order) -> int:
    """Do what is asked for; return how many units failed."""
    workflow, spec = graph.read(order.workflow), sweep_file.read(order.sweep)
    if order.choose_w and not spec.rewards:
        raise Failure(f"{order.sweep} has no [rewards]: --choose-w chooses by the first of them.")
    how, store = recipe(workflow, spec), Store(order.results)
    job = Job(how, store.place, spec.run.timeout, {} if order.shape.servers else started_with())
    with alone(store, order.dry_run), cluster(order.shape, job) as workers:
        session = checked(order, how, spec, store, workers)
        if order.dry_run:
            session.dry_run()
            return 0
        failed = session.run()
    if store.done():
        from . import report  # here: PyTorch and SciPy take their time, and a sweep starts without them

        say(f"the report: {report.write(store)}")
    return failed


def started_with() -> dict[str, str]:
    """Return the environment variables of the ComfyUI that dev.py set up, unless the user has named one."""
    is_set_up = "RLG_HOST_PATH" in os.environ and not hosts.own_host()
    return hosts.to_environment(hosts.from_environment()) if is_set_up else {}


def checked(order: Order, how: Recipe, spec: Spec, store: Store, workers: Sequence[Any]) -> Session:
    """Return the sweep on workers that have all it needs. Raises Failure with everything that is wrong."""
    say(f"starting {counted(len(workers), 'worker')}")
    graphs = list(graphs_of(how, spec))
    kinds = sorted({node["class_type"] for graph in graphs for node in graph.values()})
    about = (kinds, literals(graphs))
    facts = told([worker.facts.remote(*about) for worker in workers])
    found = problems(how, spec, facts)
    if found:
        raise Failure("\n".join(["this sweep cannot run:", *found]))
    files = {name: identity for worker in facts for name, identity in worker.files.items()}
    hands = [Hand(worker, known.where, True, known) for worker, known in zip(workers, facts)]
    return Session(order, Plan(how, spec, files), store, hands, about)


def told(references: Sequence[Any]) -> list[Any]:
    """Return what workers answer. Raises Failure with what the first of those that cannot says."""
    try:
        return ray.get(list(references))
    except ray.exceptions.RayTaskError as error:
        raise Failure(str(error.cause)) from error
    except ray.exceptions.RayError as error:
        raise Failure(f"a worker ended while it started: {error}") from error


@contextmanager
def alone(store: Store, only_looks: bool) -> Iterator[None]:
    """Keep a second sweep from writing to the same folder, where that is one of this machine."""
    if only_looks or not store.is_local:
        yield
        return
    folder = Path(store.root)
    with store.in_plain_words():
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "running.lock").open("a")
    with file:
        try:
            lock.lock(file)
        except OSError as error:
            raise Failure(f"another sweep is writing to {folder}: let it end, or name another folder.") from error
        yield
