"""Templates for FLUX.1-dev, Qwen-Image and Qwen-Image-Edit."""

from . import files
from .files import File, Listed
from .graph import Node, Out, Workflow
from .parts import adapted, dial, prompts, sampled, size


def flux_texts(workflow: Workflow, clip: Out, text: str) -> tuple[Out, Out]:
    """The prompt with FLUX's own guidance, and an empty negative one: cfg is 1, so that it counts for nothing."""
    with workflow.group("Prompt", 1):
        prompt = workflow.add("positive", "CLIPTextEncode", "Prompt", clip=clip, text=text)
        guided = workflow.add("distilled_guidance", "FluxGuidance", conditioning=prompt[0], guidance=3.5)
        empty = workflow.add("negative", "ConditioningZeroOut", conditioning=prompt[0])
    return guided[0], empty[0]


def flux_encoders(workflow: Workflow) -> tuple[Out, Out]:
    """FLUX's text encoders and VAE."""
    clip = workflow.add(
        "clip", "DualCLIPLoader", clip_name1=files.CLIP_L, clip_name2=files.T5_XXL, type="flux", device="default"
    )
    return clip[0], workflow.add("vae", "VAELoader", vae_name=files.FLUX_VAE)[0]


def flux_rl_lora() -> Workflow:
    workflow = Workflow("With FLUX.1-dev RL LoRA")
    with workflow.group("Files", 0):
        base = workflow.add("base", "UNETLoader", "Base model", unet_name=files.FLUX_DEV, weight_dtype="default")
        clip, vae = flux_encoders(workflow)
    adapter = adapted(workflow, base, files.BOXFLOW)
    texts = flux_texts(workflow, clip, "a photo of a corgi astronaut on Mars")
    latent = size(workflow, "EmptySD3LatentImage", 512, 512)
    guidance = dial(workflow, base[0], adapter[0], 1.5)
    sampled(workflow, guidance, texts, latent, vae, 20, 1.0)
    return workflow


def flux_srpo() -> Workflow:
    workflow = Workflow("With FLUX.1-dev SRPO")
    with workflow.group("Files", 0):
        pair = workflow.add(
            "pair",
            "RLGCheckpointPairLoader",
            "Base and RL model",
            base_name=Listed(files.FLUX_DEV),
            rl_name=Listed(files.FLUX_SRPO),
            compress="low-rank",
        )
        clip, vae = flux_encoders(workflow)
    texts = flux_texts(workflow, clip, "portrait of an old fisherman on a pier at dusk")
    latent = size(workflow, "EmptySD3LatentImage", 1024, 1024)
    guidance = dial(workflow, pair[0], pair[1], 1.2)
    sampled(workflow, guidance, texts, latent, vae, 50, 1.0)
    return workflow


def qwen_files(workflow: Workflow, base: File, shift: float) -> tuple[Node, Out, Out]:
    """The model with its shift of the schedule, its text encoder and its VAE."""
    with workflow.group("Files", 0):
        loaded = workflow.add("base", "UNETLoader", "Base model", unet_name=base, weight_dtype="default")
        clip = workflow.add("clip", "CLIPLoader", clip_name=files.QWEN_TEXT, type="qwen_image", device="default")
        vae = workflow.add("vae", "VAELoader", vae_name=files.QWEN_VAE)
        shifted = workflow.add(
            "shift", "ModelSamplingAuraFlow", "Schedule of both models", model=loaded[0], shift=shift
        )
    return shifted, clip[0], vae[0]


def qwen_image() -> Workflow:
    workflow = Workflow("With Qwen-Image")
    base, clip, vae = qwen_files(workflow, files.QWEN_IMAGE, 3.1)
    adapter = adapted(workflow, base, files.YOUR_QWEN)
    texts = prompts(workflow, clip, 'a bookshop window with a hand-painted sign that says "OPEN LATE"', " ")
    latent = size(workflow, "EmptySD3LatentImage", 512, 512)
    guidance = dial(workflow, base[0], adapter[0], 1.5)
    sampled(workflow, guidance, texts, latent, vae, 50, 4.0)
    return workflow


def qwen_image_edit() -> Workflow:
    workflow = Workflow("With Qwen-Image-Edit")
    base, clip, vae = qwen_files(workflow, files.QWEN_EDIT, 3.0)
    with workflow.group("Picture", 0):
        loaded = workflow.add("image", "LoadImage", "Picture to edit", image="example.png")
        scaled = workflow.add("scaled_image", "FluxKontextImageScale", image=loaded[0])
        latent = workflow.add("latent", "VAEEncode", "Size", pixels=scaled[0], vae=vae)
    adapter = adapted(workflow, base, files.EDIT_R1)
    with workflow.group("Instruction", 1):
        kind, seen = "TextEncodeQwenImageEditPlus", {"clip": clip, "vae": vae, "image1": scaled[0]}
        positive = workflow.add("positive", kind, "Instruction", prompt="make it a rainy evening", **seen)
        negative = workflow.add("negative", kind, "Negative prompt", prompt=" ", **seen)
    guidance = dial(workflow, base[0], adapter[0], 1.2)
    sampled(workflow, guidance, (positive[0], negative[0]), latent, vae, 28, 4.0)
    return workflow


TEMPLATES = (flux_rl_lora, flux_srpo, qwen_image, qwen_image_edit)
