"""What a person sees while a sweep runs: a table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from devtools.console import say

if TYPE_CHECKING:
    from .drive import Driver

ROWS = 16
"""Workers that the table shows."""

INTERVAL = 25
"""Seconds between two lines, where there is no terminal."""


class Board:
    """A context manager: within it, `show` renews what is seen and `tell` prints a line that stays."""

    def __init__(self):
        self.started, self.last = time.monotonic(), time.monotonic()
        self.live = Live(console=Console(), auto_refresh=False, transient=True) if sys.stdout.isatty() else None

    def __enter__(self) -> Board:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error) -> None:
        if self.live:
            self.live.stop()

    def tell(self, text: str) -> None:
        if self.live:
            self.live.console.print(text, markup=False, highlight=False)
        else:
            say(text)

    def show(self, driver: Driver) -> None:
        """Show how a sweep stands."""
        if self.live:
            self.live.update(
                Group(Text(self.line(driver), style="bold"), table(driver), Text(means(driver))), refresh=True
            )
        elif time.monotonic() - self.last > INTERVAL:
            self.last = time.monotonic()
            self.tell("; ".join(filter(None, (self.line(driver), states(driver), means(driver)))))

    def line(self, driver: Driver) -> str:
        """Return how many units are done, and how long the rest will take at the pace so far."""
        tally, seconds = driver.tally, time.monotonic() - self.started
        ended = tally.done + tally.failed
        left = f", {lasting(seconds / ended * (tally.total - ended))} left" if ended else ""
        failed = f", {tally.failed} failed" if tally.failed else ""
        return f"{ended} of {counted(tally.total, 'unit')}{failed}, {counted(tally.pictures, 'picture')}{left}"


def table(driver: Driver) -> Table:
    shown = Table(box=None, pad_edge=False)
    for name in ("worker", "done", "for", "at"):
        shown.add_column(name, justify="right" if name in ("done", "for") else "left", no_wrap=True)
    for hand in driver.hands[:ROWS]:
        since = f"{time.monotonic() - hand.since:.0f} s" if hand.unit else ""
        shown.add_row(hand.name, str(hand.done), since, hand.state)
    if len(driver.hands) > ROWS:
        shown.add_row(f"and {len(driver.hands) - ROWS} more", "", "", "")
    return shown


def states(driver: Driver) -> str:
    return "; ".join(f"{hand.name}: {hand.state}" for hand in driver.hands[:4])


def means(driver: Driver) -> str:
    """Return the mean score of each scale so far."""
    scores = sorted(driver.tally.scores.items())
    told = ", ".join(f"w {scale:g}: {sum(values) / len(values):.4g}" for scale, values in scores)
    return f"{driver.reward} so far: {told}" if told else ""


def counted(count: int, what: str) -> str:
    """Return a count with its noun: 1 unit, 2 units."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def lasting(seconds: float) -> str:
    """Return a time as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
