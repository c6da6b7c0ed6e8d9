"""Shared storage, counted bytes, decoding in chunks, offloading."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import tiny
from tests.support.disk_pairs import LoadedPair, loaded_pair, told
from w2sd_video.loading import placement
from w2sd_video.loading.animatediff import assemble_motion_unet, motion_adapter_of, tensors_of
from w2sd_video.loading.placement import decoding_in_chunks, install_chunked_decode
from w2sd_video.loading.sharing import share_equal_tensors, unique_bytes


def pair_of_networks() -> tuple[Any, Any]:
    return tiny.motion_unet(1), tiny.motion_unet(2)


def test_equal_tensors_are_shared_and_different_ones_kept() -> None:
    first, second = pair_of_networks()
    wanted = {name: tensor.clone() for name, tensor in tensors_of(second).items()}
    before = unique_bytes(first, second)
    shared = share_equal_tensors(first, second)
    assert before == unique_bytes(first) + unique_bytes(second)
    assert unique_bytes(first, second) == before - shared
    ours, theirs = tensors_of(first), tensors_of(second)
    equal = {name for name in ours if torch.equal(ours[name], wanted[name])}
    assert {name for name in ours if ours[name] is theirs[name]} == equal
    assert {name for name in ours if "motion_modules" in name} <= equal
    assert shared == sum(ours[name].nbytes for name in equal)
    assert all(torch.equal(theirs[name], wanted[name]) for name in wanted)
    assert share_equal_tensors(first, second) == shared  # nothing is left to do, and the bytes are the same


def test_one_different_element_keeps_a_tensor_apart() -> None:
    first, second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        second.weight[63, 63] += 1
    assert share_equal_tensors(first, second) == first.bias.nbytes
    assert second.bias is first.bias
    assert second.weight is not first.weight


def test_tensors_of_another_dtype_are_never_shared() -> None:
    first, second = torch.nn.Linear(4, 4, dtype=torch.float32), torch.nn.Linear(4, 4, dtype=torch.float16)
    for module in (first, second):
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.zeros_(module.bias)
    assert share_equal_tensors(first, second) == 0


def test_shared_parameters_stay_shared_when_a_module_changes_its_dtype() -> None:
    first, second = pair_of_networks()
    share_equal_tensors(first, second)
    first.half()
    motion = {name for name, parameter in first.named_parameters() if "motion_modules" in name}
    theirs = dict(second.named_parameters())
    assert all(parameter is theirs[name] for name, parameter in first.named_parameters() if name in motion)


def test_bytes_are_counted_once_per_address_also_for_views() -> None:
    class Views(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.zeros(10)
            self.register_buffer("whole", whole)
            self.register_buffer("part", whole[2:6])
            self.register_buffer("again", whole)
            self.register_buffer("other", torch.zeros(3))

    assert unique_bytes(Views(), None) == 13 * 4


# -- decoding -------------------------------------------------------------------------------------------------------


@contextmanager
def frames_per_call(vae: Any) -> Iterator[list[int]]:
    counts: list[int] = []
    handle = vae.decoder.register_forward_pre_hook(lambda _module, args: counts.append(args[0].shape[0]))
    try:
        yield counts
    finally:
        handle.remove()


def call(pipe: Any, frames: int = 5) -> torch.Tensor:
    settings = {"num_frames": frames, "height": 16, "width": 16, "num_inference_steps": 1, "output_type": "pt"}
    return pipe("a ring", generator=tiny.generator(), **settings).frames


def test_the_stock_pipeline_decodes_all_frames_at_once_and_ours_in_chunks_to_the_same_video() -> None:
    pipe = tiny.animatediff_sdxl()
    with frames_per_call(pipe.vae) as stock_counts:
        stock = call(pipe)
    with frames_per_call(pipe.vae) as counts, decoding_in_chunks(pipe, 2):
        ours = call(pipe)
    assert (stock_counts, counts) == ([5], [2, 2, 1])
    # Pixels lie in [0, 1]; a batch of another size may be summed in another order, a few units in the last place of
    # values that pass through about ten layers of the decoder.
    assert (ours - stock).abs().max() <= 100 * torch.finfo(torch.float32).eps


def test_the_context_restores_the_pipeline_also_after_an_error_and_when_nested() -> None:
    pipe = tiny.animatediff_sdxl()
    assert "decode" not in vars(pipe.vae)
    with pytest.raises(RuntimeError, match="stop"), decoding_in_chunks(pipe, 2):
        raise RuntimeError("stop")
    assert "decode" not in vars(pipe.vae)
    undo = install_chunked_decode(pipe.vae, 1)
    with frames_per_call(pipe.vae) as counts, decoding_in_chunks(pipe, 3):
        call(pipe)
    assert counts == [3, 2]  # the inner wish replaces the outer one
    with frames_per_call(pipe.vae) as counts:
        call(pipe)
    assert counts == [1] * 5
    undo()
    assert "decode" not in vars(pipe.vae)


def test_chunks_hold_as_many_frames_as_the_pixel_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny.animatediff_sdxl()
    monkeypatch.setattr("w2sd_video.loading.placement.CHUNK_PIXELS", 3 * 16 * 16 + 5)
    with frames_per_call(pipe.vae) as counts, decoding_in_chunks(pipe):
        call(pipe)
    monkeypatch.setattr("w2sd_video.loading.placement.CHUNK_PIXELS", 1)
    with decoding_in_chunks(pipe), frames_per_call(pipe.vae) as single:
        call(pipe, frames=2)
    assert (counts, single) == ([3, 2], [1, 1])


def test_decode_returns_what_the_stock_one_does_and_casts_latents_to_the_vaes_dtype() -> None:
    vae = tiny.vae()
    latents = torch.randn(2, 4, 8, 8, generator=tiny.generator())
    with torch.no_grad():
        stock = vae.decode(latents)
        undo = install_chunked_decode(vae, 1)
        sample, (in_tuple,) = vae.decode(latents).sample, vae.decode(latents, return_dict=False)
        half = vae.decode(latents.half()).sample
    undo()
    assert torch.equal(sample, in_tuple)
    assert (sample - stock.sample).abs().max() <= 100 * torch.finfo(torch.float32).eps * stock.sample.abs().max()
    assert half.dtype == torch.float32
    with pytest.raises(ValueError, match="frames is 0"):
        install_chunked_decode(vae, 0)


def test_a_loaded_pair_decodes_in_chunks_without_being_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.animatediff_sdxl().save_pretrained(tmp_path)
    pair = loaded_pair(str(tmp_path), str(tmp_path))
    monkeypatch.setattr("w2sd_video.loading.placement.CHUNK_PIXELS", 2 * 16 * 16)
    with frames_per_call(pair.pipe.vae) as counts:
        call(pair.pipe)
    assert counts == [2, 2, 1]


# -- offloading -----------------------------------------------------------------------------------------------------


def loaded(other_text: bool = False) -> LoadedPair:
    """A pair in memory, its weak side a network or, with text encoders of its own, a pipeline."""
    pipe, other = tiny.animatediff_sdxl(1), tiny.animatediff_sdxl(2)
    pipe.register_modules(motion_adapter=motion_adapter_of(pipe.unet))
    weak: Any = assemble_motion_unet(tiny.sdxl_unet(2), pipe.motion_adapter)
    if other_text:
        other.register_modules(unet=weak, vae=pipe.vae, motion_adapter=pipe.motion_adapter)
        weak = other
    return LoadedPair(pipe, weak)


def weak_forward(pair: LoadedPair) -> torch.Tensor:
    conditions = {"text_embeds": torch.ones(1, 16), "time_ids": torch.ones(1, 6)}
    latents = torch.randn(1, 4, 2, 8, 8, generator=tiny.generator())
    with torch.no_grad():
        return pair.weak_unet(latents, 500, torch.ones(2, 77, 32), added_cond_kwargs=conditions).sample


# The processor stands in for the accelerator: the same hooks move everything, onto the device it is on already.
@pytest.mark.parametrize("kind", ["model", "group"])
@pytest.mark.parametrize("other_text", [False, True])
def test_offloading_changes_no_result_of_either_side(kind: str, other_text: bool) -> None:
    plain, moved = loaded(other_text), loaded(other_text)
    placement.place(moved.pipe, moved.weak, torch.device("cpu"), kind)
    for _ in range(2):  # a call ends by setting the hooks up anew
        assert torch.equal(weak_forward(plain), weak_forward(moved))
        inputs = told(moved, "a ring", free=False)["strong"]
        for name, tensor in told(plain, "a ring", free=False)["strong"].items():
            assert torch.equal(tensor, inputs[name])
        assert torch.equal(call(plain.pipe, 2), call(moved.pipe, 2))
    told(moved, "a ring")
    assert torch.equal(weak_forward(plain), weak_forward(moved))
    motion = {name for name, _ in moved.pipe.unet.named_parameters() if "motion_modules" in name}
    ours, theirs = dict(moved.pipe.unet.named_parameters()), dict(moved.weak_unet.named_parameters())
    assert all(ours[name] is theirs[name] for name in motion)


@pytest.mark.parametrize("other_text", [False, True])
def test_each_kind_of_offloading_reaches_every_network_of_both_sides(
    other_text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, method, helper in (
        ("sequential", "enable_sequential_cpu_offload", "accelerate.cpu_offload"),
        ("group", "enable_group_offload", "diffusers.hooks.apply_group_offloading"),
    ):
        pair = loaded(other_text)
        seen: list[Any] = []
        module, _, name = helper.rpartition(".")
        with monkeypatch.context() as patch:
            patch.setattr(pair.pipe, method, lambda seen=seen, **_: seen.append("strong"))
            patch.setattr(sys.modules[module], name, lambda part, *_args, seen=seen, **_: (seen.append(part), None))
            placement.place(pair.pipe, pair.weak, torch.device("cpu"), kind)
        parts = [pair.weak_unet]
        if other_text:
            parts += [pair.weak.text_encoder, pair.weak.text_encoder_2]
        assert seen[0] == "strong"
        assert {id(part) for part in seen[1:]} == {id(part) for part in parts}
