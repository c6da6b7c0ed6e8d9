"""The nodes sample as core does, whatever the gap, and as ComfyUI's own sampler where nothing is reflected."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from w2sd_video.core import FlowPath, Level, NoisePath, ReflectionConfig, autoguidance, lerp_guidance, sample, w2sd
from w2sd_video.errors import UserError

SIGMAS = {"eps": (8.0, 3.0, 1.5, 0.6, 0.0), "flow": (0.9, 0.7, 0.5, 0.2, 0.0)}  # after the noisiest
KINDS = tuple(SIGMAS)
CFG, WEAK_CFG = 3.0, 1.5


@dataclass
class Bench:
    """One kind's models, conditioning and noise, and how they are sampled."""

    host: Any
    kind: str

    def __post_init__(self) -> None:
        self.strong, self.weak = self.host.tiny(self.kind, 0), self.host.tiny(self.kind, 1)
        generator = torch.Generator().manual_seed(5)
        self.contexts = [torch.randn(1, 8, self.host.context(self.kind), generator=generator) for _ in range(3)]
        self.positive, self.negative, self.other = ([[context, {}]] for context in self.contexts)
        self.noise = torch.randn(self.host.shape(self.kind), generator=generator)
        noisiest = float(self.strong.get_model_object("model_sampling").sigma_max)
        self.sigmas = torch.tensor([noisiest, *SIGMAS[self.kind]])

    def guider(self, **given: Any) -> Any:
        defaults = {"strong": self.strong, "weak": self.weak, "positive": self.positive, "negative": self.negative}
        defaults |= {"cfg": CFG, "weak_cfg": WEAK_CFG, "reflect_cfg": -1.0}
        return self.host.nodes.W2SDGuiderNode.execute(**{**defaults, **given}).result[0]

    def sampler(self, reflections: int = 3, **given: Any) -> Any:
        schema = self.host.nodes.W2SDSamplerNode.GET_SCHEMA()
        defaults = {each.id: each.default for each in schema.inputs}
        return self.host.nodes.W2SDSamplerNode.execute(**{**defaults, "reflections": reflections, **given}).result[0]

    def euler(self) -> Any:
        import comfy.samplers

        return comfy.samplers.sampler_object("euler")

    def run(self, guider: Any, sampler: Any, latent: Tensor | None = None, **given: Any) -> Tensor:
        latent = torch.zeros_like(self.noise) if latent is None else latent
        return guider.sample(self.noise, latent, sampler, self.sigmas, seed=0, disable_pbar=True, **given)

    @property
    def path(self) -> NoisePath | FlowPath:
        return FlowPath() if self.kind == "flow" else NoisePath()

    def levels(self) -> list[Level]:
        if self.kind == "flow":
            return [Level(s, 1 - s, s) for s in self.sigmas.tolist()]
        return [Level(s, (1 + s * s) ** -0.5, s * (1 + s * s) ** -0.5) for s in self.sigmas.tolist()]

    @torch.no_grad()
    def native(self, patcher: Any, cfg: float, positive: int = 0) -> Any:
        """The network alone, without ComfyUI's guiders and scalings, as one of core's denoisers."""

        def predict(x: Tensor, level: Level) -> Tensor:
            sigma = x.new_full((len(x),), level.timestep)
            both = [self.contexts[k].expand(len(x), -1, -1) for k in (1, positive)]
            with torch.no_grad():
                unconditional, conditional = (self.host.network(patcher, x, sigma, context) for context in both)
            return lerp_guidance(unconditional, conditional, cfg)

        return predict


@pytest.fixture(scope="module", params=KINDS)
def bench(request: pytest.FixtureRequest, host: Any) -> Bench:
    return Bench(host, request.param)


def assert_sampled(bench: Bench, out: Tensor, expected: Tensor) -> None:
    """``expected`` is as the network has it; ComfyUI hands latents out as its VAE has them."""
    assert_near(out, bench.strong.model.process_latent_out(expected))


def assert_near(one: Tensor, other: Tensor) -> None:
    assert float((one - other).abs().max() / other.abs().max()) < 1e-6


def test_without_reflections_it_is_euler_bit_for_bit(bench: Bench) -> None:
    euler = bench.run(bench.guider(), bench.euler())
    assert torch.equal(bench.run(bench.guider(), bench.sampler(0)), euler)
    assert torch.equal(bench.run(bench.guider(weak_cfg=9.0), bench.sampler(0)), euler)
    assert not torch.equal(bench.run(bench.guider(), bench.sampler(1)), euler)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"mode": "fused", "strength": 0.7},
    {"mode": "release"},
    {"reflections": -1, "every": 2, "strength": 1.5},
    {"window_start": 0.2, "window_end": 0.6},
    {"cap": 0.01},
    {"fixed_point": 1},
    {"mode": "fused", "gap_every": 2},
    {"motion_strength": 0.5},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(settings) or "paper")
@torch.no_grad()
def test_reflections_are_those_of_core(bench: Bench, settings: dict[str, Any]) -> None:
    if "motion_strength" in settings and bench.noise.ndim != 5:
        with pytest.raises(ValueError, match="for videos"):
            bench.run(bench.guider(), bench.sampler(**settings))
        return
    told = {"num_reflections": 3, **settings}
    asked = told.pop("reflections", 3)
    told["num_reflections"] = None if asked == -1 else asked
    if "window_start" in told:
        told["window"] = (told.pop("window_start"), told.pop("window_end"))
    strong, weak = bench.native(bench.strong, CFG), bench.native(bench.weak, WEAK_CFG)
    expected = w2sd(bench.noise, bench.levels(), strong, weak, bench.path, options=ReflectionConfig(**told))
    assert_sampled(bench, bench.run(bench.guider(), bench.sampler(**settings)), expected)


@torch.no_grad()
def test_each_side_has_its_conditioning_and_the_strong_one_its_guidance_inside_reflections(bench: Bench) -> None:
    strong, weak = bench.native(bench.strong, CFG), bench.native(bench.weak, 1.0, positive=2)
    expected = w2sd(
        bench.noise,
        bench.levels(),
        strong,
        weak,
        bench.path,
        num_reflections=3,
        reflector=bench.native(bench.strong, 1.0),
    )
    guider = bench.guider(weak_positive=bench.other, weak_cfg=1.0, reflect_cfg=1.0)
    assert_sampled(bench, bench.run(guider, bench.sampler(3)), expected)


def test_one_network_with_two_sets_of_patches_is_two_networks(bench: Bench) -> None:
    key = bench.host.key
    if key not in dict(bench.strong.model.named_parameters()):
        key = next(name for name, value in bench.strong.model.named_parameters() if value.dim() == 2)
    weight = bench.strong.model.get_parameter(key)
    change = {key: ("diff", (torch.full_like(weight, 0.05),))}
    shared = bench.strong.clone()
    shared.add_patches(change)
    apart = bench.host.tiny(bench.kind, 0)
    with torch.no_grad():
        apart.model.get_parameter(key).add_(0.05)
    expected = bench.run(bench.guider(weak=apart), bench.sampler(3))
    assert_near(bench.run(bench.guider(weak=shared), bench.sampler(3)), expected)
    assert_near(bench.run(bench.guider(strong=shared, weak=bench.strong), bench.sampler(3)),
                bench.run(bench.guider(strong=apart, weak=bench.strong), bench.sampler(3)))  # fmt: skip
    assert not torch.allclose(expected, bench.run(bench.guider(weak=bench.strong), bench.sampler(3)))


def test_both_models_are_offered_to_the_memory_manager_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[int]] = []
    load = bench.host.manager.load_models_gpu

    def recorded(models: list[Any], *args: Any, **kwargs: Any) -> None:
        asked.append({id(model.model) for model in models})
        load(models, *args, **kwargs)

    monkeypatch.setattr(bench.host.manager, "load_models_gpu", recorded)
    strong, weak = id(bench.strong.model), id(bench.weak.model)
    bench.run(bench.guider(), bench.sampler(2))
    assert asked[-1] == {strong, weak}
    asked.clear()
    bench.run(bench.guider(weak=bench.strong, weak_cfg=1.0), bench.sampler(2))
    assert all(models == {strong} for models in asked)
    assert bench.strong.model.current_patcher is None, "as ComfyUI leaves it"


def test_the_control_has_no_gap(bench: Bench) -> None:
    control = bench.host.nodes.W2SDZeroGapNode.execute(bench.strong, bench.positive, CFG, -1.0, bench.negative).result[
        0
    ]
    assert torch.equal(bench.run(control, bench.sampler(mode="fused")), bench.run(control, bench.euler()))
    same = bench.guider(weak=bench.strong, weak_cfg=CFG)
    smoothed = bench.run(control, bench.sampler(3))
    assert torch.equal(smoothed, bench.run(same, bench.sampler(3)))
    assert not torch.equal(smoothed, bench.run(control, bench.euler()))


@torch.no_grad()
def test_autoguidance_is_that_of_core(bench: Bench) -> None:
    def guider(weight: float) -> Any:
        given = (bench.strong, bench.weak, bench.positive, CFG, WEAK_CFG, weight, bench.negative)
        return bench.host.nodes.AutoGuidanceNode.execute(*given).result[0]

    combined = autoguidance(bench.native(bench.strong, CFG), bench.native(bench.weak, WEAK_CFG), 0.7)
    expected = sample(bench.noise, bench.levels(), combined, bench.path)
    assert_sampled(bench, bench.run(guider(0.7), bench.euler()), expected)
    assert torch.equal(bench.run(guider(0.0), bench.euler()), bench.run(bench.guider(), bench.euler()))
    with pytest.raises(UserError, match="W2SD Guider"):
        bench.run(guider(1.0), bench.sampler(1))


def test_previews_masks_and_interrupts_are_those_of_other_samplers(bench: Bench, monkeypatch: Any) -> None:
    def seen(sampler: Any, guider: Any, **given: Any) -> tuple[list[tuple[int, Tensor, Tensor, int]], Tensor]:
        steps: list[tuple[int, Tensor, Tensor, int]] = []
        out = bench.run(guider, sampler, callback=lambda i, x0, x, total: steps.append((i, x0, x, total)), **given)
        return steps, out

    ours, theirs = seen(bench.sampler(0), bench.guider())[0], seen(bench.euler(), bench.guider())[0]
    for one, other in zip(ours, theirs, strict=True):
        assert (one[0], one[3]) == (other[0], other[3])
        assert torch.equal(one[1], other[1]) and torch.equal(one[2], other[2])
    assert [step[0] for step in seen(bench.sampler(3), bench.guider())[0]] == [0, 1, 2, 3, 4]
    latent, mask = torch.full_like(bench.noise, 0.3), torch.zeros_like(bench.noise)
    mask[..., :4] = 1
    _, out = seen(bench.sampler(3), bench.guider(), latent=latent, denoise_mask=mask)
    kept = latent if not bench.host.real else bench.run(bench.guider(), bench.euler(), latent=latent, denoise_mask=mask)
    torch.testing.assert_close(out[..., 4:], kept[..., 4:], rtol=1e-4, atol=1e-4)

    class InterruptedForTest(Exception):
        pass

    def interrupted() -> None:
        raise InterruptedForTest

    monkeypatch.setattr(bench.host.manager, "throw_exception_if_processing_interrupted", interrupted)
    with pytest.raises(InterruptedForTest):
        bench.run(bench.guider(), bench.sampler(1))


def test_what_cannot_be_reflected_is_refused_with_a_remedy(bench: Bench) -> None:
    import comfy.samplers

    with pytest.raises(UserError, match="connect a W2SD Guider"):
        plain = comfy.samplers.CFGGuider(bench.strong)
        plain.set_conds(bench.positive, bench.negative)
        bench.run(plain, bench.sampler(1))
    with pytest.raises(UserError, match="no negative conditioning"):
        bench.guider(negative=None)
    with pytest.raises(UserError, match="the weak side's cfg"):
        bench.guider(negative=None, cfg=1.0)
    with pytest.raises(UserError, match="number from 0 to 4 for 5 steps"):
        bench.run(bench.guider(), bench.sampler(5))
    with pytest.raises(UserError, match="window"):
        bench.sampler(window_start=0.5, window_end=0.5)
    with pytest.raises(UserError, match="meet in pixels"):
        bench.guider(weak=bench.host.tiny("eps" if bench.kind == "flow" else "flow", 0))
    far = copy.copy(bench.weak)
    far.model = copy.copy(bench.weak.model)
    far.model.latent_format = object()
    with pytest.raises(UserError, match="latents are"):
        bench.guider(weak=far)


def test_guidance_one_needs_no_negative_conditioning(bench: Bench) -> None:
    alone = bench.guider(negative=None, cfg=1.0, weak_cfg=1.0)
    assert_near(bench.run(alone, bench.sampler(2)), bench.run(bench.guider(cfg=1.0, weak_cfg=1.0), bench.sampler(2)))


def test_the_sampler_has_every_setting_of_a_reflection_at_its_default(host: Any) -> None:
    inputs = {each.id: each.default for each in host.nodes.W2SDSamplerNode.GET_SCHEMA().inputs}
    config, usual = ReflectionConfig(), {}
    usual |= {name: getattr(config, name) for name in ("mode", "strength", "every", "fixed_point", "motion_strength")}
    usual |= {"window_start": config.window[0], "window_end": config.window[1], "cap": 0.0, "gap_every": -1}
    assert {name: inputs[name] for name in usual} == usual
    named = {"num_reflections": "reflections", "reflector": "reflect_cfg", "window": "window_start"}
    without = {"noise", "lag"}  # noise would need a seed of its own; lag is coarser than gap_every
    from w2sd_video.core.options import SETTINGS as BY_METHOD

    guider = host.nodes.W2SDBridgeGuiderNode.GET_SCHEMA()
    offered = set(inputs) | {each.id for each in guider.inputs}
    assert {name for name in BY_METHOD["w2sd"] if named.get(name, name) not in offered} <= without
