"""Sides whose networks were trained at a few levels: asked at the nearest one, recorded and replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from tests.support import tiny, tiny_loops
from w2sd_video import ModelSpec, ReflectionConfig, UserError, reflected
from w2sd_video.core import Level
from w2sd_video.hosting.run import Run
from w2sd_video.latents.schedules import trained_levels

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
STEPS = 4
Moves = list[tuple[Tensor, Tensor]]


def sampled(pipe: Any, weak: Any, **settings: Any) -> tuple[Tensor, Moves, Run]:
    """The latents of a call of two reflections, x and x~ of each, and the run."""
    moves: Moves = []
    call = {**tiny.WAN_CALL, "guidance_scale": 1.0} if "Wan" in type(pipe).__name__ else {**tiny.IMAGE_CALL}
    call = {"guidance_scale": 3.0, **call, "num_inference_steps": STEPS, "output_type": "latent"}
    settings = settings if "config" in settings else {"num_reflections": 2, **settings}
    with torch.no_grad(), reflected(pipe, weak, on_reflect=lambda _, x, y: moves.append((x, y)), **settings) as run:
        made = pipe("a red cat", generator=tiny.generator(), **call)[0]
    return made, moves, run


def listening(network: nn.Module) -> tuple[list[float], Callable[[], None]]:
    """The timesteps that a network is passed from now on, and what ends that."""
    seen: list[float] = []

    def note(_: Any, args: tuple, kwargs: dict) -> None:
        told = kwargs.get("timestep", kwargs.get("t", args[1] if len(args) > 1 else None))
        seen.append(float(torch.as_tensor(told).reshape(-1)[0]))

    return seen, network.register_forward_pre_hook(note, with_kwargs=True).remove


@torch.no_grad()
@pytest.mark.parametrize("host", ["record", "replay"])
def test_the_move_is_that_of_a_network_called_by_hand_at_the_nearest_trained_level(host: str) -> None:
    pipe, weak = tiny.sd15(), tiny.sd15_unet(2)
    table = trained_levels((949.0, 699.0), pipe.scheduler)
    text, _ = pipe.encode_prompt("a red cat", "cpu", 1, False)
    spec = ModelSpec(guidance=1.0, levels=(949, 699))
    _, moves, run = sampled(pipe, (weak, spec), mode="fused", reflector=ModelSpec(guidance=1.0), host=host)
    assert run.host == host and run.num_evaluations == STEPS + 4
    alpha_bar = pipe.scheduler.alphas_cumprod.double()
    for (x, tilde), t, nearest in zip(moves, (751, 501), (699, 699), strict=True):
        a, s = float(alpha_bar[t].sqrt()), float((1 - alpha_bar[t]).sqrt())
        near = table.nearest(Level(t, a, s))
        assert near.timestep == nearest and (near.alpha - float(alpha_bar[nearest].sqrt())) < 1e-6
        strong = pipe.unet(x, torch.tensor(t), encoder_hidden_states=text)[0]
        # On a variance-preserving path the latent keeps its size, and v = (eps - sigma x) / alpha is taken over.
        there = weak(x, torch.tensor(nearest), encoder_hidden_states=text)[0]
        v = (there - near.sigma * x) / near.alpha
        weakly = a * v + s * x
        step = 250
        below = (float(alpha_bar[t - step].sqrt()), float((1 - alpha_bar[t - step]).sqrt()))
        expected = (s - a * below[1] / below[0]) * (weakly - strong)
        torch.testing.assert_close(tilde - x, expected, rtol=0, atol=2e-5 * float(x.abs().max()))


@pytest.mark.parametrize("mode", ["paper", "fused"])
def test_a_flow_is_replayed_as_it_is_recorded_at_levels_of_its_own(mode: str) -> None:
    pipe, weak = tiny.wan(), tiny.wan_transformer(2)
    spec = ModelSpec(levels="lightning-4:5")
    seen, remove = listening(weak)
    recorded, moves, run = sampled(pipe, (weak, spec), mode=mode)
    asked = list(seen)
    replayed, again, other = sampled(pipe, (weak, spec), mode=mode, host="replay")
    remove()
    trained = (1000.0, 937.5, 1000 * 5 / 6, 625.0)
    assert all(min(abs(t - each) for each in trained) < 1e-3 for t in seen) and seen == asked * 2
    assert (run.host, other.host) == ("record", "replay")
    near = 1e-5 * float(recorded.abs().max())
    assert (recorded - replayed).abs().max() <= near
    for (_, one), (_, two) in zip(moves, again, strict=True):
        assert (one - two).abs().max() <= near
    plain, _, _ = sampled(pipe, weak, mode=mode)
    assert (plain - recorded).abs().max() > 100 * near  # the levels matter


def test_a_loop_that_passes_time_otherwise_is_given_another_timestep() -> None:
    pipe, settings = tiny_loops.LOOPS["z_image"]()  # passes (1000 - t) / 1000
    weak = tiny_loops.another(pipe.transformer)
    seen, remove = listening(weak)
    call = {"num_inference_steps": 3, "output_type": "latent", **settings}
    with torch.no_grad(), reflected(pipe, (weak, ModelSpec(levels=(800, 400))), num_reflections=2) as run:
        pipe(generator=tiny.generator(), **call)
    remove()
    assert run.host == "replay" and {round(1000 * (1 - t)) for t in seen} <= {800, 400} and len(seen) >= 2


@pytest.mark.parametrize("host", ["record", "replay"])
def test_both_sides_at_few_levels_are_the_control_where_nothing_else_differs(host: str) -> None:
    pipe = tiny.sd15()
    few = ModelSpec(levels="turbo", guidance=3.0)
    plain, _, _ = sampled(pipe, None, num_reflections=0, host=host)
    made, moves, run = sampled(pipe, "zero-gap", mode="fused", reflector=few, host=host)
    assert torch.equal(made, plain) and all(torch.equal(x, tilde) for x, tilde in moves)
    assert run.num_evaluations == STEPS + 4
    # One network at two guidances, both asked at the few levels: one evaluation of both halves gives the two.
    moved, _, run = sampled(pipe, ModelSpec(guidance=1.0), mode="fused", reflector=few, host=host)
    assert not torch.equal(moved, plain)
    assert host == "replay" or run.num_rows == 2 * STEPS + 2 * 2


def test_a_weak_pipeline_of_another_path_is_asked_at_its_own_levels() -> None:
    """A flow under a noise path: time is counted otherwise, and what is predicted is another thing."""
    pipe, weak = tiny.sd15(), tiny.sd15(2)
    weak.scheduler = diffusers.UniPCMultistepScheduler(**FLOW)
    with pytest.raises(UserError, match=r'is a flow and the other is not.*levels="own"'):
        sampled(pipe, weak)
    seen, remove = listening(weak.unet)
    _, moves, run = sampled(
        pipe, (weak, ModelSpec(levels="own", guidance=1.0)), mode="fused", reflector=ModelSpec(guidance=1.0)
    )
    remove()
    alpha_bar = pipe.scheduler.alphas_cumprod.double()
    text, _ = pipe.encode_prompt("a red cat", "cpu", 1, False)
    assert run.host == "record" and len(seen) == 2
    for (x, tilde), t, told in zip(moves, (751, 501), seen, strict=True):
        a, s = float(alpha_bar[t].sqrt()), float((1 - alpha_bar[t]).sqrt())
        sigma = s / (a + s)
        assert told == pytest.approx(1000 * sigma, rel=1e-5)
        with torch.no_grad():
            v = weak.unet(x / (a + s), torch.tensor(told), encoder_hidden_states=text)[0]
            strong = pipe.unet(x, torch.tensor(t), encoder_hidden_states=text)[0]
        noise = x / (a + s) + (1 - sigma) * v  # the flow's noise estimate is the same noise
        below = (float(alpha_bar[t - 250].sqrt()), float((1 - alpha_bar[t - 250]).sqrt()))
        expected = (s - a * below[1] / below[0]) * (noise - strong)
        torch.testing.assert_close(tilde - x, expected, rtol=0, atol=2e-5 * float(x.abs().max()))
    with pytest.raises(UserError, match="is a flow and the other is not"):
        sampled(pipe, (weak, ModelSpec(levels="own")), host="replay")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ModelSpec(levels="own"), "differs in nothing"),  # the same network, whose levels these are
        (ModelSpec(levels=(1000, 500)), "timestep 1000, and a timestep of this DDIMScheduler is a whole number"),
        (ModelSpec(levels=(499.5,)), "timestep 499.5"),
        (ModelSpec(levels="turbo-4:3"), "a shift is of flows"),
    ],
)
@pytest.mark.parametrize("host", ["record", "replay"])
def test_levels_that_say_nothing_or_are_not_there_are_refused(host: str, spec: ModelSpec, words: str) -> None:
    with pytest.raises(UserError, match=words):
        sampled(tiny.sd15(), spec, host=host)


@pytest.mark.parametrize("host", ["record", "replay"])
@pytest.mark.parametrize(
    ("setting", "words"), [({"gap_every": 1, "mode": "fused"}, "gap_every"), ({"lag": True}, "lag")]
)
def test_what_has_the_strong_sides_own_evaluation_is_refused_where_it_reflects_elsewhere(
    host: str, setting: dict[str, Any], words: str
) -> None:
    config = ReflectionConfig(num_reflections=2, reflector=ModelSpec(levels="turbo"), **setting)
    with pytest.raises(UserError, match=words):
        sampled(tiny.sd15(), ModelSpec(guidance=1.0), config=config, host=host)
