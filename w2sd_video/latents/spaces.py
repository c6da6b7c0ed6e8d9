"""Do two models share a latent space? The one place that answers, from configs and what names a VAE's weights.

Imports no torch: a description of files and a pipeline in memory are asked the same way (`LatentSpace`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from w2sd_video.errors import UserError, malformed
from w2sd_video.latents import noise_levels

Config = Mapping[str, Any]
RELATIONS: Mapping[str, str] = {
    "share": "one latent space: reflect directly",
    "rescale": "one VAE, whose latents are scaled or shifted differently: an affine map leads from one to the other",
    "re-encode": "VAEs of one shape with other weights: latents look alike and mean other things; go through pixels",
    "bridge": "other latent spaces or noise paths: the sides meet in pixels",
    "undecided": "not all that decides it is on this machine",
}
THROUGH_PIXELS = "reflect through pixels: bridged(strong, weak) of bridges.pixel, or the command `w2sd bridge`"
REMEDIES: Mapping[str, str] = {
    "share": "reflect directly: reflected(strong, weak)",
    "rescale": f"correct the config that is wrong, or {THROUGH_PIXELS}",
    "re-encode": THROUGH_PIXELS,
    "bridge": THROUGH_PIXELS,
    "undecided": "fetch both sides first",
}
SCALES = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
SCALE_DEFAULTS = {"AutoencoderKL": 0.18215, "AutoencoderDC": 1.0, "AutoencoderTiny": 1.0}  # diffusers' own
SHAPES = ("_class_name", "latent_channels", "z_dim", "in_channels", "out_channels")
# Image VAEs, and the part of their config that has one entry for each resolution of the encoder.
IMAGE_VAES = {
    "AutoencoderKL": "block_out_channels",
    "AutoencoderTiny": "encoder_block_out_channels",
    "AutoencoderDC": "encoder_block_out_channels",
}
STAGES = (*dict.fromkeys(IMAGE_VAES.values()), "dim_mult")  # the last of Wan's and Qwen-Image's
RATIOS = ("spatial_compression_ratio", "temporal_compression_ratio")


@dataclass(frozen=True)
class LatentSpace:
    """What one model's latents mean, as far as it is known: None where nothing tells.

    `vae` and `scheduler` are configs (with "_class_name"). `weights` gives what names the VAE's weights, compared by
    `==`; it is asked for only where the rest does not decide, as it reads files or hashes tensors.
    """

    vae: Config | None = None
    scheduler: Config | None = None
    weights: Callable[[], Any] | None = None

    @classmethod
    def of(cls, pipe: Any) -> LatentSpace:
        """The space of a pipeline in memory, its VAE's weights not looked at (fine-tuned decoders)."""
        vae, scheduler = getattr(pipe, "vae", None), pipe.scheduler
        levels = dict(scheduler.config)
        betas = getattr(scheduler, "betas", None)
        if betas is not None:  # as they are, whatever made them
            levels |= {"trained_betas": betas.tolist(), "rescale_betas_zero_snr": False}
        return cls(None if vae is None else config_of(vae), {**levels, "_class_name": type(scheduler).__name__})


@dataclass(frozen=True)
class Relation:
    """How two latent spaces relate: `name` is one of `RELATIONS`, `reason` says why in words.

    Beside it each fact by itself, None where it is not known: `shape` is about what latents look like (class of VAE,
    channels, cells), `weights` and `scale` about what they mean, `path` (flow or noise) and `levels` about the noise.
    """

    name: str
    reason: str
    shape: bool | None = None
    weights: bool | None = None
    scale: bool | None = None
    path: bool | None = None
    levels: bool | None = None

    @property
    def same_latents(self) -> bool:
        """Whether latents without noise are known to mean the same: VAE weights, scale and shift."""
        return bool(self.shape and self.weights and self.scale)

    @property
    def message(self) -> str:
        return f"{self.reason}; {REMEDIES[self.name]}"


def compare_spaces(strong: LatentSpace, weak: LatentSpace) -> Relation:
    """Returns how two latent spaces relate, by the first of path, shape, weights, scale and levels that differs."""
    with malformed("the config of a VAE or scheduler of the pair", "download the checkpoint again or correct it"):
        return _compared(strong, weak)


def _compared(strong: LatentSpace, weak: LatentSpace) -> Relation:
    shape = scale = weights = path = levels = None
    if strong.vae is not None and weak.vae is not None:
        shape, scale = shape_of(strong.vae) == shape_of(weak.vae), scale_of(strong.vae) == scale_of(weak.vae)
    if strong.weights is not None and weak.weights is not None and shape is not False:
        ours, theirs = strong.weights(), weak.weights()
        weights = None if ours is None or theirs is None else bool(ours == theirs)
    if strong.scheduler is not None and weak.scheduler is not None:
        path = noise_levels.is_flow(strong.scheduler) == noise_levels.is_flow(weak.scheduler)
        levels = noise_levels.same_levels(strong.scheduler, weak.scheduler)
    facts: dict[str, Any] = {"shape": shape, "weights": weights, "scale": scale, "path": path, "levels": levels}
    return Relation(*_named(strong, weak, facts), **facts)


def check_shared(strong: LatentSpace, weak: LatentSpace) -> None:
    """Raises `UserError`, with the way out, if two latent spaces are known not to be one."""
    found = compare_spaces(strong, weak)
    if found.name not in ("share", "undecided"):
        raise UserError(f"the sides do not share a latent space: {found.message}")


def _named(strong: LatentSpace, weak: LatentSpace, facts: Mapping[str, bool | None]) -> tuple[str, str]:
    if facts["path"] is False:
        assert strong.scheduler is not None and weak.scheduler is not None
        which = "strong" if noise_levels.is_flow(strong.scheduler) else "weak"
        kinds = f"{strong.scheduler.get('_class_name')} and {weak.scheduler.get('_class_name')}"
        return "bridge", f"the {which} side is a flow and the other is not ({kinds}): a level means other noise to each"
    if facts["shape"] is False:
        assert strong.vae is not None and weak.vae is not None
        return "bridge", f"the VAEs make other latents: {shape_words(strong.vae)} and {shape_words(weak.vae)}"
    if facts["weights"] is False:
        return "re-encode", (
            "the VAEs are of one shape and have other weights, so latents that look alike mean other pictures; "
            "a reflection without a way through pixels would mix them up"
        )
    if facts["scale"] is False:
        return "rescale", _affine(strong, weak, facts["weights"])
    if facts["levels"] is False:
        assert strong.scheduler is not None and weak.scheduler is not None
        ours, theirs = noise_levels.described(strong.scheduler), noise_levels.described(weak.scheduler)
        return "bridge", (
            f"different noise schedules, so one timestep means two noise levels: {ours} and {theirs} (build both with "
            "the same betas, or bridge, which matches them by noise)"
        )
    lacking = [
        name
        for name, fact in (("VAE config", "shape"), ("VAE weights", "weights"), ("schedule", "path"))
        if facts[fact] is None
    ]
    if lacking:
        return "undecided", f"{' and '.join(lacking)} cannot be compared"
    return "share", "VAE weights, scale and noise levels are the same"


def _affine(strong: LatentSpace, weak: LatentSpace, weights: bool | None) -> str:
    assert strong.vae is not None and weak.vae is not None
    (scale, shift, *ours), (other, elsewhere, *theirs) = scale_of(strong.vae), scale_of(weak.vae)
    text = f"the VAEs' weights are {'the same' if weights else 'not known to differ'}, but "
    if ours != theirs:
        return text + "the latents' mean and standard deviation by channel differ"
    return (
        text + f"latents are scaled and shifted differently (scale {scale:g} and {other:g}, shift {shift:g} and "
        f"{elsewhere:g}): weak latent = (strong latent / {scale:g} + {shift - elsewhere:g}) x {other:g}. If one of the "
        "two configs is a slip, correct it and the sides share their space"
    )


def config_of(vae: Any) -> dict[str, Any]:
    """Returns the config of a VAE in memory, with the name of its class as saved configs have it."""
    inner = getattr(vae, "_orig_mod", vae)  # of a compiled one
    return {**inner.config, "_class_name": type(inner).__name__}


def scale_of(vae: Config) -> tuple[Any, ...]:
    """Returns what a pipeline does to the VAE's latents: scaling factor, shift, mean and standard deviation."""
    scale = vae.get("scaling_factor", SCALE_DEFAULTS.get(str(vae.get("_class_name")), 1.0))
    mean, std = (tuple(found) if (found := vae.get(name)) is not None else None for name in SCALES[2:])
    return float(scale or 1.0), float(vae.get("shift_factor") or 0.0), mean, std


def shape_of(vae: Config) -> tuple[Any, ...]:
    """Returns what latents look like: class of VAE, channels, number of resolutions."""
    stages = next((tuple(vae[name]) for name in STAGES if name in vae), ())
    return (*(vae.get(key) for key in SHAPES), len(stages))


def cell_of(vae: Config) -> int | None:
    """Returns the pixels of each side of a latent's cell, of VAEs of pictures and videos; None where nothing tells."""
    kind, given = str(vae.get("_class_name")), vae.get(RATIOS[0])
    if given:
        return int(given)
    if kind.startswith("AutoencoderKLLTX"):
        return int(vae.get("patch_size") or 4) * 2 ** sum(map(bool, vae.get("spatio_temporal_scaling") or ()))
    if kind == "AutoencoderKLMochi":
        return 8
    stages = next((len(vae[name]) for name in (IMAGE_VAES.get(kind, ""), *STAGES) if name in vae), None)
    patch = vae.get("patch_size") if kind == "AutoencoderKLWan" else None  # 2.2's smaller model packs pixels
    return None if stages is None else 2 ** (stages - 1) * int(patch or 1)


def frames_of(vae: Config) -> int | None:
    """Returns how many frames one latent frame of a video holds; None where the config does not tell."""
    given = vae.get(RATIOS[1]) or vae.get("scale_factor_temporal")
    if given is None and str(vae.get("_class_name")).startswith("AutoencoderKLLTX"):
        return int(vae.get("patch_size_t") or 1) * 2 ** sum(map(bool, vae.get("spatio_temporal_scaling") or ()))
    return None if given is None else int(given)


def shape_words(vae: Config) -> str:
    channels = vae.get("latent_channels", vae.get("z_dim"))
    return f"{vae.get('_class_name')}, {channels} channels, cells of {cell_of(vae) or 1} px"


def scale_words(vae: Config) -> str:
    scale, shift, mean, std = scale_of(vae)
    text = f"scale {scale:g}, shift {shift:g}"
    return text if mean is None and std is None else f"{text}, mean and std of {len(mean or std or ())} channels"
