"""Pairs of whole pipelines share equal tensors, component by component, and make the same pictures bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from tests.support import disk_pairs, tiny, tiny_families
from w2sd_video import ModelSpec, reflected
from w2sd_video.loading.pipelines import load_pipeline
from w2sd_video.loading.placement import can_encode, encoded_prompts, free_text_encoders, place
from w2sd_video.loading.sharing import modules_of, separate, share_equal_tensors, share_pipelines, unique_bytes

MAKERS = {"sdxl": disk_pairs.sdxl, "flux": tiny.flux}
CALLS: dict[str, dict[str, Any]] = {"sdxl": tiny.IMAGE_CALL, "flux": tiny.FLUX_CALL}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of a family with equal text encoders and VAE, and networks that differ but for their last layer."""
    root = tmp_path_factory.mktemp("pairs")
    for kind, make in MAKERS.items():
        strong, weak = make(1), make(2)
        if kind == "flux":
            parts = {name: getattr(strong, name) for name in ("vae", "text_encoder", "text_encoder_2")}
            weak.register_modules(**parts)
            weak.transformer.proj_out.load_state_dict(strong.transformer.proj_out.state_dict())
        else:
            weak.unet.conv_out.load_state_dict(strong.unet.conv_out.state_dict())
        strong.save_pretrained(root / f"{kind}-strong")
        weak.save_pretrained(root / f"{kind}-weak")
    tiny.sdxl_unet(3).save_pretrained(root / "network" / "unet")
    return root


def pair(disk: Path, kind: str, *, shared: bool) -> tuple[Any, Any]:
    settings: dict[str, Any] = {"dtype": torch.float32, "quiet": True}
    strong = load_pipeline(str(disk / f"{kind}-strong"), role="strong", **settings)
    weak = load_pipeline(str(disk / f"{kind}-weak"), role="weak", **settings, sharing=strong if shared else None)
    parameters = (each for pipe in (strong, weak) for part in modules_of(pipe) for each in part.parameters())
    for tensor in {id(each): each for each in parameters}.values():
        tensor.data = tensor.data.clone()  # where a tensor lies in its file decides how its products are rounded
    return strong, weak


def picture(strong: Any, weak: Any, kind: str) -> torch.Tensor:
    spec = ModelSpec(guidance=2.0)
    settings = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "pt", "generator": tiny.generator(5)}
    strong.set_progress_bar_config(disable=True)
    with reflected(strong, (weak, spec), num_reflections=2, progress=False):
        return strong("a cat", **settings, **CALLS[kind]).images


@pytest.fixture(scope="module")
def apart(disk: Path) -> dict[str, torch.Tensor]:
    """The pictures of pairs that share nothing."""
    return {kind: picture(*pair(disk, kind, shared=False), kind) for kind in MAKERS}


def network(pipe: Any) -> Any:
    return getattr(pipe, "unet", None) or pipe.transformer


@pytest.mark.parametrize("kind", MAKERS)
def test_equal_tensors_of_every_component_are_kept_once_and_pictures_stay_the_same(disk: Path, kind: str) -> None:
    apart, shared = pair(disk, kind, shared=False), pair(disk, kind, shared=True)
    both = [unique_bytes(*modules_of(strong), *modules_of(weak)) for strong, weak in (apart, shared)]
    for name, module in shared[1].components.items():
        if isinstance(module, torch.nn.Module) and module is not network(shared[1]):
            assert unique_bytes(getattr(shared[0], name), module) == unique_bytes(module), name
    last = "conv_out" if kind == "sdxl" else "proj_out"
    assert getattr(network(shared[1]), last).weight is getattr(network(shared[0]), last).weight
    assert both[1] < both[0] - unique_bytes(apart[1].vae)
    # What is left twice differs, but for constants that happen to be equal and are shared too.
    assert both[1] <= unique_bytes(*modules_of(apart[0]), network(apart[1]))
    assert torch.equal(picture(*apart, kind), picture(*shared, kind))


def test_sharing_says_how_much_it_saves_and_separating_undoes_it(disk: Path) -> None:
    strong, weak = pair(disk, "sdxl", shared=False)
    before = unique_bytes(*modules_of(strong), *modules_of(weak))
    saved = share_pipelines(strong, weak)
    assert unique_bytes(*modules_of(strong), *modules_of(weak)) == before - saved < before
    wanted = picture(strong, weak, "sdxl")
    separate(strong, weak)
    assert unique_bytes(*modules_of(strong), *modules_of(weak)) == before
    assert torch.equal(picture(strong, weak, "sdxl"), wanted)


def test_quantised_tensors_are_never_compared() -> None:
    """Those of torchao and quanto are made of several, and most operators refuse them."""

    class Packed(TwoTensor):
        @classmethod
        def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert "equal" not in str(func)
            return super().__torch_dispatch__(func, types, args, kwargs)

    def layer() -> torch.nn.Linear:
        made = tiny.seeded(1, lambda: torch.nn.Linear(2, 2))
        made.weight = torch.nn.Parameter(Packed(made.weight.detach(), made.weight.detach()))
        return made

    ours, theirs = layer(), layer()
    assert share_equal_tensors(ours, theirs) == theirs.bias.nbytes
    assert theirs.weight is not ours.weight and theirs.bias is ours.bias


def test_a_folder_with_one_network_takes_everything_else_from_the_other_side(disk: Path) -> None:
    strong, _ = pair(disk, "sdxl", shared=False)
    weak = load_pipeline(str(disk / "network"), role="weak", dtype=torch.float32, quiet=True, sharing=strong)
    assert type(weak) is type(strong) and weak.vae is strong.vae and weak.scheduler is not strong.scheduler
    wanted = tiny.sdxl_unet(3).state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in weak.unet.state_dict().items())
    assert weak.config.force_zeros_for_empty_prompt == strong.config.force_zeros_for_empty_prompt
    assert picture(strong, weak, "sdxl").isfinite().all()


# The processor stands in for the accelerator: the same hooks move everything, onto the device it is on already.
@pytest.mark.parametrize("memory", ["resident", "model-offload", "group", "weak-offload"])
@pytest.mark.parametrize("kind", MAKERS)
def test_every_memory_plan_makes_the_same_picture(
    disk: Path, kind: str, memory: str, apart: dict[str, torch.Tensor]
) -> None:
    wanted = apart[kind]
    strong, weak = pair(disk, kind, shared=True)
    place(strong, weak, "cpu", memory)
    assert torch.equal(picture(strong, weak, kind), wanted)
    assert torch.equal(picture(strong, weak, kind), wanted), "a call ends by setting the hooks up anew"
    encoders = unique_bytes(*(getattr(strong, name) for name in ("text_encoder", "text_encoder_2")))
    before = unique_bytes(*modules_of(strong), *modules_of(weak))
    free_text_encoders(strong, weak)
    twice = 2 if memory == "weak-offload" else 1
    assert unique_bytes(*modules_of(strong), *modules_of(weak)) <= before - twice * encoders


ENCODED: dict[str, tuple[Any, dict[str, Any]]] = {
    "Flux": (tiny.flux, tiny.FLUX_CALL),
    "SDXL": (tiny.sdxl, tiny.IMAGE_CALL),
    "SD 1.5": (tiny.sd15, tiny.IMAGE_CALL),
    "SD 3": (tiny_families.sd3, tiny_families.SD3_CALL),
    "Wan": (tiny.wan, tiny.WAN_CALL),
    "AnimateDiff SDXL": (tiny.animatediff_sdxl, tiny.ANIMATEDIFF_CALL),
    "AnimateDiff SD 1.5": (tiny_families.animatediff_sd15, tiny.ANIMATEDIFF_CALL),
}


@pytest.mark.parametrize("negative", [None, "blue"])
@pytest.mark.parametrize("family", ENCODED)
def test_prompts_encoded_before_the_text_encoders_are_freed_make_what_the_prompt_makes(
    family: str, negative: str | None
) -> None:
    make, call = ENCODED[family]
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    settings = {**call, "num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"}
    told = {} if negative is None or family == "Flux" else {"negative_prompt": negative}
    stock = pipe("a cat", **told, **settings, generator=tiny.generator(1))[0]
    assert can_encode(pipe)
    negative = None if family == "Flux" else negative  # without true guidance it has no use for one
    length = call.get("max_sequence_length")
    encoded = encoded_prompts(pipe, ["a cat"], negative, device="cpu", max_sequence_length=length)["a cat"]
    free_text_encoders(pipe)
    assert getattr(pipe, "text_encoder", None) is None
    assert torch.equal(pipe(**encoded, **settings, generator=tiny.generator(1))[0], stock)
