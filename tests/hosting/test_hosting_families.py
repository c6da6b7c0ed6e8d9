"""Each family of pipelines against Algorithm 1 with its networks called by hand, at guidances of every sign.

A call whose own guidance is off prepares the prompt's half alone; sides that need the other half have it all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.hosting.test_hosting_reference import CALL, LAMBDA, NEGATIVE, PROMPTS, STEPS, algorithm_1, ddim_grid, guided
from tests.support import tiny, tiny_families
from w2sd_video import ModelSpec, reflected
from w2sd_video.errors import UserError

Evaluate = Callable[[Tensor, int, int], Tensor]  # a prediction for a latent, the step's index, and a half: 0 or 1


@dataclass(frozen=True)
class Family:
    """A pipeline, a call of it, and the same by hand: starting noise, alphas and sigmas, its networks called."""

    pipe: Any
    arguments: dict[str, Any]
    guidance: str
    noise: Tensor
    alphas: list[float]
    sigmas: list[float]
    evaluation: Callable[[list[str]], Evaluate]

    def call(self, scale: float, **more: Any) -> Tensor:
        settings = {**self.arguments, **CALL, self.guidance: scale, "latents": self.noise, **more}
        return self.pipe(PROMPTS, negative_prompt=NEGATIVE, **settings)[0]

    def by_hand(self, scales: tuple[float, float, float], prompts: tuple[list[str], list[str]] | None = None) -> Tensor:
        """Guidance as the strong side samples, as it reflects, of the weak side; the prompts of the latter two."""
        own, weak = prompts or (PROMPTS, PROMPTS)
        sides = [(PROMPTS, scales[0]), (own, scales[1]), (weak, scales[2])]
        predictions = [guided(self.evaluation(texts), scale) for texts, scale in sides]
        return algorithm_1(self.noise, self.alphas, self.sigmas, *predictions)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=tiny.generator(5))


def flow_grid() -> list[float]:
    """Flow matching shifted by 3: the training sigmas once, of which the smallest ends the grid, and the grid again."""

    def shifted(sigma: float) -> float:
        return 3 * sigma / (1 + 2 * sigma)

    least = shifted(0.001)
    return [shifted(1 + k * (least - 1) / (STEPS - 1)) for k in range(STEPS)] + [0.0]


def sd15() -> Family:
    pipe = tiny.sd15()
    told, alphas, sigmas = ddim_grid("leading")

    def evaluation(prompts: list[str]) -> Evaluate:
        text, without = pipe.encode_prompt(prompts, "cpu", 1, True, NEGATIVE)
        return lambda x, i, half: pipe.unet(x, torch.tensor(told[i]), encoder_hidden_states=(without, text)[half])[0]

    return Family(pipe, tiny.IMAGE_CALL, "guidance_scale", noise(2, 4, 8, 8), alphas, sigmas, evaluation)


def animatediff_sd15() -> Family:
    pipe = tiny_families.animatediff_sd15()
    told, alphas, sigmas = ddim_grid("leading")

    def evaluation(prompts: list[str]) -> Evaluate:
        halves = [h.repeat_interleave(2, 0) for h in pipe.encode_prompt(prompts, "cpu", 1, True, NEGATIVE)[::-1]]
        return lambda x, i, half: pipe.unet(x, torch.tensor(told[i]), encoder_hidden_states=halves[half])[0]

    start = noise(2, 4, 2, 8, 8)  # two frames
    return Family(pipe, tiny.ANIMATEDIFF_CALL, "guidance_scale", start, alphas, sigmas, evaluation)


def sd3() -> Family:
    pipe, sigmas = tiny_families.sd3(), flow_grid()

    def evaluation(prompts: list[str]) -> Evaluate:
        text, without, pooled, pooled_without = pipe.encode_prompt(
            prompts, None, None, device="cpu", negative_prompt=NEGATIVE, max_sequence_length=16
        )
        halves = (without, pooled_without), (text, pooled)

        def evaluate(x: Tensor, i: int, half: int) -> Tensor:
            embeds, pools = halves[half]
            t = torch.full((2,), 1000 * sigmas[i])
            return pipe.transformer(x, timestep=t, encoder_hidden_states=embeds, pooled_projections=pools)[0]

        return evaluate

    alphas = [1.0] * (STEPS + 1)
    return Family(pipe, tiny_families.SD3_CALL, "guidance_scale", noise(2, 4, 8, 8), alphas, sigmas, evaluation)


def wan(two: bool = False) -> Family:
    pipe, sigmas = tiny.wan22() if two else tiny.wan(), flow_grid()

    def evaluation(prompts: list[str]) -> Evaluate:
        halves = pipe.encode_prompt(prompts, NEGATIVE, True, max_sequence_length=16, device="cpu")[::-1]

        def evaluate(x: Tensor, i: int, half: int) -> Tensor:
            late = two and 1000 * sigmas[i] < 800
            network = pipe.transformer_2 if late else pipe.transformer
            return network(x, timestep=torch.full((2,), 1000 * sigmas[i]), encoder_hidden_states=halves[half])[0]

        return evaluate

    start = noise(2, 16, 2, 2, 2)  # two latent frames
    return Family(pipe, tiny.WAN_CALL, "guidance_scale", start, [1.0] * (STEPS + 1), sigmas, evaluation)


def flux() -> Family:
    """Without the guidance that is an input (schnell): true guidance is the only one."""
    pipe = tiny.flux(guidance_embeds=False)
    places = torch.tensor([[0.0, row, column] for row in range(4) for column in range(4)])
    shift = torch.tensor(0.5 + (16 - 256) * (1.15 - 0.5) / (4096 - 256)).double().exp().item()
    grid = [1 - k * (1 - 1 / STEPS) / (STEPS - 1) for k in range(STEPS)]
    sigmas = [shift / (shift + 1 / s - 1) for s in grid] + [0.0]

    def evaluation(prompts: list[str]) -> Evaluate:
        texts = [pipe.encode_prompt(p, p, device="cpu", max_sequence_length=16) for p in (NEGATIVE, prompts)]

        def evaluate(x: Tensor, i: int, half: int) -> Tensor:
            embeds, pooled, text_places = texts[half]
            return pipe.transformer(
                x,
                encoder_hidden_states=embeds,
                pooled_projections=pooled,
                timestep=torch.full((2,), sigmas[i]),
                img_ids=places,
                txt_ids=text_places,
            )[0]

        return evaluate

    start = noise(2, 16, 16)  # 16 patches of 2 x 2 x 4 channels
    return Family(pipe, tiny.FLUX_CALL, "true_cfg_scale", start, [1.0] * (STEPS + 1), sigmas, evaluation)


FAMILIES: dict[str, Callable[[], Family]] = {  # made once: a test that changed one would fail the next
    "sd15": cache(sd15),
    "animatediff sd15": cache(animatediff_sd15),
    "sd3": cache(sd3),
    "wan": cache(wan),
    "wan 2.2": cache(lambda: wan(two=True)),
    "flux": cache(flux),
}
# Guidance as the strong side samples, as it reflects, of the weak side. In diffusers 1 and less is no guidance.
SCALES = [
    (4.5, 4.5, 0.0),
    (4.5, 1.0, -10.0),
    (1.0, 2.5, 1.0),
    (0.0, 0.0, -1.0),
]


def rounding(latents: Tensor, scales: tuple[float, ...]) -> float:
    """What float32 may add: each of T + 2 lambda evaluations rounds its latent and its prediction to some 6e-8 of the
    largest value, twice where batches differ, and guidance passes a difference on up to (2 |scale| + 1)-fold."""
    return (STEPS + 2 * LAMBDA) * 2 * 2 * (2 * max(map(abs, scales)) + 1) * 6e-8 * float(latents.abs().max())


def rows(scale: float) -> int:
    return 1 if scale in (0, 1) else 2


@pytest.mark.parametrize("family", ["animatediff sd15", "sd3"])  # test_hosting_parity has the others
def test_no_reflections_equal_the_stock_pipeline(family):
    made = FAMILIES[family]()
    stock = made.call(3.0)
    with reflected(made.pipe, num_reflections=0) as run:
        hosted = made.call(3.0)
    assert (hosted - stock).abs().max() <= rounding(stock, (3.0,))
    assert (run.num_evaluations, run.num_rows) == (STEPS, 2 * 2 * STEPS)
    with reflected(made.pipe, num_reflections=0):
        plain = made.call(3.0)
    with reflected(made.pipe, "zero-gap", mode="fused"):
        assert torch.equal(made.call(3.0), plain)
    assert torch.equal(made.call(3.0), stock)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("family", list(FAMILIES))
@torch.no_grad()
def test_guidances_of_every_sign_equal_algorithm_1_by_hand(family, scales):
    made = FAMILIES[family]()
    effective = (scales[0] if scales[0] > 1 else 1.0, *scales[1:])
    expected = made.by_hand(effective)
    stock = made.call(scales[0])
    spec = ModelSpec(guidance=scales[1])
    with reflected(made.pipe, ModelSpec(guidance=scales[2]), reflector=spec, num_reflections=LAMBDA) as run:
        got = made.call(scales[0])
    tolerance = rounding(expected, effective)
    assert (got - expected).abs().max() <= tolerance
    assert (stock - expected).abs().max() > 30 * tolerance  # the reflections did something
    assert run.num_rows == 2 * (STEPS * rows(effective[0]) + LAMBDA * (rows(scales[1]) + rows(scales[2])))
    assert torch.equal(made.call(scales[0]), stock)  # the pipeline is as it was


@pytest.mark.parametrize("scales", [(1.0, 1.0, 0.0), (4.5, 1.0, -1.0)])
@pytest.mark.parametrize("family", ["sd15", "sd3", "wan", "flux"])
@torch.no_grad()
def test_a_prompt_of_a_side_of_its_own_goes_with_any_guidance(family, scales):
    """The reflecting side's own prompt is the weak side's too, unless that has another."""
    made = FAMILIES[family]()
    other, third = ["a blue dog"] * 2, ["one fish"] * 2
    spec = ModelSpec(guidance=scales[1], prompt=other[0])
    for weak_prompt, texts in ((None, other), (third[0], third)):
        expected = made.by_hand(scales, (other, texts))
        weak = ModelSpec(guidance=scales[2], prompt=weak_prompt)
        with reflected(made.pipe, weak, reflector=spec, num_reflections=LAMBDA):
            got = made.call(scales[0])
        assert (got - expected).abs().max() <= rounding(expected, scales)


def test_wan_goes_over_to_its_second_transformer_inside_the_reflections():
    made = wan(two=True)
    timesteps = [1000 * sigma for sigma in made.sigmas[:LAMBDA]]
    assert max(timesteps) >= 800 > min(timesteps)
    calls: list[str] = []
    for name in ("transformer", "transformer_2"):
        getattr(made.pipe, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    with reflected(made.pipe, ModelSpec(guidance=1.0), num_reflections=LAMBDA) as run:
        made.call(3.0)
    early = sum(1000 * sigma >= 800 for sigma in made.sigmas[:-1])
    per_step = 2 + 1 + 2  # calls: strong as it reflects (3), weak (1), strong as it samples (3)
    assert calls[: early * per_step] == ["transformer"] * (early * per_step)
    assert set(calls[early * per_step :]) == {"transformer_2"} and len(calls) == run.num_forwards


@torch.no_grad()
def test_wans_second_guidance_is_that_of_the_strong_side_after_the_boundary():
    made = wan(two=True)
    evaluate = made.evaluation(PROMPTS)
    first, second = guided(evaluate, 4.0), guided(evaluate, 3.0)

    def strong(x: Tensor, i: int) -> Tensor:
        return (first if 1000 * made.sigmas[i] >= 800 else second)(x, i)

    weak = guided(evaluate, -1.0)
    expected = algorithm_1(made.noise, made.alphas, made.sigmas, strong, strong, weak)
    with reflected(made.pipe, ModelSpec(guidance=-1.0), num_reflections=LAMBDA):
        got = made.call(4.0, guidance_scale_2=3.0)
    assert (got - expected).abs().max() <= rounding(expected, (4.0, -1.0))


@pytest.mark.parametrize("prompt", [None, "a blue dog"])
@pytest.mark.parametrize(("reflecting", "weak"), [(None, 1.0), (1.5, 1.0), (1.5, -2.0), (0.0, None)])
def test_where_guidance_is_an_input_each_side_is_told_its_own(prompt, reflecting, weak):
    """FLUX.1-dev at 2.0 against 1.0 is the paper's Table 17; a prompt of the reflecting side's own changes nothing."""
    pipe = tiny.flux()
    told: list[float] = []
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(float(kwargs["guidance"][0])), with_kwargs=True
    )
    texts = ModelSpec(guidance=weak, prompt=None if weak is not None else "a fish")
    with reflected(pipe, texts, num_reflections=2, reflector=ModelSpec(guidance=reflecting, prompt=prompt)) as run:
        pipe("a cat", guidance_scale=2.0, max_sequence_length=16, **CALL)
    own = 2.0 if reflecting is None else reflecting
    expected = [own, own if weak is None else weak, 2.0] * 2 + [2.0] * (STEPS - 2)
    assert told == pytest.approx(expected, rel=1e-6)  # made by a factor, in float32
    assert run.num_rows == len(told)


@pytest.mark.parametrize("family", ["sd3", "wan", "animatediff sd15"])
def test_without_a_negative_prompt_the_other_half_is_told_an_empty_one(family):
    made = FAMILIES[family]()
    texts = {"prompt": PROMPTS, "latents": made.noise, **made.arguments, **CALL, "guidance_scale": 1.0}
    outcomes = []
    for negative in ({}, {"negative_prompt": ["", ""]}):
        with reflected(made.pipe, ModelSpec(guidance=0.0), num_reflections=LAMBDA):
            outcomes.append(made.pipe(**texts, **negative)[0])
    assert torch.equal(*outcomes)


def test_a_pipeline_without_any_guidance_says_so():
    """A call with no scale to turn on cannot have two halves."""
    pipe = tiny.sd15()
    kind = type(pipe)

    class Distilled(kind):
        def __call__(self, prompt: str, num_inference_steps: int = 4, latents: Any = None, output_type: str = "latent"):
            return kind.__call__(
                self,
                prompt,
                num_inference_steps=num_inference_steps,
                guidance_scale=1.0,
                latents=latents,
                output_type=output_type,
            )

    pipe.__class__ = Distilled
    with reflected(pipe, ModelSpec(guidance=0.0)), pytest.raises(UserError, match="no guidance scale"):
        pipe("a cat")
