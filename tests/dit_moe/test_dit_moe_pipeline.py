"""The DiT-MoE pipeline against sampling written out, and hosted: its counts, its order, its guidance of 3 channels."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from bridges.dit_moe.labels import read_labels
from bridges.dit_moe.network import DiTMoE
from bridges.dit_moe.pipeline import DiTMoEPipeline, build_scheduler
from tests.support import tiny
from w2sd_video import ModelSpec, Routing, reflected
from w2sd_video.errors import UserError
from w2sd_video.gaps.routing import routed

STEPS, CLASSES, SCALE = 4, [3, 0, 7], 2.0
LABELS = {0: "zero, nought", 1: "crane", 2: "crane, bird", 3: "three"}


def network(out_channels: int = 8) -> DiTMoE:
    def build() -> DiTMoE:
        net = DiTMoE(
            sample_size=8,
            out_channels=out_channels,
            num_layers=2,
            hidden_size=16,
            num_attention_heads=2,
            num_classes=10,
            expert_hidden_size=16,
            shared_expert_hidden_size=16,
        )
        for parameter in net.parameters():  # those that start at zero too
            nn.init.normal_(parameter, std=0.2)
        return net

    return tiny.seeded(1, build).eval()


@pytest.fixture(scope="module")
def parts() -> tuple[DiTMoE, Any]:
    return network(), tiny.vae(scaling_factor=0.18215)


def pipeline(parts: tuple[DiTMoE, Any], path: str = "noise", scheduler: Any = None) -> DiTMoEPipeline:
    pipe = DiTMoEPipeline(*parts, scheduler or build_scheduler(path), LABELS)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe: DiTMoEPipeline, classes: Any = None, **arguments: Any) -> Tensor:
    settings = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "output_type": "latent", **arguments}
    if "latents" not in settings:
        settings.setdefault("generator", tiny.generator())
    return pipe(CLASSES if classes is None else classes, **settings).images


def noise(count: int = len(CLASSES)) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=tiny.generator())


def rounding(pipe: DiTMoEPipeline, steps: int = STEPS, **arguments: Any) -> float:
    """What float32 rounding may make of one sampling written in two ways: some 10 roundings (6e-8) of the latent per
    step, times what the sampler makes of a change of its start by 1e-4."""
    x = noise()
    signs = torch.randint(2, x.shape, generator=tiny.generator(9)) * 2 - 1
    ends = [call(pipe, latents=x + shift * signs, **arguments) for shift in (0.0, 1e-4)]
    return steps * 10 * 6e-8 * float(x.abs().max()) * float((ends[0] - ends[1]).abs().max()) / 1e-4


def guided_by_hand(net: DiTMoE, x: Tensor, t: float, channels: int = 4) -> Tensor:
    """The published combination: the first `channels` guided, the rest the conditional half's, variances left out."""
    told = torch.full((len(x),), t)
    conditional = net(x, told, torch.tensor(CLASSES)).sample[:, :4]
    unconditional = net(x, told, torch.full((len(x),), 10)).sample[:, :4]
    out = conditional.clone()
    out[:, :channels] = (unconditional + SCALE * (conditional - unconditional))[:, :channels]
    return out


@torch.no_grad()
@pytest.mark.parametrize("channels", [None, 3])
def test_the_noise_path_is_ddim_told_whole_timesteps(parts, channels):
    net = parts[0]
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    x = noise()
    for t in (999, 749, 499, 249):
        before, after = float(alpha_bar[t]), float(alpha_bar[t - 250]) if t > 250 else 1.0
        eps = guided_by_hand(net, x, float(t), channels or 4)
        x = (after / before) ** 0.5 * (x - (1 - before) ** 0.5 * eps) + (1 - after) ** 0.5 * eps
    pipe = pipeline(parts)
    ours = call(pipe, latents=noise(), guidance_channels=channels)
    assert (ours - x).abs().max() <= rounding(pipe)


@torch.no_grad()
def test_the_flow_path_is_eulers_told_the_time_itself(parts):
    x = noise()
    for i in range(STEPS, 0, -1):
        x = x - guided_by_hand(parts[0], x, i / STEPS) / STEPS
    pipe = pipeline(parts, "flow")
    assert (call(pipe, latents=noise()) - x).abs().max() <= rounding(pipe)


def test_three_guided_channels_are_not_four(parts):
    pipe = pipeline(parts)
    assert (call(pipe, guidance_channels=3) - call(pipe)).abs().max() > 0.1
    assert torch.equal(call(pipe, guidance_channels=4), call(pipe))


@pytest.mark.parametrize("scale", [1.0, SCALE])
@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("path", ["noise", "flow", "euler"])
def test_no_reflections_equal_plain_sampling(parts, path, channels, scale):
    euler = EulerDiscreteScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", timestep_spacing="trailing")
    pipe = pipeline(parts, path, euler) if path == "euler" else pipeline(parts, path)
    arguments = {"guidance_channels": channels, "guidance_scale": scale}
    plain = call(pipe, **arguments)
    with reflected(pipe, num_reflections=0) as run:
        hosted = call(pipe, **arguments)
    assert (hosted - plain).abs().max() <= rounding(pipe, **arguments)
    assert (run.num_evaluations, run.num_rows) == (STEPS, (1 if scale == 1 else 2) * STEPS * len(CLASSES))


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("path", ["noise", "flow"])
def test_a_routing_gap_costs_t_plus_two_lambda_evaluations_and_moves_the_latent(parts, path, channels):
    pipe = pipeline(parts, path)
    plain = call(pipe, guidance_channels=channels)
    for lam in (1, STEPS - 1):
        with reflected(pipe, ModelSpec(routing=Routing("bottom")), num_reflections=lam) as run:
            moved = call(pipe, guidance_channels=channels)
        assert (run.num_evaluations, run.num_forwards) == (STEPS + 2 * lam,) * 2  # the halves share a call
        assert run.num_rows == 2 * (STEPS + 2 * lam) * len(CLASSES)
        assert (moved - plain).abs().max() > 1e-2
    assert parts[0].routing is None


@torch.no_grad()
@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_a_reflection_guides_three_channels_like_the_call(parts, guidance):
    """Algorithm 1 written out on the first of two flow steps, the weak side with a guidance of its own."""
    net, x = parts[0], noise()
    pipe = pipeline(parts, "flow")
    with reflected(pipe, ModelSpec(guidance=guidance, routing=Routing("bottom"))) as run:
        ours = call(pipe, latents=x, guidance_channels=3, num_inference_steps=2)

    def weak(y: Tensor, t: float) -> Tensor:
        told = torch.full((len(y),), t)
        conditional = net(y, told, torch.tensor(CLASSES), Routing("bottom")).sample[:, :4]
        unconditional = net(y, told, torch.full((len(y),), 10), Routing("bottom")).sample[:, :4]
        out = conditional.clone()
        out[:, :3] = (unconditional + guidance * (conditional - unconditional))[:, :3]
        return out

    x = x - 0.5 * guided_by_hand(net, x, 1.0, 3)
    x = x + 0.5 * weak(x, 1.0)
    for t in (1.0, 0.5):
        x = x - 0.5 * guided_by_hand(net, x, t, 3)
    assert (ours - x).abs().max() <= rounding(pipe, 4, num_inference_steps=2)
    rows = len(CLASSES)
    assert run.num_rows == (2 + 1) * 2 * rows + (1 if guidance == 1 else 2) * rows  # 0 needs both: channel 4


def test_pictures_are_the_same_in_any_batch_and_have_a_generator_each(parts):
    """Batches differ by the rounding of matrix products of other sizes."""
    pipe = pipeline(parts)
    together = call(pipe, generator=[tiny.generator(seed) for seed in range(3)])
    alone = torch.cat([call(pipe, i, generator=[tiny.generator(seed)]) for seed, i in enumerate(CLASSES)])
    assert (together - alone).abs().max() <= rounding(pipe)
    twice = call(pipe, [3, 0], num_images_per_label=2, generator=[tiny.generator(5)] * 4)
    assert twice.shape == (4, 4, 8, 8)
    same = call(pipe, [3, 3, 0, 0], generator=[tiny.generator(5)] * 4)
    assert torch.equal(twice, same)


def test_pictures_come_in_every_form_and_are_the_decoded_latents(parts):
    pipe = pipeline(parts)
    latents = call(pipe)
    forms = {form: call(pipe, output_type=form) for form in ("pt", "np", "pil")}
    with torch.no_grad():
        expected = (parts[1].decode(latents / 0.18215).sample / 2 + 0.5).clamp(0, 1)
    assert torch.equal(forms["pt"], expected)
    assert np.array_equal(forms["np"], expected.permute(0, 2, 3, 1).numpy())
    assert [picture.size for picture in forms["pil"]] == [(16, 16)] * 3
    assert torch.equal(
        pipe(CLASSES, STEPS, SCALE, output_type="pt", return_dict=False, latents=noise())[0], forms["pt"]
    )


def test_a_saved_pipeline_is_loaded_from_its_folder_alone(parts, tmp_path: Path):
    saved = pipeline(parts, "flow")
    saved.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["transformer"] == [
        "bridges.dit_moe.network",
        "DiTMoE",
    ]
    loaded = DiTMoEPipeline.from_pretrained(tmp_path, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded.scheduler, FlowMatchEulerDiscreteScheduler)
    assert (loaded.id2label, loaded.labels) == (LABELS, saved.labels)
    assert torch.equal(call(loaded, ["three", 0, 7]), call(saved))
    without = DiTMoEPipeline(parts[0], None, build_scheduler("noise"))
    without.save_pretrained(tmp_path / "latents")
    again = DiTMoEPipeline.from_pretrained(tmp_path / "latents", local_files_only=True)
    assert again.vae is None and again.labels == {}


def test_classes_have_names_from_a_file(parts, tmp_path: Path):
    as_json, as_text = tmp_path / "labels.json", tmp_path / "labels.txt"
    as_json.write_text(json.dumps({str(i): name for i, name in LABELS.items()}))
    as_text.write_text("\n".join(LABELS.values()))
    assert read_labels(as_json) == read_labels(as_text) == LABELS
    pipe = pipeline(parts)
    assert pipe.get_label_ids(["nought", "three"]) == [0, 3] and pipe.get_label_ids("bird") == [2]
    assert torch.equal(call(pipe, ["three", "zero", 7]), call(pipe))
    for name, message in (("thre", "like three"), ("crane", "classes 1, 2")):
        with pytest.raises(UserError, match=message):
            call(pipe, name)
    for text in ("{", "[1, 2]", '{"x": "y"}'):
        as_json.write_text(text)
        with pytest.raises(UserError, match=r"labels\.json"):
            read_labels(as_json)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": [10]}, "class 10 is not one of this network's; give ids from 0 to 9"),
        ({"classes": []}, "no class is given"),
        ({"guidance_channels": 5}, "guidance_channels is 5; it must be from 1 to 4"),
        ({"generator": [tiny.generator()]}, "1 generators are given for 3 pictures"),
        ({"latents": torch.zeros(1, 4, 8, 8)}, r"latents have shape \(1, 4, 8, 8\)"),
        ({"output_type": "png"}, "output_type is 'png'"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_images_per_label": 0}, "num_images_per_label is 0"),
    ],
)
def test_arguments_out_of_range_are_refused(parts, arguments, message):
    with pytest.raises(UserError, match=message):
        call(pipeline(parts), **arguments)


def test_callbacks_see_every_step_and_may_change_the_latents_or_stop(parts):
    pipe, seen = pipeline(parts), []

    def zero_at_the_end(_pipe: Any, i: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((i, int(t)))
        return {"latents": tensors["latents"] * 0} if i == STEPS - 1 else {}

    assert call(pipe, callback_on_step_end=zero_at_the_end).abs().max() == 0
    assert seen == [(0, 999), (1, 749), (2, 499), (3, 249)]

    def stop(pipe: Any, i: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        pipe._interrupt = i == 1
        return {}

    with reflected(pipe, ModelSpec(routing=Routing("bottom"))) as run:
        call(pipe, callback_on_step_end=stop)
    assert run.num_steps == 2

    def unguided_from_the_second_step(pipe: Any, i: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        pipe._guidance_scale = 1.0
        return {}

    with reflected(pipe, num_reflections=0) as run:
        hosted = call(pipe, callback_on_step_end=unguided_from_the_second_step)
    plain = call(pipe, callback_on_step_end=unguided_from_the_second_step)
    assert run.num_rows == (2 + 1 * (STEPS - 1)) * len(CLASSES)
    assert (hosted - plain).abs().max() <= rounding(pipe, callback_on_step_end=unguided_from_the_second_step)


def test_a_network_without_learned_variances_and_in_half_precision_keeps_a_float32_latent(parts):
    """What is rounded to half precision is what the network is given, the same in both ways to sample."""
    net = network(out_channels=4).to(torch.bfloat16)
    pipe, given = pipeline((net, parts[1]), "flow"), set()
    net.register_forward_pre_hook(lambda _, __, kwargs: given.add(kwargs["hidden_states"].dtype), with_kwargs=True)
    plain = call(pipe)
    with reflected(pipe, num_reflections=0):
        hosted = call(pipe)
    assert (plain.dtype, given) == (torch.float32, {torch.bfloat16})
    assert (hosted - plain).abs().max() <= rounding(pipe)


def test_strong_and_weak_rows_of_one_batch_are_as_in_runs_of_their_own(parts):
    net, pipe = parts[0], pipeline(parts)
    x = noise(2)
    net.routing = [Routing(), Routing("bottom")] * 2  # the conditional half's rows, then the unconditional's
    try:
        together = call(pipe, [3, 5], latents=x)
    finally:
        net.routing = None
    strong = call(pipe, 3, latents=x[:1])
    with routed(net, Routing("bottom")):
        weak = call(pipe, np.int64(5), latents=x[1:])
    assert (together - torch.cat([strong, weak])).abs().max() <= rounding(pipe)


def test_a_reflected_call_makes_no_second_set_of_weights(parts):
    """The storages of all tensors of the form of the experts' weights: no new one while either side is evaluated."""
    net, pipe = parts[0], pipeline(parts)
    weights = list(net.blocks[0].moe.experts.parameters())
    shapes = [weight.shape for weight in weights]
    found: dict[Any, set[int]] = {}

    def alive() -> set[int]:
        # Real tensors only: what a compiler traced with holds no memory, and its sizes may be symbols.
        real = [each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter)]
        tensors = [each for each in real if each.shape in shapes]
        return {tensor.untyped_storage().data_ptr() for tensor in tensors}

    gc.collect()
    before = alive()
    assert {weight.untyped_storage().data_ptr() for weight in weights} <= before
    hook = net.register_forward_hook(lambda module, *_: found.update({module.routing: alive()}))
    with reflected(pipe, ModelSpec(routing=Routing("bottom")), num_reflections=1):
        call(pipe, num_inference_steps=2)
    hook.remove()
    assert found == {None: before, Routing("bottom"): before}


def test_swapped_roles_are_a_strong_side_with_the_lowest_scores(parts):
    pipe = pipeline(parts)
    with routed(parts[0], Routing("bottom")):
        plain = call(pipe)
        with reflected(pipe, ModelSpec(routing=Routing()), num_reflections=0):
            assert (call(pipe) - plain).abs().max() <= rounding(pipe)
        with reflected(pipe, ModelSpec(routing=Routing())) as swapped:
            call(pipe)
        with (
            pytest.raises(UserError, match="differs in nothing"),
            reflected(pipe, ModelSpec(routing=Routing("bottom"))),
        ):
            call(pipe)
    assert min(swapped.gaps) > 0 and parts[0].routing is None


def test_another_class_for_the_weak_side_is_a_gap(parts):
    pipe = pipeline(parts)
    with reflected(pipe, ModelSpec(), weak_inputs={"class_labels": [1, 1, 1]}) as run:
        call(pipe)
    assert min(run.gaps) > 0
    with pytest.raises(UserError, match="prompt differs"), reflected(pipe, ModelSpec(prompt="a cat")):
        call(pipe)


def test_schedulers_are_those_of_the_published_checkpoints():
    noise_path, flow = build_scheduler("noise"), build_scheduler("flow")
    assert isinstance(noise_path, DDIMScheduler) and isinstance(flow, FlowMatchEulerDiscreteScheduler)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    assert torch.allclose(noise_path.alphas_cumprod.double(), alpha_bar, rtol=1000 * 6e-8)  # 1000 float32 products
    with pytest.raises(UserError, match=r"choose noise .* or flow"):
        build_scheduler("v")
