"""How networks may be kept in memory, and how much of it a pair will take, before any is loaded (imports no torch).

Weights are counted from the safetensors headers. Activations follow what was measured at real size: the motion UNet's
peak is 4.07 GiB per batch row for 16 frames at 1024 x 1024 in 16 bits (1.02 at 512, 2.29 at 768: proportional to the
pixels), the VAE's 1.50 GiB per decoded frame; other widths scale with the networks' first channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from w2sd_video.errors import UserError
from w2sd_video.loading.describe import Description
from w2sd_video.loading.pair_description import PairDescription

MEMORY_PLANS: Mapping[str, str] = {
    "resident": "everything on the device",
    "model-offload": "whole networks come to the device when they are called; strong and weak network stay together",
    "sequential": "both sides come layer by layer, which takes little memory and is many times slower",
    "group": "likewise, the next layer coming while one computes; slower by little where computing takes long",
    "weak-offload": "the strong side stays on the device, the weak one comes one network at a time",
}
ALIASES = {"none": "resident", "model": "model-offload"}
GIB = 2**30
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# SDXL's own, for hub ids whose files are not here: millions of parameters.
SDXL_MILLIONS = {"unet": 2567.46, "vae": 83.65, "text": 123.06 + 694.66, "motion": 236.78}
UNET_VALUES = 4.07 * GIB / 2 / (16 * 128 * 128 * 320)  # values alive per frame, latent position and first channel
VAE_VALUES = 1.50 * GIB / 2 / (1024 * 1024 * 128)  # values alive per pixel and first channel of the decoder


def memory_plan(given: str | None, device: str | None = None) -> str:
    """Returns the name of a memory plan, "resident" for None; old words are taken too.

    Raises:
        UserError: an unknown word; or, where `device` is known, a plan for which that device has nothing to offload
            from.
    """
    plan = ALIASES.get(given or "resident", given or "resident")
    if plan not in MEMORY_PLANS:
        raise UserError(f"memory is {given!r}; choose one of {', '.join(MEMORY_PLANS)}")
    if plan != "resident" and device is not None and device.partition(":")[0] == "cpu":
        raise UserError(
            f"memory {plan!r} keeps networks off an accelerator, but the device is cpu, which has nothing to offload "
            "from; use resident"
        )
    return plan


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by part. `shared` counts once what both sides use; the equal tensors of the 2-D UNets are found only later.

    `text_encoders` are those of both sides, as if they differed. `encode_peak`, `sample_peak` and `decode_peak` are the
    bytes on the device in the three phases of a call, text encoders freed after the first; `peak` is the largest.
    Workspace and fragmentation (0.5 to 1 GiB) are not counted.
    """

    strong_unet: int
    weak_unet: int
    shared: int
    text_encoders: int
    vae: int
    sampling_activations: int
    decoding_activations: int
    encode_peak: int
    sample_peak: int
    decode_peak: int

    @property
    def peak(self) -> int:
        return max(self.encode_peak, self.sample_peak, self.decode_peak)

    @property
    def networks(self) -> int:
        return self.strong_unet + self.weak_unet + self.shared


def estimate_memory(
    pair: PairDescription,
    *,
    dtype: str,
    height: int,
    width: int,
    num_frames: int,
    rows: int = 2,
    memory: str = "resident",
) -> MemoryEstimate:
    """Returns the memory that `load_pair` and one call will take on the device, in bytes.

    `rows` is the batch of the widest network call: 2 with classifier-free guidance on either side, 1 without. A pair of
    one and the same checkpoint is counted as shared whole.
    """
    item = ITEM_BYTES[dtype]
    strong, weak = pair.strong, pair.weak or pair.strong
    first, second = _count(strong), _count(weak)
    same = strong.given == weak.given
    motion = first["motion"] or second["motion"]
    if motion == 0:
        weights = None if pair.motion_adapter is None else pair.motion_adapter.weights("motion_adapter")
        motion = int(SDXL_MILLIONS["motion"] * 1e6) if weights is None else weights.numel
    vae_config = pair.part("strong", "vae") or pair.part("weak", "vae") or {}
    vae_item = 4 if vae_config.get("force_upcast", True) and dtype == "float16" else item
    vae = max(first["vae"], second["vae"]) * vae_item
    text = max(first["text"], second["text"]) if same else first["text"] + second["text"]

    unet_channels = ((pair.part("strong", "unet") or {}).get("block_out_channels") or [320])[0]
    vae_channels = vae_config.get("block_out_channels") or [128] * 4
    positions = num_frames * height * width / 4 ** (len(vae_channels) - 1)
    sampling = int(UNET_VALUES * unet_channels * positions * rows * item)
    chunk = max(1, min(num_frames, 1024 * 1024 // (height * width)))
    decoding = int(VAE_VALUES * vae_channels[0] * height * width * chunk * vae_item)

    parts = {
        "strong_unet": 0 if same else first["unet"] * item,
        "weak_unet": 0 if same else second["unet"] * item,
        "shared": (motion + (first["unet"] if same else 0)) * item,
        "text_encoders": text * item,
    }
    networks = parts["strong_unet"] + parts["weak_unet"] + parts["shared"]
    encode, plan = parts["text_encoders"], memory_plan(memory)  # nothing else is on the device before they are freed
    if plan == "resident":
        sample = decode = networks + vae
    elif plan in ("model-offload", "weak-offload"):
        sample, decode = networks + (vae if plan == "weak-offload" else 0), networks + vae
    else:  # a layer at a time: roughly a hundredth of a network, a tenth of a small one
        encode, sample, decode = encode // 10, networks // 100, vae // 10
    return MemoryEstimate(
        **parts,
        vae=vae,
        sampling_activations=sampling,
        decoding_activations=decoding,
        encode_peak=encode,
        sample_peak=sample + sampling,
        decode_peak=decode + decoding,
    )


def _count(side: Description) -> dict[str, int]:
    """Parameters of one side by part; "unet" without the motion modules, which are shared."""
    if side.kind == "hub":
        return {part: int(millions * 1e6) for part, millions in SDXL_MILLIONS.items()} | {"motion": 0}
    counts: dict[str, int] = {}
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        weights = side.weights(part)
        header = {} if weights is None else weights.header
        counts[part] = sum(tensor.numel for tensor in header.values())
        if part == "unet":
            counts["motion"] = sum(tensor.numel for name, tensor in header.items() if "motion_modules" in name)
    text = counts.pop("text_encoder") + counts.pop("text_encoder_2")
    return {**counts, "unet": counts["unet"] - counts["motion"], "text": text}
