"""Templates for the small models that come with the pack."""

from .files import Demo
from .graph import Node, Out, Workflow
from .parts import SEED, prompts

BASE, CLIP, VAE = Demo("rlg-demo-base.safetensors"), Demo("rlg-demo-clip.pt"), Demo("rlg-demo-vae.safetensors")
PAIR = Demo("diffusion_models/rlg-demo-base.safetensors"), Demo("diffusion_models/rlg-demo-full-rl.safetensors")
BRIGHTNESS, COMPOSITION = Demo("rlg-demo/rl-brightness"), Demo("rlg-demo/rl-composition")
SCENE, JUDGED = "three red circles", "two blue squares"
INTO_MODEL, INTO_RL_MODEL = "Base model, goes into: model", "RL model, goes into: rl_model"
OVERRIDDEN = "Guidance (the schedule sets the scale)"


def encoders(workflow: Workflow) -> tuple[Out, Out]:
    """The demo's text encoder and VAE."""
    clip = workflow.add("clip", "CLIPLoader", clip_name=CLIP, type="sd3", device="default")
    return clip[0], workflow.add("vae", "VAELoader", vae_name=VAE)[0]


def base_and_encoders(workflow: Workflow) -> tuple[Node, Out, Out]:
    """The plain model, the text encoder and the VAE."""
    with workflow.group("1  Base model", 0):
        base = workflow.add("base", "UNETLoader", INTO_MODEL, unet_name=BASE, weight_dtype="default")
        return base, *encoders(workflow)


def adapted(workflow: Workflow, base: Node) -> Node:
    """The base with the adapter that was trained for brightness."""
    with workflow.group("2  RL model", 1):
        return workflow.add("rl_adapter", "RLGAdapterLoader", INTO_RL_MODEL, model=base[0], lora_name=BRIGHTNESS)


def empty(workflow: Workflow, count: int = 1) -> Node:
    """The empty latent, below the prompts."""
    with workflow.group("Size", 1):
        return workflow.add("latent", "EmptySD3LatentImage", width=96, height=96, batch_size=count)


def sampler(workflow: Workflow, model: Node, texts: tuple[Out, Out], latent: Node) -> Node:
    """Twenty steps with a fixed seed."""
    return workflow.add(
        "sampler",
        "KSampler",
        model=model[0],
        positive=texts[0],
        negative=texts[1],
        latent_image=latent[0],
        seed=SEED,
        steps=20,
        cfg=3.0,
        sampler_name="euler",
        scheduler="simple",
    )


def sampled(workflow: Workflow, model: Node, texts: tuple[Out, Out], latent: Node, vae: Out) -> Node:
    """Sampling and decoding, below the dial."""
    with workflow.group("Sampling", 2):
        samples = sampler(workflow, model, texts, latent)
        return workflow.add("decode", "VAEDecode", samples=samples[0], vae=vae)


def saved(workflow: Workflow, images: Out, prefix: str = "RLG") -> None:
    with workflow.group("Result", 4):
        workflow.add("save", "SaveImage", images=images, filename_prefix=prefix)


def starter() -> Workflow:
    workflow = Workflow("Reinforcement Learning Guidance")
    base, clip, vae = base_and_encoders(workflow)
    adapter = adapted(workflow, base)
    texts = prompts(workflow, clip, SCENE)
    latent = empty(workflow)
    with workflow.group("3  The dial", 2):
        scales = workflow.add("scales", "RLGSweep", "The scales to compare", scales="0, 1, 2")
        guidance = workflow.add("guidance", "RLGApply", model=base[0], rl_model=adapter[0], scale=scales[0])
    decode = sampled(workflow, guidance, texts, latent, vae)
    with workflow.group("0 is the base model, 1 the RL model, 2 goes further", 4):
        grid = workflow.add("grid", "RLGSweepGrid", "Side by side", images=decode[0], scales=scales[0])
        workflow.add("save", "SaveImage", images=grid[0], filename_prefix="RLG")
    return workflow


def one_picture() -> Workflow:
    workflow = Workflow("RLG One Picture")
    base, clip, vae = base_and_encoders(workflow)
    adapter = adapted(workflow, base)
    texts = prompts(workflow, clip, SCENE)
    latent = empty(workflow)
    with workflow.group("3  The dial", 2):
        guidance = workflow.add("guidance", "RLGApply", model=base[0], rl_model=adapter[0], scale=1.5)
    saved(workflow, sampled(workflow, guidance, texts, latent, vae)[0])
    return workflow


def scale_sweep() -> Workflow:
    workflow = Workflow("RLG Scale Sweep")
    base, clip, vae = base_and_encoders(workflow)
    adapter = adapted(workflow, base)
    texts = prompts(workflow, clip, SCENE)
    latent = empty(workflow)
    with workflow.group("3  One picture for each scale", 2):
        sweep = workflow.add("sweep", "RLGBatchSweep", latent=latent[0], scales="0, 0.5, 1, 1.5, 2, 3")
        guidance = workflow.add(
            "guidance",
            "RLGApply",
            "Guidance (the sweep sets the scale)",
            model=base[0],
            rl_model=adapter[0],
            schedule=sweep[1],
        )
    decode = sampled(workflow, guidance, texts, sweep, vae)
    with workflow.group("Result", 4):
        grid = workflow.add("grid", "RLGSweepGrid", images=decode[0], scales=sweep[2])
        workflow.add("save", "SaveImage", images=grid[0], filename_prefix="RLG sweep")
    return workflow


def schedule_and_trace() -> Workflow:
    workflow = Workflow("RLG Schedule and Trace")
    base, clip, vae = base_and_encoders(workflow)
    adapter = adapted(workflow, base)
    texts = prompts(workflow, clip, SCENE)
    latent = empty(workflow)
    with workflow.group("3  A scale that changes", 2):
        schedule = workflow.add("schedule", "RLGSchedule", shape="linear", scale_from=3.0, scale_to=0.0)
        guidance = workflow.add(
            "guidance", "RLGApply", OVERRIDDEN, model=base[0], rl_model=adapter[0], schedule=schedule[0]
        )
    with workflow.group("4  What it did", 3):
        trace = workflow.add("trace", "RLGTrace", model=guidance[0])
        samples = sampler(workflow, trace, texts, latent)
        plot = workflow.add("trace_plot", "RLGTracePlot", trace=trace[1], after=samples[0])
    with workflow.group("Result", 4):
        decode = workflow.add("decode", "VAEDecode", samples=plot[2], vae=vae)
        workflow.add("save", "SaveImage", images=decode[0], filename_prefix="RLG")
    return workflow


def two_rl_models() -> Workflow:
    workflow = Workflow("RLG Two RL Models")
    base, clip, vae = base_and_encoders(workflow)
    with workflow.group("2  RL models, both on the plain base", 1):
        first = workflow.add("rl_adapter", "RLGAdapterLoader", "First RL model", model=base[0], lora_name=BRIGHTNESS)
        second = workflow.add(
            "second_rl_adapter", "RLGAdapterLoader", "Second RL model", model=base[0], lora_name=COMPOSITION
        )
    texts = prompts(workflow, clip, SCENE)
    latent = empty(workflow)
    with workflow.group("3  Two dials, one after the other", 2):
        dial = workflow.add("guidance", "RLGApply", "First dial", model=base[0], rl_model=first[0], scale=1.5)
        both = workflow.add("second_guidance", "RLGApply", "Second dial", model=dial[0], rl_model=second[0], scale=1.0)
    saved(workflow, sampled(workflow, both, texts, latent, vae)[0])
    return workflow


def checkpoint_pair() -> Workflow:
    workflow = Workflow("RLG Checkpoint Pair")
    with workflow.group("1  Both models", 0):
        pair = workflow.add("pair", "RLGCheckpointPairLoader", "Base and RL model", base_name=PAIR[0], rl_name=PAIR[1])
        clip, vae = encoders(workflow)
    texts = prompts(workflow, clip, SCENE)
    latent = empty(workflow)
    with workflow.group("2  The dial", 2):
        guidance = workflow.add("guidance", "RLGApply", model=pair[0], rl_model=pair[1], scale=1.5)
    saved(workflow, sampled(workflow, guidance, texts, latent, vae)[0])
    return workflow


def best_of_a_batch() -> Workflow:
    workflow = Workflow("RLG Best of a Batch")
    base, clip, vae = base_and_encoders(workflow)
    adapter = adapted(workflow, base)
    texts = prompts(workflow, clip, JUDGED)
    latent = empty(workflow, 6)
    with workflow.group("3  The dial", 2):
        guidance = workflow.add("guidance", "RLGApply", model=base[0], rl_model=adapter[0], scale=1.0)
    decode = sampled(workflow, guidance, texts, latent, vae)
    with workflow.group("4  Reward", 3):
        reward = workflow.add("reward", "RLGRewardLoader", reward="scene judge (demo)", folder="none")
        scores = workflow.add("scores", "RLGReward", image=decode[0], reward=reward[0], prompt=JUDGED)
    with workflow.group("Result", 4):
        best = workflow.add("best", "RLGPickBest", images=decode[0], scores=scores[0])
        workflow.add("save", "SaveImage", images=best[0], filename_prefix="RLG best")
    return workflow


TEMPLATES = (
    starter,
    one_picture,
    scale_sweep,
    schedule_and_trace,
    two_rl_models,
    checkpoint_pair,
    best_of_a_batch,
)
