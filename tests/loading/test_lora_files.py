"""LoRA files of both formats, written to disk and loaded into pipelines: what they then do, and what is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support import tiny
from tests.support.tiny_loras import ATTENTION, CONVOLUTIONS, add_lora, kohya_file
from w2sd_video import ModelSpec, reflected
from w2sd_video.errors import UserError
from w2sd_video.loading.loras import load_loras, use_loras

FAMILIES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sd15": (tiny.sd15, {**tiny.IMAGE_CALL, "guidance_scale": 3.0}),
    "sdxl": (tiny.sdxl, {**tiny.IMAGE_CALL, "guidance_scale": 3.0}),
    "animatediff": (tiny.animatediff_sdxl, {**tiny.ANIMATEDIFF_CALL, "guidance_scale": 3.0}),
    "flux": (tiny.flux, {**tiny.FLUX_CALL, "guidance_scale": 2.0}),
    "wan": (tiny.wan, {**tiny.WAN_CALL, "guidance_scale": 3.0}),
}


def call(pipe: Any, settings: dict[str, Any]) -> Tensor:
    return pipe("a cat", **settings, num_inference_steps=2, output_type="latent", generator=tiny.generator())[0]


def network_of(pipe: Any) -> Any:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def diffusers_file(folder: Path, pipe: Any, seed: int = 5, **config: Any) -> Path:
    """Writes a LoRA of rank 4 and alpha 6 by the pipeline's own save_lora_weights; `pipe` keeps it, as "made"."""
    network = network_of(pipe)
    add_lora(network, "made", seed, **config)
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(network, adapter_name="made")}
    type(pipe).save_lora_weights(
        folder, **layers, **{f"{part}_lora_adapter_metadata": network.peft_config["made"].to_dict()}
    )
    return folder / "pytorch_lora_weights.safetensors"


def added(network: Any, files: dict[str, Tensor], modules: list[str], scale: float) -> None:
    """The reference: kohya's LoRA added to the weights themselves, W + scale * alpha / rank * up down."""
    for name in modules:
        key = "lora_unet_" + name.replace(".", "_")
        up, down = files[f"{key}.lora_up.weight"], files[f"{key}.lora_down.weight"]
        change = (up.flatten(1) @ down.flatten(1)).view(*up.shape[:1], *down.shape[1:])
        with torch.no_grad():
            network.get_submodule(name).weight += scale * float(files[f"{key}.alpha"]) / len(down) * change


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_file_in_diffusers_format_does_what_the_saved_adapter_did(family, tmp_path):
    build, settings = FAMILIES[family]
    source, pipe = build(), build()
    path = diffusers_file(tmp_path, source)
    stock = call(pipe, settings)
    source.set_adapters(["made"], [-1.5])
    loaded = load_loras(pipe, {"style": path})
    assert torch.equal(call(pipe, settings), stock), "a LoRA acts when its name is given a scale"
    use_loras(pipe, (("style", -1.5),))
    expected = call(source, settings)
    assert torch.equal(call(pipe, settings), expected)
    assert (expected - stock).abs().max() > 1e-3
    use_loras(pipe, ())
    assert torch.equal(call(pipe, settings), stock)
    layers = [key for key in get_peft_model_state_dict(network_of(source), adapter_name="made") if "lora_A" in key]
    assert dict(loaded.layers) == {"style": len(layers)} and loaded.with_text == ()


KOHYA = ["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attentions.0.proj_in"]
KOHYA += ["mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj", "down_blocks.0.resnets.0.conv1"]


@pytest.mark.parametrize("family", ["sd15", "sdxl", "animatediff"])
def test_a_file_in_kohyas_format_adds_alpha_over_rank_times_up_down(family, tmp_path):
    """Float64 throughout but for the weights' own rounding: the two ways differ by the order of their sums."""
    build, settings = FAMILIES[family]
    pipe, reference = build(), build()
    path = kohya_file(tmp_path / "style.safetensors", network_of(pipe), KOHYA)
    added(network_of(reference), load_file(path), KOHYA, 0.8)
    assert load_loras(pipe, [("style", str(path))]).layers == {"style": len(KOHYA)}
    use_loras(pipe, (("style", 0.8),))
    ours, theirs = call(pipe, settings), call(reference, settings)
    # 2 guided steps through some 30 layers in float32; measured 1e-6 and less, a wrong alpha or rank moves it by 0.1
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    assert (ours - call(build(), settings)).abs().max() > 1e-2


def test_a_flux_file_in_kohyas_format_is_loaded(tmp_path):
    pipe, reference = tiny.flux(), tiny.flux()
    tensors: dict[str, Tensor] = {}
    generator = tiny.generator(3)
    width = reference.transformer.inner_dim
    for kohya, out in (("double_blocks_0_img_attn_proj", width), ("double_blocks_0_img_attn_qkv", 3 * width)):
        key = f"lora_unet_{kohya}"
        tensors[f"{key}.lora_down.weight"] = torch.randn(4, width, generator=generator) * 0.4
        tensors[f"{key}.lora_up.weight"] = torch.randn(out, 4, generator=generator) * 0.4
        tensors[f"{key}.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "flux.safetensors")
    assert load_loras(pipe, {"f": tmp_path / "flux.safetensors"}).layers == {"f": 4}  # q, k and v are layers apart
    attention = reference.transformer.transformer_blocks[0].attn
    with torch.no_grad():
        for kohya, modules in (
            ("attn_proj", [attention.to_out[0]]),
            ("attn_qkv", [attention.to_q, attention.to_k, attention.to_v]),
        ):
            key = f"lora_unet_double_blocks_0_img_{kohya}"
            change = 0.3 * 2 / 4 * tensors[f"{key}.lora_up.weight"] @ tensors[f"{key}.lora_down.weight"]
            for module, part in zip(modules, change.chunk(len(modules)), strict=True):
                module.weight += part
    use_loras(pipe, (("f", 0.3),))
    ours, theirs = (call(p, FAMILIES["flux"][1]) for p in (pipe, reference))
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    assert (ours - call(tiny.flux(), FAMILIES["flux"][1])).abs().max() > 1e-3


def test_several_files_are_loaded_and_each_has_its_scale(tmp_path):
    pipe, source = tiny.sdxl(), tiny.sdxl()
    settings = FAMILIES["sdxl"][1]
    first = diffusers_file(tmp_path / "one", source)
    second = kohya_file(tmp_path / "two.safetensors", pipe.unet, KOHYA)
    load_loras(pipe, {"one": tmp_path / "one"})
    use_loras(pipe, (("one", 0.5),))
    alone = call(pipe, settings)
    load_loras(pipe, {"two": second, "again": first})
    assert torch.equal(call(pipe, settings), alone), "loading more changes nothing"
    use_loras(pipe, (("one", 0.5), ("two", -1.0)))
    both = call(pipe, settings)
    use_loras(pipe, (("two", -1.0), ("again", 0.5)))
    assert (both - call(pipe, settings)).abs().max() <= 1e-4 * both.abs().max()
    assert (both - alone).abs().max() > 1e-2
    pipe.disable_lora()
    use_loras(pipe, (("one", 0.5),))
    assert (call(pipe, settings) - alone).abs().max() <= 1e-5 * alone.abs().max()


def text_lora(path: Path, pipe: Any) -> Path:
    """A file with layers of the UNet and of both text encoders."""
    kohya_file(path, pipe.unet, KOHYA[:1])
    tensors = load_file(path)
    generator = tiny.generator(4)
    for which, encoder in (("te1", pipe.text_encoder), ("te2", pipe.text_encoder_2)):
        for part in ("q_proj", "out_proj"):
            key, width = f"lora_{which}_text_model_encoder_layers_0_self_attn_{part}", encoder.config.hidden_size
            tensors[f"{key}.lora_down.weight"] = torch.randn(4, width, generator=generator)
            tensors[f"{key}.lora_up.weight"] = torch.randn(width, 4, generator=generator)
            tensors[f"{key}.alpha"] = torch.tensor(4.0)
    save_file(tensors, path)
    return path


def test_each_layer_has_the_alpha_that_the_file_gives_it_attention_and_text_encoders_too(tmp_path):
    pipe, path = tiny.sdxl(), tmp_path / "style.safetensors"
    text_lora(path, pipe)
    tensors = load_file(path) | load_file(kohya_file(tmp_path / "unet.safetensors", pipe.unet, KOHYA))
    alphas = {name: 1.0 + number for number, name in enumerate(sorted(tensors)) if name.endswith(".alpha")}
    save_file(tensors | {name: torch.tensor(alpha) for name, alpha in alphas.items()}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of peft, where an alpha is of no layer
        load_loras(pipe, {"style": path})
    found = {}
    for start, part in (("unet", pipe.unet), ("te1", pipe.text_encoder), ("te2", pipe.text_encoder_2)):
        for name, layer in part.named_modules():
            if isinstance(layer, BaseTunerLayer):
                middle = "text_model." if start != "unet" and not name.startswith("text_model.") else ""
                key = f"lora_{start}_{middle}{name}".replace(".", "_")
                found[f"{key}.alpha"] = layer.scaling["style"] * layer.r["style"]
    assert found == alphas
    again = pipe.unet.peft_config["style"].alpha_pattern
    assert again["mid_block.attentions.0.proj_in"] == alphas["lora_unet_mid_block_attentions_0_proj_in.alpha"]


def test_a_flux_file_with_alphas_beside_diffusers_names_has_them_as_numbers(tmp_path):
    pipe, reference, tensors = tiny.flux(), tiny.flux(), {}
    generator, width = tiny.generator(3), pipe.transformer.inner_dim
    alphas = {"transformer_blocks.0.attn.to_q": 2.0, "single_transformer_blocks.0.attn.to_v": 8.0}
    for name, alpha in alphas.items():
        down, up = (torch.randn(shape, generator=generator) * 0.4 for shape in ((4, width), (width, 4)))
        tensors |= {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
        tensors[f"transformer.{name}.alpha"] = torch.tensor(alpha)
        with torch.no_grad():
            reference.transformer.get_submodule(name).weight += 0.3 * alpha / 4 * up @ down
    save_file(tensors, tmp_path / "flux.safetensors")
    load_loras(pipe, {"f": tmp_path / "flux.safetensors"})
    use_loras(pipe, (("f", 0.3),))
    ours, theirs = (call(each, FAMILIES["flux"][1]) for each in (pipe, reference))
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    assert json.loads(json.dumps(pipe.transformer.peft_config["f"].alpha_pattern)) == alphas
    scales = [each.scaling["f"] for each in pipe.transformer.modules() if isinstance(each, BaseTunerLayer)]
    assert {type(scale) for scale in scales} == {float}


def test_a_lora_is_in_memory_once_and_of_its_networks_type(tmp_path):
    pipe = tiny.sdxl().to(torch.bfloat16)
    path = kohya_file(tmp_path / "style.safetensors", pipe.unet, KOHYA)
    load_loras(pipe, {"style": path})
    factors = [each for name, each in pipe.unet.named_parameters() if "lora_" in name]
    assert len(factors) == 2 * len(KOHYA) and {each.dtype for each in factors} == {torch.bfloat16}
    assert "lora_state_dict" not in vars(pipe), "the pipeline's own loader is as it was"
    stock = tiny.sdxl().to(torch.bfloat16)
    stock.load_lora_weights(str(path), adapter_name="style")
    named = dict(stock.unet.named_parameters())
    for name, each in pipe.unet.named_parameters():
        assert torch.equal(each, named[name])


def test_text_encoders_get_their_part_where_there_are_any_and_only_the_network_switches(tmp_path, capfd):
    settings = FAMILIES["sdxl"][1]
    pipe, stock = tiny.sdxl(), tiny.sdxl()
    path = text_lora(tmp_path / "text.safetensors", pipe)
    capfd.readouterr()
    assert load_loras(pipe, {"t": path}).with_text == ("t",)
    assert "MISSING" not in "".join(capfd.readouterr())
    embeds = pipe.encode_prompt("a cat", device="cpu")[0]
    assert torch.equal(embeds, stock.encode_prompt("a cat", device="cpu")[0]), "the encoders' own weights are theirs"
    use_loras(pipe, (("t", 0.8),))
    changed = (pipe.encode_prompt("a cat", device="cpu")[0] - embeds).abs().amax((0, 1))
    first = pipe.text_encoder.config.hidden_size
    assert min(changed[:first].max(), changed[first:].max()) > 1e-3, "both encoders have their part"
    seen: list[Tensor] = []
    pipe.unet.register_forward_pre_hook(lambda m, a, k: seen.append(k["encoder_hidden_states"]), with_kwargs=True)
    with reflected(pipe, ModelSpec(loras=(("t", -1.5),)), num_reflections=1) as run:
        call(pipe, settings)
    assert run.gaps[0] > 1e-3 and all(torch.equal(text, seen[0]) for text in seen)

    bare = tiny.sdxl()
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    given = dict(zip(names, bare.encode_prompt("a cat", device="cpu", negative_prompt=""), strict=True))
    bare.text_encoder = bare.text_encoder_2 = None
    assert load_loras(bare, {"t": path}).with_text == ()
    assert "load_lora_into_text_encoder" not in vars(bare)
    use_loras(bare, (("t", 0.8),))
    bare(**settings, **given, num_inference_steps=2, output_type="latent")


def files_of(source: Any, kind: str, folder: Path) -> Path:
    """The adapter "made" of a pipeline as another program writes it: peft, a bundle, AnimateDiff's motion LoRAs."""
    tensors = get_peft_model_state_dict(network_of(source), adapter_name="made")
    part = "unet" if hasattr(source, "unet") else "transformer"
    if kind == "peft":
        config = {"r": 4, "lora_alpha": 6, "alpha_pattern": {"to_k": 8}, "target_modules": ATTENTION}
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file(
            {f"base_model.model.{key}": each for key, each in tensors.items()}, folder / "adapter_model.safetensors"
        )
        return folder
    if kind == "bundle":
        extra = {"bundle_emb.charm.string_to_param.*": torch.zeros(2, 16)}
        named = {f"{part}.{key}": each for key, each in tensors.items()}
    else:
        extra = {"down_blocks.0.motion_modules.0.temporal_transformer.pos_encoder.pe": torch.zeros(1)}
        named = {}
        for key, each in tensors.items():
            key = key.replace(".transformer_blocks", ".temporal_transformer.transformer_blocks").replace(
                "to_out.0", "to_out"
            )
            key = key.replace(".attn1", ".attention_blocks.0").replace(".attn2", ".attention_blocks.1")
            for theirs, ours in (("lora_A", "down"), ("lora_B", "up")):
                for layer in ("to_q", "to_k", "to_v", "to_out"):
                    key = key.replace(f"{layer}.{theirs}", f"processor.{layer}_lora.{ours}")
            named[key] = each
    save_file({**named, **extra}, folder)
    return folder


MOTION = r".*motion_modules.*\.(to_q|to_k|to_v|to_out\.0)"


@pytest.mark.parametrize(
    ("family", "kind", "config"),
    [
        ("sdxl", "peft", {"alpha_pattern": {"to_k": 8}}),
        ("wan", "peft", {"alpha_pattern": {"to_k": 8}}),
        ("sdxl", "bundle", {"lora_alpha": 4}),
        ("animatediff", "motion", {"lora_alpha": 4, "targets": MOTION}),
    ],
)
def test_files_of_other_programs_do_what_the_adapter_did(family, kind, config, tmp_path):
    build, settings = FAMILIES[family]
    source, pipe = build(), build()
    add_lora(network_of(source), "made", **config)
    source.set_adapters(["made"], [0.8])
    loaded = load_loras(pipe, {"other": files_of(source, kind, tmp_path / "lora.safetensors")})
    use_loras(pipe, (("other", 0.8),))
    ours, theirs = call(pipe, settings), call(source, settings)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()  # alpha / rank is multiplied in beforehand
    assert (ours - call(build(), settings)).abs().max() > 1e-3
    assert [note.partition(" bundles ")[2] for note in loaded.notes] == (
        ["textual-inversion embeddings (charm), which are not used"] if kind == "bundle" else []
    )
    if kind == "motion":
        with pytest.raises(UserError, match="is for AnimateDiff's motion modules, and UNet2DConditionModel has none"):
            load_loras(tiny.sdxl(), {"other": tmp_path / "lora.safetensors"})


def test_biases_that_a_file_has_on_some_layers_only_are_0_on_the_others(tmp_path):
    pipe, reference, settings = tiny.wan(), tiny.wan(), FAMILIES["wan"][1]
    width, generator, tensors = pipe.transformer.blocks[0].attn1.to_q.in_features, tiny.generator(6), {}
    for layer in ("self_attn.q", "cross_attn.o"):
        for name, shape in (("lora_down.weight", (4, width)), ("lora_up.weight", (width, 4))):
            tensors[f"diffusion_model.blocks.0.{layer}.{name}"] = torch.randn(shape, generator=generator) * 0.4
    tensors["diffusion_model.blocks.0.self_attn.q.diff_b"] = torch.randn(width, generator=generator)
    save_file(tensors, tmp_path / "wan.safetensors")
    load_loras(pipe, {"b": tmp_path / "wan.safetensors"})
    use_loras(pipe, (("b", 0.5),))
    block = reference.transformer.blocks[0]
    with torch.no_grad():
        for layer, module in (("self_attn.q", block.attn1.to_q), ("cross_attn.o", block.attn2.to_out[0])):
            up, down = (tensors[f"diffusion_model.blocks.0.{layer}.lora_{each}.weight"] for each in ("up", "down"))
            module.weight += 0.5 * up @ down
        block.attn1.to_q.bias += 0.5 * tensors["diffusion_model.blocks.0.self_attn.q.diff_b"]
    ours, theirs = call(pipe, settings), call(reference, settings)
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    assert not any(parameter.is_meta for parameter in pipe.transformer.parameters())


# -- refusals -------------------------------------------------------------------------------------------------------


def test_files_that_do_not_fit_are_refused_by_what_is_in_them_and_nothing_is_loaded(tmp_path):
    pipe = tiny.sdxl()
    good = kohya_file(tmp_path / "good.safetensors", pipe.unet, KOHYA)
    wide = tiny.sd15()  # its text is 16 wide, SDXL's 32
    narrow = diffusers_file(tmp_path / "narrow", wide)
    for path, message in (
        (narrow, r"narrow.* does not fit UNet2DConditionModel: .*of \d+ tensors without their place: .*attn2.*\(for"),
        (kohya_file(tmp_path / "deep.safetensors", tiny.flux().transformer, ["proj_out"]), "deep.*does not fit|deep"),
        (
            diffusers_file(tmp_path / "flux", tiny.flux()),
            "flux.* does not fit UNet2DConditionModel: it has nothing for it",
        ),
    ):
        with pytest.raises(UserError, match=message):
            load_loras(pipe, {"good": good, "bad": path})
        assert not hasattr(pipe.unet, "peft_config")
    missing = {key: value for key, value in load_file(narrow).items() if "down_blocks" in key}
    save_file(
        {key.replace("down_blocks", "nowhere"): value for key, value in missing.items()}, tmp_path / "no.safetensors"
    )
    with pytest.raises(UserError, match=r"unet\.nowhere|nowhere.*\(no such layer\)"):
        load_loras(pipe, {"bad": tmp_path / "no.safetensors"})


def test_files_that_are_no_lora_and_names_that_are_none_are_refused(tmp_path):
    pipe = tiny.sdxl()
    good = kohya_file(tmp_path / "good.safetensors", pipe.unet, KOHYA)
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "unet.safetensors")
    save_file({"lora_unet_x.dora_scale": torch.zeros(1)}, tmp_path / "dora.safetensors")
    save_file({"lora_unet_x.hada_w1_a": torch.zeros(1)}, tmp_path / "loha.safetensors")
    save_file({"lora_unet_x.lokr_w1": torch.zeros(1)}, tmp_path / "lokr.safetensors")
    save_file({"lora_unet_x.diff": torch.zeros(1)}, tmp_path / "diff.safetensors")
    (tmp_path / "style.pt").write_bytes(b"")
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    for files, message in (
        ([("a", good), ("a", good)], "two LoRAs are to be called 'a'"),
        ({"": good}, "to be called ''"),
        ({"a.b": good}, "to be called 'a.b'.*no dot"),
        ({"a": tmp_path / "nowhere.safetensors"}, "nowhere.safetensors' does not exist; give a .safetensors file"),
        ({"a": tmp_path / "unet.safetensors"}, "is no LoRA: it holds 1 tensors such as conv_in.weight"),
        ({"a": tmp_path / "dora.safetensors"}, "is a DoRA"),
        ({"a": tmp_path / "loha.safetensors"}, "is a LoHa"),
        ({"a": tmp_path / "lokr.safetensors"}, "is a LoKr"),
        ({"a": tmp_path / "diff.safetensors"}, "is no LoRA: it holds 1 tensors such as lora_unet_x.diff"),
        ({"a": tmp_path / "style.pt"}, "is a pickle"),
        ({"a": tmp_path / "cut.safetensors"}, "cut.safetensors"),
        ({"a": tmp_path / "empty"}, "holds no .safetensors file"),
        ({"a": tmp_path}, "holds .*good.safetensors.*name the one file"),
    ):
        with pytest.raises(UserError, match=message):
            load_loras(pipe, files)
    load_loras(pipe, {"a": good})
    with pytest.raises(UserError, match="two LoRAs are to be called 'a'"):
        load_loras(pipe, {"a": good})
    with pytest.raises(UserError, match="has no LoRA adapter 'b'; it has a: load it first"):
        use_loras(pipe, (("b", 1.0),))
    with pytest.raises(UserError, match="one per sample"):
        use_loras(pipe, (("a", (1.0, 2.0)),))


def test_a_wan_with_two_transformers_has_the_file_in_both(tmp_path):
    path = diffusers_file(tmp_path, tiny.wan())
    pipe = tiny.wan22()
    load_loras(pipe, {"w": path})
    assert all("w" in network.peft_config for network in (pipe.transformer, pipe.transformer_2))


def test_a_lora_of_convolutions_and_of_uneven_rank_is_loaded_as_it_was_saved(tmp_path):
    settings = FAMILIES["sdxl"][1]
    source, pipe = tiny.sdxl(), tiny.sdxl()
    config = {"rank_pattern": {"to_q": 2}, "alpha_pattern": {"to_k": 9}, "use_rslora": True}
    path = diffusers_file(tmp_path, source, targets=[*ATTENTION, *CONVOLUTIONS], **config)
    load_loras(pipe, {"c": path})
    use_loras(pipe, (("c", 0.7),))
    source.set_adapters(["made"], [0.7])
    assert torch.equal(call(pipe, settings), call(source, settings))
