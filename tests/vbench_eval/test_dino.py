"""DINO as a frame encoder: transformers' own numbers on square frames, DINO's position table on oblong ones."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import ViTConfig, ViTModel

from tests.support.vbench_backbones import DAMAGES, damaged
from tests.support.vbench_backbones import noise as frames
from vbench_eval.backbones.dino import DinoEncoder, dino_names, dino_sizes, load_dino, position_table
from vbench_eval.backbones.registry import resolve
from vbench_eval.errors import UserError

WIDTH, LAYERS = 64, 2  # 64 is the width of one head in all of DINO's networks


def config(**changes) -> ViTConfig:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 1, "intermediate_size": 96}
    return ViTConfig(**(sizes | {"image_size": 224, "patch_size": 16} | changes))


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ViTModel(config(), add_pooling_layer=False).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():  # norms and positions too: as made, they are ones and next to nothing
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator) / max(1, parameter.dim() - 1)
    return made


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("dino") / "saved"
    network.save_pretrained(path)
    return path


def normalised(some: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((some.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def test_square_frames_get_transformers_own_features(folder):
    some = frames(3, 224, 224)
    reference = ViTModel.from_pretrained(folder, add_pooling_layer=False, layer_norm_eps=1e-6).eval()
    with torch.no_grad():
        expected = reference(normalised(some)).last_hidden_state[:, 0]
    encoder = load_dino(folder, antialias=False)
    assert encoder._network.config.layer_norm_eps == 1e-6 != config().layer_norm_eps
    found = encoder.encode(some)
    assert encoder.dim == WIDTH and found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)  # float32 roundings of 197 tokens, values of order 1
    assert (found[0] - found[1]).norm() > 100 * (found - expected).norm()


def cubic(x: float) -> float:
    """Keys' kernel with a = -0.75, which torch uses."""
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def stretched_by_hand(grid: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """A grid `[n, n, dim]` sampled at (i + 1/2) / scale - 1/2 with scale = (count + 0.1) / n; borders repeat."""
    side = grid.shape[0]

    def matrix(count: int) -> torch.Tensor:
        weights, scale = torch.zeros(count, side, dtype=torch.float64), (count + 0.1) / side
        for i in range(count):
            at = (i + 0.5) / scale - 0.5
            for tap in range(math.floor(at) - 1, math.floor(at) + 3):
                weights[i, min(max(tap, 0), side - 1)] += cubic(at - tap)
        return weights

    return torch.einsum("iy,jx,yxd->ijd", matrix(rows), matrix(columns), grid.double())


@pytest.mark.parametrize(("height", "width"), [(224, 358), (398, 224), (224, 230)])
def test_position_table_of_oblong_frames_is_stretched_as_dino_does(height, width):
    table = torch.randn(1, 1 + 14 * 14, 8, generator=torch.Generator().manual_seed(0))
    found = position_table(table, height, width, patch=16)
    expected = stretched_by_hand(table[0, 1:].view(14, 14, 8), height // 16, width // 16)
    assert torch.equal(found[:, 0], table[:, 0])
    torch.testing.assert_close(found[0, 1:].double(), expected.flatten(0, 1), rtol=0, atol=1e-4)
    by_size = F.interpolate(table[:, 1:].view(1, 14, 14, 8).permute(0, 3, 1, 2), expected.shape[:2], mode="bicubic")
    assert (by_size[0].permute(1, 2, 0).flatten(0, 1) - found[0, 1:]).abs().max() > 0.01  # it matters which way


def test_position_table_of_square_frames_is_the_learned_one():
    table = torch.randn(1, 1 + 14 * 14, 8)
    assert position_table(table, 224, 224, patch=16) is table


def test_oblong_frames_are_encoded_with_that_table_and_without_a_crop(network, folder):
    some = frames(2, 224, 300)
    encoder = load_dino(folder, antialias=False)
    found = encoder.encode(some)
    # A network made for 14 x 18 patches that has the stretched table as its own, so that it interpolates nothing.
    state = network.state_dict()
    key = "embeddings.position_embeddings"
    grid = stretched_by_hand(state[key][0, 1:].view(14, 14, WIDTH), 14, 18).float()
    state = state | {key: torch.cat([state[key][:, :1], grid.view(1, -1, WIDTH)], dim=1)}
    reference = ViTModel(config(image_size=(224, 288), layer_norm_eps=1e-6), add_pooling_layer=False).eval()
    reference.load_state_dict(state)
    with torch.no_grad():
        expected = reference(normalised(some[:, :, :288])).last_hidden_state[:, 0]  # the last 12 columns fill no patch
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert (found[0] - found[1]).norm() > 100 * (found - expected).norm()


def test_shrinking_is_not_antialiased_but_for_a_profile_that_wants_it(folder):
    some = frames(1, 448, 448)
    pixels = some.permute(0, 3, 1, 2).float()
    plain = (pixels[..., ::2, ::2] + pixels[..., 1::2, ::2] + pixels[..., ::2, 1::2] + pixels[..., 1::2, 1::2]) / 4
    encoder = load_dino(folder, antialias=False)
    expected = normalised(plain.permute(0, 2, 3, 1))
    torch.testing.assert_close(encoder.prepare(some), expected, rtol=0, atol=1e-5)
    assert (load_dino(folder, antialias=True).prepare(some) - expected).abs().mean() > 0.1


def test_frames_do_not_depend_on_those_beside_them(folder):
    some, encoder = frames(18, 64, 64), load_dino(folder, antialias=False)  # more than one batch
    together = encoder.encode(some)
    assert together.shape == (18, WIDTH) and torch.equal(together, encoder.encode(some))
    torch.testing.assert_close(encoder.encode(some[17:]), together[17:], rtol=0, atol=1e-4)


def original_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers' state under the names of DINO's own file, written down from the description of that network."""
    found = {
        "cls_token": state["embeddings.cls_token"],
        "pos_embed": state["embeddings.position_embeddings"],
        "patch_embed.proj.weight": state["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": state["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": state["layernorm.weight"],
        "norm.bias": state["layernorm.bias"],
    }
    for i in range(LAYERS):
        for kind in ("weight", "bias"):
            ours, theirs = f"layers.{i}", f"blocks.{i}"
            three = [state[f"{ours}.attention.{letter}_proj.{kind}"] for letter in "qkv"]
            found[f"{theirs}.attn.qkv.{kind}"] = torch.cat(three)
            found[f"{theirs}.attn.proj.{kind}"] = state[f"{ours}.attention.o_proj.{kind}"]
            found[f"{theirs}.norm1.{kind}"] = state[f"{ours}.layernorm_before.{kind}"]
            found[f"{theirs}.norm2.{kind}"] = state[f"{ours}.layernorm_after.{kind}"]
            found[f"{theirs}.mlp.fc1.{kind}"] = state[f"{ours}.mlp.fc1.{kind}"]
            found[f"{theirs}.mlp.fc2.{kind}"] = state[f"{ours}.mlp.fc2.{kind}"]
    return found


def test_dinos_own_file_gives_the_features_of_the_saved_folder(network, folder, tmp_path):
    path = tmp_path / "dino_of_mine.pth"
    torch.save(original_names(network.state_dict()), path)
    some = frames(2, 64, 96)
    one, other = (load_dino(place, antialias=False).encode(some) for place in (path, folder))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("damage", [*DAMAGES, "other"])
def test_another_networks_file_is_refused_by_the_names_of_its_keys(network, tmp_path, damage):
    state, told = {"conv1.weight": torch.zeros(3)}, "not a DINO vision transformer: it has no cls_token, pos_embed"
    if damage != "other":
        state, told = damaged(original_names(network.state_dict()), damage, "norm.weight", "layernorm.weight")
    torch.save(state, tmp_path / "dino.pth")
    with pytest.raises(UserError, match=told):
        load_dino(tmp_path / "dino.pth", antialias=False)


def test_a_folder_without_all_weights_is_refused(network, tmp_path):
    from safetensors.torch import load_file, save_file

    network.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    gone = next(key for key in sorted(state) if "layernorm_before" in key)
    save_file(
        {key: value for key, value in state.items() if key != gone}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UserError, match=r"missing: .*layernorm_before"):
        load_dino(tmp_path, antialias=False)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_nearly_the_same_features(folder, dtype):
    some = frames(1, 64, 96)  # oblong: the table is interpolated in float32
    full, half = (load_dino(folder, antialias=False, dtype=number).encode(some) for number in (None, dtype))
    assert half.dtype == torch.float32
    # Angles, which is all that the dimensions look at; each of a few layers rounds by eps.
    assert 1 - F.cosine_similarity(full, half).item() < (8 * torch.finfo(getattr(torch, dtype)).eps) ** 2


def test_resolve_takes_the_folder_the_user_names(folder):
    encoder = resolve("subject_consistency", f"path:{folder}", profile="vbench", dtype="bfloat16")
    assert isinstance(encoder, DinoEncoder)
    found = encoder.provenance()
    assert found["id"] == encoder.name == "dino_vitb16" and found["dtype"] == "bfloat16" and found["device"] == "cpu"
    assert found["file"] == str(folder) and len(found["sha256"]) == 64 and found["commercial_ok"] is True


def test_sizes_of_the_published_network_are_read_off_its_file():
    shapes = {"cls_token": (1, 1, 768), "pos_embed": (1, 197, 768), "patch_embed.proj.weight": (768, 3, 16, 16)}
    shapes |= {f"blocks.{i}.mlp.fc1.weight": (3072, 768) for i in range(12)}
    found = dino_sizes({key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, source="it")
    base = ViTConfig()  # transformers' default is ViT-B/16
    assert found == {key: getattr(base, key) for key in found} and len(found) == 6


def test_names_that_are_not_dinos_stay_to_be_refused():
    assert list(dino_names({"head.weight": torch.zeros(1)})) == ["head.weight"]
