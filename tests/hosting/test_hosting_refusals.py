"""What hosting refuses: by name, before anything is evaluated, with what is allowed and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffusers
import pytest
import torch

from tests.support import tiny
from w2sd_video import ModelSpec, ReflectionConfig, Selection, UserError, reflected
from w2sd_video.core.options import METHODS
from w2sd_video.pair import ModelPair, check_pair, gap

WEAK = ModelSpec(guidance=1.0)
CALLS = {"AnimateDiffSDXLPipeline": tiny.ANIMATEDIFF_CALL, "FluxPipeline": tiny.FLUX_CALL, "WanPipeline": tiny.WAN_CALL}


def reward(frames: Any, prompt: str | None) -> float:
    return 0.0


def call(pipe: Any, **arguments: Any) -> Any:
    settings = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent"}
    size = CALLS.get(type(pipe).__name__, tiny.IMAGE_CALL)
    return pipe("a cat", **{**size, **settings, **arguments})


def ends_clean() -> Any:
    return tiny.sdxl(scheduler=tiny.ddim(set_alpha_to_one=True))


def from_pure_noise() -> Any:
    scheduler = tiny.ddim("v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True)
    return tiny.sdxl(scheduler=scheduler)


def of_class(kind: type, **body: Any) -> Callable[[], Any]:
    return lambda: type(kind.__name__, (kind,), body)(**tiny.sdxl().components, add_watermarker=False)


def scaled_step(self: Any, *args: Any, **kwargs: Any) -> Any:
    step = self.scheduler.step
    self.scheduler.step = lambda output, *a, **k: step(1.1 * output, *a, **k)
    try:
        return diffusers.StableDiffusionXLPipeline.__call__(self, *args, **kwargs)
    finally:
        self.scheduler.step = step


def controlled() -> Any:
    pipe = tiny.sdxl()
    network = tiny.seeded(3, lambda: diffusers.ControlNetModel.from_unet(pipe.unet))
    parts = {**pipe.components, "controlnet": network, "add_watermarker": False}
    return diffusers.StableDiffusionXLControlNetPipeline(**parts)


def with_free_init() -> Any:
    pipe = tiny.animatediff_sdxl()
    pipe.enable_free_init()
    return pipe


def with_vae_of(pipe: Any, other: Any) -> Any:
    other.vae = pipe.vae
    return other


def other_noise() -> Any:
    pipe = tiny.sdxl(2)
    pipe.scheduler = diffusers.DDIMScheduler(clip_sample=False)
    return pipe


class Made(NamedTuple):
    """A weak side that is made of the pipeline."""

    of: Callable[[Any], Any]


class Row(NamedTuple):
    words: str
    weak: Any = WEAK
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed
    arguments: dict[str, Any] = {}  # noqa: RUF012
    build: Callable[[], Any] = tiny.sdxl


def config(**settings: Any) -> dict[str, Any]:
    return {"config": ReflectionConfig(**settings)}


def method(name: str, **settings: Any) -> dict[str, Any]:
    return {"method": name, **({"selection": Selection(reward)} if name == "w2sd-auto" else {}), **settings}


EQUAL = 'differs in nothing.*weak="zero-gap"'
UNET = Made(lambda pipe: (pipe.unet, WEAK, WEAK))
SETTINGS = [
    Row("mode is 'papers'; choose one of paper, fused, release", settings={"mode": "papers"}),
    Row("strength is nan", settings={"strength": float("nan")}),
    Row("num_reflections is -1", settings={"num_reflections": -1}),
    Row("num_reflections is 2.5", settings={"num_reflections": 2.5}),
    Row("method is 'auto'; choose one of w2sd, w2sd-auto, resample,", settings=method("auto")),
    Row("makes no reflections", settings=method("autoguided", num_reflections=2)),
    Row("not both", settings={**config(), "mode": "fused"}),
    *(
        Row(f'mode "release" repeats the published code, which has no {name}', settings=method(name, mode="release"))
        for name in ("w2sd-auto", "resample-aligned", "resample-opposed")
    ),
    Row("picks the stronger side by a reward; give selection", settings={"method": "w2sd-auto"}),
    Row("selection is given, and method 'w2sd' picks no side", settings={"selection": Selection(reward)}),
    Row("selection is a function; give a Selection", settings={"method": "w2sd-auto", "selection": reward}),
    Row("motion_strength is given, and the latents .* hold no video", settings=config(motion_strength=0.0)),
    Row(
        "gap_every measures the gap at the evaluation of a sampling step",
        settings={"config": ReflectionConfig(mode="fused", gap_every=1, reflector=ModelSpec(prompt="two dogs"))},
    ),
    Row("lag puts a prediction", settings=config(lag=True, reflector=ModelSpec(guidance=1.5))),
    Row("leaves none of the first 2 of 4 steps", settings=config(num_reflections=2, window=(0.5, 1.0))),
    Row("leaves none of the first 3 of 4 steps", settings=config(window=(0.3, 0.4))),
    *(
        Row(f"num_reflections.*{lam}", WEAK, {"num_reflections": lam, "mode": mode}, {"num_inference_steps": steps})
        for steps, lam, mode in ((4, 5, "fused"), (4, 5, "paper"), (4, 4, "release"), (1, 1, "release"))
    ),
    Row("must be a whole number from 0 to 3 .*got 4", settings={"num_reflections": 4}, build=ends_clean),
    *(
        Row("from 0 to 3 .*got 4", settings=method(name, num_reflections=4), build=ends_clean)
        for name in ("w2sd-auto", "resample-aligned")
    ),
    Row("num_reflections is 5", settings=method("resample", num_reflections=5)),
    Row('zero terminal SNR.*mode="fused"', build=from_pure_noise),
    Row("starts at pure noise", settings=method("resample-aligned"), build=from_pure_noise),
]
SIDES = [
    Row("weak is 'zero'; the only name is", "zero"),
    *(
        Row("weak is missing", None, method(name))
        for name in ("w2sd", "w2sd-auto", "resample-aligned", "resample-opposed", "autoguided")
    ),
    Row("weak_inputs needs a weak side", "zero-gap", {"weak_inputs": {"prompt": "a"}}),
    Row("weak is a int", 3),
    Row("weak is a int", 3, method("resample")),  # not used there, and still no side
    Row(r"weak is a tuple; it must be \(pipeline or network, ModelSpec\)", Made(lambda pipe: (WEAK, pipe.unet))),
    Row("weak is a tuple", Made(lambda pipe: (pipe.unet,))),
    Row("weak is a tuple", UNET),
    Row("weak has a .* where a ModelSpec belongs", Made(lambda pipe: (pipe.unet, None))),
    Row("weak has a .* where a ModelSpec belongs", Made(lambda pipe: (pipe.unet, 1.0))),
    *(Row("reflector has a .* where a ModelSpec", settings={"reflector": value}) for value in (0.0, 1.0, "strong")),
    Row("weak sets control, which", ModelSpec(control={"scale": 1.0})),
    Row("weak sets checkpoint, which", ModelSpec(checkpoint="a/b")),
    Row("reflector sets checkpoint, which", settings={"reflector": ModelSpec(checkpoint="a/b")}),
    Row("reflector sets control, which", settings={"reflector": ModelSpec(control={"scale": 1.0})}),
    *(Row(EQUAL, ModelSpec(guidance=3.0), method(name)) for name in METHODS if name != "resample"),
    Row(EQUAL, ModelSpec()),
    Row(EQUAL, Made(lambda pipe: pipe)),
    Row(EQUAL, Made(lambda pipe: pipe.unet)),
    Row(EQUAL, Made(lambda pipe: (pipe.unet, ModelSpec(guidance=3.0)))),
    Row(EQUAL, Made(lambda p: diffusers.StableDiffusionXLPipeline(**p.components, add_watermarker=False))),
    Row(EQUAL, ModelSpec(guidance=2.0), {"reflector": ModelSpec(guidance=2.0)}),
    Row(EQUAL, ModelSpec(guidance=1.0), arguments={"guidance_scale": 0.0}),
    Row(EQUAL, ModelSpec(prompt="a cat")),  # as the call says
    Row(EQUAL, ModelSpec(negative_prompt="x"), arguments={"negative_prompt": "x"}),
    Row(EQUAL, ModelSpec(guidance=3.0), build=tiny.flux),
    Row("the weak network is a Linear.*UNet2DConditionModel", torch.nn.Linear(2, 2)),
    Row("cross_attention_dim 16, the pipeline's own 32", Made(lambda _: tiny.sd15_unet())),
    Row("load both in one dtype", Made(lambda _: tiny.sdxl_unet(2).double())),
    Row("on meta, the pipeline's own on cpu", Made(lambda _: tiny.sdxl_unet(2).to("meta"))),
    Row("own a UNetMotionModel", Made(lambda _: tiny.sdxl_unet(2)), build=tiny.animatediff_sdxl),
    Row(
        r"latents of shape \(1, 4, 12, 8\), the strong on \(1, 4, 8, 8\)",
        Made(lambda _: tiny.sdxl(2)),
        {"weak_inputs": {"height": 24}},
    ),
    Row(r"do not share a latent space.*scale 0\.13025 and 0\.18215", Made(lambda _: tiny.sd15(2))),
    Row("a flow and the other is not.*bridged", Made(lambda pipe: with_vae_of(pipe, tiny.flux()))),
    Row("different noise schedules", Made(lambda _: other_noise())),
    Row(r"WanPipeline has 2 networks.*one of them", Made(lambda _: tiny.wan22()), build=tiny.wan),
    Row("negative_prompt differs, but guidance 1", ModelSpec(negative_prompt="x", guidance=1.0)),
    Row("weak_inputs has nonsense", ModelSpec(), {"weak_inputs": {"nonsense": 1}}),
    Row("true_cfg_scale above 1", ModelSpec(negative_prompt="x"), build=tiny.flux),
    Row("guidance_scale other than 0", arguments={"guidance_scale": 0.0}, build=tiny.flux),
]
RECORD = {"host": "record"}  # otherwise it is replayed
PIPELINES = [
    Row("host is 'records'; choose one of auto, record, replay", settings={"host": "records"}),
    Row("guidance_rescale is 0.7", settings=RECORD, arguments={"guidance_rescale": 0.7}),
    Row("eta is 0.5", arguments={"eta": 0.5}),
    Row(
        "does not combine its two predictions by plain guidance",
        settings=RECORD,
        build=of_class(diffusers.StableDiffusionXLPipeline, guidance_rescale=0.7),
    ),
    Row(
        "changes a prediction before the scheduler has it",
        None,
        {"num_reflections": 0, **RECORD},
        {"guidance_scale": 1.0},
        of_class(diffusers.StableDiffusionXLPipeline, __call__=scaled_step),
    ),
    Row("disable_free_init", build=with_free_init),
    Row(
        "guess mode",
        settings=RECORD,
        arguments={"image": torch.zeros(1, 3, 16, 16), "guess_mode": True},
        build=controlled,
    ),
    Row(
        "EulerAncestralDiscreteScheduler draws noise",
        build=lambda: tiny.sdxl(scheduler=diffusers.EulerAncestralDiscreteScheduler.from_config(tiny.ddim().config)),
    ),
]


@pytest.mark.parametrize("row", [*SETTINGS, *SIDES, *PIPELINES], ids=lambda row: row.words[:40])
def test_refusals_come_before_the_first_evaluation_and_leave_the_pipeline_as_it_was(row: Row) -> None:
    pipe, evaluated = row.build(), []
    kind, network = type(pipe), getattr(pipe, "unet", None) or pipe.transformer
    network.register_forward_pre_hook(lambda *_: evaluated.append(1))
    weak = row.weak.of(pipe) if isinstance(row.weak, Made) else row.weak
    with pytest.raises(UserError, match=row.words), reflected(pipe, weak, **row.settings):
        call(pipe, **row.arguments)
    assert not evaluated and type(pipe) is kind


@pytest.mark.parametrize(
    ("build", "settings", "evaluations"),
    [
        (tiny.sdxl, {"num_reflections": 4}, 12),  # its last step can be inverted
        (ends_clean, {"num_reflections": 4, "mode": "fused"}, 12),
        (ends_clean, method("resample", num_reflections=4), 8),  # noised again, not inverted
        (tiny.sdxl, config(num_reflections=0, window=(0.3, 0.4)), 4),
        (tiny.sdxl, config(lag=True, reflector=ModelSpec(guidance=3.0)), 8),  # as it samples, said
        (from_pure_noise, {"mode": "fused"}, 10),
        (from_pure_noise, method("resample"), 7),
        (from_pure_noise, method("resample-aligned", mode="fused"), 10),
        (from_pure_noise, config(window=(0.25, 1.0)), 8),
    ],
)
def test_what_is_next_to_a_refusal_is_allowed(build: Any, settings: dict[str, Any], evaluations: int) -> None:
    pipe = build()
    with reflected(pipe, WEAK, **settings) as run:
        call(pipe)
    assert run.num_evaluations == evaluations


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_guidance_is_a_finite_number(number: float) -> None:
    with pytest.raises(UserError, match=r"guidance is (inf|nan)"):
        ModelSpec(guidance=number)


def test_schedulers_are_refused_again_at_the_call() -> None:
    pipe = tiny.sdxl()
    with reflected(pipe, WEAK):
        pipe.scheduler = diffusers.HeunDiscreteScheduler.from_config(pipe.scheduler.config)
        with pytest.raises(UserError, match="HeunDiscreteScheduler"):
            call(pipe)


def test_what_is_no_pipeline_is_refused() -> None:
    for thing in (object(), tiny.sdxl_unet(), diffusers.DiffusionPipeline()):
        with pytest.raises(UserError, match=r"diffusers text-to-image or text-to-video"), reflected(thing, WEAK):
            pass


def test_the_gap_of_a_pair_is_what_differs() -> None:
    strong = ModelSpec(checkpoint="a", guidance=3.0)
    assert gap(strong, ModelSpec()) == {}
    assert gap(strong, ModelSpec(guidance=1.0)) == {"guidance": (3.0, 1.0)}
    assert gap(strong, ModelSpec(checkpoint="b", guidance=3.0)) == {"checkpoint": ("a", "b")}
    with pytest.raises(UserError, match="differs in nothing"):
        check_pair(ModelPair(strong, ModelSpec(guidance=3.0), "same"))
    check_pair(ModelPair(strong, ModelSpec(prompt="x"), "other"))
