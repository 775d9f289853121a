"""Groups that several templates have in common."""

from .graph import Node, Out, Workflow

SEED = 7


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
