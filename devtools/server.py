"""A real ComfyUI server as a child process, and the way to talk to it."""

import asyncio
import functools
import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

from .console import Failure, tail
from .paths import PACK, ROOT, link_folder

MODELS = ROOT / "demo" / "models"
SECONDS_TO_FILE = 120  # a run that has ended; it may be gone for good where somebody has cleared the history
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine is not behind its proxy
NEEDS_NO_GPU = """
import torch
available = torch.accelerator if hasattr(torch, "accelerator") else torch.cuda
raise SystemExit(available.is_available() or torch.backends.mps.is_available())
"""


class RunFailed(Exception):
    """A graph that the server refused or that ended in an error; `detail` is what the server told its client."""

    def __init__(self, message, detail):
        super().__init__(message)
        self.detail = detail


class Server:
    """ComfyUI with this pack and the demo models, on a port of this machine (a free one), in a folder of its own.

    `packs` are the folders of custom nodes that it has, by name.

    A context manager: leaving it ends the server, whatever happened. Raises Failure with the log's end where the server
    does not come up.
    """

    seconds_to_answer = 600

    def __init__(self, host, folder, seconds_to_start=600, port=None, packs=None):
        self.host = host
        self.folder = Path(folder)
        self.log = self.folder / "server.log"
        self.seconds_to_start = seconds_to_start
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        self.packs = {PACK: ROOT} if packs is None else packs

    def __enter__(self):
        for name, folder in self.packs.items():
            link_folder(folder, self.folder / "custom_nodes" / name)
        for name in ("input", "output", "temp", "user", "models"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(self.command(), cwd=self.host.path, stdout=log, stderr=log)
        try:
            self.wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error):
        self.stop()

    def command(self):
        """Return the command line: options that both supported releases know."""
        command = [self.host.python, str(self.host.path / "main.py"), "--port", str(self.port), "--listen", "127.0.0.1"]
        command += ["--base-directory", str(self.folder), "--database-url", "sqlite:///:memory:"]
        command += ["--disable-auto-launch", "--disable-api-nodes"]
        command += ["--front-end-root", self.host.frontend] if self.host.frontend else []
        command += ["--cpu"] if has_no_gpu(self.host.python) else []
        return command

    def wait_until_up(self):
        """Return once the server answers, with the pack in it."""
        deadline = time.time() + self.seconds_to_start
        while time.time() < deadline:
            if self.process.poll() is not None:
                self.fail("ended while starting")
            try:
                self.get("/system_stats")
                break
            except OSError:
                time.sleep(0.25)
        else:
            self.fail(f"did not answer within {self.seconds_to_start} s")
        if "(IMPORT FAILED)" in self.log.read_text(encoding="utf-8", errors="replace"):
            self.fail("could not import the pack")

    def fail(self, what):
        """Raise what went wrong together with the end of the server's log."""
        raise Failure(f"ComfyUI {what}. Its log ({self.log}) ends:\n{tail(self.log, 60)}")

    def stop(self):
        """End the server; kill it where it does not end within ten seconds."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def read(self, path, body=None):
        """Return the bytes that GET, or POST with a JSON `body`, gives for a path; HTTPError on a refusal."""
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + urllib.parse.quote(path, safe="/?=&%+"), data, headers)
        with DIRECT.open(request, timeout=self.seconds_to_answer) as answer:
            return answer.read()

    def get(self, path):
        """Return the JSON that GET gives for a path."""
        return json.loads(self.read(path))

    def run(self, graph, progress=lambda node, value, steps: None, extra=None):
        """Queue an API-format graph and wait for its end; `extra` is what the editor sends beside it.

        Calls `progress(node, value, steps)` as nodes tell theirs. Returns the history entry's outputs, {node: output}.
        Raises RunFailed where the server refuses the graph, a node raises, or the run is interrupted.
        """
        return asyncio.run(self.follow(graph, progress, extra))

    async def follow(self, graph, progress, extra=None):
        """Queue a graph and read its messages to the end; see `run`."""
        import aiohttp  # here: commands read their options on a Python without it

        client = uuid.uuid4().hex
        address = f"{self.url}/ws?clientId={client}"
        beat = {"max_msg_size": 0, "heartbeat": self.seconds_to_answer}
        async with aiohttp.ClientSession() as session, session.ws_connect(address, **beat) as messages:
            run = self.queue(graph, client, extra)
            async for message in messages:
                if message.type != aiohttp.WSMsgType.TEXT:
                    continue
                event = json.loads(message.data)
                data = event["data"]
                if data.get("prompt_id") not in (None, run):
                    continue
                if event["type"] == "progress":
                    progress(data["node"], data["value"], data["max"])
                elif event["type"] in ENDS:
                    return ENDS[event["type"]](self, run, data)
        self.fail(f"closed the connection, or did not answer for {self.seconds_to_answer} s")

    def queue(self, graph, client="", extra=None):
        """Queue a graph and return its id."""
        try:
            return json.loads(self.read("/prompt", {"prompt": graph, "client_id": client, "extra_data": extra or {}}))[
                "prompt_id"
            ]
        except urllib.error.HTTPError as refusal:
            detail = json.loads(refusal.read())
            raise RunFailed(json.dumps(detail, indent=1), detail) from refusal

    def outputs(self, run):
        """Return {node: output} of a finished run; the server files it a moment after it has told of the end."""
        deadline = time.monotonic() + SECONDS_TO_FILE
        while run not in (history := self.get(f"/history/{run}")):
            if time.monotonic() > deadline:
                self.fail(f"told of the end of run {run}, and its history does not have it")
            time.sleep(0.02)
        return history[run]["outputs"]

    def image(self, image):
        """Return the bytes of an image that an output names: {"filename", "subfolder", "type"}."""
        return self.read("/view?" + urllib.parse.urlencode(image))


def ended_well(server, run, data):
    """Return the outputs of a run that ended without an error."""
    return server.outputs(run)


def ended_in_error(server, run, data):
    """Raise what a node raised."""
    raise RunFailed(f"{data['node_type']}: {data['exception_message']}", data)


def was_interrupted(server, run, data):
    """Raise that a run was interrupted."""
    raise RunFailed(f"interrupted in {data['node_type']}", data)


ENDS = {"execution_success": ended_well, "execution_error": ended_in_error, "execution_interrupted": was_interrupted}


def free_port():
    """Return a TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    """Tell whether something on this machine listens on a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@functools.cache
def has_no_gpu(python):
    """Tell whether the PyTorch of a Python has no accelerator to use."""
    return subprocess.run([python, "-c", NEEDS_NO_GPU], check=False).returncode == 0
