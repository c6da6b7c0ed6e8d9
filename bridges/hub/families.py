"""The families whose denoising loops have a block of their own (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MODULES = "diffusers.modular_pipelines"


@dataclass(frozen=True)
class BlockFamily:
    """A thin subclass of `ReflectionBlock`.

    Attributes:
        title: for people.
        class_name: of the subclass.
        model_name: diffusers' own name for the family's pipelines.
        home, stages: the module and the blocks of the loop that lead from latents to a prediction.
        networks: the names of the networks, each of which may have a weak one beside it.
        scheduler: the class of the default scheduler, and one that can be reflected where that cannot.
    """

    title: str
    class_name: str
    model_name: str
    home: str
    stages: tuple[str, ...]
    networks: tuple[str, ...] = ("transformer",)
    scheduler: str = "FlowMatchEulerDiscreteScheduler"

    def source(self) -> str:
        """Returns the text of the subclass."""
        return (
            f'"""W2SD for {self.title}."""\n\nfrom .reflection_block import ReflectionBlock\n\n\n'
            f"class {self.class_name}(ReflectionBlock):\n"
            f'    """Reflects each step of the denoising loop of {self.title} (arXiv 2502.00473)."""\n\n'
            f'    model_name = "{self.model_name}"\n    home = "{self.home}"\n    stages = {self.stages!r}\n'
        )


def _family(title: str, name: str, model_name: str, package: str, *stages: str, **settings: object) -> BlockFamily:
    return BlockFamily(title, f"W2SD{name}", model_name, f"{MODULES}.{package}.denoise", stages, **settings)  # type: ignore[arg-type]


FAMILIES: Mapping[str, BlockFamily] = {
    "sdxl": _family(
        *("Stable Diffusion XL", "StableDiffusionXL", "stable-diffusion-xl", "stable_diffusion_xl"),
        *("StableDiffusionXLLoopBeforeDenoiser", "StableDiffusionXLLoopDenoiser"),
        networks=("unet",),
        scheduler="EulerDiscreteScheduler",
    ),
    "flux": _family("Flux.1", "Flux", "flux", "flux", "FluxLoopDenoiser"),
    "flux2": _family("Flux.2", "Flux2", "flux2", "flux2", "Flux2LoopDenoiser"),
    "flux2-klein": _family("Flux.2 klein base", "Flux2Klein", "flux2-klein", "flux2", "Flux2KleinBaseLoopDenoiser"),
    "qwen-image": _family(
        *("Qwen-Image", "QwenImage", "qwenimage", "qwenimage"),
        *("QwenImageLoopBeforeDenoiser", "QwenImageLoopDenoiser"),
    ),
    "z-image": _family("Z-Image", "ZImage", "z-image", "z_image", "ZImageLoopBeforeDenoiser", "ZImageLoopDenoiser"),
    "wan": _family("Wan 2.1", "Wan", "wan", "wan", "WanLoopBeforeDenoiser", "WanLoopDenoiser"),
    "wan22": _family(
        *("Wan 2.2", "Wan22", "wan", "wan", "WanLoopBeforeDenoiser", "Wan22LoopDenoiser"),
        networks=("transformer", "transformer_2"),
    ),
    "hunyuan-video-1.5": _family(
        *("HunyuanVideo 1.5", "HunyuanVideo15", "hunyuan-video-1.5", "hunyuan_video1_5"),
        *("HunyuanVideo15LoopBeforeDenoiser", "HunyuanVideo15LoopDenoiser"),
    ),
    "ltx2": _family("LTX-2", "LTX2", "ltx2", "ltx2", "LTX2LoopBeforeDenoiser", "LTX2LoopDenoiser"),
}
