"""Groups that several templates have in common."""

from .files import File, Folder
from .graph import Node, Out, Workflow

SEED = 7


def checkpoint(workflow: Workflow, file: File) -> Node:
    """The base model, its text encoders and its VAE, of one file."""
    with workflow.group("Files", 0):
        return workflow.add("base", "CheckpointLoaderSimple", "Base model", ckpt_name=file)


def adapted(workflow: Workflow, base: Node, adapter: File | Folder) -> Node:
    """The RL model: an adapter on the base."""
    with workflow.group("RL model", 1):
        return workflow.add("rl_adapter", "RLGAdapterLoader", model=base[0], lora_name=adapter)


def dial(workflow: Workflow, model: Out, rl_model: Out, scale: float) -> Node:
    """Guidance at one scale."""
    with workflow.group("Guidance", 2):
        return workflow.add("guidance", "RLGApply", model=model, rl_model=rl_model, scale=scale)


def prompts(workflow: Workflow, clip: Out, positive: str, negative: str = "") -> tuple[Out, Out]:
    """Both prompts."""
    with workflow.group("Prompt", 1):
        first = workflow.add("positive", "CLIPTextEncode", "Positive prompt", clip=clip, text=positive)
        second = workflow.add("negative", "CLIPTextEncode", "Negative prompt", clip=clip, text=negative)
    return first[0], second[0]


def sampled(
    workflow: Workflow, guidance: Node, texts: tuple[Out, Out], latent: Node, vae: Out, steps: int, cfg: float, **values
) -> None:
    """Sampling, decoding and saving of a picture."""
    with workflow.group("Sampling", 2):
        sampler = workflow.add(
            "sampler",
            "KSampler",
            model=guidance[0],
            positive=texts[0],
            negative=texts[1],
            latent_image=latent[0],
            seed=SEED,
            steps=steps,
            cfg=cfg,
            **{"sampler_name": "euler", "scheduler": "simple"} | values,
        )
        decode = workflow.add("decode", "VAEDecode", samples=sampler[0], vae=vae)
    with workflow.group("Result", 3):
        workflow.add("save", "SaveImage", images=decode[0], filename_prefix="RLG")


def size(workflow: Workflow, kind: str, width: int, height: int) -> Node:
    """The empty latent, in a group of its own below the prompts."""
    with workflow.group("Size", 1):
        return workflow.add("latent", kind, "Size", width=width, height=height, batch_size=1)
