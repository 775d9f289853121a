"""Public model files, by the names under which ComfyUI's own templates and the models' cards have them."""

from dataclasses import dataclass

HUB = "https://huggingface.co/{}/resolve/main/{}"


@dataclass(frozen=True)
class File:
    """A file of a model repository, and the folder below `models` it goes to; `name` may be a path in that folder."""

    directory: str
    name: str
    repository: str
    path: str

    @property
    def url(self) -> str:
        return HUB.format(self.repository, self.path)

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{self.repository}"

    @property
    def value(self) -> str:
        """What a loader's list calls it."""
        return self.name

    def files(self) -> list["File"]:
        return [self]


@dataclass(frozen=True)
class Folder:
    """A PEFT adapter: a folder of its own in `models/loras`, which Load RL Adapter lists by the folder's name.

    Without a repository it stands for an adapter of one's own, and nothing can be downloaded.
    """

    name: str
    repository: str = ""

    @property
    def value(self) -> str:
        return self.name

    def files(self) -> list[File]:
        names = ("adapter_config.json", "adapter_model.safetensors") if self.repository else ()
        return [File("loras", f"{self.name}/{name}", self.repository, name) for name in names]


@dataclass(frozen=True)
class Listed:
    """A file as Load RLG Checkpoint Pair lists it: with its folder."""

    file: File

    @property
    def value(self) -> str:
        return f"{self.file.directory}/{self.file.name}"

    def files(self) -> list[File]:
        return [self.file]


@dataclass(frozen=True)
class Demo:
    """A file that comes with the pack: nothing is to be downloaded."""

    value: str

    def files(self) -> list[File]:
        return []


def same_name(directory: str, repository: str, path: str) -> File:
    """A file that keeps the last part of its path as its name."""
    return File(directory, path.rpartition("/")[2], repository, path)


def repackaged(directory: str, repository: str, name: str) -> File:
    """A single file of a Comfy-Org repository, which has one folder for each of the host's."""
    return File(directory, name, f"Comfy-Org/{repository}", f"split_files/{directory}/{name}")


SD35_MEDIUM = same_name(
    "checkpoints", "Comfy-Org/stable-diffusion-3.5-fp8", "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors"
)
SDXL = same_name("checkpoints", "stabilityai/stable-diffusion-xl-base-1.0", "sd_xl_base_1.0.safetensors")
SD15 = same_name("checkpoints", "Comfy-Org/stable-diffusion-v1-5-archive", "v1-5-pruned-emaonly-fp16.safetensors")

FLUX_DEV = same_name("diffusion_models", "Comfy-Org/flux1-dev", "flux1-dev.safetensors")
FLUX_SRPO = same_name("diffusion_models", "rockerBOO/flux.1-dev-SRPO", "flux.1-dev-SRPO-bf16.safetensors")
FLUX_VAE = repackaged("vae", "Lumina_Image_2.0_Repackaged", "ae.safetensors")
CLIP_L = same_name("text_encoders", "comfyanonymous/flux_text_encoders", "clip_l.safetensors")
T5_XXL = same_name("text_encoders", "comfyanonymous/flux_text_encoders", "t5xxl_fp16.safetensors")

QWEN_IMAGE = repackaged("diffusion_models", "Qwen-Image_ComfyUI", "qwen_image_fp8_e4m3fn.safetensors")
QWEN_EDIT = repackaged("diffusion_models", "Qwen-Image-Edit_ComfyUI", "qwen_image_edit_2509_fp8_e4m3fn.safetensors")
QWEN_TEXT = repackaged("text_encoders", "Qwen-Image_ComfyUI", "qwen_2.5_vl_7b_fp8_scaled.safetensors")
QWEN_VAE = repackaged("vae", "Qwen-Image_ComfyUI", "qwen_image_vae.safetensors")

WAN21_FUN_INP = repackaged("diffusion_models", "Wan_2.1_ComfyUI_repackaged", "wan2.1_fun_inp_1.3B_bf16.safetensors")
WAN22_HIGH = repackaged(
    "diffusion_models", "Wan_2.2_ComfyUI_Repackaged", "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"
)
WAN22_LOW = repackaged(
    "diffusion_models", "Wan_2.2_ComfyUI_Repackaged", "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors"
)
WAN22_SPEED_HIGH = repackaged(
    "loras", "Wan_2.2_ComfyUI_Repackaged", "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors"
)
WAN22_SPEED_LOW = repackaged(
    "loras", "Wan_2.2_ComfyUI_Repackaged", "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors"
)
WAN_TEXT = repackaged("text_encoders", "Wan_2.1_ComfyUI_repackaged", "umt5_xxl_fp8_e4m3fn_scaled.safetensors")
WAN_VAE = repackaged("vae", "Wan_2.1_ComfyUI_repackaged", "wan_2.1_vae.safetensors")

FLOW_GRPO = Folder("SD3.5M-FlowGRPO-GenEval", "jieliu/SD3.5M-FlowGRPO-GenEval")
DIFFUSION_NFT = Folder("SD3.5M-DiffusionNFT-MultiReward", "worstcoder/SD3.5M-DiffusionNFT-MultiReward")
BOXFLOW = Folder("boxflow-grpo-flux-lora", "P1n3/boxflow-grpo-flux-lora")
EDIT_R1 = Folder("Edit-R1-Qwen-Image-Edit-2509", "chestnutlzj/Edit-R1-Qwen-Image-Edit-2509")
YOUR_QWEN = Folder("your-qwen-image-run")

SPO_SDXL = same_name(
    "loras", "SPO-Diffusion-Models/SPO-SDXL_4k-p_10ep_LoRA", "spo_sdxl_10ep_4k-data_lora_diffusers.safetensors"
)
SPO_SD15 = same_name(
    "loras", "SPO-Diffusion-Models/SPO-SD-v1-5_4k-p_10ep_LoRA", "spo-sd-v1-5_4k-p_10ep_lora_diffusers.safetensors"
)
NPO_SD15 = same_name("loras", "wangfuyun/Diffusion-NPO", "weights/sd15/sd15_beta500_2kiter.safetensors")
DPO_SDXL = File(
    "diffusion_models",
    "dpo-sdxl-text2image-v1.safetensors",
    "mhdang/dpo-sdxl-text2image-v1",
    "unet/diffusion_pytorch_model.safetensors",
)
PIXEL_ART = same_name("loras", "nerijs/pixel-art-xl", "pixel-art-xl.safetensors")
WAN21_REWARD = same_name("loras", "alibaba-pai/Wan2.1-Fun-Reward-LoRAs", "Wan2.1-Fun-1.3B-InP-HPS2.1.safetensors")
WAN22_REWARD_HIGH = same_name(
    "loras", "alibaba-pai/Wan2.2-Fun-Reward-LoRAs", "Wan2.2-Fun-A14B-InP-high-noise-HPS2.1.safetensors"
)
WAN22_REWARD_LOW = same_name(
    "loras", "alibaba-pai/Wan2.2-Fun-Reward-LoRAs", "Wan2.2-Fun-A14B-InP-low-noise-HPS2.1.safetensors"
)
