"""Hosted calls against stock calls, against the samplers of the core, and their counts."""

from __future__ import annotations

import copy
import math
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from tests.support import tiny
from w2sd_video import ModelSpec, reflected
from w2sd_video.core import Level, NoisePath, w2sd

STEPS = 5
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "animatediff": (tiny.animatediff_sdxl, {**tiny.ANIMATEDIFF_CALL, "guidance_scale": 3.0}),
    "animatediff v": (
        lambda: tiny.animatediff_sdxl(prediction_type="v_prediction"),
        {**tiny.ANIMATEDIFF_CALL, "guidance_scale": 3.0},
    ),
    "animatediff unguided": (tiny.animatediff_sdxl, {**tiny.ANIMATEDIFF_CALL, "guidance_scale": 1.0}),
    "sdxl": (tiny.sdxl, {**tiny.IMAGE_CALL, "guidance_scale": 3.0}),
    "sdxl euler": (
        lambda: tiny.sdxl(scheduler=diffusers.EulerDiscreteScheduler.from_config(tiny.ddim().config)),
        {**tiny.IMAGE_CALL, "guidance_scale": 3.0},
    ),
    "sd15": (tiny.sd15, {**tiny.IMAGE_CALL, "guidance_scale": 3.0}),
    "flux embedded": (tiny.flux, {**tiny.FLUX_CALL, "guidance_scale": 3.0}),
    "flux true": (
        tiny.flux,
        {**tiny.FLUX_CALL, "guidance_scale": 3.0, "true_cfg_scale": 2.5, "negative_prompt": "a dog"},
    ),
    "wan": (tiny.wan, {**tiny.WAN_CALL, "guidance_scale": 3.0}),
    "wan 2.2": (tiny.wan22, {**tiny.WAN_CALL, "guidance_scale": 3.0, "guidance_scale_2": 2.98}),  # close, not equal
}


def rounding(latents: Tensor) -> float:
    """What rounding may make of equal calls: per step three float32 roundings (6e-8 of the largest value each) differ,
    guidance as a lerp and the two coefficients of the scheduler, and guidance 3 doubles a difference. The tiny
    decoders contract (latents of deviation 4 become pixels of deviation 0.2), so it bounds pixels too."""
    return STEPS * 3 * 2 * 6e-8 * float(latents.abs().max())


def call(pipe: Any, arguments: dict[str, Any], **more: Any) -> Tensor:
    settings = {"num_inference_steps": STEPS, "output_type": "pt", "generator": tiny.generator(), **arguments, **more}
    return torch.as_tensor(pipe("a red cat", **settings)[0])


@pytest.mark.parametrize("family", list(FAMILIES))
def test_no_reflections_equal_the_stock_pipeline(family):
    build, arguments = FAMILIES[family]
    pipe = build()
    stock = call(pipe, arguments), call(pipe, arguments, output_type="latent")
    with reflected(pipe, num_reflections=0) as run:
        hosted = call(pipe, arguments), call(pipe, arguments, output_type="latent")
    assert (run.num_steps, run.num_evaluations, run.num_reflections, run.gaps) == (STEPS, STEPS, 0, [])
    assert (stock[0] - hosted[0]).abs().max() <= rounding(stock[1])
    assert (stock[1] - hosted[1]).abs().max() <= rounding(stock[1])
    assert torch.equal(call(pipe, arguments), stock[0])


@pytest.mark.parametrize("family", list(FAMILIES))
def test_fused_zero_gap_equals_no_reflections_bit_for_bit(family):
    build, arguments = FAMILIES[family]
    pipe = build()
    with reflected(pipe, num_reflections=0):
        plain = call(pipe, arguments, output_type="latent")
    with reflected(pipe, "zero-gap", mode="fused") as run:
        fused = call(pipe, arguments, output_type="latent")
    assert torch.equal(plain, fused)
    assert run.gaps == [0.0] * (STEPS - 1)


@pytest.mark.parametrize("mode", ["paper", "fused", "release"])
@pytest.mark.parametrize("family", ["animatediff", "flux embedded", "wan"])
def test_a_weak_network_with_equal_weights_equals_zero_gap(family, mode):
    build, arguments = FAMILIES[family]
    pipe = build()
    own = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    with reflected(pipe, copy.deepcopy(own), mode=mode):
        twin = call(pipe, arguments, output_type="latent")
    with reflected(pipe, "zero-gap", mode=mode) as run:
        zero = call(pipe, arguments, output_type="latent")
    assert torch.equal(twin, zero)
    assert (max(run.gaps) == 0) == (mode == "fused")


def sd15_reference(
    pipe: Any, x: Tensor, weak_unet: Any, guidances: tuple[float, float, float], **settings: Any
) -> Tensor:
    """W2SD on SD1.5 written out: the core's sampler, levels from the betas, and the UNet called by hand."""
    with torch.no_grad():
        conditional, unconditional = pipe.encode_prompt("a red cat", "cpu", 1, True)
        alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square(), 0).double()
        ratio = 1000 // STEPS
        levels = [
            Level(k * ratio + 1, math.sqrt(a := float(alpha_bar[k * ratio + 1])), math.sqrt(1 - a))
            for k in range(STEPS)
        ]
        end = float(alpha_bar[0])
        levels = [*levels[::-1], Level(0, math.sqrt(end), math.sqrt(1 - end))]

        def denoiser(unet: Any, guidance: float) -> Any:
            def denoise(x: Tensor, level: Level) -> Tensor:
                t = torch.tensor(level.timestep)
                with_prompt = unet(x, t, encoder_hidden_states=conditional)[0]
                without = unet(x, t, encoder_hidden_states=unconditional)[0]
                return without + guidance * (with_prompt - without)

            return denoise

        strong, reflector = denoiser(pipe.unet, guidances[0]), denoiser(pipe.unet, guidances[1])
        weak = denoiser(weak_unet, guidances[2])
        return w2sd(x, levels, strong, weak, NoisePath(), reflector=reflector, **settings)


# The same arithmetic, but for the batch a network is given and the form of guidance: some 1e-7 relative per evaluation,
# 11 evaluations, latents up to 21 and guidance up to 3 (doubling differences twice): 11 * 21 * 6e-8 * 5 = 7e-5.
REFERENCE_TOLERANCE = 7e-5


@pytest.mark.parametrize("guidances", [(3.0, 3.0, 1.0), (3.0, 1.0, 0.0), (3.0, 0.0, -1.5), (1.0, 1.0, 2.0)])
@pytest.mark.parametrize("mode", ["paper", "fused", "release"])
def test_a_hosted_call_equals_the_sampler_of_the_core(guidances, mode):
    pipe, weak = tiny.sd15(), tiny.sd15_unet(2)
    x = torch.randn(1, 4, 8, 8, generator=tiny.generator(5))
    settings = {"mode": mode, "strength": 1.0, "num_reflections": 3}
    expected = sd15_reference(pipe, x, weak, guidances, **settings)
    arguments = {**tiny.IMAGE_CALL, "guidance_scale": guidances[0], "latents": x, "output_type": "latent"}
    with reflected(
        pipe, (weak, ModelSpec(guidance=guidances[2])), reflector=ModelSpec(guidance=guidances[1]), **settings
    ) as run:
        got = call(pipe, arguments)
    torch.testing.assert_close(got, expected, atol=REFERENCE_TOLERANCE, rtol=0)
    assert run.num_evaluations == STEPS + 2 * 3 and len(run.gaps) == 3
    plain = call(pipe, arguments)
    assert (plain - expected).abs().max() > 100 * REFERENCE_TOLERANCE  # the reflection did something


def test_euler_and_ddim_on_one_grid_reflect_alike():
    # Euler on sigma / alpha is DDIM; the two grids agree where the last sigma does.
    ddim = tiny.sdxl(scheduler=tiny.ddim(set_alpha_to_one=True))
    euler = tiny.sdxl(
        scheduler=diffusers.EulerDiscreteScheduler.from_config(tiny.ddim().config, interpolation_type="linear")
    )
    x = torch.randn(1, 4, 8, 8, generator=tiny.generator(5))
    images = []
    for pipe in (ddim, euler):
        with reflected(pipe, ModelSpec(guidance=1.0)):
            images.append(call(pipe, {**tiny.IMAGE_CALL, "guidance_scale": 3.0, "latents": x, "output_type": "latent"}))
    # Euler's pipeline scales x by the root of sigma_max^2 + 1 and the border divides by it again: as above.
    torch.testing.assert_close(images[0], images[1], atol=REFERENCE_TOLERANCE, rtol=0)


def test_auto_guidance_with_weight_zero_equals_no_reflections():
    build, arguments = FAMILIES["sd15"]
    pipe = build()
    with reflected(pipe, num_reflections=0):
        plain = call(pipe, arguments)
    with reflected(pipe, tiny.sd15_unet(2), method="autoguided", strength=0.0) as run:
        guided = call(pipe, arguments)
    assert torch.equal(plain, guided)
    assert run.num_evaluations == 2 * STEPS


@pytest.mark.parametrize(
    ("guidances", "steps", "lam", "rows"),
    [
        ((3.0, 3.0, 1.0), 5, 4, 2 * 5 + (2 + 1) * 4),  # the paper's video setting: 247 for 50 and 49
        ((3.0, 1.0, 1.0), 5, 4, 2 * 5 + (1 + 1) * 4),
        ((3.0, 0.0, -1.0), 5, 2, 2 * 5 + (1 + 2) * 2),
        ((1.0, 1.0, 1.0), 5, 4, 5 + 2 * 4),
        ((1.0, 3.0, 0.0), 5, 5 - 1, 5 + (2 + 1) * 4),
        ((3.0, 3.0, 3.0), 3, 0, 2 * 3),
    ],
)
def test_halves_that_do_not_count_are_not_evaluated(guidances, steps, lam, rows):
    pipe, weak = tiny.animatediff_sdxl(), tiny.motion_unet(2)
    seen: list[int] = []
    for unet in (pipe.unet, weak):
        unet.register_forward_hook(
            lambda module, args, kwargs, output: seen.append(len(kwargs["sample"])), with_kwargs=True
        )
    arguments = {**tiny.ANIMATEDIFF_CALL, "guidance_scale": guidances[0], "num_inference_steps": steps}
    with reflected(
        pipe,
        (weak, ModelSpec(guidance=guidances[2])),
        reflector=ModelSpec(guidance=guidances[1]),
        num_reflections=lam,
    ) as run:
        call(pipe, arguments)
    assert run.num_rows == sum(seen) == rows
    assert run.num_forwards == len(seen) == run.num_evaluations == steps + 2 * lam


def test_two_call_pipelines_make_one_call_where_one_half_counts():
    pipe = tiny.wan()
    with reflected(pipe, ModelSpec(guidance=1.0)) as run:
        call(pipe, {**tiny.WAN_CALL, "guidance_scale": 3.0})
    assert run.num_forwards == run.num_rows == 2 * STEPS + (2 + 1) * (STEPS - 1)


def test_rows_count_every_item_of_a_batch():
    pipe = tiny.sdxl()
    with reflected(pipe, ModelSpec(guidance=1.0), num_reflections=2) as run:
        pipe(["a", "b", "c"], num_inference_steps=4, guidance_scale=3.0, **tiny.IMAGE_CALL)
    assert run.num_rows == 3 * (2 * 4 + (2 + 1) * 2)


def test_a_learned_variance_is_left_aside_as_the_pipeline_does():
    transformer = tiny.seeded(
        1,
        lambda: diffusers.PixArtTransformer2DModel(
            sample_size=8,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=16,
            out_channels=8,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
        ),
    )
    pipe = diffusers.PixArtSigmaPipeline(
        scheduler=tiny.ddim(),
        vae=tiny.vae(),
        transformer=transformer,
        text_encoder=tiny.t5_encoder(),
        tokenizer=tiny.t5_tokenizer(),
    )
    pipe.set_progress_bar_config(disable=True)
    settings = {"guidance_scale": 3.0, "use_resolution_binning": False, "clean_caption": False, "output_type": "latent"}
    stock = call(pipe, {**tiny.IMAGE_CALL, "max_sequence_length": 16, **settings})
    with reflected(pipe, num_reflections=0):
        hosted = call(pipe, {**tiny.IMAGE_CALL, "max_sequence_length": 16, **settings})
    with reflected(pipe, ModelSpec(guidance=1.0)) as run:
        call(pipe, {**tiny.IMAGE_CALL, "max_sequence_length": 16, **settings})
    assert (stock - hosted).abs().max() <= rounding(stock)
    assert run.num_rows == 2 * STEPS + 3 * (STEPS - 1)


def ip_adapter_weights(unet: Any) -> dict[str, Any]:
    """A random IP-Adapter for a UNet, in the layout of its files."""
    cross, attention, key = unet.config.cross_attention_dim, {}, 1
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            hidden = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
            processor = diffusers.models.attention_processor.IPAdapterAttnProcessor(hidden, cross)
            attention[f"{key}.to_k_ip.weight"] = processor.to_k_ip[0].weight.data
            attention[f"{key}.to_v_ip.weight"] = processor.to_v_ip[0].weight.data
            key += 2
    layer = diffusers.models.embeddings.ImageProjection(cross, cross, 4)
    projection = {f"proj.{k}": v for k, v in layer.image_embeds.state_dict().items()}
    return {
        "image_proj": {**projection, **{f"norm.{k}": v for k, v in layer.norm.state_dict().items()}},
        "ip_adapter": attention,
    }


def test_an_ip_adapters_embeddings_go_with_their_half_of_guidance():
    pipe = tiny.sdxl()
    pipe.unet._load_ip_adapter_weights([tiny.seeded(4, lambda: ip_adapter_weights(pipe.unet))])
    pipe.set_ip_adapter_scale(5.0)
    embeds = [torch.stack([torch.zeros(1, 32), torch.randn(1, 32, generator=tiny.generator(1))])]
    arguments = {**tiny.IMAGE_CALL, "guidance_scale": 3.0, "ip_adapter_image_embeds": embeds, "output_type": "latent"}
    stock = call(pipe, arguments)
    with reflected(pipe, num_reflections=0):
        hosted = call(pipe, arguments)
    assert (stock - hosted).abs().max() <= rounding(stock)
    told: list[Tensor] = []
    pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(kwargs["added_cond_kwargs"]["image_embeds"][0]), with_kwargs=True
    )
    with reflected(pipe, ModelSpec(guidance=1.0), reflector=ModelSpec(guidance=0.0), num_reflections=1):
        call(pipe, arguments)
    unconditional, conditional, both = told[0], told[1], told[2]
    assert torch.equal(unconditional[0], embeds[0][0]) and torch.equal(conditional[0], embeds[0][1])
    assert torch.equal(both, embeds[0])
