"""Image metrics on tiny networks saved to disk and loaded as users load the published ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.support import vbench_image_networks as nets
from tests.support.vbench_image_networks import as_clip_sees, pictures, tokens, unit
from vbench_eval.backbones.clip import to_transformers
from vbench_eval.backbones.finding import Unavailable
from vbench_eval.errors import UserError
from vbench_eval.images import reward
from vbench_eval.images.dino import load_dino
from vbench_eval.images.rewards import letterboxed, load_clip_i, preference
from vbench_eval.images.sources import Sources

PROMPTS = ["a red fox", "two cats", "a red fox"]
# Features of float32 towers with terms up to some tens: sums of some hundred products differ by about 1e-5 of them.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
CLIP_MEAN, CLIP_STD = (torch.tensor(values).view(3, 1, 1) for values in (nets.MEAN, nets.STD))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return nets.save_clip(nets.clip(1), tmp_path_factory.mktemp("clip") / "saved")


def direct(model: Any, given: list[Image.Image], prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Unit features of pictures and prompts [N, D], each prepared by hand."""
    with torch.inference_mode():
        seen = torch.stack([as_clip_sees(picture) for picture in given])
        return unit(model.get_image_features(pixel_values=seen)), unit(
            model.get_text_features(input_ids=tokens(prompts))
        )


# -- cosines ---------------------------------------------------------------------------------------------------------


def test_pickscore_is_the_scaled_cosine_and_clip_t_the_cosine(saved):
    model, given = nets.clip(1), pictures(3)
    seen, said = direct(model, given, PROMPTS)
    cosines = (seen * said).sum(-1)
    assert cosines.std() > 100 * CLOSE["atol"], "a metric that says the same of all would pass otherwise"
    scale = float(model.logit_scale.detach().double().exp())
    picked, aligned = reward("pickscore", weights=str(saved)), reward("clip_t", weights={"clip_vit_b_32": str(saved)})
    assert torch.allclose(picked(given, PROMPTS).double(), cosines * scale, rtol=1e-4, atol=1e-5 * scale)
    assert torch.allclose(aligned(given, PROMPTS).double(), cosines, **CLOSE)
    told = picked.provenance()
    assert told["file"] == str(saved) and len(told["sha256"]) == 64 and told["licence"] and told["scale"] == scale


def test_scores_do_not_depend_on_batches_or_on_the_kind_of_pictures(saved):
    given = pictures(5)
    prompts = ["a", "b", "a b", "b", "c"]
    whole = reward("pickscore", weights=str(saved))(given, prompts)
    assert torch.allclose(reward("pickscore", weights=str(saved), batch=2)(given, prompts), whole, rtol=1e-5, atol=1e-4)
    array = torch.from_numpy(np.stack([np.asarray(picture) for picture in given]))
    for tensor in (array, array.permute(0, 3, 1, 2)):
        assert torch.equal(reward("pickscore", weights=str(saved))(tensor, prompts), whole)
    with_alpha = [picture.convert("RGBA") for picture in given]
    assert torch.equal(reward("pickscore", weights=str(saved))(with_alpha, prompts), whole)


def test_a_coarse_dtype_rounds_the_features_and_not_the_scale(tmp_path):
    model = nets.clip(1)
    with torch.no_grad():
        model.logit_scale.fill_(4.6052)  # 100.0; bfloat16's neighbours are 4.59375 and 4.625, 98.9 and 102.0
    nets.save_clip(model, tmp_path / "clip")
    coarse = reward("pickscore", weights=str(tmp_path / "clip"), dtype="bfloat16")
    assert coarse.provenance()["scale"] == pytest.approx(100.0, abs=0.01)
    assert coarse.provenance()["dtype"] == "bfloat16"
    scores = coarse(pictures(2), PROMPTS[:2])
    assert scores.dtype == torch.float32 and scores.isfinite().all()


@pytest.mark.parametrize(
    ("given", "prompts", "said"),
    [
        (torch.zeros(1, 8, 8, 3), ["a"], "float32"),
        (torch.zeros(1, 8, 8, 4, dtype=torch.uint8), ["a"], r"\[1, 8, 8, 4\]"),
        ([np.zeros((8, 8, 3), np.uint8)], ["a"], "ndarray"),
        (pictures(2), ["a"], "1 prompts for 2 pictures"),
        (pictures(1), "a", "one text for 1 pictures"),
    ],
)
def test_what_is_no_picture_with_a_prompt_is_refused(given, prompts, said, saved):
    with pytest.raises(UserError, match=said):
        reward("clip_t", weights=str(saved))(given, prompts)


def test_the_preferred_of_two_is_the_softmax_of_their_scores():
    first, second = torch.tensor([20.0, 21.0, 19.0], dtype=torch.float64), torch.tensor([20.0, 19.0, 22.0])
    wanted = torch.stack([first, second.double()]).softmax(0)[0]
    assert torch.allclose(preference(first, second), wanted, rtol=1e-14)


def test_similarity_is_the_mean_cosine_with_every_reference(saved, tmp_path):
    given, references = pictures(3), pictures(4, seed=9, size=(36, 50))
    seen, _ = direct(nets.clip(1), given, ["a"])
    others, _ = direct(nets.clip(1), references, ["a"])
    alike = load_clip_i(Sources({"clip_vit_b_32": str(saved)}), iter(references))
    assert torch.allclose(alike(given).double(), (seen @ others.T).mean(1), **CLOSE)
    assert load_clip_i(Sources({"clip_vit_b_32": str(saved)}), given[:1])(given)[0] == pytest.approx(1, abs=1e-6)
    with pytest.raises(UserError, match="no reference"):
        load_clip_i(Sources({"clip_vit_b_32": str(saved)}), [])

    model = nets.save_dino(tmp_path / "dino")
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6

    def seen_by_dino(picture: Image.Image) -> Tensor:  # 28 = 7/8 of 32, as 224 of 256
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return (as_clip_sees(picture, 28, shorter=32) * CLIP_STD + CLIP_MEAN - mean) / std

    with torch.inference_mode():
        one, other = (
            unit(model(torch.stack([seen_by_dino(picture) for picture in some])).last_hidden_state[:, 0])
            for some in (given, references)
        )
    found = load_dino(Sources({"dino_vits16": str(tmp_path / "dino")}), references)
    assert torch.allclose(found(given).double(), (one @ other.T).mean(1), **CLOSE)


# -- HPS -------------------------------------------------------------------------------------------------------------


def open_clip_state(seed: int, width: int = nets.WIDTH) -> dict[str, Tensor]:
    """A random state with the names and shapes of open_clip's CLIP of our tiny size."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    words = nets.clip_config().text_config.vocab_size
    state = {
        "visual.class_embedding": draw(width),
        "visual.conv1.weight": draw(width, 3, 8, 8),
        "visual.positional_embedding": draw(17, width),
        "visual.proj": draw(width, 24),
        "token_embedding.weight": draw(words, width),
        "positional_embedding": draw(77, width),
        "text_projection": draw(width, 24),
        "logit_scale": torch.tensor(4.6),
        **{
            f"{norm}.{kind}": draw(width)
            for norm in ("visual.ln_pre", "visual.ln_post", "ln_final")
            for kind in ("weight", "bias")
        },
    }
    for tower in ("visual.transformer", "transformer"):
        for number in range(2):
            block = f"{tower}.resblocks.{number}"
            for name, shape in {
                "ln_1": (width,),
                "ln_2": (width,),
                "attn.out_proj": (width, width),
                "mlp.c_fc": (4 * width, width),
                "mlp.c_proj": (width, 4 * width),
            }.items():
                state[f"{block}.{name}.weight"], state[f"{block}.{name}.bias"] = draw(*shape), draw(shape[0])
            state[f"{block}.attn.in_proj_weight"] = draw(3 * width, width)
            state[f"{block}.attn.in_proj_bias"] = draw(3 * width)
    return state


def open_clip_features(state: dict[str, Tensor], pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """open_clip's forward pass, written out: float64."""
    state = {name: tensor.double() for name, tensor in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"]
            + state[f"{name}.bias"]
        )

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def attend(x: Tensor, name: str, mask: Tensor | None) -> Tensor:
        matrix, bias = state[f"{name}.in_proj_weight"], state[f"{name}.in_proj_bias"]
        width = x.shape[-1]
        outputs = []
        parts = [x @ matrix[i * width : (i + 1) * width].T + bias[i * width : (i + 1) * width] for i in range(3)]
        size = width // nets.HEADS
        for head in range(nets.HEADS):
            query, key, value = (part[..., head * size : (head + 1) * size] for part in parts)
            scores = query @ key.transpose(-1, -2) / size**0.5
            outputs.append((scores if mask is None else scores + mask).softmax(-1) @ value)
        return linear(torch.cat(outputs, -1), f"{name}.out_proj")

    def transform(x: Tensor, tower: str, mask: Tensor | None) -> Tensor:
        for number in range(2):
            block = f"{tower}.resblocks.{number}"
            x = x + attend(norm(x, f"{block}.ln_1"), f"{block}.attn", mask)
            hidden = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
            hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2  # the exact GELU, not the quick one
            x = x + linear(hidden, f"{block}.mlp.c_proj")
        return x

    patches = (
        nn.functional.unfold(pixels.double(), 8, stride=8).transpose(1, 2) @ state["visual.conv1.weight"].flatten(1).T
    )
    first = state["visual.class_embedding"].expand(len(pixels), 1, -1)
    x = norm(torch.cat([first, patches], 1) + state["visual.positional_embedding"], "visual.ln_pre")
    x = norm(transform(x, "visual.transformer", None)[:, 0], "visual.ln_post") @ state["visual.proj"]
    causal = torch.full((77, 77), -torch.inf, dtype=torch.float64).triu(1)
    y = transform(state["token_embedding.weight"][ids] + state["positional_embedding"], "transformer", causal)
    y = norm(y, "ln_final")[torch.arange(len(ids)), ids.argmax(-1)] @ state["text_projection"]
    return x, y


@pytest.fixture
def hps(tmp_path):
    """The weights as they are published: the file, and the configuration and tokenizer of the CLIP it began as."""
    torch.save({"epoch": 1, "state_dict": open_clip_state(3)}, tmp_path / "HPS_v2.1_compressed.pt")
    nets.save_clip(nets.clip(1), tmp_path / "h")
    for file in (tmp_path / "h").glob("*.safetensors"):
        file.unlink()
    return {"hps_v2.1": str(tmp_path / "HPS_v2.1_compressed.pt"), "clip_vit_h_14": str(tmp_path / "h")}


def test_an_open_clip_file_computes_in_transformers_what_it_does_in_open_clip(hps):
    given = pictures(3, size=(32, 32))  # no resizing, no padding
    pixels = torch.stack([(torch.from_numpy(np.array(p)).permute(2, 0, 1) / 255 - CLIP_MEAN) / CLIP_STD for p in given])
    seen, said = open_clip_features(open_clip_state(3), pixels, tokens(PROMPTS))
    wanted = nn.functional.cosine_similarity(seen, said)
    assert wanted.std() > 0.01
    found = reward("hps_v2.1", weights=hps)(given, PROMPTS)
    assert torch.allclose(found.double(), wanted, **CLOSE), "and with no scale"


def test_every_name_of_open_clip_has_its_place_and_others_are_refused():
    state = open_clip_state(0)
    found = to_transformers({f"module.{name}": tensor.half() for name, tensor in state.items()})
    own = nets.clip(1).state_dict()
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tensor.shape for name, tensor in own.items()
    }
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
    for stranger in (
        "visual.attnpool.weight",
        "transformer.resblocks.0.ls_1.gamma",
        "visual.transformer.resblocks.0.mlp.gate.weight",
    ):
        with pytest.raises(UserError, match="no parameter of"):
            to_transformers({stranger: torch.zeros(1)})


def test_a_file_of_another_network_is_refused_with_what_differs(hps):
    state = open_clip_state(3)
    del state["visual.ln_post.bias"]
    state["visual.proj"] = torch.zeros(nets.WIDTH, 7)
    torch.save(state, hps["hps_v2.1"])
    with pytest.raises(UserError, match=r"post_layernorm\.bias.*visual_projection\.weight is \[7, 32\]"):
        reward("hps_v2.1", weights=hps)


def test_hps_pads_before_it_normalises_so_that_the_border_is_black():
    given = [Image.new("RGB", (40, 20), (255, 0, 51)), Image.new("RGB", (10, 40), (255, 0, 51))]
    wide, high = letterboxed(given, 20)
    colour, black = (torch.tensor([1.0, 0.0, 0.2]).view(3, 1, 1) - CLIP_MEAN) / CLIP_STD, -CLIP_MEAN / CLIP_STD
    assert wide.shape == high.shape == (3, 20, 20)
    # 40 x 20 becomes 20 x 10, rows 5 to 14; 10 x 40 becomes 5 x 20, of whose 15 missing columns 7 stand before.
    assert torch.allclose(wide[:, 5:15], colour.expand(3, 10, 20), atol=1e-5)
    assert torch.allclose(high[:, :, 7:12], colour.expand(3, 20, 5), atol=1e-5)
    assert torch.equal(torch.cat([wide[:, :5], wide[:, 15:]], 1), black.expand(3, 10, 20))
    assert torch.equal(torch.cat([high[:, :, :7], high[:, :, 12:]], 2), black.expand(3, 20, 15))


def test_hps_shrinks_with_the_antialiased_bicubic_filter():
    """Halving by the cubic kernel of a = -1/2, made twice as wide: pixel 3 of 8 lies in the middle of 6 and 7 of 16 and
    sees 3 to 10 at a quarter, three quarters, ... of its own width.
    """
    row = np.random.default_rng(0).integers(0, 256, 16)
    picture = Image.fromarray(np.repeat(np.repeat(row[None, :, None], 16, 0), 3, 2).astype(np.uint8))

    def kernel(x: float) -> float:
        x = abs(x)
        return 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2

    weights = np.array([kernel(offset) for offset in (-1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75)])
    wanted = (weights / weights.sum()) @ row[3:11] / 255
    found = letterboxed([picture], 8)[0, 0, 4, 3] * nets.STD[0] + nets.MEAN[0]
    assert float(found) == pytest.approx(wanted, abs=1e-6)


# -- AES -------------------------------------------------------------------------------------------------------------


def head_state(seed: int, prefix: str = "layers.") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    widths, state = (768, 1024, 128, 64, 16, 1), {}
    for place, inputs, outputs in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        state[f"{prefix}{place}.weight"] = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        state[f"{prefix}{place}.bias"] = torch.randn(outputs, generator=generator)
    return state


def test_aes_is_one_linear_map_of_the_unit_features(tmp_path):
    """Nothing stands between the layers, so that their matrices multiply out."""
    tower = nets.clip(4, projection=768)
    nets.save_clip(tower, tmp_path / "l", tokenizer=False)
    torch.save(head_state(1), tmp_path / "head.pth")
    given = pictures(3)
    with torch.inference_mode():
        seen = unit(tower.get_image_features(pixel_values=torch.stack([as_clip_sees(p) for p in given])))
    matrix, bias = torch.eye(768, dtype=torch.float64), torch.zeros(768, dtype=torch.float64)
    state = {name: tensor.double() for name, tensor in head_state(1).items()}
    for place in (0, 2, 4, 6, 7):
        weight = state[f"layers.{place}.weight"]
        matrix, bias = weight @ matrix, weight @ bias + state[f"layers.{place}.bias"]
    weights = {"aesthetic_mlp": str(tmp_path / "head.pth"), "clip_vit_l_14": str(tmp_path / "l")}
    found = reward("aes", weights=weights)
    assert torch.allclose(found(given, []).double(), (seen @ matrix.T + bias)[:, 0], **CLOSE)
    assert found.provenance()["tower"]["file"] == str(tmp_path / "l")

    torch.save(head_state(1, "mlp.layers."), tmp_path / "head.pth")
    assert torch.equal(reward("aes", weights=weights)(given, []), found(given, []))


def test_vbenchs_linear_head_is_not_taken_for_aes(tmp_path):
    nets.save_clip(nets.clip(4, projection=768), tmp_path / "l", tokenizer=False)
    torch.save({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, tmp_path / "linear.pth")
    with pytest.raises(UserError, match=r"0\.weight"):
        reward("aes", weights={"aesthetic_mlp": str(tmp_path / "linear.pth"), "clip_vit_l_14": str(tmp_path / "l")})
    torch.save(head_state(1), tmp_path / "head.pth")
    nets.save_clip(nets.clip(4), tmp_path / "b", tokenizer=False)
    with pytest.raises(UserError, match="768 features"):
        reward("aes", weights={"aesthetic_mlp": str(tmp_path / "head.pth"), "clip_vit_l_14": str(tmp_path / "b")})


# -- where weights come from -----------------------------------------------------------------------------------------


def test_openais_own_file_is_the_same_clip(tmp_path):
    """Its heads have 64 channels, and its GELU is the quick one."""
    state, model = open_clip_state(6, width=128), nets.clip(6, act="quick_gelu", width=128)
    model.load_state_dict(to_transformers(state))
    nets.save_clip(model, tmp_path / "folder")
    torch.save(state, tmp_path / "b32.pt")
    given = pictures(2)
    of_file = {"clip_vit_b_32": str(tmp_path / "b32.pt"), "clip_vit_h_14": str(tmp_path / "folder")}
    wanted = reward("clip_t", weights=str(tmp_path / "folder"))(given, PROMPTS[:2])
    assert torch.equal(reward("clip_t", weights=of_file)(given, PROMPTS[:2]), wanted)


@pytest.mark.parametrize("name", ["pickscore", "hps_v2.1", "hps_v2", "aes", "clip_t"])
def test_missing_weights_are_unavailable_with_the_command_that_gets_them(name):
    with pytest.raises(Unavailable, match=r"is not on this machine.*fetch "):
        reward(name)


def test_a_clip_without_any_tokenizer_is_unavailable(tmp_path):
    nets.save_clip(nets.clip(1), tmp_path / "bare", tokenizer=False)
    with pytest.raises(Unavailable, match="clip_vit_h_14"):
        reward("pickscore", weights=str(tmp_path / "bare"))
    nets.save_clip(nets.clip(2), tmp_path / "other")
    beside = {"pickscore": str(tmp_path / "bare"), "clip_vit_h_14": str(tmp_path / "other")}
    assert reward("pickscore", weights=beside)(pictures(1), ["a"]).shape == (1,)


def test_half_a_network_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    nets.save_clip(nets.clip(1), tmp_path / "half")
    file = tmp_path / "half" / "model.safetensors"
    state = load_file(file)
    del state["text_projection.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"missing: text_projection\.weight"):
        reward("pickscore", weights=str(tmp_path / "half"))
