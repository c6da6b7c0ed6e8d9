"""Published DiT-MoE files into our network: what is inferred, what is refused and how it is said, conversion."""

from __future__ import annotations

import argparse
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bridges.dit_moe import DiTMoE, convert, from_checkpoint, named
from bridges.dit_moe.checkpoints import network_of
from bridges.dit_moe.family import convert as convert_command
from tests.support import dit_moe_reference as reference
from w2sd_video.errors import UserError

HEADS = reference.SMALL["heads"]
PUBLISHED = {  # depth, width, heads, experts, flash-attention names
    "S/2": (12, 384, 6, 8, False),
    "B/2": (12, 768, 12, 8, False),
    "XL/2": (28, 1152, 16, 8, True),
    "G/2": (40, 1408, 16, 16, True),
}


def state(seed: int = 0, *, flash: bool = False) -> dict[str, Tensor]:
    return reference.published_state(seed, flash=flash, dtype=torch.float32)


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def prediction(network: DiTMoE) -> Tensor:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network(latents.to(network.dtype), 500, torch.tensor([1, 5])).sample


def load(path: Path, **settings: Any) -> DiTMoE:
    return from_checkpoint(path, num_attention_heads=HEADS, **settings)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_keys_and_shapes_load_strictly(name: str) -> None:
    depth, width, heads, experts, flash = PUBLISHED[name]
    shapes = reference.published_shapes(depth=depth, width=width, heads=heads, experts=experts, flash=flash)
    state = {key: torch.empty(shape, dtype=torch.float16, device="meta") for key, shape in shapes.items()}
    network = network_of(state, name)
    expected = named(name, num_experts=experts)
    assert {key: network.config[key] for key in expected} == expected
    assert network.blocks[0].moe.experts.w_in.shape == (experts, 8 * width, width)
    assert network.blocks[0].moe.experts.w_out.shape == (experts, width, 4 * width)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float16}
    held = sum(tensor.numel() for tensor in network.state_dict().values())
    assert held == sum(tensor.numel() for tensor in state.values())


def test_s2_loads_from_a_file_with_every_value_in_its_place(tmp_path: Path) -> None:
    """One number per tensor, spread over its shape: the file is small, and a tensor in the wrong place shows."""
    depth, width, heads, experts, flash = PUBLISHED["S/2"]
    shapes = reference.published_shapes(depth=depth, width=width, heads=heads, experts=experts, flash=flash)
    one = {key: torch.tensor(number / 4096).half().expand(shape) for number, (key, shape) in enumerate(shapes.items())}
    network = from_checkpoint(saved(tmp_path / "s.pt", {"ema": one}))
    value = {key: tensor.flatten()[0].item() for key, tensor in one.items()}
    for n in (0, 5, 11):
        moe = network.blocks[n].moe
        for j in range(experts):
            named = f"blocks.{n}.moe.experts.{j}"
            assert moe.experts.w_in[j, :1536].unique().tolist() == [value[f"{named}.gate_proj.weight"]]
            assert moe.experts.w_in[j, 1536:].unique().tolist() == [value[f"{named}.up_proj.weight"]]
            assert moe.experts.w_out[j].unique().tolist() == [value[f"{named}.down_proj.weight"]]
        shared = f"blocks.{n}.moe.shared_experts"
        assert moe.shared_experts.w_in[:768].unique().tolist() == [value[f"{shared}.gate_proj.weight"]]
        assert moe.shared_experts.w_in[768:].unique().tolist() == [value[f"{shared}.up_proj.weight"]]
        assert network.blocks[n].modulation.bias.unique().tolist() == [value[f"blocks.{n}.adaLN_modulation.1.bias"]]
    assert network.config.num_attention_heads == 6


@pytest.mark.parametrize("wrap", ["bare", "ema", "model", "module.", "_orig_mod.", "with arguments", "safetensors"])
def test_every_way_weights_are_published_loads(tmp_path: Path, wrap: str) -> None:
    weights, path = state(), tmp_path / "weights.pt"
    if wrap == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(weights, path)
    elif wrap == "bare":
        saved(path, weights)
    elif wrap == "with arguments":
        saved(path, {"model": state(1), "ema": weights, "opt": {"step": 3}, "args": argparse.Namespace(model="S")})
    elif wrap.endswith("."):
        saved(path, {wrap + key: tensor for key, tensor in weights.items()})
    else:
        saved(path, {wrap: weights})
    expected = network_of(weights, "the same", num_attention_heads=HEADS)
    assert torch.equal(prediction(load(path)), prediction(expected))


def test_of_ema_and_model_the_one_asked_for_is_taken(tmp_path: Path) -> None:
    path = saved(tmp_path / "both.pt", {"model": state(1), "ema": state(2)})
    averaged, last = prediction(load(path)), prediction(load(path, weights="model"))
    assert torch.equal(averaged, prediction(load(path, weights="ema")))
    assert not torch.allclose(averaged, last)
    with pytest.raises(UserError, match='no weights under "ema"; it holds model'):
        load(saved(tmp_path / "one.pt", {"model": state()}), weights="ema")


def test_files_of_torch_before_zip_load(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    assert torch.equal(prediction(load(path)), prediction(load(saved(tmp_path / "new.pt", state()))))


def test_the_heads_come_from_the_head_norms_where_there_are_any(tmp_path: Path) -> None:
    path = saved(tmp_path / "flow.pt", state(flash=True))
    network = from_checkpoint(path)
    assert (network.config.num_attention_heads, network.config.qk_norm) == (HEADS, True)
    with pytest.raises(UserError, match=r"cannot be told .* \(width 16; got None\).*num_attention_heads"):
        from_checkpoint(saved(tmp_path / "noise.pt", state()))


def test_the_dtype_is_the_files_unless_another_is_asked_for(tmp_path: Path) -> None:
    half = {key: tensor.half() for key, tensor in state().items()}
    path = saved(tmp_path / "half.pt", half)
    assert load(path).dtype == torch.float16
    assert load(path, torch_dtype=torch.float32).dtype == torch.float32
    mixed = half | {"pos_embed": half["pos_embed"].float()}
    assert {t.dtype for t in load(saved(tmp_path / "mixed.pt", mixed)).state_dict().values()} == {torch.float32}


def test_loading_leaves_nothing_tied_to_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", state())
    network = load(path)
    before = prediction(network)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(prediction(network), before)


# -- refusals ---------------------------------------------------------------------------------------------------------


def refused(path: Path, content: Any, said: str, **settings: Any) -> None:
    with pytest.raises(UserError, match=said):
        load(saved(path, content), **settings)


def test_a_renamed_key_is_named_as_missing_and_as_unexpected(tmp_path: Path) -> None:
    weights = state()
    weights["blocks.1.moe.shared.up_proj.weight"] = weights.pop("blocks.1.moe.shared_experts.up_proj.weight")
    said = (
        r"weights\.pt does not fit.*missing keys: blocks\.1\.moe\.shared_experts\.up_proj\.weight; "
        r"unexpected keys: blocks\.1\.moe\.shared\.up_proj\.weight"
    )
    refused(tmp_path / "weights.pt", weights, said)


@pytest.mark.parametrize(
    "key", ["x_embedder.proj.weight", "pos_embed", "y_embedder.embedding_table.weight", "final_layer.linear.weight"]
)
def test_a_missing_key_that_tells_a_size_is_named(tmp_path: Path, key: str) -> None:
    weights = state()
    del weights[key]
    refused(tmp_path / "weights.pt", weights, f"no DiT-MoE checkpoint, or a damaged one: {key} is missing; it holds")


@pytest.mark.parametrize(
    ("key", "shape", "said"),
    [
        ("blocks.0.attn.qkv.weight", (32, 16), r"blocks.0.attn.qkv.weight \[32, 16\] instead of \[48, 16\]"),
        ("blocks.1.moe.experts.3.down_proj.weight", (64, 16), r"experts.3.down_proj.weight \[64, 16\] instead of"),
        ("pos_embed", (1, 15, 16), r"pos_embed \[1, 15, 16\] instead of \[1, 16, 16\]"),
        ("pos_embed", (16, 16), r"pos_embed has shape \[16, 16\]"),
    ],
)
def test_a_wrong_shape_is_named_with_the_right_one(tmp_path: Path, key: str, shape: tuple[int, ...], said: str) -> None:
    refused(tmp_path / "weights.pt", state() | {key: torch.zeros(shape)}, said)


def test_a_wrong_number_of_experts_is_said_as_such(tmp_path: Path) -> None:
    weights = state()
    fewer = {key: tensor for key, tensor in weights.items() if not key.startswith("blocks.1.moe.experts.7.")}
    said = r"block 1 has 7 experts where the routers score 8; missing keys: blocks\.1\.moe\.experts\.7\.gate_proj"
    refused(tmp_path / "fewer.pt", fewer, said)
    one_more = {f"blocks.0.moe.experts.8.{part}_proj.weight": torch.zeros(1) for part in ("gate", "up", "down")}
    refused(tmp_path / "more.pt", weights | one_more, r"block 0 has 9 experts where the routers score 8; unexpected")
    router = {f"blocks.{n}.moe.gate.weight": torch.zeros(16, 16) for n in range(2)}
    refused(tmp_path / "router.pt", weights | router, "block 0 has 8 experts where the routers score 16; block 1 has 8")


class Harmful:
    """What runs when it is unpickled: writes a file, to see whether it ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_could_run_code_is_not_opened_without_the_flag(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "weights.pt", tmp_path / "ran"
    content = {"ema": state(), "extra": Harmful(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"pickle that holds more than tensors.*--allow-pickle"):
        load(path)
    assert not trace.exists()
    assert torch.equal(prediction(load(path, allow_pickle=True)), prediction(load(saved(tmp_path / "b.pt", state()))))
    assert trace.exists()


def test_what_is_no_checkpoint_is_refused_with_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pt does not exist"):
        load(tmp_path / "none.pt")
    for name, content in {"text.pt": b"hello world", "empty.pt": b"", "text.safetensors": b"hello world"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} is (cut short, )?corrupt or no"):
            load(tmp_path / name)
    whole = saved(tmp_path / "whole.pt", state()).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.pt is corrupt"):
        load(tmp_path / "cut.pt")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    for allowed in (False, True):
        with pytest.raises(UserError, match=r"list\.pkl"):
            load(tmp_path / "list.pkl", allow_pickle=allowed)
    refused(tmp_path / "numbers.pt", {"ema": 3, "step": 4}, "holds no state dict")
    refused(tmp_path / "other.pt", {"conv.weight": torch.zeros(1)}, "is no DiT-MoE checkpoint.*it holds conv.weight")
    refused(tmp_path / "integers.pt", {key: t.int() for key, t in state().items()}, "torch.int32")


# -- conversion -------------------------------------------------------------------------------------------------------


def test_a_converted_folder_is_the_same_network_without_pickles(tmp_path: Path) -> None:
    source, folder = saved(tmp_path / "weights.pt", {"ema": state()}), tmp_path / "new" / "converted"
    network = convert(source, folder, num_attention_heads=HEADS)
    assert {path.name for path in folder.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert [path.name for path in folder.parent.iterdir()] == ["converted"]
    expected = prediction(load(source))
    assert torch.equal(prediction(network), expected)
    assert torch.equal(prediction(from_checkpoint(folder)), expected)
    assert torch.equal(prediction(DiTMoE.from_pretrained(folder)), expected)
    config = json.loads((folder / "config.json").read_text())
    assert (config["_class_name"], config["num_experts"], config["num_attention_heads"]) == ("DiTMoE", 8, HEADS)
    with pytest.raises(UserError, match="is there already"):
        convert(source, folder, num_attention_heads=HEADS)
    with pytest.raises(UserError, match="converted already; give the folder"):
        from_checkpoint(folder / "diffusion_pytorch_model.safetensors")


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        convert(saved(tmp_path / "weights.pt", {"a": torch.zeros(1)}), tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


def test_a_folder_is_loaded_as_strictly_as_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "converted"
    convert(saved(tmp_path / "weights.pt", state()), folder, num_attention_heads=HEADS)
    file = folder / "diffusion_pytorch_model.safetensors"
    whole = load_file(file)
    save_file({key: tensor for key, tensor in whole.items() if key != "blocks.0.moe.experts.w_in"}, file)
    with pytest.raises(UserError, match=r"missing_keys.*blocks\.0\.moe\.experts\.w_in"):
        from_checkpoint(folder)
    save_file(whole | {"blocks.0.moe.experts.w_in": torch.zeros(7, 128, 16)}, file)
    with pytest.raises(UserError, match=r"blocks\.0\.moe\.experts\.w_in"):
        from_checkpoint(folder)
    (folder / "config.json").write_text('{"_class_name": "DiTTransformer2DModel"}')
    with pytest.raises(UserError, match="holds a DiTTransformer2DModel; allowed: DiTMoE"):
        from_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"holds no config\.json"):
        from_checkpoint(folder)


def test_the_program_converts_and_says_how_many_parameters_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(saved(tmp_path / "weights.pt", {"model": state()}))
    words = [source, str(tmp_path / "half"), "--heads", str(HEADS), "--dtype", "bfloat16", "--experts-per-token", "3"]
    assert convert_command([*words]) == 0
    network = from_checkpoint(tmp_path / "half")
    assert (network.dtype, network.config.num_experts_per_tok) == (torch.bfloat16, 3)
    total = sum(parameter.numel() for parameter in network.parameters())
    idle = 2 * 5 * 3 * 4 * 16 * 16  # 2 layers, 5 of 8 experts, 3 matrices of 4 D x D
    said = f"{total:,} parameters, {total - idle:,} of them active"
    assert said in capsys.readouterr().out
    assert convert_command([*words]) == 2  # the folder is there
    assert convert_command([str(tmp_path / "none.pt"), str(tmp_path / "other")]) == 2
    assert "does not exist" in capsys.readouterr().err
