"""A worker: it owns one ComfyUI, runs units on it, and keeps their results."""

from __future__ import annotations

import io
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image

from devtools.console import Failure
from devtools.paths import ROOT
from devtools.server import RunFailed

from . import files, png, server
from .checks import Literal, is_choice
from .graph import canonical
from .plan import Unit
from .recipe import PICTURES, SCORES, Recipe
from .spec import SCALE
from .store import PICTURES as FOLDER
from .store import Store

THUMBNAIL = 64
"""Side of the thumbnails in the table: distances between pictures are taken at this size."""

GONE = (Failure, OSError, aiohttp.ClientError)
"""What talking to a server that ended, or that does not start, raises."""


@dataclass(frozen=True)
class Job:
    """What every worker of a sweep is told: the recipe, where results go, and which ComfyUI to start."""

    recipe: Recipe
    place: str
    timeout: float
    host: Mapping[str, str]


@dataclass(frozen=True)
class Facts:
    """What a worker has: where it is, versions, device, nodes as /object_info tells them, identities of files."""

    where: str
    host: str
    pack: str
    device: str
    nodes: Mapping[str, Any]
    files: Mapping[str, str]


@dataclass(frozen=True)
class Result:
    """How a try of a unit ended: with `rows`, or with an `error`.

    `pictures` are for the driver to keep, where the worker cannot reach the results folder. `is_workers` says that the
    worker is to blame, and not the unit.
    """

    rows: list = field(default_factory=list)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    is_workers: bool = False


class Worker:
    """Runs units on its ComfyUI: the one at `url`, or else one that it starts, and starts again where it ended."""

    def __init__(self, job: Job, url: str = ""):
        self.job, self.url, self.store = job, url, Store(job.place)
        self.server: server.Server | None = None

    @property
    def name(self) -> str:
        return self.url or f"{socket.gethostname()}, process {os.getpid()}"

    def up(self) -> server.Server:
        """Return the server, started where none is running. Raises Failure where none comes up."""
        if self.server is None or not self.server.is_alive():
            self.down()
            self.server = self._new().__enter__()
        return self.server

    def _new(self) -> server.Server:
        answer = min(server.ANSWER, self.job.timeout)
        if self.url:
            return server.Running(self.url, answer)
        host, is_own = server.local_host(self.job.host)
        return server.Headless(host, is_own, Path(tempfile.mkdtemp(prefix="rlg-sweep-")), answer)

    def down(self) -> None:
        """End the server, so that the next unit gets a fresh one."""
        if self.server is not None:
            self.server.stop()
            self.server = None

    def facts(self, kinds: Iterable[str], literals: Iterable[Literal]) -> Facts:
        """Return what this worker has for graphs: `kinds` are the classes of their nodes."""
        try:
            running, literals = self.up(), list(literals)
        except Failure as error:
            raise Failure(f"{self.name}: {error}") from error
        nodes = {}
        for kind in kinds:
            nodes |= running.get(f"/object_info/{kind}")
        stats = running.get("/system_stats")
        chosen = {value for kind, name, value in literals if isinstance(value, str) and is_choice(nodes, kind, name)}
        inputs = running.inputs() if isinstance(running, server.Headless) else None
        return Facts(
            self.name,
            stats["system"].get("comfyui_version", "unknown"),
            "" if self.url else files.pack_version(ROOT),
            stats["devices"][0]["name"],
            nodes,
            files.identities(running, chosen, inputs),
        )

    def sees(self, manifest: Mapping[str, Any]) -> bool:
        """Tell whether this worker reaches the results folder that the driver made."""
        there = self.store.manifest()
        return there is not None and canonical(there) == canonical(manifest)

    def run(self, unit: Unit, keeps: bool) -> Result:
        """Run a unit that is not done yet. `keeps`: this worker writes the results, else it hands them back.

        Raises StoreFailure where they cannot be written.
        """
        if keeps:
            with self.store.in_plain_words():
                if self.store.has(unit.key):
                    return Result(short(self.store.rows([unit.key])))
        try:
            running = self.up()
        except GONE as error:
            self.down()
            return Result(error={"message": str(error)}, is_workers=True)
        try:
            rows, pictures = self.made(running, unit)
        except RunFailed as error:
            return Result(error=_told(error))
        except TimeoutError:
            self.down()
            return Result(error={"message": f"not done after {self.job.timeout:g} s, so its server was ended"})
        except GONE as error:
            self.down()
            return Result(error={"message": str(error) or repr(error)})
        if keeps:
            self.store.write(unit.key, rows, pictures)
            rows, pictures = short(rows), {}
        running.forget_pictures()
        return Result(rows, pictures)

    def made(self, running: server.Server, unit: Unit) -> tuple[list[dict], dict[str, bytes]]:
        """Return the rows and the pictures, by name, of a unit, made within the time that a unit may take."""
        started, rows, pictures = time.monotonic(), [], {}
        for graph, scales in self.job.recipe.graphs(unit.values, unit.scales):
            left = self.job.timeout - (time.monotonic() - started)
            outputs = server.run(running, graph, left)
            for row, data in self._rows(running, unit, scales, outputs):
                rows.append(row)
                pictures[row["picture"]] = data
        seconds = (time.monotonic() - started) / len(rows)
        return [row | {"seconds": seconds} for row in rows], pictures

    def _rows(self, running: server.Server, unit: Unit, scales: tuple, outputs: dict) -> Iterable[tuple[dict, bytes]]:
        """Yield the row and the picture of everything that one graph made."""
        images, rewards = outputs[PICTURES]["images"], self.job.recipe.rewards
        if not images or len(images) % len(scales):
            raise RunFailed(f"{len(images)} pictures for {len(scales)} scales", {})
        each = len(images) // len(scales)
        scores = {reward.name: _scores(outputs[SCORES.format(k)], len(images)) for k, reward in enumerate(rewards)}
        for k, image in enumerate(images):
            scale, item = scales[k // each], k % each
            row = {"unit": unit.key, **unit.values, **unit.beside, SCALE: scale, "item": item}
            row |= {name: values[k] for name, values in scores.items()}
            row["picture"] = f"{FOLDER}/{unit.folder}/w{scale:g}{f'-{item}' if each > 1 else ''}.png"
            data = running.image(image)
            row |= {"thumbnail": thumbnail(data), "worker": self.url or socket.gethostname()}
            yield row, self._signed(data, unit, row)

    def _signed(self, data: bytes, unit: Unit, row: Mapping[str, Any]) -> bytes:
        """Return a picture that carries the workflow of its own scale, and what the sweep knows of it."""
        known = {name: value for name, value in row.items() if name != "thumbnail"}
        workflow = self.job.recipe.plain(unit.values, row[SCALE])
        return png.with_texts(data, {"prompt": json.dumps(workflow), "rlg_sweep": json.dumps(known)})


def _scores(output: Mapping[str, Any], count: int) -> list[float]:
    scores = [float(text) for text in output["text"]]
    if len(scores) != count:
        raise RunFailed(f"{len(scores)} scores for {count} pictures", {})
    return scores


def short(rows: Iterable[Mapping[str, Any]]) -> list[dict]:
    """Return rows without their thumbnails: what the driver has no use for."""
    return [{name: value for name, value in row.items() if name != "thumbnail"} for row in rows]


def thumbnail(data: bytes) -> bytes:
    """Return a picture as a PNG of at most 64 pixels per side, each the mean of what it covers."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    out = io.BytesIO()
    size = (min(THUMBNAIL, picture.width), min(THUMBNAIL, picture.height))
    picture.resize(size, Image.Resampling.BOX).save(out, "PNG")
    return out.getvalue()


def _told(error: RunFailed) -> dict[str, Any]:
    """Return what a server told of a failed run: the message, and the node where one is to blame."""
    detail = error.detail
    nodes = {key: detail[key] for key in ("node_id", "node_type", "exception_type") if key in detail}
    return {"message": str(error).strip(), **nodes}
