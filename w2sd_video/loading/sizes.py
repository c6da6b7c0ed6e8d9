"""How many numbers a model is made of, and how many are alive while it computes: from headers and configs, or from a
table of well-known models whose files are not here (imports no torch).

The numbers alive were counted on networks without values at their true widths, attention in one pass (no matrix of
scores), and are proportional to what `tests/loading/test_memory_plans.py` counts again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from w2sd_video.loading.describe import TEXT_ENCODERS, Description, Weights
from w2sd_video.loading.files import GGUF

NETWORKS = ("unet", "transformer", "transformer_2", "unconditional_transformer")
# Numbers alive at the peak of an evaluation, per row, latent position (or token) and channel of the first layer.
UNET_VALUES = 15.8  # whose first level has no attention (SDXL)
ATTENDED_VALUES = 26.05  # whose first level has (SD 1.5, all with motion modules): the widest feed-forward is there
FLUX_VALUES, SD3_VALUES = 17.5, 12.5
WAN_VALUES = (6.9, 1.55)  # and so many more for each time that its feed-forward is as wide as the rest
TRANSFORMER_VALUES = 17.5  # of others
# Likewise of VAEs that decode (encoding takes less), per pixel and first channel: for pictures, and Wan's, which takes
# frames in turn.
VAE_VALUES, WAN_VAE_VALUES = 6.0, 53.3
LOOKED_AT, SAMPLE = 16, 64  # tensors of a file, and bytes of each, by which two files are told apart
CHUNK_PIXELS = 1024 * 1024  # decoded at once of a video: one frame at 1024 x 1024, all of a small one


@dataclass(frozen=True)
class Sizes:
    """One model's numbers.

    Attributes:
        networks: by part, without motion modules.
        motion: AnimateDiff's modules.
        text: of each text encoder.
        vae: of the VAE.
        largest: of the largest tensor of the networks; `largest_text` of the text encoders.
        config, vae_config: of the network and the VAE, as far as `alive` and `decoded` read them.
        packed: bytes of networks that stay as they are in their files (quantised ones); None for those of a dtype.
    """

    networks: Mapping[str, int]
    motion: int = 0
    text: tuple[int, ...] = ()
    vae: int = 0
    largest: int = 0
    largest_text: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    vae_config: Mapping[str, Any] = field(default_factory=dict)
    packed: int | None = None

    @property
    def cell(self) -> int:
        """Pixels of each side of a latent's cell."""
        known = self.vae_config.get("block_out_channels") or self.vae_config.get("dim_mult") or [0] * 4
        return 2 ** (len(known) - 1)

    def alive(self, height: int, width: int, num_frames: int | None, *, moving: bool = False) -> int:
        """Returns the numbers alive at the peak of an evaluation of one row; `moving` with motion modules."""
        config, name = self.config, str(self.config.get("_class_name"))
        positions = math.ceil(height / self.cell) * math.ceil(width / self.cell)
        if name.startswith("UNet") or "block_out_channels" in config:
            attended = moving or name == "UNetMotionModel"
            attended = attended or str((config.get("down_block_types") or ["Down"])[0]).startswith("CrossAttn")
            values = ATTENDED_VALUES if attended else UNET_VALUES
            return int(values * positions * (num_frames or 1) * (config.get("block_out_channels") or [320])[0])
        inner = (config.get("num_attention_heads") or 24) * (config.get("attention_head_dim") or 128)
        patch = config.get("patch_size") or 1
        patch = patch[-1] if isinstance(patch, list | tuple) else patch
        if name.startswith("Wan"):
            latent_frames = ((num_frames or 1) - 1) // 4 + 1
            values = WAN_VALUES[0] + WAN_VALUES[1] * (config.get("ffn_dim") or 4 * inner) / inner
            return int(values * latent_frames * positions / patch**2 * inner)
        if name.startswith("Flux"):
            return int(FLUX_VALUES * (positions / 4 + 512) * inner)  # latents are packed two by two
        if name.startswith("SD3"):
            return int(SD3_VALUES * (positions / patch**2 + 333) * inner)
        if name == "DiTMoE":  # the products of all experts, at most
            return int(4 * config["num_experts"] * config["expert_hidden_size"] * positions / patch**2)
        return int(TRANSFORMER_VALUES * (positions / patch**2 + 512) * inner * (num_frames or 1))

    def decoded(self, height: int, width: int, num_frames: int | None, batch: int = 1) -> int:
        """Returns the numbers alive at the peak of decoding a batch of pictures, or of videos in chunks."""
        if "dim_mult" in self.vae_config:
            alive = WAN_VAE_VALUES * height * width * (self.vae_config.get("base_dim") or 96)
            return int(alive + 6 * height * width * (num_frames or 1)) * batch
        chunk = batch if num_frames is None else max(1, min(num_frames * batch, CHUNK_PIXELS // (height * width)))
        channels = (self.vae_config.get("block_out_channels") or [128])[0]
        return int(VAE_VALUES * channels * height * width * chunk)


_SDXL_VAE = {"block_out_channels": [128, 256, 512, 512], "force_upcast": True}
_WAN_VAE = {"dim_mult": [1, 2, 4, 4], "base_dim": 96}
_CLIP_L, _CLIP_G, _T5, _UMT5 = 123_060_480, 694_659_840, 4_762_310_656, 5_680_910_336
_SDXL_UNET = {"_class_name": "UNet2DConditionModel", "block_out_channels": [320], "down_block_types": ["DownBlock2D"]}
_SD15_UNET = {**_SDXL_UNET, "down_block_types": ["CrossAttnDownBlock2D"]}


def _transformer(name: str, heads: int, width: int, **more: Any) -> dict[str, Any]:
    return {"_class_name": name, "num_attention_heads": heads, "attention_head_dim": width, **more}


def _wan(millions: float, heads: int, ffn: int, count: int = 1) -> Sizes:
    names = ("transformer", "transformer_2")[:count]
    return Sizes(
        {name: int(millions * 1e6) for name in names},
        text=(_UMT5,),
        vae=126_900_000,
        largest=heads * 128 * ffn,
        largest_text=256384 * 4096,
        config=_transformer("WanTransformer3DModel", heads, 128, ffn_dim=ffn, patch_size=[1, 2, 2]),
        vae_config=_WAN_VAE,
    )


def _sd35(millions: float, heads: int) -> Sizes:
    return Sizes(
        {"transformer": int(millions * 1e6)},
        text=(_CLIP_L, _CLIP_G, _T5),
        vae=83_819_683,
        largest=24 * heads**2 * 64**2 // 4,
        largest_text=32128 * 4096,
        config=_transformer("SD3Transformer2DModel", heads, 64, patch_size=2),
        vae_config={**_SDXL_VAE, "force_upcast": True},
    )


KNOWN: Mapping[str, Sizes] = {
    "SDXL": Sizes(
        {"unet": 2_567_463_684},
        text=(_CLIP_L, _CLIP_G),
        vae=83_653_863,
        largest=29_491_200,
        largest_text=49408 * 1280,
        config=_SDXL_UNET,
        vae_config=_SDXL_VAE,
    ),
    "SD 1.5": Sizes(
        {"unet": 859_520_964},
        text=(_CLIP_L,),
        vae=83_653_863,
        largest=29_491_200,
        largest_text=49408 * 768,
        config=_SD15_UNET,
        vae_config={**_SDXL_VAE, "force_upcast": False},
    ),
    "Flux": Sizes(
        {"transformer": 11_901_408_320},
        text=(_CLIP_L, _T5),
        vae=83_819_683,
        largest=3072 * 5 * 3072,
        largest_text=32128 * 4096,
        config=_transformer("FluxTransformer2DModel", 24, 128),
        vae_config=_SDXL_VAE,
    ),
    "SD 3.5 large": _sd35(8056.6, 38),
    "SD 3.5 medium": _sd35(2243.2, 24),
    "Wan 14B": _wan(14288.5, 40, 13824),
    "Wan 1.3B": _wan(1418.99, 12, 8960),
    "Wan A14B": _wan(14288.5, 40, 13824, 2),
}
MOTION = {"SDXL": 236_780_000, "SD 1.5": 453_000_000}
# Hub ids by what they contain; the first that fits.
NAMES = {
    "a14b": "Wan A14B",
    "wan2.1-t2v-14b": "Wan 14B",
    "wan2.1-t2v-1.3b": "Wan 1.3B",
    "3.5-large": "SD 3.5 large",
    "3.5-medium": "SD 3.5 medium",
    "flux.1-": "Flux",
    "xl": "SDXL",
    "v1-5": "SD 1.5",
    "dreamshaper-8": "SD 1.5",
}


def known_family(given: str, family: str | None = None) -> str | None:
    """Returns the key of `KNOWN` for a hub id, by its name or the family that its preset says; None for others."""
    name = given.lower()
    return next((kind for mark, kind in NAMES.items() if mark in name), family if family in KNOWN else None)


def sizes_of(side: Description, family: str | None = None) -> Sizes | None:
    """Returns a model's numbers, from its headers where its files are here; None for a hub id that is not known."""
    if side.kind == "hub":
        found = known_family(side.given, family)
        return None if found is None else KNOWN[found]
    held = {part: side.weights(part) for part in (*NETWORKS, *TEXT_ENCODERS, "vae")}
    headers = {part: {} if weights is None else weights.header for part, weights in held.items()}
    numel = {part: [tensor.numel for tensor in header.values()] for part, header in headers.items()}
    motion = sum(tensor.numel for name, tensor in headers["unet"].items() if "motion_modules" in name)
    networks = {part: sum(numel[part]) - (motion if part == "unet" else 0) for part in NETWORKS if numel[part]}
    return Sizes(
        networks,
        motion,
        tuple(sum(numel[part]) for part in TEXT_ENCODERS if numel[part]),
        sum(numel["vae"]),
        max((size for part in networks for size in numel[part]), default=0),
        max((size for part in TEXT_ENCODERS for size in numel[part]), default=0),
        side.network or {},
        side.part("vae") or {},
        packed=_packed(side, held),
    )


def _packed(side: Description, held: Mapping[str, Weights | None]) -> int | None:
    """The bytes of networks that are quantised in their files."""
    sizes = []
    for part in NETWORKS:
        weights = held[part]
        if weights is None:
            continue
        if weights.files[0].suffix == GGUF or (side.part(part) or {}).get("quantization_config"):
            sizes.append(weights.nbytes)
    return sum(sizes) if sizes else None


def held_twice(strong: Description, weak: Description) -> frozenset[str]:
    """Returns the parts with weights that two sides have alike, as far as some bytes of their files tell: the same
    tensors by name and shape, and the same bytes in the middle of the largest of them.
    """
    parts = (*NETWORKS, *TEXT_ENCODERS, "vae")
    return frozenset(part for part in parts if _alike(strong.weights(part), weak.weights(part)))


def _alike(one: Weights | None, other: Weights | None) -> bool:
    if one is None or other is None or one.prefix or other.prefix or len(one.files) != len(other.files):
        return False
    for ours, theirs in zip(one.files, other.files, strict=True):
        if ours.samefile(theirs):
            continue
        if ours.stat().st_size != theirs.stat().st_size:
            return False
        with ours.open("rb") as first, theirs.open("rb") as second:
            places = [int.from_bytes(file.read(8), "little") + 8 for file in (first, second)]
            heads = [json.loads(file.read(place - 8)) for file, place in zip((first, second), places, strict=True)]
            if heads[0] != heads[1] or places[0] != places[1]:
                return False
            offsets = [about["data_offsets"] for name, about in heads[0].items() if name != "__metadata__"]
            for begin, end in sorted(offsets, key=lambda each: each[0] - each[1])[:LOOKED_AT]:
                found = []
                for file in (first, second):
                    file.seek(places[0] + (begin + end) // 2 - min(SAMPLE, end - begin) // 2)
                    found.append(file.read(min(SAMPLE, end - begin)))
                if found[0] != found[1]:
                    return False
    return True
