"""IP-Adapters: a scale for each side, from files, in force in that side's evaluations and put back after."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.hosting.test_hosting_parity import ip_adapter_weights
from tests.hosting.test_hosting_reference import (
    CALL,
    NEGATIVE,
    PROMPTS,
    algorithm_1,
    check_against_algorithm_1,
    ddim_grid,
    guided,
)
from tests.support import tiny, tiny_controls
from w2sd_video import ModelSpec, reflected
from w2sd_video.errors import UserError
from w2sd_video.gaps.switches import find_ip_adapters

PLAIN = ModelSpec(ip_adapter=0.0)
SCALE = 4.0  # of the strong side; large, as random adapters do little


def flux_weights(transformer: Any) -> dict[str, dict[str, Tensor]]:
    """A random IP-Adapter for Flux, in the layout of its files."""
    cross, inner = transformer.config.joint_attention_dim, transformer.inner_dim
    layer = diffusers.models.embeddings.ImageProjection(cross, cross, 4)
    projection = {f"proj.{k}": v for k, v in layer.image_embeds.state_dict().items()}
    keys = {f"0.{name}": nn.Linear(cross, inner).state_dict() for name in ("to_k_ip", "to_v_ip")}
    return {
        "image_proj": {**projection, **{f"norm.{k}": v for k, v in layer.norm.state_dict().items()}},
        "ip_adapter": {f"{name}.{k}": v for name, state in keys.items() for k, v in state.items()},
    }


def saved(folder: Path, weights: dict[str, dict[str, Tensor]], name: str = "adapter") -> str:
    """The file of an IP-Adapter, as those that are published are."""
    tensors = {f"{part}.{key}": value for part, state in weights.items() for key, value in state.items()}
    save_file({key: value.detach().contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    return f"{name}.safetensors"


def load(pipe: Any, folder: Path, *names: str) -> Any:
    encoder = "image_encoder_pretrained_model_name_or_path" if hasattr(pipe, "transformer") else "image_encoder_folder"
    pipe.load_ip_adapter(str(folder), subfolder="", weight_name=list(names), **{encoder: None})
    pipe.set_ip_adapter_scale([SCALE] * len(names))
    return pipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ip")
    saved(path, tiny.seeded(4, lambda: ip_adapter_weights(tiny.sd15_unet())))
    saved(path, tiny.seeded(5, lambda: ip_adapter_weights(tiny.sd15_unet())), "second")
    saved(path, tiny.seeded(4, lambda: flux_weights(tiny.flux_transformer())), "flux")
    return path


@pytest.fixture
def pipe(folder: Path) -> Any:
    return load(tiny.sd15(), folder, "adapter.safetensors")


def embeds(width: int = 16, seed: int = 1) -> list[Tensor]:
    """The embeddings of a picture, those of no picture first."""
    return [torch.stack([torch.zeros(1, width), torch.randn(1, width, generator=tiny.generator(seed))])]


def call(pipe: Any, **more: Any) -> Tensor:
    settings = {**tiny.IMAGE_CALL, "num_inference_steps": 4, "output_type": "latent", "generator": tiny.generator()}
    given = {**settings, "guidance_scale": 3.0, "ip_adapter_image_embeds": embeds(), **more}
    return torch.as_tensor(pipe("a red cat", **given)[0])


def scales(network: Any) -> list[Any]:
    return [p.scale for p in network.attn_processors.values() if hasattr(p, "scale")]


def watched(network: Any) -> list[tuple[Any, int]]:
    """[(the first processor's scale, rows)] of each evaluation, to be filled."""
    seen: list[tuple[Any, int]] = []
    name = "sample" if isinstance(network, diffusers.UNet2DConditionModel) else "hidden_states"
    network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((scales(module)[0], len(kwargs[name]))), with_kwargs=True
    )
    return seen


@torch.no_grad()
def test_sd15_equals_algorithm_1_with_the_scale_set_by_hand(pipe):
    """Strong with the adapter at 4, weak plain; sampling at 5.5 and reflecting at 0.5 on both sides."""
    text, without = pipe.encode_prompt(PROMPTS, "cpu", 1, True, negative_prompt=NEGATIVE)
    pictures = [each.expand(2, 1, 16) for each in embeds()[0][:, None]]
    told, alphas, sigmas = ddim_grid("leading")

    def evaluation(scale: float) -> Any:
        def evaluate(x: Tensor, i: int, half: int) -> Tensor:
            pipe.set_ip_adapter_scale(scale)
            states, added = (without, text)[half], {"image_embeds": [pictures[half]]}
            return pipe.unet(x, torch.tensor(told[i]), encoder_hidden_states=states, added_cond_kwargs=added)[0]

        return evaluate

    x = torch.randn(2, 4, 8, 8, generator=tiny.generator(5))
    strong, reflector = (guided(evaluation(SCALE), guidance) for guidance in (5.5, 0.5))
    expected = algorithm_1(x, alphas, sigmas, strong, reflector, guided(evaluation(0.0), 0.5))
    pipe.set_ip_adapter_scale(SCALE)

    def hosted() -> Tensor:
        given = {**CALL, "latents": x, "guidance_scale": 5.5, "ip_adapter_image_embeds": embeds()}
        return pipe(PROMPTS, negative_prompt=NEGATIVE, **given)[0]

    weak = ModelSpec(guidance=0.5, ip_adapter=0.0)
    check_against_algorithm_1(hosted, expected, 5.5, pipe, weak, ModelSpec(guidance=0.5))


def test_scale_0_is_as_if_there_were_no_adapter(pipe):
    """Each weak evaluation gives what a network of the same weights gives that never had an adapter."""
    plain, made = tiny.sd15_unet(), []

    def evaluated(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: tuple) -> None:
        given = {name: value for name, value in kwargs.items() if name != "added_cond_kwargs"}
        made.append((scales(module)[0] == [0.0], torch.equal(plain(**given)[0], output[0])))

    pipe.unet.register_forward_hook(evaluated, with_kwargs=True)
    with reflected(pipe, PLAIN, num_reflections=3):
        call(pipe)
    assert made == [(False, False), (True, True), (False, False)] * 3 + [(False, False)]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_scale_is_in_force_in_the_evaluations_of_its_side_only(pipe, guidance):
    own = scales(pipe.unet)
    seen, called_back = watched(pipe.unet), []

    def callback(pipe: Any, *_: Any) -> dict:
        called_back.append(scales(pipe.unet)[0])
        return {}

    reflector = ModelSpec(ip_adapter=2.0, guidance=0.0)
    with reflected(pipe, ModelSpec(ip_adapter=-0.5), reflector=reflector, num_reflections=2) as run:
        call(pipe, guidance_scale=guidance, callback_on_step_end=callback)
    sampling = ([SCALE], 1 if guidance == 1 else 2)
    assert seen == [([2.0], 1), ([-0.5], 1), sampling] * 2 + [sampling] * 2
    assert called_back == [[SCALE]] * 4
    assert (run.num_evaluations, run.num_rows) == (4 + 2 * 2, sum(rows for _, rows in seen))
    assert all(one is other for one, other in zip(scales(pipe.unet), own, strict=True))


def test_the_scales_are_put_back_after_an_exception_in_the_middle(pipe):
    pipe.set_ip_adapter_scale({"up": {"block_0": [0.0, 1.5]}})  # a scale of its own for each block
    before, stock = copy.deepcopy(scales(pipe.unet)), call(pipe)
    assert len({str(each) for each in before}) > 1

    def fail(module: Any, *_: Any) -> None:
        if scales(module)[0] == [2.5]:
            raise ZeroDivisionError

    hook = pipe.unet.mid_block.register_forward_pre_hook(lambda *_: fail(pipe.unet))
    with pytest.raises(ZeroDivisionError), reflected(pipe, ModelSpec(ip_adapter=2.5)):
        call(pipe)
    hook.remove()
    assert scales(pipe.unet) == before and torch.equal(call(pipe), stock)


def test_a_gap_of_size_zero_is_none_and_equals_zero_gap(pipe):
    with reflected(pipe, "zero-gap"):
        zero = call(pipe)
    with reflected(pipe, (copy.deepcopy(pipe.unet), ModelSpec(ip_adapter=SCALE))):
        assert torch.equal(call(pipe), zero)
    for weak, reflector in ((ModelSpec(ip_adapter=SCALE), None), (PLAIN, PLAIN)):
        with pytest.raises(UserError, match="differs in nothing"), reflected(pipe, weak, reflector=reflector):
            call(pipe)
    with reflected(pipe, "zero-gap", reflector=PLAIN, mode="fused") as run:
        call(pipe)
    assert max(run.gaps) == 0


def test_two_gaps_together_differ_from_each_alone_and_a_prompt_brings_its_embeddings(pipe):
    results = [call(pipe, num_inference_steps=2)]
    for weak in (
        PLAIN,
        ModelSpec(guidance=1.0),
        ModelSpec(guidance=1.0, ip_adapter=0.0),
        ModelSpec(prompt="a dog", guidance=1.0, ip_adapter=0.0),
        ModelSpec(ip_adapter=2.0),
    ):
        with reflected(pipe, weak):
            results.append(call(pipe, num_inference_steps=2))
    for i, one in enumerate(results):
        assert all((one - other).abs().max() > 1e-3 for other in results[:i])
    weak = {"ip_adapter_image_embeds": embeds(seed=2)}
    with reflected(pipe, ModelSpec(), weak_inputs=weak) as run:
        call(pipe, num_inference_steps=2)
    assert min(run.gaps) > 0  # another picture is a gap, too


def test_swapped_roles_move_the_other_way(pipe):
    """Fused, both sides are evaluated at x, and the move is a multiple of their difference."""
    inputs: list[Tensor] = []
    pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append(kwargs["sample"][-1]), with_kwargs=True
    )

    def moved(strong: float, weak: float) -> Tensor:
        inputs.clear()
        specs = {"weak": ModelSpec(ip_adapter=weak), "reflector": ModelSpec(ip_adapter=strong)}
        with reflected(pipe, **specs, mode="fused", num_reflections=1):
            call(pipe, num_inference_steps=2)
        return inputs[2] - inputs[0]

    there, back = moved(SCALE, 0.0), moved(0.0, SCALE)
    # x + d and x - d are each rounded, and so is d, in some operations of size x: 8 roundings of float32.
    assert (there + back).abs().max() <= 8 * 6e-8 * float(inputs[0].abs().max() + there.abs().max())
    assert there.abs().max() > 1e-3


def test_several_adapters_have_one_scale_and_get_their_own_back(folder):
    pipe = load(tiny.sd15(), folder, "adapter.safetensors", "second.safetensors")
    pipe.set_ip_adapter_scale([1.0, 3.0])
    seen = watched(pipe.unet)
    with reflected(pipe, PLAIN, num_reflections=1):
        call(pipe, ip_adapter_image_embeds=[*embeds(), *embeds(seed=2)])
    assert [scale for scale, _ in seen] == [[1.0, 3.0], [0.0, 0.0], *[[1.0, 3.0]] * 4]
    assert scales(pipe.unet)[0] == [1.0, 3.0]


def test_flux_has_its_adapter_on_one_side_too(folder):
    pipe = load(tiny.flux(), folder, "flux.safetensors")
    assert [p.scale for p in pipe.transformer.attn_processors.values() if hasattr(p, "scale")] == [[SCALE]]
    picture = [torch.randn(1, 1, 32, generator=tiny.generator(1))]
    nothing = [torch.zeros(1, 1, 32)]
    given = {**tiny.FLUX_CALL, "ip_adapter_image_embeds": picture, "negative_ip_adapter_image_embeds": nothing}
    stock = call(pipe, **given)
    with reflected(pipe, num_reflections=0):
        assert (call(pipe, **given) - stock).abs().max() <= 4 * 3 * 6e-8 * stock.abs().max()
    seen = watched(pipe.transformer)
    with reflected(pipe, PLAIN, num_reflections=2) as run:
        moved = call(pipe, **given)
    assert [scale for scale, _ in seen] == [[SCALE], [0.0], [SCALE]] * 2 + [[SCALE]] * 2
    assert min(run.gaps) > 0 and (moved - stock).abs().max() > 1e-3
    pipe.set_ip_adapter_scale(0.0)
    none = tiny.flux()
    assert torch.equal(call(pipe, **given), call(none, ip_adapter_image_embeds=None, **tiny.FLUX_CALL))


def test_an_adapter_and_a_controlnet_are_two_gaps(folder):
    pipe = load(tiny_controls.sd15(), folder, "adapter.safetensors")
    results, seen = [], watched(pipe.unet)
    for weak in (PLAIN, ModelSpec(control={"scale": 0.0}), ModelSpec(ip_adapter=0.0, control={"scale": 0.0})):
        with reflected(pipe, weak, num_reflections=1) as run:
            results.append(call(pipe, image=tiny_controls.picture(), height=None, width=None))
    for i, one in enumerate(results):
        assert all((one - other).abs().max() > 1e-3 for other in results[:i])
    assert run.num_control_calls == 1 + 4 and [scale for scale, _ in seen[-6:]] == [[SCALE], [0.0], *[[SCALE]] * 4]


def test_a_network_without_an_adapter_is_refused_by_name():
    with pytest.raises(UserError, match=r"UNet2DConditionModel has no IP-Adapter.*load_ip_adapter"):
        reflected(tiny.sd15(), PLAIN).__enter__()
    with pytest.raises(UserError, match="FluxTransformer2DModel has no IP-Adapter"):
        find_ip_adapters(tiny.flux_transformer())
    for value in (float("nan"), float("inf"), "much", True):
        with pytest.raises(UserError, match="ip_adapter is"):
            ModelSpec(ip_adapter=value)  # type: ignore[arg-type]
