"""HPSv3 and VideoReward on tiny random checkpoints with the published key names, against transformers' whole Qwen2-VL
called as the published programs call it.
"""

import json

import pytest
import torch

from tests.support.vbench_backbones import DAMAGES, damaged
from tests.support.vbench_image_networks import pictures
from vbench_eval.backbones.qwen2_vl import in_patches, rounded_size
from vbench_eval.errors import UserError
from vbench_eval.images.hpsv3 import Hpsv3, build_hpsv3_head, load_hpsv3
from vbench_eval.images.sources import Sources
from vbench_eval.judges import PictureJudge, load_judge
from vbench_eval.protocols import VideoJudge
from vbench_eval.settings import ScoringSettings

WORDS = ["[PAD]", "[UNK]", "user", "assistant", "rate", "this", "fox", "red", "cats", "two", ":"]
WORDS += ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for m in messages %}user {% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}"
    "<|vision_start|><|{{ c['type'] }}_pad|><|vision_end|>{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)
IMAGE, VIDEO = WORDS.index("<|image_pad|>"), WORDS.index("<|video_pad|>")
SCALES = {"VQ_mean": 0.1, "VQ_std": 2.0, "MQ_mean": -0.2, "MQ_std": 0.5, "TA_mean": 0.3, "TA_std": 4.0}
ASKED = "rate {text_prompt} : <|VQ_reward|> this <|MQ_reward|> : <|TA_reward|> this"


def whole(rows):
    """Returns transformers' model of `rows` tokens, random."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text = {"vocab_size": rows, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False}
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 100.0}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    torch.manual_seed(4)
    config = Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO)
    network = Qwen2VLForConditionalGeneration(config).eval()
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return network


def published(network):
    """Returns a state under the names of transformers 4.45, which the published files have."""
    names = (("model.visual.", "visual."), ("model.language_model.", "model."))
    state = {}
    for key, value in network.state_dict().items():
        for ours, theirs in names:
            key = theirs + key.removeprefix(ours) if key.startswith(ours) else key
        state[key] = value.clone()
    return state


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with the configuration and tokenizer alone."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("qwen")
    built = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=built, unk_token="[UNK]", pad_token="[PAD]")
    tokenizer.add_tokens(WORDS[-4:], special_tokens=True)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    whole(len(WORDS)).config.save_pretrained(folder)
    return folder


def hidden_as_published(network, ids, pad, pixels, grid):
    """Returns hidden states [L, 32]: embeddings with the tower's features in them, and no ids, so plain positions."""
    seen = network.model.visual(pixels, grid_thw=torch.tensor([grid])).pooler_output
    x = network.get_input_embeddings()(ids)
    x[ids == pad] = seen
    return network.model(inputs_embeds=x, attention_mask=torch.ones_like(ids)).last_hidden_state[0]


def copied(base, folder):
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def hpsv3_folder(base, folder, change=lambda state: state):
    network, head = whole(len(WORDS) + 1), build_hpsv3_head(32).eval()
    for value in head.parameters():
        torch.nn.init.normal_(value, std=0.2)
    state = published(network) | {f"rm_head.{key}": value for key, value in head.state_dict().items()}
    from safetensors.torch import save_file

    save_file({key: value.clone() for key, value in change(state).items()}, copied(base, folder) / "HPSv3.safetensors")
    (folder / "judge_prompt.txt").write_text("rate {text_prompt} : <|Reward|> this")
    return network, head


@torch.no_grad()
def test_hpsv3_is_the_mean_that_the_head_gives_at_its_token(base, tmp_path):
    network, head = hpsv3_folder(base, tmp_path)
    loaded = load_hpsv3(Sources({"hpsv3": str(tmp_path)}))
    assert isinstance(loaded, Hpsv3)
    loaded._pixels = 16 * 64  # small: 8 pixels are a token here
    given, prompts = pictures(2), ["red fox", "two cats"]
    found = loaded(given, prompts)
    for place, (picture, prompt) in enumerate(zip(given, prompts, strict=True)):
        high, wide = rounded_size(picture.height, picture.width, least=1024, most=1024, factor=8)
        frame = torch.tensor(list(picture.resize((wide, high), 3).tobytes()), dtype=torch.uint8).view(high, wide, 3)
        pixels, grid = in_patches(frame.permute(2, 0, 1)[None], patch=4, merge=2, together=2)
        count = high * wide // 64
        words = ["user", "<|vision_start|>", *["<|image_pad|>"] * count, "<|vision_end|>", "rate", *prompt.split(), ":"]
        ids = torch.tensor([[*map(WORDS.index, words), len(WORDS), WORDS.index("this"), WORDS.index("assistant")]])
        hidden = hidden_as_published(network, ids, IMAGE, pixels, grid)
        torch.testing.assert_close(found[place], head(hidden[-3])[0], rtol=1e-4, atol=1e-5)
    assert float((found[0] - found[1]).abs()) > 1e-3
    told = loaded.provenance()
    assert told["checked_with_published_weights"] is False and told["file"].endswith("HPSv3.safetensors")
    judge = load_judge("hpsv3", str(tmp_path))
    assert isinstance(judge, PictureJudge) and judge.name == "hpsv3"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("key", ["visual.blocks.1.norm1.bias", "rm_head.3.weight"])
def test_another_networks_file_is_refused_with_the_names_that_differ(base, tmp_path, damage, key):
    changed = {}
    hpsv3_folder(base, tmp_path, lambda state: changed.setdefault("x", damaged(state, damage, key))[0])
    with pytest.raises(UserError, match=changed["x"][1].replace(r"rm_head\.", "")):
        load_hpsv3(Sources({"hpsv3": str(tmp_path)}))


def test_what_a_folder_lacks_is_said(base, tmp_path):
    hpsv3_folder(base, tmp_path)
    text = tmp_path / "judge_prompt.txt"
    text.write_text("rate {text_prompt}")
    with pytest.raises(UserError, match=r"must have <\|Reward\|> exactly once; give INSTRUCTION followed by"):
        load_hpsv3(Sources({"hpsv3": str(tmp_path)}))
    text.unlink()
    with pytest.raises(UserError, match=r"judge_prompt.txt is missing.*github.com/MizzenAI/HPSv3"):
        load_hpsv3(Sources({"hpsv3": str(tmp_path)}))
    (tmp_path / "HPSv3.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"holds no HPSv3.safetensors; get it from https://huggingface.co/MizzenAI"):
        load_hpsv3(Sources({"hpsv3": str(tmp_path)}))
    with pytest.raises(UserError, match=r"holds no VideoReward.*hf download KwaiVGI/VideoReward"):
        load_judge("video_reward", str(tmp_path))
    assert ScoringSettings(judges={"video_reward": str(tmp_path)}).judges
    with pytest.raises(UserError, match=r"video_reward=FOLDER"):
        ScoringSettings(judges={"video_reward": str(tmp_path / "nowhere")})


@torch.no_grad()
@pytest.mark.parametrize(("outputs", "adapted", "scales"), [(1, True, SCALES), (3, False, None)])
def test_video_reward_is_the_sum_of_three_normalised_numbers(base, tmp_path, outputs, adapted, scales):
    network, head = whole(len(WORDS) + 3), 0.3 * torch.randn(outputs, 32)
    state = published(network) | {"rm_head.weight": head}
    if adapted:  # half of one weight stands in a low-rank difference: 2 = alpha / r
        name = "model.layers.1.self_attn.q_proj"
        up, down = torch.randn(32, 4), 0.1 * torch.randn(4, 32)
        state[f"{name}.base_layer.weight"] = state.pop(f"{name}.weight") - 2 * (up @ down)
        state[f"{name}.base_layer.bias"] = state.pop(f"{name}.bias")
        state |= {f"{name}.lora_A.default.weight": down, f"{name}.lora_B.default.weight": up}
        state = {f"base_model.model.{key}": value for key, value in state.items()}
    copied(base, tmp_path)
    for step in (9, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
    torch.save(state, tmp_path / "checkpoint-11" / "model.pth")
    torch.save({}, tmp_path / "checkpoint-9" / "model.pth")
    said = {"data_config": {"max_frame_pixels": 1024, "num_frames": 5}, "inference_config": scales}
    said["peft_lora_config"] = {"lora_r": 4, "lora_alpha": 8}
    (tmp_path / "model_config.json").write_text(json.dumps(said))
    (tmp_path / "judge_prompt.txt").write_text(ASKED)
    judge = load_judge("video_reward", str(tmp_path))
    assert isinstance(judge, VideoJudge) and judge.provenance()["file"].endswith("checkpoint-11/model.pth")
    judge._least = 64
    frames = torch.randint(0, 256, (4, 24, 32, 3), dtype=torch.uint8)
    found = judge.rewards(frames, "red fox")
    pixels, grid = in_patches(frames.permute(0, 3, 1, 2), patch=4, merge=2, together=2)  # 24 x 32 needs no resizing
    words = ["user", "<|vision_start|>", *["<|video_pad|>"] * 24, "<|vision_end|>", "rate", "red", "fox", ":"]
    new, this = len(WORDS), WORDS.index("this")
    tail = [new, this, new + 1, WORDS.index(":"), new + 2, this, WORDS.index("assistant")]
    ids = torch.tensor([[*map(WORDS.index, words), *tail]])
    hidden = hidden_as_published(network, ids, VIDEO, pixels, grid)[-7::2][:3]
    raw = torch.stack([hidden[n] @ head[n if outputs == 3 else 0] for n in range(3)]).tolist()
    shift = scales or dict.fromkeys(SCALES, 0.0) | {"VQ_std": 1.0, "MQ_std": 1.0, "TA_std": 1.0}
    expected = [(raw[n] - shift[f"{a}_mean"]) / shift[f"{a}_std"] for n, a in enumerate(("VQ", "MQ", "TA"))]
    assert [*found.values()] == pytest.approx(expected, rel=1e-4, abs=1e-4) and [*found] == ["VQ", "MQ", "TA"]
    assert judge.judge(frames, "red fox") == pytest.approx(sum(expected), rel=1e-4, abs=1e-4)
    assert judge.num_frames == 4 and max(map(abs, raw)) > 1e-2


def test_patches_and_sizes_are_those_of_transformers():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as Processor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    picture = torch.randint(0, 256, (56, 84, 3), dtype=torch.uint8)
    theirs = Processor(do_resize=False)(images=[picture.numpy()], return_tensors="pt")
    ours, grid = in_patches(picture.permute(2, 0, 1)[None], patch=14, merge=2, together=2)
    assert theirs["image_grid_thw"].tolist() == [list(grid)]
    torch.testing.assert_close(ours, theirs["pixel_values"].float(), rtol=1e-5, atol=1e-5)
    for high, wide in ((512, 512), (720, 1280), (100, 130), (448, 448), (61, 900)):
        for least, most in ((200704, 200704), (100352, 200704)):
            expected = smart_resize(high, wide, factor=28, min_pixels=least, max_pixels=most)
            assert rounded_size(high, wide, least=least, most=most, factor=28) == tuple(expected)
