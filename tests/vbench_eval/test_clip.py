"""CLIP's image towers, transformers' own numbers behind VBench's preprocessing, and the aesthetic head on them."""

import hashlib
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.support.vbench_backbones import DAMAGES, TableEncoder, damaged, numbered
from tests.support.vbench_backbones import noise as frames
from tests.support.vbench_image_networks import MEAN, STD
from vbench_eval.backbones import weights as table
from vbench_eval.backbones.aesthetic import AestheticScorer, load_aesthetic
from vbench_eval.backbones.clip import load_clip, tower_sizes
from vbench_eval.backbones.registry import resolve
from vbench_eval.errors import UserError

WIDTH, LAYERS, SIDE = 64, 2, 64
DEPTH = {"num_hidden_layers": LAYERS, "num_attention_heads": 1}
TOWER = DEPTH | {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "image_size": SIDE, "patch_size": 32}
TEXT = DEPTH | {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 99, "bos_token_id": 0, "eos_token_id": 98}


@pytest.fixture(scope="module")
def clip():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=TOWER, projection_dim=24)).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():  # as made, biases are 0 and norms 1: swapped ones would not be noticed
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator) / max(1, parameter.dim()) ** 2
    return made


@pytest.fixture(scope="module")
def folder(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "saved"
    clip.save_pretrained(path)
    return path


def normalised(some: torch.Tensor) -> torch.Tensor:
    return ((some.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


def features(clip: CLIPModel, some: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = clip.get_image_features(pixel_values=normalised(some))
    return getattr(found, "pooler_output", found)


def test_frames_of_the_networks_size_get_transformers_own_features(clip, folder):
    some = frames(3, SIDE, SIDE)
    encoder, expected = load_clip("clip_vit_b_32", folder, antialias=False), features(clip, some)
    found = encoder.encode(some)
    assert encoder.dim == 24 and found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found[0] - found[1]).norm() > 100 * (found - expected).norm()


def test_the_middle_square_is_cut_with_halves_rounded_to_even(clip, folder):
    some = frames(2, SIDE, SIDE + 5)  # 2.5 columns before the middle: 2
    found = load_clip("clip_vit_b_32", folder, antialias=False).encode(some)
    torch.testing.assert_close(found, features(clip, some[:, :, 2 : 2 + SIDE]), rtol=0, atol=1e-5)


def test_shrinking_is_bicubic_unfiltered_and_unclamped(folder):
    some = torch.zeros(1, 2 * SIDE, 2 * SIDE, 3, dtype=torch.uint8)
    some[:, :, SIDE:] = 255
    # Half the size samples between two pixels; Keys' weights there, a = -0.75: -3/32, 19/32, 19/32, -3/32
    row = torch.zeros(SIDE)
    row[SIDE // 2 :] = 1
    row[SIDE // 2 - 1], row[SIDE // 2] = -3 / 32, 1 + 3 / 32
    encoder = load_clip("clip_vit_b_32", folder, antialias=False)
    expected = normalised(255 * row[None, None, :, None].expand(1, SIDE, SIDE, 3))
    torch.testing.assert_close(encoder.prepare(some), expected, rtol=0, atol=1e-5)
    filtered = load_clip("clip_vit_b_32", folder, antialias=True).prepare(some)
    assert (filtered - expected).abs().max() > 0.05


def test_frames_do_not_depend_on_those_beside_them(folder):
    some, encoder = frames(34, 40, 40), load_clip("clip_vit_b_32", folder, antialias=False)  # more than one batch
    together = encoder.encode(some)
    assert together.shape == (34, 24) and torch.equal(together, encoder.encode(some))
    torch.testing.assert_close(encoder.encode(some[33:]), together[33:], rtol=0, atol=1e-5)


def test_a_saved_tower_without_its_texts_loads_as_well(clip, folder, tmp_path):
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER, projection_dim=24))
    tower.load_state_dict({key: value for key, value in clip.state_dict().items() if key.startswith("vis")})
    tower.save_pretrained(tmp_path)
    some = frames(2, SIDE, SIDE)
    one, other = (load_clip("clip_vit_b_32", path, antialias=False).encode(some) for path in (folder, tmp_path))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def original_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tower's state under the names of OpenAI's file, written down from the description of that network."""
    v = "vision_model"
    found = {
        "visual.class_embedding": state[f"{v}.embeddings.class_embedding"],
        "visual.conv1.weight": state[f"{v}.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": state[f"{v}.embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T.contiguous(),
    }
    for kind in ("weight", "bias"):
        found[f"visual.ln_pre.{kind}"] = state[f"{v}.pre_layrnorm.{kind}"]
        found[f"visual.ln_post.{kind}"] = state[f"{v}.post_layernorm.{kind}"]
        for i in range(LAYERS):
            ours, theirs = f"{v}.encoder.layers.{i}", f"visual.transformer.resblocks.{i}"
            three = [state[f"{ours}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            found[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(three)
            found[f"{theirs}.attn.out_proj.{kind}"] = state[f"{ours}.self_attn.out_proj.{kind}"]
            found[f"{theirs}.ln_1.{kind}"] = state[f"{ours}.layer_norm1.{kind}"]
            found[f"{theirs}.ln_2.{kind}"] = state[f"{ours}.layer_norm2.{kind}"]
            found[f"{theirs}.mlp.c_fc.{kind}"] = state[f"{ours}.mlp.fc1.{kind}"]
            found[f"{theirs}.mlp.c_proj.{kind}"] = state[f"{ours}.mlp.fc2.{kind}"]
    beside = {
        "logit_scale": torch.tensor(4.6),
        "positional_embedding": torch.zeros(77, 8),
        "ln_final.bias": torch.zeros(8),
    }
    return found | beside | {"input_resolution": torch.tensor(SIDE), "vocab_size": torch.tensor(99)}


def test_a_state_with_openais_names_gives_the_features_of_the_saved_folder(clip, folder, tmp_path):
    path = tmp_path / "of-mine.pt"
    torch.save(original_names(clip.state_dict()), path)
    some = frames(2, SIDE, SIDE)
    one, other = (load_clip("clip_vit_b_32", place, antialias=False).encode(some) for place in (folder, path))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("patch", "width", "layers", "heads", "tokens", "projection"),
    [(32, 768, 12, 12, 50, 512), (14, 1024, 24, 16, 257, 768)],
)
def test_sizes_of_the_published_towers_are_read_off_their_files(patch, width, layers, heads, tokens, projection):
    shapes = {"visual.conv1.weight": (width, 3, patch, patch), "visual.positional_embedding": (tokens, width)}
    shapes |= {"visual.proj": (width, projection)}
    shapes |= {f"visual.transformer.resblocks.{i}.ln_1.bias": (width,) for i in range(layers)}
    found = tower_sizes({key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, source="it")
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    assert found == sizes | {
        "num_attention_heads": heads,
        "patch_size": patch,
        "image_size": 224,
        "projection_dim": projection,
    }


class Nested(nn.Module):
    """A program with parameters of any dotted names, as OpenAI's archives are."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        inner: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in state.items():
            first, _, rest = key.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = value
            elif value.is_floating_point():
                self.register_parameter(first, nn.Parameter(value))
            else:
                self.register_buffer(first, value)
        for first, rest in inner.items():
            self.add_module(first, Nested(rest))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture(scope="module")
def archive(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "ViT-B-32.pt"
    halves = {
        key: value.half() if value.is_floating_point() else value
        for key, value in original_names(clip.state_dict()).items()
    }
    torch.jit.trace(Nested(halves), torch.zeros(1)).save(path)
    return path


def test_openais_archive_is_opened_only_if_it_is_the_published_one_or_trusted(clip, archive, monkeypatch):
    some = frames(2, SIDE, SIDE)
    with pytest.raises(UserError, match=r"TorchScript program.*--allow-pickle"):
        load_clip("clip_vit_b_32", archive, antialias=False)
    trusted = load_clip("clip_vit_b_32", archive, antialias=False, allow_pickle=True)
    # The archive holds halves: numbers of order 1 rounded by 2^-11, some of hundreds of them per feature.
    assert F.cosine_similarity(trusted.encode(some), features(clip, some)).min() > 1 - 1e-4
    assert trusted.provenance()["sha256_verified"] is False and trusted.provenance()["dtype"] == "float32"
    published = table.Weights(
        **{**vars(table.WEIGHTS["clip_vit_b_32"]), "sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}
    )
    monkeypatch.setitem(table.WEIGHTS, "clip_vit_b_32", published)
    verified = load_clip("clip_vit_b_32", archive, antialias=False)
    torch.testing.assert_close(verified.encode(some), trusted.encode(some), rtol=0, atol=1e-5)
    assert verified.provenance()["sha256_verified"] is True


@pytest.mark.parametrize("damage", [*DAMAGES, "other"])
def test_another_networks_file_is_refused_by_the_names_of_its_keys(clip, tmp_path, damage):
    state = {"visual.layer1.0.conv1.weight": torch.zeros(3)}  # CLIP's residual networks
    told = "not a CLIP vision transformer: it has no visual.conv1.weight"
    if damage != "other":
        names = "visual.ln_post.bias", "vision_model.post_layernorm.bias"
        state, told = damaged(original_names(clip.state_dict()), damage, *names)
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(UserError, match=told):
        load_clip("clip_vit_b_32", tmp_path / "clip.pt", antialias=False)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_nearly_the_same_features(folder, dtype):
    some = frames(1, SIDE, SIDE)
    full, half = (
        load_clip("clip_vit_b_32", folder, antialias=False, dtype=number).encode(some) for number in (None, dtype)
    )
    assert half.dtype == torch.float32
    assert 1 - F.cosine_similarity(full, half).item() < (8 * torch.finfo(getattr(torch, dtype)).eps) ** 2


SIDE = 64


def head_file(path, weight: torch.Tensor, bias: float):
    torch.save({"weight": weight, "bias": torch.tensor([bias])}, path)
    return path


def test_aesthetic_rating_is_the_heads_value_of_the_direction_of_the_features(tmp_path):
    head = head_file(tmp_path / "head.pth", torch.tensor([[2.0, -1.0]]), 5.0)
    scorer = load_aesthetic(TableEncoder([[3.0, 4.0], [30.0, 40.0], [0.0, -2.0]]), head)
    expected = [2 * 0.6 - 0.8 + 5, 2 * 0.6 - 0.8 + 5, 1 + 5]  # not divided by ten: the dimension does
    torch.testing.assert_close(scorer.score(numbered(3)), torch.tensor(expected), rtol=1e-6, atol=0)
    assert (scorer.low, scorer.high) == (0, 10)


def test_a_head_for_other_features_and_the_mlp_of_other_tables_are_refused(tmp_path):
    encoder = TableEncoder([[1.0, 2.0]])
    head = head_file(tmp_path / "sa_0_4_vit_l_14_linear.pth", torch.zeros(1, 768), 0.0)
    with pytest.raises(UserError, match="gives 2 features and the aesthetic head takes 768"):
        load_aesthetic(encoder, head)
    torch.save({"layers.0.weight": torch.zeros(4, 2), "layers.0.bias": torch.zeros(4)}, tmp_path / "mlp.pth")
    with pytest.raises(UserError, match=r"missing: weight, bias; not known: layers\.0\.weight"):
        load_aesthetic(encoder, tmp_path / "mlp.pth")


def test_resolve_joins_tower_and_head_from_where_the_user_says(tmp_path):
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER, projection_dim=768)).eval()
    tower.save_pretrained(tmp_path / "tower")
    weight = torch.randn(1, 768, generator=torch.Generator().manual_seed(0))
    head = head_file(tmp_path / "head.pth", weight, 5.5)
    scorer = resolve("aesthetic_quality", f"path:{tmp_path / 'tower'},head={head}", profile="vbench")
    assert isinstance(scorer, AestheticScorer)
    some = frames(2, SIDE, SIDE)
    with torch.no_grad():
        found = tower(pixel_values=normalised(some)).image_embeds
    expected = [float(weight[0] @ f) / math.sqrt(float(f @ f)) + 5.5 for f in found]
    torch.testing.assert_close(scorer.score(some), torch.tensor(expected), rtol=1e-5, atol=0)
    origin = scorer.provenance()
    assert origin["encoder"]["id"] == "clip_vit_l_14" and origin["file"] == str(head)
    assert origin["sha256"] != origin["encoder"]["sha256"]
