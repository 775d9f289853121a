"""Hands units to workers as they get free, and keeps count of tries until every unit is done or has failed."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from devtools.console import Failure

from .board import Board
from .checks import differences
from .plan import Unit
from .server import START
from .spec import SCALE
from .store import Store, StoreFailure
from .worker import Facts, Result

TRIES = 3
"""A unit that fails so often is recorded; a worker whose server fails to start so often in a row gets no more units."""

MARGIN = 60
"""Seconds that a worker may take beyond a unit's time and a server's start, before it counts as lost."""


class Queue:
    """Units by the files that they load, so that workers change models as seldom as can be."""

    def __init__(self, units: Iterable[Unit]):
        self.groups: dict[tuple, deque[Unit]] = defaultdict(deque)
        for unit in units:
            self.groups[unit.loads].append(unit)

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))

    def put_back(self, unit: Unit) -> None:
        """Take a unit back, behind the others of its group."""
        self.groups[unit.loads].append(unit)

    def take(self, loaded: tuple | None, others: Sequence[tuple | None]) -> Unit | None:
        """Return the next unit for a worker that has the files `loaded`, None where none waits.

        A worker stays with its files; one that has to change takes those with the most units for each of the workers
        that have them already (`others`).
        """
        waiting = [loads for loads, group in self.groups.items() if group]
        if not waiting:
            return None
        share = lambda loads: len(self.groups[loads]) / (1 + sum(other == loads for other in others))  # noqa: E731
        return self.groups[loaded if loaded in waiting else max(waiting, key=share)].popleft()


@dataclass
class Hand:
    """A worker as the driver sees it: what it is at, since when, what it has loaded, and how it did so far.

    One that is `away` has ended and Ray starts it again, or it does not answer.
    """

    handle: Any
    name: str
    keeps: bool
    facts: Facts | None = None
    unit: Unit | None = None
    since: float = 0.0
    loaded: tuple | None = None
    away: bool = False
    done: int = 0
    faults: int = 0

    @property
    def state(self) -> str:
        """What it is at, in a few words."""
        if self.unit:
            return str(self.unit)
        return "away" if self.away else "gets no more units" if self.faults >= TRIES else "idle"


@dataclass
class Tally:
    """How a sweep stands: units in all, done, failed, and tries that failed; and of each scale the scores so far."""

    total: int = 0
    done: int = 0
    failed: int = 0
    retried: int = 0
    pictures: int = 0
    scores: dict[float, list[float]] = field(default_factory=lambda: defaultdict(list))


class Driver:
    """Runs units on workers, and shows on `board` how it goes.

    `reward` is the one whose scores are shown, if any. `about` is what a worker that comes back is asked for its facts
    with: it may be on another machine now.
    """

    def __init__(
        self,
        hands: Sequence[Hand],
        store: Store,
        timeout: float,
        board: Board,
        reward: str = "",
        about: Sequence[Any] = (),
    ):
        self.hands, self.store, self.timeout, self.board, self.reward = list(hands), store, timeout, board, reward
        self.about = about
        self.tally, self.tries = Tally(), defaultdict(int)
        self.busy: dict[Any, Hand] = {}

    def run(self, units: Sequence[Unit]) -> None:
        """Run units until each is done or has failed. Raises Failure where no worker is left to run them."""
        self.queue = Queue(units)
        self.tally.total += len(units)
        while self.queue or self._at_work():
            self._hand_out()
            ready, _ = ray.wait(list(self.busy), timeout=1)
            for reference in ready:
                self._take(reference)
            self._look_for_lost()
            self.board.show(self)

    def _at_work(self) -> list[Hand]:
        return [hand for hand in self.busy.values() if hand.unit]

    def _hand_out(self) -> None:
        """Give every idle worker a unit."""
        at_work = set(map(id, self.busy.values()))
        for hand in self.hands:
            if id(hand) in at_work or hand.faults >= TRIES:
                continue
            unit = self.queue.take(hand.loaded, [other.loaded for other in self.hands if other is not hand])
            if unit is None:
                return
            hand.unit, hand.since, hand.loaded = unit, time.monotonic(), unit.loads
            self.busy[hand.handle.run.remote(unit, hand.keeps)] = hand
        if self.queue and not self._at_work() and all(map(self._is_lost, self.busy.values())):
            raise Failure("No worker is left: each has been lost, or its ComfyUI does not start.")

    def _take(self, reference: Any) -> None:
        """Take what a worker hands back. Raises StoreFailure where it could not keep what it made."""
        hand = self.busy.pop(reference)
        unit, was_away = hand.unit, hand.away
        hand.unit, hand.away = None, False
        try:
            result = ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # an error in its code, which it outlives
            result = _raised(error)
            if was_away:
                self._miss(hand)
        except ray.exceptions.RayError as error:
            result = Result(error={"message": f"the worker ended while it ran this ({type(error).__name__})"})
            self._miss(hand, faults=was_away)  # one that was away Ray has given up
        if unit is None:
            self._welcome(hand, result)
        elif result.error is None:
            self._finish(hand, unit, result)
        else:
            self._again(hand, unit, result)

    def _finish(self, hand: Hand, unit: Unit, result: Result) -> None:
        if result.pictures:
            self.store.write(unit.key, result.rows, result.pictures)
        hand.done, hand.faults = hand.done + 1, 0
        self.tally.done += 1
        self.tally.pictures += len(result.rows)
        for row in result.rows if self.reward else ():
            self.tally.scores[row[SCALE]].append(row[self.reward])

    def _again(self, hand: Hand, unit: Unit, result: Result) -> None:
        """Put a failed unit back; record it where it has failed for the last time."""
        message = result.error["message"]
        if result.is_workers:
            hand.faults += 1
            self.board.tell(f"{hand.name}: {message}" + ("; it gets no more units" if hand.faults == TRIES else ""))
            self.queue.put_back(unit)
            return
        self.tries[unit.key] += 1
        if self.tries[unit.key] < TRIES:
            self.board.tell(f"{unit}: try {self.tries[unit.key]} failed on {hand.name}: {_first_line(message)}")
            self.tally.retried += 1
            self.queue.put_back(unit)
            return
        self.board.tell(f"{unit}: FAILED {TRIES} times: {_first_line(message)}")
        self.tally.failed += 1
        self.store.blame(unit.key, failure(unit, result.error, hand.name))

    def _miss(self, hand: Hand, faults: int = 1) -> None:
        """Give a worker no unit until it answers again, on whatever machine Ray starts it."""
        hand.faults += faults
        if hand.faults >= TRIES:
            return
        hand.loaded, hand.away, hand.since = None, True, time.monotonic()
        self.busy[hand.handle.facts.options(max_task_retries=-1).remote(*self.about)] = hand

    def _welcome(self, hand: Hand, result: Result | Facts) -> None:
        """Give a worker that was away units again, unless it has changed."""
        changes = changed(hand.facts, result) if isinstance(result, Facts) else []
        if changes:
            hand.faults = TRIES
        state = "away" if hand.away else "gone" if hand.faults >= TRIES else "back"
        self.board.tell("; ".join([f"{hand.name} is {state}", *changes]))

    def _is_lost(self, hand: Hand) -> bool:
        """Tell whether a worker should have answered long ago."""
        return time.monotonic() - hand.since > self.timeout + START + MARGIN

    def _look_for_lost(self) -> None:
        """Take the units of workers that are lost, and have Ray start those workers again."""
        for hand in filter(self._is_lost, self._at_work()):
            message = f"{hand.name} has not answered for {time.monotonic() - hand.since:.0f} s"
            unit, hand.unit, hand.away, hand.since = hand.unit, None, True, time.monotonic()
            ray.kill(hand.handle, no_restart=False)
            self._again(hand, unit, Result(error={"message": message}))


def changed(before: Facts, now: Facts) -> list[str]:
    """Return in what a worker that came back differs from what was checked before the start."""
    gone = sorted(before.files.keys() - now.files.keys())
    return [*differences([before, now]), *(f"{name!r} is not on {now.where}" for name in gone)]


def failure(unit: Unit, error: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the record of a failed unit."""
    about = {"unit": unit.key, **unit.values, **unit.beside, "scales": list(unit.scales)}
    return {**about, "tries": TRIES, "worker": where, **error}


def _raised(error: ray.exceptions.RayTaskError) -> Result:
    """Return what a worker raised as the error of its unit. Raises it where no other try can mend it."""
    if isinstance(error.cause, StoreFailure):
        raise StoreFailure(str(error.cause)) from error
    return Result(error={"message": f"the worker raised {error.cause!r}", "traceback": str(error)})


def _first_line(text: Any) -> str:
    return (str(text).strip().splitlines() or [repr(text)])[0][:200]
