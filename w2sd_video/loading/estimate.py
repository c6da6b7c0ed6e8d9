"""How much memory a pair will take, before any of it is loaded (imports no torch).

Weights are counted from the safetensors headers. Activations follow what was measured at real size: the motion UNet's
peak is 4.07 GiB per batch row for 16 frames at 1024 x 1024 in 16 bits (1.02 at 512, 2.29 at 768: proportional to the
pixels), the VAE's 1.50 GiB per decoded frame; other widths scale with the networks' first channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from w2sd_video.loading.checkpoints import LDM_UNET, LDM_VAE, Checkpoint, read_safetensors_header, weight_files
from w2sd_video.loading.specification import PairSpecification, local_configs

GIB = 2**30
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# SDXL's own, for hub ids whose files are not here: millions of parameters.
SDXL_MILLIONS = {"unet": 2567.46, "vae": 83.65, "text": 123.06 + 694.66, "motion": 236.78}
UNET_VALUES = 4.07 * GIB / 2 / (16 * 128 * 128 * 320)  # values alive per frame, latent position and first channel
VAE_VALUES = 1.50 * GIB / 2 / (1024 * 1024 * 128)  # values alive per pixel and first channel of the decoder


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
    specification: PairSpecification,
    *,
    dtype: str,
    height: int,
    width: int,
    num_frames: int,
    rows: int = 2,
    offload: str = "none",
) -> MemoryEstimate:
    """Returns the memory that `load_pair` and one call will take on the device, in bytes.

    `rows` is the batch of the widest network call: 2 with classifier-free guidance on either side, 1 without. A pair of
    one and the same checkpoint is counted as shared whole.
    """
    item = ITEM_BYTES[dtype]
    strong, weak = specification.strong, specification.weak
    configs = local_configs(specification)
    first, second = _count(strong), _count(weak)
    same = strong.given == weak.given
    motion = first["motion"] or second["motion"]
    if motion == 0:
        folder = specification.motion_adapter.path if specification.motion_adapter is not None else None
        motion = _sum(_headers(folder)) if folder is not None else int(SDXL_MILLIONS["motion"] * 1e6)
    vae_config = configs.strong_vae or configs.weak_vae or {}
    vae_item = 4 if vae_config.get("force_upcast", True) and dtype == "float16" else item
    vae = max(first["vae"], second["vae"]) * vae_item
    text = max(first["text"], second["text"]) if same else first["text"] + second["text"]

    unet_channels = ((configs.strong_unet or {}).get("block_out_channels") or [320])[0]
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
    if offload == "none":
        encode, sample, decode = networks + vae + parts["text_encoders"], networks + vae, networks + vae
    elif offload == "model":
        encode, sample, decode = parts["text_encoders"], networks, networks + vae
    else:  # a layer at a time: roughly a hundredth of a network, a tenth of a small one
        encode, sample, decode = parts["text_encoders"] // 10, networks // 100, vae // 10
    return MemoryEstimate(
        **parts,
        vae=vae,
        sampling_activations=sampling,
        decoding_activations=decoding,
        encode_peak=encode,
        sample_peak=sample + sampling,
        decode_peak=decode + decoding,
    )


def _headers(folder: Any) -> Mapping[str, Any]:
    return {name: info for file in weight_files(folder) for name, info in read_safetensors_header(file).items()}


def _sum(header: Mapping[str, Any], prefix: str = "") -> int:
    return sum(info.numel for name, info in header.items() if name.startswith(prefix))


def _count(side: Checkpoint) -> dict[str, int]:
    """Parameters of one side by part; "unet" without the motion modules, which are shared."""
    if side.kind == "hub":
        return {part: int(millions * 1e6) for part, millions in SDXL_MILLIONS.items()} | {"motion": 0}
    if side.kind == "file":
        header = side.header or {}
        text = _sum(header, "conditioner.")
        return {"unet": _sum(header, LDM_UNET), "vae": _sum(header, LDM_VAE), "text": text, "motion": 0}
    parts: dict[str, int] = {}
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        folder = side.part_folder(part)
        header = _headers(folder) if folder is not None else {}
        parts[part] = _sum(header)
        if part == "unet":
            parts["motion"] = sum(info.numel for name, info in header.items() if "motion_modules" in name)
    return {
        "unet": parts["unet"] - parts["motion"],
        "vae": parts["vae"],
        "text": parts["text_encoder"] + parts["text_encoder_2"],
        "motion": parts["motion"],
    }
