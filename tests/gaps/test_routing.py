"""Routing as a setting: what it says, which experts it reaches, when it is in force, and as the gap of a pair."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    UNet2DConditionModel,
)
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU, MoEGate
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from tests.support import tiny
from w2sd_video import ModelPair, ModelSpec, Routing, reflected
from w2sd_video.errors import UserError
from w2sd_video.gaps.routing import routed
from w2sd_video.gaps.switches import SwitchBoard
from w2sd_video.pair import check_pair, gap

BOTTOM = Routing("bottom")


# -- what a routing says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": "lowest"}, "rank of a routing is 'lowest'; choose one of top, bottom"),
        ({"k": 0}, "k is 0; a token goes to a whole number of experts, at least 1"),
        ({"k": 1.5}, "k is 1.5"),
        ({"k": True}, "k is True"),
        ({"renormalize": 1}, "renormalize is 1"),
        ({"experts": ()}, "name one or more experts by number"),
        ({"experts": (1, 1)}, "each once"),
        ({"experts": (-1,)}, "from 0 on"),
        ({"experts": 3}, "experts is 3"),
        ({"rank": "bottom", "experts": (1,)}, "names experts and a rank"),
    ],
)
def test_a_routing_that_means_nothing_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Routing(**settings)


def test_routings_that_mean_the_same_are_equal_and_cannot_be_changed():
    assert Routing(experts=[5, 2, 3]) == Routing(experts=(2, 3, 5), k=7) != Routing(experts=(2, 3))
    assert Routing(experts=(5, 2, 3)).k == 3
    assert len({BOTTOM, Routing("bottom", 2), Routing("bottom", 1)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        BOTTOM.k = 3  # type: ignore[misc]


def test_a_routing_is_a_difference_between_the_sides_of_a_pair():
    weak = ModelSpec(routing=BOTTOM)
    assert gap(ModelSpec(), weak) == {"routing": (None, BOTTOM)}
    check_pair(ModelPair(ModelSpec(guidance=1.5), weak))
    for strong in (weak, ModelSpec(routing=BOTTOM, guidance=1.5)):
        with pytest.raises(UserError, match="differs in nothing"):
            check_pair(ModelPair(strong, weak))
    with pytest.raises(UserError, match=r"routing is 'bottom'; give a Routing"):
        ModelSpec(routing="bottom")  # type: ignore[arg-type]


# -- HiDream-I1's gates ---------------------------------------------------------------------------------------------


def hidream(**settings: Any) -> HiDreamImageTransformer2DModel:
    return tiny.seeded(
        1,
        lambda: HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=[8, 8],
            text_emb_dim=8,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(8, 8),
            llama_layers=[0, 1],
            **settings,
        ),
    ).eval()


def hidream_inputs(rows: int = 2) -> dict[str, Tensor]:
    generator = tiny.generator()
    shapes = {
        "hidden_states": (rows, 4, 8, 8),
        "encoder_hidden_states_t5": (rows, 3, 8),
        "encoder_hidden_states_llama3": (2, rows, 3, 8),
        "pooled_embeds": (rows, 8),
    }
    inputs = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**inputs, "timesteps": torch.full((rows,), 500.0)}


@torch.no_grad()
def run(network: nn.Module) -> Tensor:
    return network(**hidream_inputs(), return_dict=False)[0]


def by_hand(mixture: Any, x: Tensor, pick: Callable[[Tensor], list[int]], renormalize: bool) -> Tensor:
    """Token by token: the scores sorted, the picked experts' outputs added with their scores, the shared one's too."""
    out = torch.empty_like(x)
    for row in range(x.shape[0]):
        for token in range(x.shape[1]):
            vector = x[row, token]
            logits = mixture.gate.weight @ vector
            scores = torch.exp(logits - logits.max())
            scores = scores / scores.sum()
            picked = pick(scores)
            total = sum(scores[i] for i in picked) if renormalize else 1.0
            outputs = [scores[i] / total * mixture.experts[i](vector) for i in picked]
            out[row, token] = sum(outputs) + mixture.shared_experts(vector)
    return out


def lowest(k: int) -> Callable[[Tensor], list[int]]:
    return lambda scores: sorted(range(len(scores)), key=lambda i: float(scores[i]))[:k]


def highest(k: int) -> Callable[[Tensor], list[int]]:
    return lambda scores: sorted(range(len(scores)), key=lambda i: -float(scores[i]))[:k]


ROUTINGS: dict[str, tuple[Routing, Callable[[Tensor], list[int]], bool]] = {
    "top 2": (Routing(), highest(2), False),
    "bottom 2": (BOTTOM, lowest(2), False),
    "bottom 1": (Routing("bottom", 1), lowest(1), False),
    "bottom 3 renormalized": (Routing("bottom", 3, True), lowest(3), True),
    "experts 0 and 3": (Routing(experts=(3, 0)), lambda scores: [0, 3], False),
    "all": (Routing(k=4), highest(4), False),
}


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", list(ROUTINGS))
def test_hidreams_mixture_computes_the_experts_that_are_asked_for(name, training):
    """In float64 against loops over tokens; some 1000 roundings of 1e-16 are allowed."""
    routing, pick, renormalize = ROUTINGS[name]
    mixture = tiny.seeded(2, lambda: MOEFeedForwardSwiGLU(8, 32, 4, 2)).double().train(training)
    x = torch.randn(2, 5, 8, generator=tiny.generator(), dtype=torch.float64)
    expected = by_hand(mixture, x, pick, renormalize)
    with routed(mixture, routing):
        ours = mixture(x)
    assert (ours - expected).abs().max() <= 1e-13 * expected.abs().max()
    stock = mixture(x)
    assert (stock - by_hand(mixture, x, highest(2), False)).abs().max() <= 1e-13 * stock.abs().max()


@torch.no_grad()
def test_a_gate_that_makes_its_weights_sum_to_one_still_does():
    mixture = tiny.seeded(2, lambda: MOEFeedForwardSwiGLU(8, 32, 4, 2)).double().eval()
    mixture.gate.norm_topk_prob = True
    x = torch.randn(2, 5, 8, generator=tiny.generator(), dtype=torch.float64)
    stock = mixture(x)
    with routed(mixture, Routing()):
        assert torch.equal(mixture(x), stock)
    with routed(mixture, BOTTOM):
        expected = by_hand(mixture, x, lowest(2), True)
        assert (mixture(x) - expected).abs().max() <= 1e-13 * expected.abs().max()


@pytest.mark.parametrize("training", [False, True])
def test_the_highest_scores_are_stock_hidream_bit_for_bit(training):
    network = hidream().train(training)
    stock = run(network)
    with routed(network, Routing()):
        assert torch.equal(run(network), stock)
    with routed(network, BOTTOM):
        assert (run(network) - stock).abs().max() > 1e-3


def untouched(network: nn.Module) -> bool:
    mixtures = [module for module in network.modules() if isinstance(module, MOEFeedForwardSwiGLU)]
    counts = [(mixture.num_activated_experts, mixture.gate.top_k) for mixture in mixtures]
    forwards = [module for module in network.modules() if "forward" in vars(module)]
    return counts == [(2, 2)] * 2 and not forwards


def test_hidream_is_as_it_was_after_use_after_an_error_and_after_an_inner_routing():
    network = hidream()
    stock = run(network)
    with pytest.raises(ZeroDivisionError), routed(network, Routing("bottom", 1)):
        assert not untouched(network)
        raise ZeroDivisionError
    assert untouched(network) and torch.equal(run(network), stock)
    with routed(network, BOTTOM):
        outer = run(network)
        with routed(network, Routing("bottom", 1)):
            assert not torch.equal(run(network), outer)
        with pytest.raises(UserError, match="differs"), routed(network, Routing(k=3)):
            raise UserError("differs")
        assert torch.equal(run(network), outer)
    assert untouched(network) and torch.equal(run(network), stock)


def test_a_gate_offloaded_by_a_hook_is_routed_too_and_a_strange_forward_is_refused():
    network, hooked = hidream(), hidream()
    gates = [module for module in hooked.modules() if isinstance(module, MoEGate)]
    for gate in gates:
        accelerate.hooks.add_hook_to_module(gate, accelerate.hooks.ModelHook())
    with routed(network, BOTTOM), routed(hooked, BOTTOM):
        assert torch.equal(run(network), run(hooked))
    assert torch.equal(run(network), run(hooked))
    accelerate.hooks.remove_hook_from_module(gates[0])
    gates[0].forward = gates[0].forward
    with pytest.raises(UserError, match="MoEGate has a forward of its own"), routed(hooked, BOTTOM):
        pass


@torch.no_grad()
def test_compiled_code_follows_the_routing_and_is_made_once_for_each():
    mixture = tiny.seeded(2, lambda: MOEFeedForwardSwiGLU(8, 32, 4, 2)).eval()
    x = torch.randn(2, 5, 8, generator=tiny.generator())
    routings = [None, BOTTOM, Routing("bottom", 1), None, BOTTOM]
    plain = []
    for routing in routings:
        with routed(mixture, routing):
            plain.append(mixture(x))
    counter = CompileCounter()
    compiled, frames = torch.compile(mixture, backend=counter), []
    for routing, expected in zip(routings, plain, strict=True):
        with routed(compiled, routing):
            assert torch.equal(compiled(x), expected)
        frames.append(counter.frame_count)
    torch._dynamo.reset()
    assert frames[2] == frames[4]


def test_a_network_without_experts_is_refused():
    match = r"Linear has no experts .*DiT-MoE, HiDream-I1.*leave routing out"
    with pytest.raises(UserError, match=match), routed(nn.Linear(2, 2), BOTTOM):
        pass


def test_experts_that_a_network_has_not_are_refused():
    for routing, message in (
        (Routing(k=5), "5 experts per token and this network has 4"),
        (Routing(experts=(4,)), "4"),
    ):
        with pytest.raises(UserError, match=message), routed(hidream(), routing):
            pass


def test_switching_does_not_walk_through_the_network(monkeypatch):
    network, board = hidream(), SwitchBoard()
    board.check(network, {"routing": BOTTOM})
    monkeypatch.setattr(nn.Module, "named_modules", lambda *_, **__: pytest.fail("a walk"))
    with board.in_force(network, {"routing": BOTTOM}):
        pass


HIDREAM_EMBEDS = {"prompt_embeds_t5": (1, 3, 8), "prompt_embeds_llama3": (2, 1, 3, 8), "pooled_prompt_embeds": (1, 8)}


def embedded(seed: int, kind: str = "") -> dict[str, Tensor]:
    """What HiDream's text encoders would make of a prompt; `kind` "negative_" of a negative one."""
    generator = tiny.generator(seed)
    return {kind + name: torch.randn(shape, generator=generator) for name, shape in HIDREAM_EMBEDS.items()}


def hidream_pipeline() -> HiDreamImagePipeline:
    texts = {f"{part}{i}": None for part in ("text_encoder", "tokenizer") for i in ("", "_2", "_3", "_4")}
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = HiDreamImagePipeline(flow, tiny.vae(shift_factor=0.1), transformer=hidream(), **texts)
    pipe.default_sample_size = 8  # it makes every picture of this size
    pipe.set_progress_bar_config(disable=True)
    return pipe


def dream(pipe: HiDreamImagePipeline, scale: float = 3.0, **embeds: Tensor) -> Tensor:
    given = {**embedded(1), **embedded(2, "negative_"), **embeds}
    return pipe(
        num_inference_steps=3, guidance_scale=scale, generator=tiny.generator(), output_type="latent", **given
    ).images


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_hidream_itself_is_reflected_with_other_experts(scale):
    """Without reflections: 3 steps of 3 float32 roundings, doubled by guidance and by the network's slope."""
    pipe = hidream_pipeline()
    stock = dream(pipe, scale)
    with reflected(pipe, num_reflections=0):
        assert (dream(pipe, scale) - stock).abs().max() <= 3 * 3 * 4 * 6e-8 * stock.abs().max()
    with reflected(pipe, ModelSpec(routing=BOTTOM)) as counts:
        moved = dream(pipe, scale)
    assert (counts.num_evaluations, counts.num_rows) == (3 + 2 * 2, (1 if scale == 1 else 2) * (3 + 2 * 2))
    assert (moved - stock).abs().max() > 1e-3 and untouched(pipe.transformer)
    with reflected(pipe, ModelSpec(routing=BOTTOM, guidance=1.0), weak_inputs=embedded(3)) as other:
        assert (dream(pipe, scale) - moved).abs().max() > 1e-3
    assert other.num_rows == (1 if scale == 1 else 2) * (3 + 2) + 2


def test_a_reflection_of_hidream_is_algorithm_1():
    """Written out on the network itself: it predicts data - noise, on sigmas shifted by 3."""
    pipe = hidream_pipeline()
    with reflected(pipe, ModelSpec(routing=BOTTOM), num_reflections=1):
        ours = dream(pipe, 1.0)
    x = torch.randn(1, 4, 8, 8, generator=tiny.generator())
    sigmas = pipe.scheduler.sigmas.tolist()
    told = {name.replace("prompt_embeds", "encoder_hidden_states"): value for name, value in embedded(1).items()}
    told["pooled_embeds"] = told.pop("pooled_encoder_hidden_states")

    @torch.no_grad()
    def velocity(x: Tensor, sigma: float) -> Tensor:
        return -pipe.transformer(x, torch.tensor([1000 * sigma]), **told, return_dict=False)[0]

    start, end = sigmas[:2]
    x = x + (end - start) * velocity(x, start)
    with routed(pipe.transformer, BOTTOM):
        x = x + (start - end) * velocity(x, start)
    for start, end in itertools.pairwise(sigmas):
        x = x + (end - start) * velocity(x, start)
    assert (ours - x).abs().max() <= 5 * 3 * 4 * 6e-8 * x.abs().max()


# -- as the gap of a pair -------------------------------------------------------------------------------------------


class RoutedUNet(UNet2DConditionModel):
    """A UNet with experts as far as a pipeline can tell: what it predicts depends on `routing`."""

    routing: Routing | None = None

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, **others: Any) -> Any:
        routing = Routing() if self.routing is None else self.routing
        (prediction,) = super().forward(sample, timestep, encoder_hidden_states, **others)
        return (prediction * (1.0 if routing.rank == "top" else 0.5) / (routing.k - 1 or 4),)


def pipeline() -> Any:
    pipe = tiny.sd15()
    pipe.unet.__class__ = RoutedUNet
    pipe.unet.routing = None
    pipe.unet.register_to_config(num_experts=8, num_experts_per_tok=2)
    return pipe


def call(pipe: Any, **arguments: Any) -> Tensor:
    settings = {**tiny.IMAGE_CALL, "num_inference_steps": 4, "output_type": "latent", "generator": tiny.generator()}
    return pipe("a cat", **{**settings, "guidance_scale": 3.0, **arguments})[0]


def watched(pipe: Any) -> list[tuple[Any, int]]:
    """[(the routing in force, rows)] of each evaluation, to be filled."""
    seen: list[tuple[Any, int]] = []
    pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((module.routing, len(kwargs["sample"]))), with_kwargs=True
    )
    return seen


def test_a_routing_is_in_force_in_the_evaluations_of_its_side_only():
    pipe = pipeline()
    seen, called_back = watched(pipe), []

    def callback(pipe: Any, *_: Any) -> dict:
        called_back.append(pipe.unet.routing)
        return {}

    with reflected(pipe, ModelSpec(routing=BOTTOM), num_reflections=2) as counts:
        call(pipe, callback_on_step_end=callback)
    assert [routing for routing, _ in seen] == [None, BOTTOM, None] * 2 + [None] * 2
    assert called_back == [None] * 4 and counts.num_evaluations == 4 + 2 * 2 and min(counts.gaps) > 0
    seen.clear()
    one = Routing(k=1)
    with reflected(pipe, ModelSpec(routing=BOTTOM), num_reflections=1, reflector=ModelSpec(routing=one)):
        call(pipe)
    assert [routing for routing, _ in seen] == [one, BOTTOM, None, None, None, None]


def test_a_routing_combines_with_guidance_and_prompt_and_is_inherited_from_the_reflector():
    pipe = pipeline()
    seen = watched(pipe)
    weak = ModelSpec(routing=BOTTOM, guidance=1.0, prompt="a dog")
    with reflected(pipe, weak, num_reflections=1, reflector=ModelSpec(guidance=0.0)) as both:
        combined = call(pipe)
    assert seen[:3] == [(None, 1), (BOTTOM, 1), (None, 2)]
    results = [combined]
    for other in (
        ModelSpec(routing=BOTTOM, guidance=1.0),
        ModelSpec(guidance=1.0, prompt="a dog"),
        ModelSpec(routing=BOTTOM),
    ):
        with reflected(pipe, other, num_reflections=1, reflector=ModelSpec(guidance=0.0)):
            results.append(call(pipe))
    for i, one in enumerate(results):
        assert all((one - other).abs().max() > 1e-4 for other in results[:i])
    assert both.num_reflections == 1
    seen.clear()
    with reflected(pipe, ModelSpec(guidance=1.0), num_reflections=1, reflector=ModelSpec(routing=BOTTOM)):
        call(pipe)
    assert [routing for routing, _ in seen] == [BOTTOM, BOTTOM, None, None, None, None]


def test_a_weak_network_of_its_own_is_routed_in_its_own_evaluations():
    pipe, other = pipeline(), pipeline()
    seen, theirs = watched(pipe), watched(other)
    with reflected(pipe, (other.unet, ModelSpec(routing=BOTTOM)), num_reflections=1):
        call(pipe)
    assert [routing for routing, _ in theirs] == [BOTTOM] and {routing for routing, _ in seen} == {None}
    assert other.unet.routing is None


def test_the_routing_is_put_back_when_an_evaluation_fails():
    pipe = pipeline()
    pipe.unet.routing = before = Routing(k=3)

    def fail(module: Any, *_: Any) -> None:
        if module.routing == BOTTOM:
            raise ZeroDivisionError

    pipe.unet.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError), reflected(pipe, ModelSpec(routing=BOTTOM)):
        call(pipe)
    assert pipe.unet.routing is before


def test_both_sides_are_one_set_of_weights():
    """What either side's evaluations have in memory is what the network alone has: not a byte is doubled."""
    pipe = pipeline()
    sides: dict[Any, dict[int, int]] = {}

    def weights(module: nn.Module) -> dict[int, int]:
        storages = (p.untyped_storage() for p in [*module.parameters(), *module.buffers()])
        return {storage.data_ptr(): storage.nbytes() for storage in storages}

    pipe.unet.register_forward_pre_hook(lambda module, _: sides.setdefault(module.routing, {}).update(weights(module)))
    own = weights(pipe.unet)
    with reflected(pipe, ModelSpec(routing=BOTTOM), num_reflections=1):
        call(pipe)
    assert set(sides) == {None, BOTTOM}
    assert sum({**sides[None], **sides[BOTTOM]}.values()) == sum(own.values()) > 0


def test_a_routing_that_changes_nothing_is_no_gap():
    pipe = pipeline()
    for weak, reflector in (
        (Routing(), ModelSpec()),
        (Routing(k=2), ModelSpec(routing=Routing("top", 2))),
        (BOTTOM, ModelSpec(routing=BOTTOM)),
    ):
        hosted = reflected(pipe, ModelSpec(routing=weak), reflector=reflector)
        with pytest.raises(UserError, match=r'differs in nothing.*weak="zero-gap"'), hosted:
            call(pipe)
    with reflected(pipe, "zero-gap", reflector=ModelSpec(routing=BOTTOM), mode="fused") as zero:
        call(pipe)
    assert max(zero.gaps) == 0
    with reflected(pipe, ModelSpec(routing=Routing()), reflector=ModelSpec(routing=BOTTOM)) as counts:
        call(pipe)
    assert min(counts.gaps) > 0


def test_routings_that_cannot_be_are_refused_before_anything_runs():
    pipe = tiny.sdxl()
    for arguments in (
        {"weak": ModelSpec(routing=BOTTOM)},
        {"weak": "zero-gap", "reflector": ModelSpec(routing=BOTTOM)},
    ):
        with pytest.raises(UserError, match="UNet2DConditionModel has no experts"), reflected(pipe, **arguments):
            pass
    other = tiny.sd15_unet(2), ModelSpec(routing=BOTTOM)
    with pytest.raises(UserError, match="UNet2DConditionModel has no experts"), reflected(pipeline(), other):
        pass
    many = ModelSpec(routing=Routing(k=9))
    with pytest.raises(UserError, match="9 experts per token and this network has 8"), reflected(pipeline(), many):
        pass
