"""Templates for Wan 2.1 and 2.2."""

from . import files
from .files import File
from .graph import Node, Out, Workflow
from .parts import SEED, prompts

NEGATIVE = "blurry, overexposed, static, worst quality, low quality, jpeg artifacts, deformed, subtitles"
PROMPT = "A kangaroo bounds across a sunlit plain while a cow grazes, dry grass, blue sky, camera follows"


def encoders(workflow: Workflow) -> tuple[Out, Out]:
    """Wan's text encoder and VAE."""
    clip = workflow.add("clip", "CLIPLoader", clip_name=files.WAN_TEXT, type="wan", device="default")
    return clip[0], workflow.add("vae", "VAELoader", vae_name=files.WAN_VAE)[0]


def saved(workflow: Workflow, samples: Out, vae: Out) -> None:
    """The frames as a video of 16 a second."""
    decode = workflow.add("decode", "VAEDecode", samples=samples, vae=vae)
    video = workflow.add("video", "CreateVideo", images=decode[0], fps=16.0)
    with workflow.group("Result", 4):
        workflow.add("save", "SaveVideo", video=video[0], filename_prefix="video/RLG", format="auto", codec="auto")


def wan21() -> Workflow:
    workflow = Workflow("With Wan 2.1 Reward LoRA")
    with workflow.group("Files", 0):
        loaded = workflow.add("base", "UNETLoader", "Base model", unet_name=files.WAN21_FUN_INP, weight_dtype="default")
        clip, vae = encoders(workflow)
        base = workflow.add("shift", "ModelSamplingSD3", "Schedule of both models", model=loaded[0], shift=3.0)
    with workflow.group("RL model", 1):
        adapter = workflow.add("rl_adapter", "RLGAdapterLoader", model=base[0], lora_name=files.WAN21_REWARD)
    positive, negative = prompts(workflow, clip, PROMPT, NEGATIVE)
    with workflow.group("Size", 2):
        sized = workflow.add(
            "latent",
            "WanFunInpaintToVideo",
            "Size, and pictures if any",
            positive=positive,
            negative=negative,
            vae=vae,
            width=832,
            height=480,
            length=81,
            batch_size=1,
        )
    with workflow.group("Guidance", 2):
        guidance = workflow.add("guidance", "RLGApply", model=base[0], rl_model=adapter[0], scale=0.5)
    with workflow.group("Sampling", 3):
        sampler = workflow.add(
            "sampler",
            "KSampler",
            model=guidance[0],
            positive=sized[0],
            negative=sized[1],
            latent_image=sized[2],
            seed=SEED,
            steps=50,
            cfg=6.0,
            sampler_name="euler",
            scheduler="simple",
        )
        saved(workflow, sampler[0], vae)
    return workflow


def expert(workflow: Workflow, side: str, base: File, speed: File, reward: File) -> Node:
    """One of Wan 2.2's two models, guided: the speed LoRA is on the base and so on both, the reward LoRA on one."""
    with workflow.group(f"{side} noise: files", 0):
        loaded = workflow.add(
            f"{side.lower()}_base", "UNETLoader", f"{side} noise, base", unet_name=base, weight_dtype="default"
        )
        fast = workflow.add(
            f"{side.lower()}_speed_lora",
            "LoraLoaderModelOnly",
            "Speed LoRA, for both",
            model=loaded[0],
            lora_name=speed,
        )
        shifted = workflow.add(f"{side.lower()}_shift", "ModelSamplingSD3", model=fast[0], shift=5.0)
    with workflow.group(f"{side} noise: guidance", 2):
        adapter = workflow.add(
            f"{side.lower()}_rl_adapter", "RLGAdapterLoader", "Reward LoRA", model=shifted[0], lora_name=reward
        )
        return workflow.add(f"{side.lower()}_guidance", "RLGApply", model=shifted[0], rl_model=adapter[0], scale=0.55)


def wan22() -> Workflow:
    workflow = Workflow("With Wan 2.2 Reward LoRA")
    high = expert(workflow, "High", files.WAN22_HIGH, files.WAN22_SPEED_HIGH, files.WAN22_REWARD_HIGH)
    low = expert(workflow, "Low", files.WAN22_LOW, files.WAN22_SPEED_LOW, files.WAN22_REWARD_LOW)
    with workflow.group("Text encoder and VAE", 1):
        clip, vae = encoders(workflow)
    positive, negative = prompts(workflow, clip, PROMPT, NEGATIVE)
    with workflow.group("Size", 1):
        latent = workflow.add(
            "latent", "EmptyHunyuanLatentVideo", "Size", width=640, height=640, length=81, batch_size=1
        )
    both = {
        "positive": positive,
        "negative": negative,
        "steps": 4,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
    }
    with workflow.group("Sampling", 3):
        first = workflow.add(
            "high_sampler",
            "KSamplerAdvanced",
            "High noise",
            model=high[0],
            latent_image=latent[0],
            add_noise="enable",
            noise_seed=SEED,
            start_at_step=0,
            end_at_step=2,
            return_with_leftover_noise="enable",
            **both,
        )
        second = workflow.add(
            "low_sampler",
            "KSamplerAdvanced",
            "Low noise",
            model=low[0],
            latent_image=first[0],
            add_noise="disable",
            noise_seed=0,
            start_at_step=2,
            end_at_step=10000,
            return_with_leftover_noise="disable",
            **both,
        )
        saved(workflow, second[0], vae)
    return workflow


TEMPLATES = (wan21, wan22)
