"""What hosting refuses: by name, before anything is evaluated, with what is allowed and what to do."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from tests.support import tiny
from w2sd_video import ModelSpec, ReflectionConfig, reflected
from w2sd_video.errors import UserError
from w2sd_video.pair import ModelPair, check_pair, gap

WEAK = ModelSpec(guidance=1.0)


def call(pipe: Any, **arguments: Any) -> Any:
    return pipe("a cat", **{**tiny.IMAGE_CALL, "num_inference_steps": 4, "guidance_scale": 3.0, **arguments})


def refused(words: str, pipe: Any, weak: Any = WEAK, arguments: dict[str, Any] | None = None, **settings: Any) -> None:
    """Asserts that the context or the call raises `UserError` with these words, and evaluates no network."""
    evaluated: list[int] = []
    hook = getattr(pipe, "unet", None)
    hook = hook.register_forward_pre_hook(lambda *_: evaluated.append(1)) if hook is not None else None
    kind = type(pipe)
    with pytest.raises(UserError, match=words), reflected(pipe, weak, **settings):
        call(pipe, **(arguments or {}))
    if hook is not None:
        hook.remove()
    assert not evaluated and type(pipe) is kind


def test_settings_that_mean_nothing_are_refused():
    pipe = tiny.sdxl()
    refused("mode is 'papers'; choose one of paper, fused, release", pipe, mode="papers")
    refused("strength is nan", pipe, strength=float("nan"))
    refused("num_reflections is -1", pipe, num_reflections=-1)
    refused("num_reflections is 2.5", pipe, num_reflections=2.5)
    refused("method is 'auto'; choose one of w2sd, w2sd-auto, resample,", pipe, method="auto")
    refused("makes no reflections", pipe, method="autoguided", num_reflections=2)
    refused("not both", pipe, config=ReflectionConfig(), mode="fused")
    refused("weak is 'zero'; the only name is", pipe, "zero")
    refused("weak is missing", pipe, None)
    refused("weak_inputs needs a weak side", pipe, "zero-gap", weak_inputs={"prompt": "a"})
    refused("weak is a int", pipe, 3)
    for number in (float("inf"), float("nan")):
        with pytest.raises(UserError, match=r"guidance is (inf|nan)"):
            ModelSpec(guidance=number)


@pytest.mark.parametrize(
    ("steps", "lam", "mode"), [(4, 5, "fused"), (4, 5, "paper"), (4, 4, "release"), (1, 1, "release")]
)
def test_more_reflections_than_there_can_be_are_refused(steps, lam, mode):
    refused(
        f"num_reflections.*{lam}", tiny.sdxl(), num_reflections=lam, mode=mode, arguments={"num_inference_steps": steps}
    )


def test_as_many_reflections_as_steps_need_a_last_step_that_can_be_inverted():
    ends_noisy, ends_clean = tiny.sdxl(), tiny.sdxl(scheduler=tiny.ddim(set_alpha_to_one=True))
    refused("num_reflections must be a whole number from 0 to 3 .*got 4", ends_clean, num_reflections=4)
    for pipe, mode in ((ends_noisy, "paper"), (ends_clean, "fused")):
        with reflected(pipe, WEAK, num_reflections=4, mode=mode) as run:
            call(pipe)
        assert run.num_reflections == 4


def test_a_pair_without_a_difference_is_refused_and_named():
    pipe = tiny.sdxl()
    for weak in (ModelSpec(), ModelSpec(guidance=3.0), pipe, pipe.unet, (pipe.unet, ModelSpec(guidance=3.0))):
        refused('differs in nothing.*weak="zero-gap"', pipe, weak)
    refused("differs in nothing", pipe, ModelSpec(guidance=2.0), reflector=ModelSpec(guidance=2.0))
    refused("differs in nothing", pipe, ModelSpec(guidance=1.0), arguments={"guidance_scale": 0.0})
    same_parts = diffusers.StableDiffusionXLPipeline(**pipe.components, add_watermarker=False)
    refused("differs in nothing", pipe, same_parts)
    refused("differs in nothing", pipe, ModelSpec(prompt="a cat"))  # as the call says
    refused("differs in nothing", pipe, ModelSpec(negative_prompt="x"), arguments={"negative_prompt": "x"})
    flux = tiny.flux()
    with pytest.raises(UserError, match="differs in nothing"), reflected(flux, ModelSpec(guidance=3.0)):
        flux("a cat", num_inference_steps=2, guidance_scale=3.0, **tiny.FLUX_CALL)


@pytest.mark.parametrize("fields", [{"control": {"scale": 1.0}}, {"checkpoint": "a/b"}])
def test_parts_of_a_spec_that_are_not_supported_yet_are_refused_by_name(fields):
    (name,) = fields
    refused(f"weak sets {name}, which", tiny.sdxl(), ModelSpec(**fields))
    refused(f"reflector sets {name}, which", tiny.sdxl(), reflector=ModelSpec(**fields))


def test_a_side_that_is_no_model_and_spec_is_refused():
    pipe, unet = tiny.sdxl(), tiny.sdxl_unet(2)
    for pair in ((WEAK, unet), (unet,), (unet, WEAK, WEAK)):
        refused(r"weak is a tuple; it must be \(pipeline or network, ModelSpec\)", pipe, pair)
    for pair in ((unet, None), (unet, 1.0)):
        refused("weak has a .* where a ModelSpec belongs", pipe, pair)
    for reflector in (0.0, 1.0, "strong"):
        refused("reflector has a .* where a ModelSpec belongs", pipe, reflector=reflector)


def test_latents_of_different_shapes_are_refused_with_both_shapes():
    strong, weak = tiny.sdxl(1), tiny.sdxl(2)
    refused(r"latents of shape \(1, 4, 12, 8\), the strong on \(1, 4, 8, 8\)", strong, weak, weak_inputs={"height": 24})


def test_networks_that_do_not_fit_are_refused():
    pipe = tiny.sdxl()
    refused("the weak network is a Linear.*UNet2DConditionModel", pipe, torch.nn.Linear(2, 2))
    refused("cross_attention_dim 16, the pipeline's own 32", pipe, tiny.sd15_unet())
    refused("load both in one dtype", pipe, tiny.sdxl_unet(2).double())
    refused("UNet2DConditionModel, the pipeline's own a UNetMotionModel", tiny.animatediff_sdxl(), tiny.sdxl_unet(2))
    refused("on meta, the pipeline's own on cpu", pipe, tiny.sdxl_unet(2).to("meta"))


def test_pipelines_that_do_not_share_a_latent_space_or_a_noise_schedule_are_refused():
    strong = tiny.sdxl()
    refused(r"do not share a latent space.*scale 0\.13025 and 0\.18215", strong, tiny.sd15(2))
    refused("a flow and the other is not.*bridged", strong, _with_vae_of(strong, tiny.flux()))
    other = tiny.sdxl(2)
    other.scheduler = diffusers.DDIMScheduler(clip_sample=False)
    refused("different noise schedules", strong, other)


def _with_vae_of(pipe: Any, other: Any) -> Any:
    other.vae = pipe.vae
    return other


def test_a_weak_pipeline_that_changes_networks_is_refused():
    with (
        pytest.raises(UserError, match=r"WanPipeline has 2 networks.*one of them"),
        reflected(tiny.wan(), tiny.wan22()),
    ):
        pass


def test_call_options_that_would_be_silently_wrong_are_refused_by_name():
    pipe = tiny.sdxl()
    refused("guidance_rescale is 0.7", pipe, arguments={"guidance_rescale": 0.7})
    refused("eta is 0.5", pipe, arguments={"eta": 0.5})
    refused("negative_prompt differs, but guidance 1", pipe, ModelSpec(negative_prompt="x", guidance=1.0))
    refused("weak_inputs has nonsense", pipe, ModelSpec(), weak_inputs={"nonsense": 1})


def test_flux_settings_without_effect_are_refused():
    pipe = tiny.flux()
    with pytest.raises(UserError, match="true_cfg_scale above 1"), reflected(pipe, ModelSpec(negative_prompt="x")):
        pipe("a cat", num_inference_steps=2, guidance_scale=3.0, **tiny.FLUX_CALL)
    with pytest.raises(UserError, match="guidance_scale other than 0"), reflected(pipe, WEAK):
        pipe("a cat", num_inference_steps=2, guidance_scale=0.0, **tiny.FLUX_CALL)


def test_a_pipeline_that_rescales_guidance_unasked_is_found_out_by_its_own_arithmetic():
    class Rescaling(diffusers.StableDiffusionXLPipeline):
        guidance_rescale = 0.7

    pipe = Rescaling(**tiny.sdxl().components, add_watermarker=False)
    refused("does not combine its two predictions by plain guidance", pipe)


def test_a_pipeline_that_changes_a_lone_prediction_is_found_out():
    class Scaled(diffusers.StableDiffusionXLPipeline):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            step = self.scheduler.step
            self.scheduler.step = lambda output, *a, **k: step(1.1 * output, *a, **k)
            try:
                return super().__call__(*args, **kwargs)
            finally:
                self.scheduler.step = step

    pipe = Scaled(**tiny.sdxl().components, add_watermarker=False)
    refused("changes a prediction before the scheduler has it", pipe, None, {"guidance_scale": 1.0}, num_reflections=0)


def test_free_init_controlnets_and_caches_are_refused_by_name():
    pipe = tiny.animatediff_sdxl()
    pipe.enable_free_init()
    refused("disable_free_init", pipe, arguments=tiny.ANIMATEDIFF_CALL)
    controlled = tiny.sdxl()
    network = tiny.seeded(3, lambda: diffusers.ControlNetModel.from_unet(controlled.unet))
    controlled = diffusers.StableDiffusionXLControlNetPipeline(
        **controlled.components, controlnet=network, add_watermarker=False
    )
    refused("guess mode", controlled, arguments={"image": torch.zeros(1, 3, 16, 16), "guess_mode": True})
    flux = tiny.flux()
    flux.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(UserError, match="disable_cache"), reflected(flux, WEAK):
        flux("a cat", num_inference_steps=2, **tiny.FLUX_CALL)


def test_schedulers_are_refused_on_entry_and_again_at_the_call():
    pipe = tiny.sdxl(scheduler=diffusers.EulerAncestralDiscreteScheduler.from_config(tiny.ddim().config))
    refused("EulerAncestralDiscreteScheduler draws noise", pipe)
    pipe = tiny.sdxl()
    with reflected(pipe, WEAK):
        pipe.scheduler = diffusers.HeunDiscreteScheduler.from_config(pipe.scheduler.config)
        with pytest.raises(UserError, match="HeunDiscreteScheduler"):
            call(pipe)


def test_inverting_to_pure_noise_is_refused_but_not_the_fused_form():
    def build() -> Any:
        scheduler = tiny.ddim("v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True)
        return tiny.sdxl(scheduler=scheduler)

    refused('zero terminal SNR.*mode="fused"', build())
    pipe = build()
    with reflected(pipe, WEAK, mode="fused") as run:
        call(pipe)
    assert run.num_reflections == 3


def test_what_is_no_pipeline_is_refused():
    for thing in (object(), tiny.sdxl_unet(), diffusers.DiffusionPipeline()):
        with (
            pytest.raises(UserError, match=r"diffusers text-to-image or text-to-video pipeline"),
            reflected(thing, WEAK),
        ):
            pass


def test_the_gap_of_a_pair_is_what_differs():
    strong = ModelSpec(checkpoint="a", guidance=3.0)
    assert gap(strong, ModelSpec()) == {}
    assert gap(strong, ModelSpec(guidance=1.0)) == {"guidance": (3.0, 1.0)}
    assert gap(strong, ModelSpec(checkpoint="b", guidance=3.0)) == {"checkpoint": ("a", "b")}
    with pytest.raises(UserError, match="differs in nothing"):
        check_pair(ModelPair(strong, ModelSpec(guidance=3.0), "same"))
    check_pair(ModelPair(strong, ModelSpec(prompt="x"), "other"))
