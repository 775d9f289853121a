"""Templates for Stable Diffusion 1.5, XL and 3.5."""

from . import files
from .files import Listed
from .graph import Workflow
from .parts import adapted, checkpoint, dial, prompts, sampled, size


def sd35_flow_grpo() -> Workflow:
    workflow = Workflow("With SD3.5-M Flow-GRPO")
    base = checkpoint(workflow, files.SD35_MEDIUM)
    adapter = adapted(workflow, base, files.FLOW_GRPO)
    texts = prompts(workflow, base[1], "a photo of three red apples and two green pears on a wooden table")
    latent = size(workflow, "EmptySD3LatentImage", 512, 512)
    guidance = dial(workflow, base[0], adapter[0], 1.5)
    sampled(workflow, guidance, texts, latent, base[2], 20, 4.5)
    return workflow


def sd35_diffusion_nft() -> Workflow:
    workflow = Workflow("With SD3.5-M DiffusionNFT")
    base = checkpoint(workflow, files.SD35_MEDIUM)
    adapter = adapted(workflow, base, files.DIFFUSION_NFT)
    texts = prompts(workflow, base[1], "an astronaut reading a book in a botanical garden, morning light")
    latent = size(workflow, "EmptySD3LatentImage", 512, 512)
    with workflow.group("Guidance", 2):
        branch = workflow.add("branch", "RLGBranch", "RL model without CFG", rl_cfg=1.0)
        guidance = workflow.add("guidance", "RLGApply", model=base[0], rl_model=adapter[0], scale=1.2, branch=branch[0])
    sampled(workflow, guidance, texts, latent, base[2], 40, 4.5)
    return workflow


def sdxl_spo() -> Workflow:
    workflow = Workflow("With SDXL SPO")
    base = checkpoint(workflow, files.SDXL)
    adapter = adapted(workflow, base, files.SPO_SDXL)
    texts = prompts(workflow, base[1], "a child and a penguin sitting in front of the moon")
    latent = size(workflow, "EmptyLatentImage", 1024, 1024)
    guidance = dial(workflow, base[0], adapter[0], 1.5)
    sampled(workflow, guidance, texts, latent, base[2], 20, 5.0, scheduler="normal")
    return workflow


def sdxl_diffusion_dpo() -> Workflow:
    workflow = Workflow("With SDXL Diffusion-DPO")
    with workflow.group("Files", 0):
        pair = workflow.add(
            "pair",
            "RLGCheckpointPairLoader",
            "Base and RL model",
            base_name=Listed(files.SDXL),
            rl_name=Listed(files.DPO_SDXL),
        )
    texts = prompts(workflow, pair[2], "a very beautiful and ornate lighthouse on a cliff in the evening, oil painting")
    latent = size(workflow, "EmptyLatentImage", 1024, 1024)
    guidance = dial(workflow, pair[0], pair[1], 1.5)
    sampled(workflow, guidance, texts, latent, pair[3], 50, 5.0, scheduler="normal")
    return workflow


def sd15_diffusion_npo() -> Workflow:
    workflow = Workflow("With SD1.5 Diffusion-NPO")
    base = checkpoint(workflow, files.SD15)
    with workflow.group("RL models", 1):
        liked = workflow.add("rl_adapter", "RLGAdapterLoader", "Preferred", model=base[0], lora_name=files.SPO_SD15)
        disliked = workflow.add(
            "npo_adapter", "RLGAdapterLoader", "Dispreferred", model=base[0], lora_name=files.NPO_SD15
        )
    texts = prompts(workflow, base[1], "an attractive old lighthouse by a calm lake, dramatic clouds")
    latent = size(workflow, "EmptyLatentImage", 512, 512)
    with workflow.group("Guidance", 2):
        first = workflow.add("guidance", "RLGApply", "Towards", model=base[0], rl_model=liked[0], scale=1.0)
        branch = workflow.add(
            "npo_branch", "RLGBranch", "Negative branch alone", positive_scale=0.0, negative_scale=1.0
        )
        second = workflow.add(
            "npo_guidance",
            "RLGApply",
            "Away",
            model=first[0],
            rl_model=disliked[0],
            scale=1.0,
            branch=branch[0],
        )
    sampled(workflow, second, texts, latent, base[2], 25, 7.5, sampler_name="dpmpp_2m", scheduler="normal")
    return workflow


def any_lora() -> Workflow:
    workflow = Workflow("With Any LoRA")
    base = checkpoint(workflow, files.SDXL)
    with workflow.group("RL model", 1):
        adapter = workflow.add("lora", "LoraLoaderModelOnly", "Your LoRA", model=base[0], lora_name=files.PIXEL_ART)
    texts = prompts(workflow, base[1], "a small wooden house by a river, pixel art", "blurry, low quality")
    latent = size(workflow, "EmptyLatentImage", 1024, 1024)
    guidance = dial(workflow, base[0], adapter[0], 1.5)
    sampled(workflow, guidance, texts, latent, base[2], 25, 7.0, sampler_name="dpmpp_2m", scheduler="karras")
    return workflow


TEMPLATES = (sd35_flow_grpo, sd35_diffusion_nft, sdxl_spo, sdxl_diffusion_dpo, sd15_diffusion_npo, any_lora)
