"""Turning a diffusers pipeline call into a W2SD call whose weak model lives in another latent space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from bridges.pixel.noise_maps import NoiseMap, Paired
from bridges.pixel.settings import DRAWS, WEAK_VIDEO
from bridges.pixel.side import PixelSide
from w2sd_video.core import OnReflect
from w2sd_video.errors import UserError
from w2sd_video.hosting import Run, reflected
from w2sd_video.hosting.calls import call_signature, check_spec
from w2sd_video.hosting.host import HOSTED
from w2sd_video.hosting.refusals import check_cross_latent, check_pipelines
from w2sd_video.latents.codecs import Codec, same_space
from w2sd_video.latents.layouts import Layout
from w2sd_video.pair import ModelSpec, ReflectionConfig


@contextmanager
def bridged(
    pipe: Any,
    weak: Any,
    *,
    num_reflections: int | None = None,
    strength: float = 1.0,
    reflector: ModelSpec | None = None,
    config: ReflectionConfig | None = None,
    noise: str | None = None,
    noise_map: NoiseMap | str | None = None,
    draws: int | None = None,
    weak_inputs: Mapping[str, Any] | None = None,
    vae: Any = None,
    weak_vae: Any = None,
    chunk: int | None = None,
    tiled: bool = False,
    force: bool = False,
    seed: int = 0,
    first_order: bool = False,
    on_reflect: OnReflect | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
) -> Iterator[Run]:
    """While active, every call of ``pipe`` is reflected with a weak pipeline of any architecture, through pixels.

        with bridged(flux, (sdxl, ModelSpec(guidance=1.0)), num_reflections=10, noise_map=Mapped.load(path)) as run:
            image = flux(prompt, num_inference_steps=28, guidance_scale=3.5, generator=g).images[0]
        run.num_evaluations, run.num_skipped, run.num_encodes, run.num_decodes, run.gaps

    A pair that shares its latent space (VAE weights equal by hash, scaling and shift too) needs no bridge: it is
    reflected directly, in mode "fused", and ``run.notes`` says so.

    Args:
        pipe: the strong pipeline: images, or AnimateDiff's videos (the weak model then sees them frame by frame).
        weak: an image pipeline; or (pipeline, ModelSpec of its guidance, prompt and negative prompt), where what is
            left out is the pipeline's default guidance and the call's own prompts; or "zero-gap", the control whose
            weak model is the strong one, through its own autoencoder.
        num_reflections: lambda, from the noisiest step, 0 to T.
        strength: multiplies the move of each reflection.
        reflector: how the strong side differs inside the reflection.
        config: these three in one, and every, window, noise and cap besides; give either it or them. A mode is not
            asked for: both models are at the latent itself.
        noise: "mapped", the strong model's own noise through `noise_map`; or "paired", which needs no map: both models
            estimate the same picture under noise of their own. None: "mapped" where a map is given or both share one
            latent space, else "paired".
        noise_map: a map fitted for the two autoencoders (`Mapped`), of which "paired" takes the scale alone;
            "identity", for one latent space; "fresh" or "fixed", which shift samples even without a gap.
        draws: K, of "paired": noises of each model in a reflection, which makes 1 + 2 K evaluations; an even number is
            best, as every second noise is the one before turned round. None is 2.
        weak_inputs: call arguments of the weak pipeline in place of the strong call's: height and width of its own,
            prompt_embeds computed before.
        vae, weak_vae: autoencoders in place of the pipelines' own inside the reflection (AutoencoderTiny).
        chunk: pictures that go through an autoencoder or the weak network at once; None is 4 megapixels' worth.
        tiled: have the autoencoders work in tiles.
        force: bridge a pair that shares its latent space too.
        seed: of noise that is drawn; paired noise is, for each picture of a call, of this seed + its number.
        first_order, on_reflect, progress: as for `reflected`.

    Warns:
        BridgeWarning: the weak model knows no level of some steps' noise, which are then not reflected.

    Raises:
        UserError: on entry, or in the call before its first evaluation, for what cannot be bridged.
    """
    model, spec = weak if isinstance(weak, tuple) and len(weak) == 2 else (weak, ModelSpec())
    zero_gap = isinstance(model, str) and model == "zero-gap"
    _check_weak(pipe, model, spec, zero_gap)
    chosen = _chosen(config, num_reflections, strength, reflector)
    _check_noise(noise, noise_map, draws)
    resized = {"height", "width"} & set(weak_inputs or {})
    one_space = not (zero_gap or resized) and vae is weak_vae is None and _share_latents(pipe, model)
    count = chosen.draws if draws is None else draws
    pairs = noise == "paired" or (noise is None and noise_map is None and (count > 0 or not one_space))
    if count and not pairs:
        raise UserError(f"draws is {count}, of paired noise, and a noise map is given; leave one of the two out")
    direct = one_space and not force and needs_no_bridge(pipe, model)
    if pairs and not direct:
        chosen = replace(chosen, draws=count or DRAWS)
    settings: dict[str, Any] = {"config": replace(chosen, draws=0) if direct else chosen}
    settings |= {"first_order": first_order, "on_reflect": on_reflect, "progress": progress}
    if direct:
        with reflected(pipe, weak=(model, spec), weak_inputs=weak_inputs, **settings) as run:
            run.note("strong and weak share one latent space: reflected directly, no bridge is needed")
            yield run
        return
    side = PixelSide(
        weak=None if zero_gap else model,
        spec=spec,
        inputs=dict(weak_inputs or {}),
        noise=Paired(chosen.draws, seed, getattr(noise_map, "scale", None)) if pairs else noise_map or "identity",
        vae=vae,
        weak_vae=weak_vae,
        chunk=chunk,
        tiled=tiled,
        seed=seed,
        strength=chosen.strength,
    )
    with reflected(pipe, weak=side, **settings) as run:
        yield run


def _check_noise(noise: str | None, noise_map: NoiseMap | str | None, draws: int | None) -> None:
    if noise not in (None, "mapped", "paired"):
        raise UserError(f'noise is {noise!r}; choose "mapped", with a noise_map, or "paired", without one')
    if noise == "mapped" and noise_map is None:
        raise UserError('noise is "mapped" and no noise_map is given; give one, or noise="paired"')
    if noise == "paired" and isinstance(noise_map, str):
        raise UserError(f'noise is "paired" and noise_map {noise_map!r}; leave one of the two out')
    if draws is not None and not draws:
        raise UserError(f"draws is {draws!r}; it must be a whole number of 1 or more")


def _chosen(
    config: ReflectionConfig | None, num_reflections: int | None, strength: float, reflector: ModelSpec | None
) -> ReflectionConfig:
    """The settings asked for, in the mode that a bridge has: both models at the latent itself."""
    if config is None:
        config = ReflectionConfig(num_reflections, "fused", strength, reflector)
    elif (num_reflections, strength, reflector) != (None, 1.0, None):
        raise UserError("give either config or num_reflections, strength and reflector, not both")
    if config.num_reflections is None:
        raise UserError("num_reflections is missing; say how many of the steps are reflected through pixels")
    if config.mode == "release":
        raise UserError('mode "release" repeats the published code, which has no bridge; leave mode out')
    check_cross_latent("w2sd", config)
    return replace(config, mode="fused")


def _check_weak(pipe: Any, model: Any, spec: ModelSpec, zero_gap: bool) -> None:
    check_spec(spec, "weak")
    if spec.levels is not None:
        raise UserError(
            f"weak sets levels ({spec.levels!r}), and a bridge asks its weak side at the nearest of its own levels "
            "anyway: leave levels out"
        )
    if not zero_gap and not (callable(model) and hasattr(model, "scheduler")):
        raise UserError(
            f'weak is a {type(model).__name__}; give a pipeline, (pipeline, ModelSpec) or the control "zero-gap"'
        )
    if hasattr(type(model), HOSTED):
        raise UserError("the weak pipeline is itself inside a `with reflected(...)`; leave that one first")
    for role, each in (("strong", pipe), *(() if zero_gap else (("weak", model),))):
        if getattr(each, "vae", None) is None:
            raise UserError(f"the {role} {type(each).__name__} has no VAE, which a bridge through pixels needs")
    if not zero_gap and "num_frames" in call_signature(type(model)).parameters:
        raise UserError(f"the weak {type(model).__name__} makes videos; {WEAK_VIDEO}")


def needs_no_bridge(pipe: Any, weak: Any) -> bool:
    """Whether the two pipelines share a latent space, a path and a kind of latents, so that no bridge is needed."""
    if "num_frames" in call_signature(type(pipe)).parameters:
        return False
    if hasattr(type(pipe), "_pack_latents") != hasattr(type(weak), "_pack_latents"):
        return False
    try:
        check_pipelines(pipe, weak)
    except UserError:
        return False
    return _share_latents(pipe, weak)


def _share_latents(pipe: Any, weak: Any) -> bool:
    """Whether the two VAEs make the same latents of a picture."""
    ours, theirs = (Codec(p.vae, Layout("image", p.vae.config.latent_channels, 1, 1)) for p in (pipe, weak))
    return same_space(ours, theirs)
