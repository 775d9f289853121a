"""What is compared: ways of sampling, and the experts there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from demo.rewards import REWARDS

HERE = Path(__file__).resolve().parents[1]
MODELS, LOGS = HERE / "models", HERE / "logs"
PREFIX = "rl-"
ADAPTERS = "rlg-demo"  # their folder in models/loras
FULL = "rlg-demo-full-rl.safetensors"


@dataclass(frozen=True)
class Dial:
    """The inputs of RLG Schedule, in its order; a plain scale is a constant one."""

    shape: str
    scale_from: float
    scale_to: float
    start_percent: float = 0.0
    end_percent: float = 1.0
    power: float = 1.0


def constant(scale: float) -> Dial:
    return Dial("constant", float(scale), float(scale))


@dataclass(frozen=True)
class Way:
    """One way of sampling: experts by name with their dials, a CFG scale, and whether RLG Budget linearises.

    `linearised` is LoRA strength turned up to w: one evaluation with the adapter's terms at that strength.
    """

    experts: tuple[tuple[str, Dial], ...] = ()
    cfg: float = 1.0
    linearised: bool = False


def rlg(name: str, scale: float, cfg: float = 1.0) -> Way:
    """RLG at a constant scale; w = 0 is the base, whatever the expert."""
    return Way(((name, constant(scale)),) if scale else (), cfg)


def lora(name: str, scale: float) -> Way:
    """LoRA strength scaled to w; at 0 and 1 there is nothing to tell apart from RLG."""
    plain = rlg(name, scale)
    return plain if scale in (0, 1) else Way(plain.experts, plain.cfg, linearised=True)


@dataclass(frozen=True)
class Expert:
    """An RL-tuned version of the base: a PEFT folder, or a full checkpoint.

    KL coefficient `beta` and training `iterations` as its log says (None: no log).
    """

    name: str
    reward: str
    beta: float | None
    iterations: int | None
    path: Path

    @property
    def is_checkpoint(self) -> bool:
        return self.path.is_file()

    @property
    def is_main(self) -> bool:
        """The one that is shipped for its reward, not another seed or coefficient."""
        return self.name == self.reward


def find_experts(models: Path = MODELS, logs: Path = LOGS) -> list[Expert]:
    """Every PEFT folder `rl-<reward>...` of the demo, in the order of the rewards, then the full checkpoint."""
    folders = sorted(
        path for path in (models / "loras" / ADAPTERS).glob(PREFIX + "*") if (path / "adapter_config.json").is_file()
    )
    found = [_expert(path.name[len(PREFIX) :], path, logs / f"{path.name}.json") for path in folders]
    full = models / "diffusion_models" / FULL
    if full.is_file():
        found.append(_expert("full checkpoint", full, logs / "full-rl.json"))
    order = list(REWARDS)
    return sorted(
        (e for e in found if e.reward in order), key=lambda e: (e.is_checkpoint, order.index(e.reward), e.name)
    )


def _expert(name: str, path: Path, log: Path) -> Expert:
    settings = json.loads(log.read_text(encoding="utf-8"))["settings"] if log.is_file() else {}
    reward = settings.get("reward") or re.split(r"-(?=beta|seed)", name)[0]
    return Expert(name, reward, settings.get("beta"), settings.get("iterations"), path)


def other_betas(experts: Iterable[Expert], main: Expert) -> list[Expert]:
    """Adapters trained for the reward of `main` with another KL coefficient."""
    return [e for e in experts if re.fullmatch(rf"{re.escape(main.reward)}-beta[\d.]+", e.name) and e.beta]


def logged_sweeps(logs: Path) -> list[dict]:
    """{"reward", "seed", "beta", "sweep"} of rewards that were trained from several seeds, as their logs have it."""
    found = []
    for path in sorted(logs.glob(PREFIX + "*.json")):
        log = json.loads(path.read_text(encoding="utf-8"))
        settings = log["settings"]
        if log.get("sweep") and re.fullmatch(rf"{PREFIX}{settings['reward']}(-seed\d+)?", path.stem):
            found.append({name: settings[name] for name in ("reward", "seed", "beta")} | {"sweep": log["sweep"]})
    found.sort(key=lambda run: (run["reward"], run["seed"]))
    return [run for run in found if sum(other["reward"] == run["reward"] for other in found) > 1]
