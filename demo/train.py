"""Train the demo pair. Every command is seeded and writes its weights to `models/` and its log to `logs/`.

python demo/train.py text                       the text encoder's file (no training)
python demo/train.py base                       the base model
python demo/train.py codec                      the VAE: decoder set by hand, encoder trained
python demo/train.py rl brightness --seed 0     a PEFT adapter by RL
python demo/train.py full                       the RL-tuned full checkpoint
python demo/train.py all                        everything that is shipped
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo import base, codec, evaluate, flow_grpo, model, nft, text

HERE = Path(__file__).resolve().parent
MODELS, LOGS = HERE / "models", HERE / "logs"
BASE = MODELS / "diffusion_models" / "rlg-demo-base.safetensors"
VAE = MODELS / "vae" / "rlg-demo-vae.safetensors"
CLIP = MODELS / "text_encoders" / "rlg-demo-clip.pt"
FULL = MODELS / "diffusion_models" / "rlg-demo-full-rl.safetensors"
ADAPTERS = MODELS / "loras" / "rlg-demo"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
RUNS = {
    "brightness": flow_grpo.Settings("brightness", beta=0.2, iterations=40),
    "jpeg": flow_grpo.Settings("jpeg", beta=0.2),
    "composition": nft.Settings("composition", beta=0.2, iterations=50, learning_rate=2e-4),
}
METHODS = {flow_grpo.Settings: flow_grpo.train, nft.Settings: nft.train}
SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
CFGS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0)
COUNTS = {"composition": 432}  # pictures a scale for the sweep in a log: a verdict of nearly yes or no takes more
COUNT = 54


def write_log(name: str, settings: dict, rows: list[dict], seconds: float, **results) -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    log = {"settings": settings, "seconds": round(seconds), "threads": torch.get_num_threads(), **results, "rows": rows}
    (LOGS / f"{name}.json").write_text(json.dumps(log, indent=1) + "\n")


def run_text(args: argparse.Namespace) -> None:
    CLIP.parent.mkdir(parents=True, exist_ok=True)
    text.write(CLIP)


def run_base(args: argparse.Namespace) -> None:
    settings = base.Settings(seed=args.seed)
    torch.manual_seed(args.seed)
    net, rows, start = model.build(), [], time.time()
    for step, loss, average in base.train_base(net.train(), settings):
        rows.append({"step": step, "loss": round(loss, 4), "seconds": round(time.time() - start)})
        if step % 1000 == 0:
            rows[-1] |= evaluate.validity(average.eval(), count=108, cfgs=(1.0, 3.0))
            model.save(average, args.out or BASE)
        print(rows[-1], flush=True)
    seconds = time.time() - start
    write_log(
        "base", asdict(settings), rows, seconds, **evaluate.validity(average.eval(), count=216, cfgs=CFGS, seed=3)
    )


def run_codec(args: argparse.Namespace) -> None:
    settings = {"steps": 2500, "batch": 24, "peak": 2e-3, "seed": args.seed}
    start = time.time()
    encoder, rows = base.train_encoder(**settings)
    VAE.parent.mkdir(parents=True, exist_ok=True)
    save_file(codec.vae_file(encoder), VAE, metadata={"format": "pt"})
    write_log("codec", settings, rows, time.time() - start)


def run_rl(args: argparse.Namespace) -> None:
    """Train one adapter. Seed 0 at the reward's own beta is the one that is shipped."""
    settings = replace(RUNS[args.reward], seed=args.seed, **chosen(args))
    policy = get_peft_model(
        model.load(BASE), LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, init_lora_weights="gaussian")
    )

    def reference(x, sigma, conditioning):
        with policy.disable_adapter():
            return model.velocity(policy, x, sigma, conditioning)

    rows, seconds = learn(policy, reference, settings)
    name = run_name(args)
    if args.out or args.seed == 0:
        save_adapter(policy, args.out or ADAPTERS / f"rl-{name}")
    sweep = evaluate.sweep(model.load(BASE), policy.eval(), SCALES, 1.0, COUNTS.get(args.reward, COUNT))
    write_log(f"rl-{name}", asdict(settings), rows, seconds, sweep=sweep)


def save_adapter(policy, folder: Path) -> None:
    """Write the PEFT folder as PEFT does, without its page of boilerplate."""
    policy.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def chosen(args: argparse.Namespace) -> dict:
    """Settings given on the command line."""
    return {k: getattr(args, k) for k in ("beta", "iterations") if getattr(args, k) is not None}


def run_name(args: argparse.Namespace) -> str:
    """Reward, then beta and seed where they are not the shipped ones."""
    beta = f"-beta{args.beta:g}" if args.beta is not None else ""
    return args.reward + beta + (f"-seed{args.seed}" if args.seed else "")


def learn(policy, reference, settings: flow_grpo.Settings | nft.Settings) -> tuple[list[dict], float]:
    """Run the settings' RL on what of `policy` asks for gradients, printing as it goes; log rows and seconds."""
    rows, start = [], time.time()
    parameters = [p for p in policy.parameters() if p.requires_grad]
    for row in METHODS[type(settings)](policy, reference, parameters, settings):
        rows.append(row)
        print(row, flush=True)
    return rows, time.time() - start


def run_full(args: argparse.Namespace) -> None:
    """Fine-tune every weight: the RL model of the two-checkpoint path."""
    settings = replace(RUNS[args.reward], seed=args.seed, beta=0.2, iterations=15, learning_rate=1e-4)
    frozen = model.load(BASE).requires_grad_(False)
    policy = copy.deepcopy(frozen).requires_grad_(True)
    rows, seconds = learn(policy, lambda x, sigma, c: model.velocity(frozen, x, sigma, c), settings)
    model.save(policy, args.out or FULL)
    sweep = evaluate.sweep(frozen, policy.eval(), SCALES, 1.0, COUNT)
    write_log("full-rl", asdict(settings), rows, seconds, sweep=sweep)


def run_all(args: argparse.Namespace) -> None:
    """Everything that is shipped or claimed, in order."""
    for command in ALL:
        main(f"{command} --threads {args.threads}".split())


ALL = (
    "text",
    "base",
    "codec",
    *(f"rl {r} --seed {s}" for r in RUNS for s in range(3)),
    "rl brightness --beta 0.1",
    "full",
)
COMMANDS = {"all": run_all, "rl": run_rl, "full": run_full, "text": run_text, "base": run_base, "codec": run_codec}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("reward", choices=RUNS, nargs="?", default="brightness")
    parser.add_argument("--beta", type=float)
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    COMMANDS[args.command](args)


if __name__ == "__main__":
    main()
