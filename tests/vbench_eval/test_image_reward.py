"""ImageReward against transformers' BLIP of the same weights."""

import pytest
import torch

from tests.support.vbench_backbones import DAMAGES, damaged
from tests.support.vbench_image_networks import pictures
from vbench_eval.backbones.bert import BertSizes
from vbench_eval.errors import UserError
from vbench_eval.images.image_reward import (
    DEVIATION,
    LENGTH,
    MEAN,
    ImageRewardNetwork,
    ImageRewardSizes,
    load_image_reward,
)
from vbench_eval.images.sources import Sources
from vbench_eval.judges import PICTURE_REWARDS

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "fox", "two", "cats", "##s", "cat"]
TINY = ImageRewardSizes(
    side=32,
    patch=16,
    width=16,
    layers=2,
    heads=2,
    text=BertSizes(vocabulary=len(WORDS) + 2, width=24, layers=2, heads=3, seen=16, positions=40),
)
PROMPTS = ["a red fox", "two cats", "a red cat " * 30]


@pytest.fixture(scope="module")
def state():
    draw = torch.Generator().manual_seed(3)
    network = ImageRewardNetwork(TINY)
    values = {key: 0.3 * torch.randn(value.shape, generator=draw) for key, value in network.state_dict().items()}
    unused = {"blip.vision_proj.weight": torch.zeros(2, 2), "blip.text_encoder.embeddings.position_ids": torch.zeros(1)}
    return {**values, **unused}


def loaded(state, folder):
    torch.save(state, folder / "reward.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    weights = {"image_reward": str(folder / "reward.pt"), "bert_vocabulary": str(folder / "vocab.txt")}
    return load_image_reward(Sources(weights, batch=2), TINY)


@torch.no_grad()
def test_the_reward_is_that_of_transformers_blip_and_the_head(state, tmp_path):
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    sizes = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = BlipVisionModel(BlipVisionConfig(**sizes, image_size=32, patch_size=16, layer_norm_eps=1e-6)).eval()
    sizes = {"hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = BlipTextConfig(
        **sizes, vocab_size=len(WORDS) + 2, encoder_hidden_size=16, max_position_embeddings=40, is_decoder=True
    )
    text = BlipTextModel(config, add_pooling_layer=False).eval()
    renamed = (
        ("embeddings.class_embedding", "cls_token"),
        ("embeddings.position_embedding", "pos_embed"),
        ("embeddings.patch_embedding", "patch_embed.proj"),
        ("encoder.layers", "blocks"),
        ("self_attn.qkv", "attn.qkv"),
        ("self_attn.projection", "attn.proj"),
        ("layer_norm", "norm"),
        ("post_layernorm", "norm"),
    )
    for model, name in ((vision, "visual_encoder"), (text, "text_encoder")):
        for key, value in model.state_dict().items():
            if key.endswith("position_ids"):
                continue
            ours = key
            for theirs, mine in renamed if model is vision else ():
                ours = ours.replace(theirs, mine)
            value.copy_(state[f"blip.{name}.{ours}"])
    reward, given = loaded(state, tmp_path), pictures(3)
    pixels, tokens = reward._prepare(given), reward.tokens(PROMPTS)
    seen = vision(pixel_values=pixels).last_hidden_state
    said = text(
        input_ids=tokens,
        attention_mask=(tokens > 0).long(),
        encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:2]),
        is_decoder=False,
    ).last_hidden_state[:, 0]
    for place in (0, 2, 4, 6, 7):
        said = said @ state[f"mlp.layers.{place}.weight"].T + state[f"mlp.layers.{place}.bias"]
    expected = (said[:, 0] - MEAN) / DEVIATION
    torch.testing.assert_close(reward(given, PROMPTS), expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std()) > 1e-3


def test_prompts_are_cut_and_rewards_do_not_depend_on_the_batch(state, tmp_path):
    reward, given = loaded(state, tmp_path), pictures(3)
    tokens = reward.tokens(PROMPTS)
    assert tokens.shape == (3, LENGTH) and tokens[0].tolist()[:6] == [2, 4, 5, 6, 3, 0]
    assert tokens[2].tolist()[-1] == 3 and 0 not in tokens[2]
    together = reward(given, PROMPTS)
    torch.testing.assert_close(together[1:2], reward(given[1:2], PROMPTS[1:2]), rtol=1e-4, atol=1e-5)
    assert "image_reward" in PICTURE_REWARDS and reward.provenance()["tokens"] == LENGTH


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_of_another_network_is_refused_with_the_names_that_differ(state, tmp_path, damage):
    changed, told = damaged(state, damage, "blip.visual_encoder.blocks.1.norm1.bias")
    with pytest.raises(UserError, match=told):
        loaded(changed, tmp_path)
