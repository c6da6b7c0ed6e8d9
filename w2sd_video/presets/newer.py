"""Pairs of the families of 2026 whose networks share a latent space, none of them measured here (imports no torch).

Sizes, frames and guidance are those of their families (`loading.pipeline_families`); T and lambda are the paper's for
Flux. Few-step sides have the noise levels that they were trained at.
"""

from __future__ import annotations

from typing import Any

from w2sd_video.loading.pipeline_families import PipelineFamily, family_called
from w2sd_video.pair import ModelSpec
from w2sd_video.presets.pictures import FLUX, FLUX_REFLECTIONS, FLUX_STEPS, SDXL
from w2sd_video.presets.preset import Preset, made

NOT_MEASURED = "chosen, not measured: not in the paper; T and lambda as its Flux, the rest as the family's own examples"
UNKNOWN_LEVELS = (
    "the distilled side's 16 levels have the shift of its own scheduler, not known before it is fetched: at all levels "
    "unless --weak-levels turbo-16:SHIFT is given"
)
KLEIN_LEVELS = "turbo-4:9.89"  # exp(mu) of the pipeline's own shift for 4 steps at 1024 x 1024
LTX_LEVELS = (1000.0, 993.75, 987.5, 981.25, 975.0, 909.375, 725.0, 421.875)  # diffusers' for LTX-2's distilled models
KANDINSKY = "kandinskylab/Kandinsky-5.0-T2V-Lite-{}-5s-Diffusers"
HUNYUAN = "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v"
SIZE, TUNED, FEW = "weight: size", "weight: full fine-tune", "weight: distillation"
WAN_LARGE = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
WAN_22 = "Wan-AI/Wan2.2-T2V-A14B-Diffusers"


def _pair(
    name: str,
    description: str,
    gap: str,
    family: str,
    strong: str,
    weak: str | None,
    gigabytes: tuple[float, ...],
    scheduler: str,
    *,
    guidance: float | None = None,
    inside: float | None = None,
    weak_guidance: float | None = None,
    weak_levels: Any = None,
    scales: tuple[float, float] = (0.0, 0.0),
    said: str = "",
    **rest: Any,
) -> Preset:
    """A pair of its family's defaults; `gigabytes` are of each side's networks in 16 bits, `scheduler` their own,
    `inside` the strong side's guidance in reflections where it is another one, `scales` of LoRAs on both.
    """
    row = family_called(family)
    assert isinstance(row, PipelineFamily)
    scale = row.guidance if guidance is None else guidance
    assert scale is not None
    sizes = {"num_frames": row.num_frames, "fps": row.fps} if row.makes_videos else {}
    loras = [tuple((each, by) for each in rest.get("loras", {})) for by in scales]
    side = ModelSpec(checkpoint=strong, guidance=scale if inside is None else inside, loras=loras[0])
    other = ModelSpec(
        checkpoint=weak,
        guidance=scale if weak_guidance is None else weak_guidance,
        levels=weak_levels,
        loras=loras[1],
    )
    settings = {"size": row.size or (1024, 1024), "steps": FLUX_STEPS, "reflections": FLUX_REFLECTIONS, **sizes, **rest}
    settings["mode"] = row.mode
    memory = f"networks in 16 bits, GB: {' + '.join(f'{size:g}' for size in gigabytes)}"
    if len(gigabytes) == 1:
        memory += ", one for both sides"
    words = "; ".join(filter(None, (NOT_MEASURED, f"scheduler its own, {scheduler}", said)))
    return made(name, description, gap, family, side, other, guidance=scale, memory=memory, chosen=words, **settings)


PICTURES_2026 = (
    _pair("flux2-klein", "Flux.2 klein base over its distilled version", FEW, "Flux.2 klein",
          "black-forest-labs/FLUX.2-klein-base-4B", "black-forest-labs/FLUX.2-klein-4B", (8, 8),
          "flow Euler, shift by size", weak_guidance=1.0, weak_levels=KLEIN_LEVELS,
          said="the distilled side's levels are those of 1024 x 1024"),
    _pair("ideogram4-networks", "Ideogram 4's conditional network over its unconditional one", "weight: no prompt",
          "Ideogram 4", "ideogram-ai/ideogram-v4", None, (37,), "flow Euler, its own levels", inside=1.0,
          weak_guidance=0.0, said="inside the reflection each network alone, guidance 1 over 0"),
    _pair("flux-vs-chroma", "FLUX.1-dev over Chroma, unguided", "weight: architecture", "Flux", FLUX,
          "lodestones/Chroma1-HD", (24, 18), "flow Euler, shift by size", weak_guidance=1.0,
          weak_family="Chroma",
          said="one latent space if the VAEs' hashes agree; Z-Image, HiDream and Lumina 2 have that VAE too, and keep "
          "its latents otherwise: w2sd bridge"),
    _pair("flux-srpo", "FLUX.1-dev fine-tuned by SRPO over FLUX.1-dev", TUNED, "Flux",
          "tencent/SRPO/diffusion_pytorch_model.safetensors", FLUX, (24, 24), "flow Euler, shift by size",
          needs=("--strong FILE", f"--config {FLUX}"),
          said="SRPO's repository is one transformer's file, here in 16 bits: fetch that"),
    _pair("qwen-image-2512", "Qwen-Image 2512 over Qwen-Image", TUNED, "Qwen-Image", "Qwen/Qwen-Image-2512",
          "Qwen/Qwen-Image", (41, 41), "flow Euler, shift by size"),
    _pair("z-image", "Z-Image over Z-Image Turbo", FEW, "Z-Image", "Tongyi-MAI/Z-Image", "Tongyi-MAI/Z-Image-Turbo",
          (12, 12), "flow Euler", weak_guidance=1.0, weak_levels="turbo-8:3"),
    _pair("sana-size", "Sana 1.6B over 0.6B", SIZE, "Sana",
          "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers", "Efficient-Large-Model/Sana_600M_1024px_diffusers",
          (3.2, 1.2), "flow DPM-Solver++"),
    _pair("flux-krea", "FLUX.1 Krea over FLUX.1-dev", TUNED, "Flux", "black-forest-labs/FLUX.1-Krea-dev", FLUX,
          (24, 24), "flow Euler, shift by size"),
    _pair("flux-schnell", "FLUX.1-dev over its distilled schnell", FEW, "Flux", FLUX,
          "black-forest-labs/FLUX.1-schnell", (24, 24), "flow Euler, shift by size", weak_guidance=1.0,
          weak_levels="turbo-4:1"),
    _pair("realvis-sdxl", "RealVisXL v5 over SDXL base", TUNED, "SDXL", "SG161222/RealVisXL_V5.0", SDXL, (5.1, 5.1),
          "Euler", guidance=5.5, size=(1024, 1024)),
    _pair("dpo-sdxl", "SDXL with a DPO LoRA at 1 over SDXL without it", "weight: LoRA scale", "SDXL", SDXL, None,
          (5.1,), "Euler", guidance=5.5, loras={"dpo": "radames/sdxl-DPO-LoRA"},
          scales=(1.0, 0.0)),
)  # fmt: skip

VIDEOS_2026 = (
    _pair("kandinsky5-sft", "Kandinsky 5 Lite, fine-tuned over pretrained", TUNED, "Kandinsky 5",
          KANDINSKY.format("sft"), KANDINSKY.format("pretrain"), (4, 4), "flow Euler"),
    _pair("kandinsky5-distilled", "Kandinsky 5 Lite over its 16-step version", FEW, "Kandinsky 5",
          KANDINSKY.format("sft"), KANDINSKY.format("distilled16steps"), (4, 4), "flow Euler", weak_guidance=1.0,
          said=UNKNOWN_LEVELS),
    _pair("wan22-vs-wan21", "Wan 2.2 A14B, two networks, over Wan 2.1 14B", "weight: version", "Wan", WAN_22, WAN_LARGE,
          (56, 28), "UniPC flow", said="2.2's second network makes the last steps, where its first is not asked"),
    _pair("wan21-lightning", "Wan 2.1 14B over itself with a 4-step Lightning LoRA", FEW, "Wan", WAN_LARGE, None, (28,),
          "UniPC flow", weak_guidance=1.0, weak_levels="lightning-4:5", loras={"lightning": None}, scales=(0.0, 1.0),
          needs=("--lora lightning=FILE",), said="levels of LoRAs distilled at shift 5: --weak-levels for others"),
    _pair("skyreels-vs-wan", "SkyReels V2 14B over Wan 2.1 14B", TUNED, "SkyReels V2",
          "Skywork/SkyReels-V2-T2V-14B-540P-Diffusers", WAN_LARGE, (28, 28), "UniPC flow",
          said="the VAEs' hashes decide whether they share their latents: w2sd diagnose"),
    _pair("hunyuan15-distilled", "HunyuanVideo 1.5 over its guidance-distilled version", FEW, "HunyuanVideo 1.5",
          HUNYUAN, f"{HUNYUAN}_distilled", (17, 17), "flow Euler, shift 5", weak_guidance=1.0),
    _pair("ltx23-distilled", "LTX-2.3 over its distilled version", FEW, "LTX-2", "diffusers/LTX-2.3-Diffusers",
          "diffusers/LTX-2.3-Distilled-Diffusers", (44, 44), "flow Euler, shift by size", weak_guidance=1.0,
          weak_levels=LTX_LEVELS),
    _pair("cogvideox-guidance", "CogVideoX 5B at guidance 6 over 1", "condition: guidance", "CogVideoX",
          "THUDM/CogVideoX-5b", None, (11,), "DDIM, v-predictions", weak_guidance=1.0),
    _pair("svd-versions", "SVD-XT 1.1 over SVD-XT", TUNED, "SVD", "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
          "stabilityai/stable-video-diffusion-img2vid-xt", (3, 3), "Euler, v-predictions",
          needs=("--image FILE",)),
)  # fmt: skip
