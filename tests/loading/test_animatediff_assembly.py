"""The motion UNet put together from a 2-D UNet and a motion adapter: nothing random, nothing lost."""

from __future__ import annotations

import pytest
import torch
from diffusers import AnimateDiffSDXLPipeline, MotionAdapter, UNet2DConditionModel, UNetMotionModel

from tests.support import tiny
from w2sd_video.errors import UserError
from w2sd_video.loading.animatediff import assemble_motion_unet, assign_all, motion_adapter_of, tensors_of


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = tensors_of(first), tensors_of(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_stock_assembly_leaves_add_embedding_random() -> None:
    # The defect in diffusers 0.42 that the assembly here cures; when this fails, diffusers has mended it.
    unet, adapter = tiny.sdxl_unet(), tiny.motion_adapter()
    first, second = (UNetMotionModel.from_unet2d(unet, adapter) for _ in range(2))
    differing = {
        name for name in tensors_of(first) if not torch.equal(tensors_of(first)[name], tensors_of(second)[name])
    }
    assert differing == {f"add_embedding.linear_{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}
    assert not equal(first.add_embedding, unet.add_embedding)


def test_two_assemblies_are_equal_and_add_embedding_is_the_2d_unets() -> None:
    unet, adapter = tiny.sdxl_unet(), tiny.motion_adapter()
    first, second = (assemble_motion_unet(unet, adapter) for _ in range(2))
    assert equal(first, second)
    assert equal(first.add_embedding, unet.add_embedding)


def test_the_result_holds_every_tensor_of_both_sources_and_no_other() -> None:
    unet, adapter = tiny.sdxl_unet(), tiny.motion_adapter()
    sources = tensors_of(unet) | tensors_of(adapter)
    assert len(sources) == len(tensors_of(unet)) + len(tensors_of(adapter))
    result = tensors_of(assemble_motion_unet(unet, adapter))
    assert result.keys() == sources.keys()
    assert all(result[name] is sources[name] for name in sources)  # the very objects: nothing is copied


def test_with_add_embedding_mended_the_stock_assembly_computes_the_same() -> None:
    unet, adapter = tiny.sdxl_unet(), tiny.motion_adapter()
    stock, ours = tiny.motion_unet(), assemble_motion_unet(unet, adapter)
    inputs = (torch.randn(1, 4, 2, 8, 8, generator=tiny.generator()), 500, torch.ones(2, 77, 32))
    conditions = {"text_embeds": torch.ones(1, 16), "time_ids": torch.ones(1, 6)}
    with torch.no_grad():
        outputs = [network(*inputs, added_cond_kwargs=conditions).sample for network in (stock, ours)]
    assert torch.equal(*outputs)
    assert dict(ours.config) == dict(stock.config)
    assert not ours.training


@pytest.mark.parametrize("mid_block", [True, False])
def test_motion_modules_taken_out_of_a_motion_unet_put_it_together_again(mid_block: bool) -> None:
    adapter = tiny.motion_adapter()
    if mid_block:
        adapter = tiny.seeded(3, lambda: type(adapter).from_config(adapter.config, use_motion_mid_block=True))
    network = assemble_motion_unet(tiny.sdxl_unet(), adapter)
    taken = motion_adapter_of(network)
    assert equal(taken, adapter)
    settings = [{k: v for k, v in part.config.items() if not k.startswith("_")} for part in (taken, adapter)]
    assert settings[0] == {**settings[1], "block_out_channels": taken.config["block_out_channels"]}
    assert equal(assemble_motion_unet(tiny.sdxl_unet(), taken), network)


def test_a_pipeline_given_the_assembled_network_leaves_it_alone() -> None:
    # Given a 2-D UNet, the constructor would assemble it again in the stock way.
    network = assemble_motion_unet(tiny.sdxl_unet(), tiny.motion_adapter())
    stock = tiny.animatediff_sdxl()
    parts = {**stock.components, "unet": network, "motion_adapter": motion_adapter_of(network)}
    assert AnimateDiffSDXLPipeline(**parts).unet is network


def test_a_tensor_without_a_source_is_named() -> None:
    target = torch.nn.Linear(2, 3, device="meta")
    with pytest.raises(UserError, match="left at their initial value: bias"):
        assign_all(target, {"a file": {"weight": torch.zeros(3, 2)}})
    with pytest.raises(UserError, match="tensor scale of a file has no place in the result"):
        assign_all(target, {"a file": {"scale": torch.zeros(1)}})
    with pytest.raises(UserError, match=r"weight of a file has shape \(2, 2\); allowed: \(3, 2\)"):
        assign_all(target, {"a file": {"weight": torch.zeros(2, 2)}})
    tensors = {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}
    with pytest.raises(UserError, match="weight of another is also in another source"):
        assign_all(target, {"a file": tensors, "another": tensors})


def test_a_motion_module_that_a_unet_has_no_room_for_is_named() -> None:
    network = tiny.motion_adapter()
    network.register_parameter("surplus", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match="tensor surplus of the motion adapter has no place"):
        assemble_motion_unet(tiny.sdxl_unet(), network)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"block_out_channels": (16, 32)}, r"block_out_channels is \[16, 32\], the UNet has \[8, 16\]"),
        ({"block_out_channels": (8, 16, 16)}, r"block_out_channels is \[8, 16, 16\], the UNet has \[8, 16\]"),
        ({"motion_layers_per_block": 2}, r"motion_layers_per_block is \[2, 2\], the UNet has \[1, 1\]"),
        ({"conv_in_channels": 9}, "replaces the UNet's first layer"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(change: dict[str, object], match: str) -> None:
    adapter = tiny.motion_adapter()
    with pytest.raises(UserError, match=match):
        assemble_motion_unet(tiny.sdxl_unet(), type(adapter).from_config(adapter.config, **change))


def test_settings_the_motion_unet_would_drop_are_refused() -> None:
    unet = tiny.sdxl_unet()
    shifted = UNet2DConditionModel.from_config(unet.config, freq_shift=1)
    with pytest.raises(UserError, match="freq_shift = 1, which AnimateDiff's motion UNet lacks; allowed: 0"):
        assemble_motion_unet(shifted, tiny.motion_adapter())


def test_sources_of_different_dtypes_are_refused_because_they_could_not_be_shared() -> None:
    with pytest.raises(UserError, match="load both with the same dtype"):
        assemble_motion_unet(tiny.sdxl_unet(), tiny.motion_adapter().half())


def test_sdxl_and_its_motion_adapter_fit_at_their_real_size() -> None:
    # As stabilityai/stable-diffusion-xl-base-1.0 and guoyww/animatediff-motion-adapter-sdxl-beta, without values.
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20],
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        adapter = MotionAdapter(block_out_channels=(320, 640, 1280), use_motion_mid_block=False)
    network = assemble_motion_unet(unet, adapter)
    millions = [sum(parameter.numel() for parameter in part.parameters()) / 1e6 for part in (unet, adapter, network)]
    assert millions == pytest.approx([2567.46, 236.78, 2804.24], abs=0.01)
