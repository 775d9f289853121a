"""The driver and workers on a real Ray: what each kind of trouble costs, and whom."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

from devtools import hosts
from support.sweeping import PROMPTS, SCALES, graph, plan_of, sweep_of
from sweep import cluster, drive
from sweep.board import Board
from sweep.drive import Driver, Hand
from sweep.store import Store, StoreFailure
from sweep.worker import Job, Result, Worker

pytestmark = pytest.mark.skipif(
    os.environ.get("RLG_HOST_VERSION") == hosts.OLDEST.version, reason="is about processes, which no release changes"
)

HERE = Path(__file__).parent


class Process:
    """Tells which process an actor is."""

    def process(self):
        return os.getpid()


class Raises(Process):
    """A worker whose code has an error, for one seed."""

    def run(self, unit, keeps):
        if unit.values["seed"] == 8:
            raise KeyError("images")
        return Result([{"scale": 0.0}])


class Traced(Worker, Process):
    """A worker that tells its process."""


class Patient(Board):
    """Gives a driver's workers time, once one of them has been given up."""

    def show(self, driver):
        if driver.tally.retried:
            driver.timeout = 600.0


@pytest.fixture(scope="module", autouse=True)
def ray_of_its_own():
    cluster.start_local()
    yield
    ray.shutdown()


def hand(kind, *arguments):
    folders = [cluster.with_this_clone(), str(HERE), str(HERE.parent)]
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(folders)}}
    actor = ray.remote(kind).options(num_cpus=0, max_restarts=-1, runtime_env=environment)
    return Hand(actor.remote(*arguments), "the worker", keeps=True)


def driven(hands, store, units, timeout=600.0, about=()):
    with Patient() as board:
        driver = Driver(hands, store, timeout, board, about=about)
        driver.run(units)
    return driver.tally


def test_an_error_in_a_workers_code_costs_its_unit_alone(tmp_path):
    plan, store = plan_of(tmp_path, graph(), sweep_of()), Store(str(tmp_path / "results"))
    one = hand(Raises)
    before = ray.get(one.handle.process.remote())
    tally = driven([one], store, plan.units())
    assert (tally.done, tally.failed, one.faults) == (len(PROMPTS), len(PROMPTS), 0)
    assert all("KeyError('images')" in f["message"] and "in run" in f["traceback"] for f in store.failures())
    assert ray.get(one.handle.process.remote()) == before


def test_a_results_folder_that_cannot_be_written_ends_the_sweep(tmp_path, server):
    plan, store = plan_of(tmp_path, graph(), sweep_of()), Store(str(tmp_path / "results"))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "pictures").write_text("in the way")
    job = Job(plan.recipe, store.place, 240.0, {})
    with pytest.raises(StoreFailure, match=rf"the results folder {store.place} fails on "):
        driven([hand(Worker, job, server.url)], store, plan.units())
    assert store.failures() == [] and store.done() == set()


def test_a_worker_that_hangs_is_started_again_and_its_unit_done(tmp_path, server, monkeypatch):
    plan, store = plan_of(tmp_path, graph(), sweep_of()), Store(str(tmp_path / "results"))
    monkeypatch.setattr(drive, "START", 0)
    monkeypatch.setattr(drive, "MARGIN", 0)
    one = hand(Traced, Job(plan.recipe, store.place, 240.0, {}), server.url)
    before = ray.get(one.handle.process.remote())
    os.kill(before, signal.SIGSTOP)
    one.facts = Worker(Job(plan.recipe, store.place, 240.0, {}), server.url).facts((), ())
    tally = driven([one], store, plan.units()[:2], timeout=3.0, about=((), ()))
    assert (tally.done, tally.failed, tally.retried) == (2, 0, 1)
    assert ray.get(one.handle.process.remote()) != before and len(store.rows()) == 2 * len(SCALES)


def test_a_server_that_hangs_is_known_by_its_silence(tmp_path, server, monkeypatch):
    monkeypatch.setattr("sweep.server.ANSWER", 2)
    plan = plan_of(tmp_path, graph(steps=2000), sweep_of())
    worker = Worker(Job(plan.recipe, str(tmp_path / "results"), 240.0, {}), server.url)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(worker.run, plan.units()[0], True)
        while not server.get("/queue")["queue_running"]:
            time.sleep(0.05)
        server.process.send_signal(signal.SIGSTOP)
        try:
            assert "did not answer for 2 s" in running.result().error["message"]
        finally:
            server.process.send_signal(signal.SIGCONT)
    assert worker.server is None, "the next unit begins with a server that answers"
    server.read("/interrupt", {})
    while server.get("/queue")["queue_running"]:  # pytest's timeout ends this where it is not interrupted
        time.sleep(0.05)
