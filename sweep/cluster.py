"""Ray: a local one that lives as long as the command, or a cluster; and its workers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from devtools.console import Failure
from devtools.paths import ROOT

from .worker import Job, Worker

SHIPPED = ("__init__.py", "pyproject.toml", "nodes", "rlg_core", "web", "devtools", "sweep", "demo")
"""What goes to the machines of a cluster: the pack, this program, and the demo's models."""

OBJECTS = 256 * 2**20
"""Bytes of a local Ray's object store; what workers tell of a unit is all that goes through it."""

LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""Settings of a local Ray: it reports to nobody, and the servers of its workers do not step back for other programs."""

STARTS = 3
"""Times that Ray is started before a sweep gives up: a busy machine may take it longer than Ray waits."""

SHARE = 4
"""Processors for each worker, where there is no GPU and no number of workers is asked for."""


@dataclass(frozen=True)
class Shape:
    """What a sweep runs on: a cluster's address ("": this machine), workers (0: as many as fit), servers that run."""

    address: str = ""
    workers: int = 0
    servers: tuple[str, ...] = ()


@contextmanager
def cluster(shape: Shape, job: Job) -> Iterator[list[Any]]:
    """Give the handles of the workers; end them, and a local Ray with them, in the end."""
    address = shape.address or os.environ.get("RAY_ADDRESS", "")
    if address:
        join(address)
    else:
        start_local()
    try:
        yield workers(shape, job, {} if address else {"PYTHONPATH": with_this_clone()})
    finally:
        ray.shutdown()


def join(address: str) -> None:
    """Become part of a cluster, and give it this clone. Raises Failure where none answers."""
    try:
        ray.init(address=address, runtime_env=shipped(), log_to_driver=False)
    except ConnectionError as error:
        raise Failure(
            f"No Ray cluster answers at {address}: {error}. One that has a token needs RAY_AUTH_MODE=token here too."
        ) from error


def shipped() -> dict[str, Any]:
    """Return what goes to every machine of a cluster, so that all run one version: `SHIPPED`, and nothing else."""
    others = sorted(f"/{path.name}" for path in ROOT.iterdir() if path.name not in SHIPPED)
    return {"working_dir": str(ROOT), "excludes": [*others, "__pycache__"]}


def with_this_clone() -> str:
    """Return PYTHONPATH with this clone in it."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))


def start_local() -> None:
    """Start a Ray on this machine that ends with this process. Raises Failure where it does not start."""
    os.environ.update({name: os.environ.get(name, value) for name, value in LOCAL.items()})
    quietly = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    for attempt in range(STARTS):
        try:
            ray.init(address="local", object_store_memory=OBJECTS, **quietly)
            return
        except Exception as error:  # Ray raises no other kind where it has not started after half a minute
            if attempt == STARTS - 1:
                raise Failure(f"Ray does not start on this machine: {error}") from error


def workers(shape: Shape, job: Job, environment: Mapping[str, str]) -> list[Any]:
    """Return the handles of the workers: one for each GPU, for each share of the processors, or for each server."""
    there = ray.cluster_resources()
    cpus, gpus = int(there.get("CPU", 1)), int(there.get("GPU", 0))
    most, what = (gpus, "GPUs") if gpus else (cpus, "processors")
    if shape.workers > most and not shape.servers:
        raise Failure(f"--workers {shape.workers}: Ray has {most} {what}, and each worker takes one.")
    addresses = shape.servers or [""] * (shape.workers or gpus or max(1, cpus // SHARE))
    takes = {"num_cpus": 0} if shape.servers else {"num_cpus": 0, "num_gpus": 1} if gpus else {"num_cpus": 1}
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cpus // len(addresses)))
    # Ray starts a worker that died again; its unit is the driver's to hand out, for another worker may be free sooner
    remote = ray.remote(Worker).options(
        max_restarts=-1,
        max_task_retries=0,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, **environment}},
        **takes,
    )
    return [remote.remote(job, url) for url in addresses]
