"""Whether a caption names the scene: VBench's rule, and Tag2Text against transformers' Swin and plain arithmetic."""

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.vbench_backbones import DAMAGES, Stub, damaged, info, measure, noise, number_of, numbered
from tests.support.vbench_files import patterned, write_video
from vbench_eval.backbones.bert import BertSizes, WordPieces, beam_search, read_vocabulary
from vbench_eval.backbones.tag2text import PROMPT, Tag2Text, Tag2TextSizes, load_tag2text, own_names, read_tags
from vbench_eval.dimensions import build
from vbench_eval.dimensions.semantic import middle_frames
from vbench_eval.errors import UserError
from vbench_eval.one_pass import measure as one_pass
from vbench_eval.profiles import get_profile
from vbench_eval.video_files import scaled_frames
from vbench_eval.video_info import About, VideoError
from vbench_eval.videos import open_video

SCENE = About("a beach, oil painting", {"scene": {"scene": "tropical beach"}})


class Told(Stub):
    num_frames, side = 16, 8

    def __init__(self, captions: dict[int, str]) -> None:
        self.told = captions

    def shrink(self, frames: torch.Tensor) -> torch.Tensor:
        return frames[:, :1, :1].clone()

    def captions(self, frames: torch.Tensor) -> list[str]:
        self.frames = [number_of(frame) for frame in frames]
        return [self.told.get(number, "a dog") for number in self.frames]


@pytest.mark.parametrize(
    ("profile", "captions", "right", "seen"),
    [
        ("fixed", {0: "a beach that is tropical", 3: "tropical beaches"}, 2, [*range(0, 30, 2), 31]),  # parts of words
        ("fixed", {0: "a beach", 4: "a tropical beach"}, 1, [*range(0, 30, 2), 31]),
        # VBench looks at six frames: the first five speak for three each, the sixth for one
        ("vbench", {0: "a beach", 4: "a tropical beach", 30: "a tropical beach"}, 3, [0, 2, 4, 6, 8, 10]),
        ("vbench-ngpus", {10: "a tropical beach"}, 1, [0, 2, 4, 6, 8, 10]),
    ],
)
def test_a_caption_must_have_every_word_of_the_scene(profile, captions, right, seen):
    shifted = {number - number % 2 if profile == "fixed" else number: text for number, text in captions.items()}
    network = Told(shifted)
    measured = measure("scene", numbered(33), network, profile=profile, about=replace(info(), about=SCENE), cuts=[5])
    assert measured.value == right / 16 and network.frames == seen
    assert measured.extras["success_frame_count"] == right and measured.extras["frame_count"] == measured.weight == 16


def test_a_file_is_read_again_and_scaled_from_its_own_colours(tmp_path):
    class Looking(Told):
        def captions(self, frames):
            self.seen = frames
            return ["a tropical beach"] * len(frames)

    path = tmp_path / "a beach-0.mp4"
    write_video(path, patterned(20, 32, 48, 3))
    network = Looking({})
    found = {}
    for profile in ("vbench", "fixed"):
        dimension = build("scene", get_profile(profile), network)
        found[profile] = one_pass(open_video(path), {"scene": dimension}, about=SCENE).measured["scene"]
        assert found[profile]["value"] == 1.0
        assert network.seen.shape == ((6, 8, 8, 3) if profile == "vbench" else (16, 1, 1, 3))
        if profile == "vbench":
            expected = torch.from_numpy(scaled_frames(path, middle_frames(20, 16)[:6], 8))
            assert torch.equal(network.seen, expected) and len({frame.sum().item() for frame in expected}) > 1
    again = scaled_frames(path, [6, 0, 6], 8)
    assert (again[0] == again[2]).all() and (again[1] == expected[0].numpy()).all()
    # at its own size nothing is scaled: the very frames that are decoded
    square = tmp_path / "b-0.mp4"
    write_video(square, patterned(3, 32, 32, 4))
    frames = torch.cat([chunk.clone() for chunk in open_video(square).chunks()])
    assert int((torch.from_numpy(scaled_frames(square, [0, 1, 2], 32)).int() - frames.int()).abs().max()) <= 8
    with pytest.raises(VideoError, match="frame 3 is not there"):
        scaled_frames(square, [1, 3], 8)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"|.,-'", "a", "picture", "of", "dog", "##s", "s", "sand", "##y", "beach"]
TINY = Tag2TextSizes(
    side=32,
    patch=4,
    window=4,
    width=8,
    depths=(2, 2),
    heads=(1, 2),
    tags=5,
    tagger_layers=1,
    tagger_heads=2,
    text=BertSizes(vocabulary=len(WORDS) + 2, width=12, layers=2, heads=3, seen=12, positions=40),
)


@pytest.fixture(scope="module")
def state():
    draw = torch.Generator().manual_seed(5)
    values = {key: 0.4 * torch.randn(value.shape, generator=draw) for key, value in Tag2Text(TINY).state_dict().items()}
    for key in [key for key in values if key.startswith("vision_multi.")]:
        values[key.replace("vision_multi", "tag_encoder")] = values[key]
    decoder = "text_decoder.cls.predictions.decoder"
    values[f"{decoder}.weight"] = values["text_decoder.bert.embeddings.word_embeddings.weight"]
    values["fc.b"] = torch.tensor([[3.0, -3.0, 3.0, -3.0, 3.0]])
    # as the published file keeps it: a bias under another name, tables that follow from the sizes, and training's own
    values["text_decoder.cls.predictions.bias"] = values.pop(f"{decoder}.bias")
    values["visual_encoder.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    values["text_decoder.bert.embeddings.position_ids"] = torch.arange(40)[None]
    return {**values, "temp": torch.tensor(0.07)}


def files(tmp_path):
    (tmp_path / "tags.py").write_text("import os\nos.abort()\ntags = ['dog', 'sandy', 'beach', 'a-b', 'sand.']\n")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return tmp_path / "tags.py", tmp_path / "vocab.txt"


def loaded(state, tmp_path):
    torch.save({"model": state}, tmp_path / "tag2text.pth")
    return load_tag2text(tmp_path / "tag2text.pth", *files(tmp_path), sizes=TINY)


def network_of(state):
    network = Tag2Text(TINY).eval()
    network.load_state_dict({key: value for key, value in own_names(state, source="here").items() if key != "temp"})
    return network


@torch.no_grad()
def test_the_picture_is_seen_as_by_transformers_swin(state):
    from transformers import SwinConfig, SwinModel

    sizes = {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
    theirs = SwinModel(SwinConfig(image_size=32, patch_size=4, **sizes), add_pooling_layer=False).eval()
    renamed = (  # as several versions of transformers spell them
        (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"embeddings\.norm", "patch_embed.norm"),
        (r"^encoder\.", ""),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"^layernorm", "norm"),
        (r"attention\.(o_proj|output\.dense)", "attn.proj"),
        (r"attention\.(self|relative_position_bias)\.relative", "attn.relative"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"(?<!attention\.)output\.dense", "mlp.fc2"),
    )
    for key, value in theirs.state_dict().items():
        if key.endswith("relative_position_index"):
            continue
        part = re.search(r"attention\.(self\.)?(query|key|value|q_proj|k_proj|v_proj)\.", key)
        ours = key if part is None else key.replace(part[0], "attn.qkv.")
        for pattern, replacement in renamed:
            ours = re.sub(pattern, replacement, ours)
        whole = state[f"visual_encoder.{ours}"]
        value.copy_(whole if part is None else whole.chunk(3)["qkv".index(part[2][0])])
    pictures = torch.randn(2, 3, 32, 32)
    expected = theirs(pictures).last_hidden_state
    found = network_of(state).visual_encoder(pictures)
    torch.testing.assert_close(found[:, 1:], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[:, 0], expected.mean(1), rtol=1e-4, atol=1e-5)


class Written:
    """The text networks, one head and one row at a time, in doubles."""

    def __init__(self, state):
        self.w = {key: value.double().numpy() for key, value in state.items()}

    def linear(self, x, name):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attention(self, x, seen, name, heads, mask=None):
        q, k, v = (
            self.linear(of, f"{name}.self.{part}")
            for part, of in zip(("query", "key", "value"), (x, seen, seen), strict=True)
        )
        each = q.shape[-1] // heads
        parts = []
        for one in (slice(head * each, (head + 1) * each) for head in range(heads)):
            weights = np.exp(q[:, one] @ k[:, one].T / math.sqrt(each))
            weights = weights if mask is None else weights * mask
            parts.append(weights / weights.sum(-1, keepdims=True) @ v[:, one])
        return self.norm(self.linear(np.concatenate(parts, -1), f"{name}.output.dense") + x, f"{name}.output.LayerNorm")

    def layer(self, x, seen, name, heads, mask=None, alone=True):
        x = self.attention(x, x, f"{name}.attention", heads, mask) if alone else x
        x = self.attention(x, seen, f"{name}.crossattention", heads)
        y = self.gelu(self.linear(x, f"{name}.intermediate.dense"))
        return self.norm(self.linear(y, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")

    def bert(self, tokens, seen, name, mask):
        x = self.w[f"{name}.embeddings.word_embeddings.weight"][tokens]
        x = x + self.w[f"{name}.embeddings.position_embeddings.weight"][: len(tokens)]
        x = self.norm(x, f"{name}.embeddings.LayerNorm")
        for number in range(2):
            x = self.layer(x, seen, f"{name}.encoder.layer.{number}", 3, mask)
        return x

    @staticmethod
    def gelu(x):
        return x * np.vectorize(lambda each: 0.5 * (1 + math.erf(each / math.sqrt(2))))(x)


@torch.no_grad()
def test_tags_their_text_and_the_next_word_are_their_arithmetic_written_out(state):
    network, written = network_of(state), Written(state)
    seen = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(2))
    x = written.layer(
        written.w["label_embed.weight"], seen[0].double().numpy(), "vision_multi.encoder.layer.0", 2, alone=False
    )
    sure = 1 / (1 + np.exp(-((x * written.w["fc.W"][0]).sum(-1) + written.w["fc.b"][0]))) > 0.7
    assert network.tags(seen)[0].tolist() == sure.tolist() and 0 < sure.sum() < 5
    tokens, there = [19, 12, 13, 3, 0, 0], [1, 1, 1, 1, 0, 0]
    tagged = network.tag_encoder(torch.tensor([tokens]), seen, there=torch.tensor([there]) > 0)
    expected = written.bert(tokens, seen[0].double().numpy(), "tag_encoder", np.array(there)[None])
    np.testing.assert_allclose(tagged[0].numpy(), expected, rtol=1e-4, atol=1e-5)
    begun = [18, 9, 10, 11]
    x = written.bert(begun, tagged[0].double().numpy(), "text_decoder.bert", np.tril(np.ones((4, 4))))[-1]
    head = "text_decoder.cls.predictions"
    x = written.norm(written.gelu(written.linear(x, f"{head}.transform.dense")), f"{head}.transform.LayerNorm")
    expected = x @ written.w["text_decoder.bert.embeddings.word_embeddings.weight"].T + written.w[f"{head}.bias"]
    np.testing.assert_allclose(network.text_decoder(torch.tensor([begun]), tagged)[0].numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("shortest", [0, 5])
def test_with_enough_beams_the_search_finds_the_likeliest_of_all_texts(shortest):
    table = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(3)).double()  # by picture, and the last word
    table[:, :, 0] += 1  # which ends a text
    beams = 40

    def logits(ids):
        return torch.stack([table[number // beams, row[-1]] for number, row in enumerate(ids)])

    found = beam_search(logits, torch.tensor([[3, 1], [3, 2]]), beams=beams, shortest=shortest, longest=6, end=0)
    for picture, first in enumerate((1, 2)):
        likelihoods = table[picture].log_softmax(-1)

        def mean(text, likelihoods=likelihoods):
            total = sum(float(likelihoods[a, b]) for a, b in itertools.pairwise(text[1:]))
            ended = len(text) < 6
            return (total + (float(likelihoods[text[-1], 0]) if ended else 0)) / len(text)

        texts = [[3, first, *words] for count in range(5) for words in itertools.product((1, 2, 3), repeat=count)]
        allowed = [text for text in texts if len(text) >= shortest]
        assert found[picture] == max(allowed, key=mean)


def test_a_search_ends_when_no_open_text_can_become_likelier():
    asked = []

    def logits(ids):
        asked.append(ids.shape[1])
        return torch.tensor([5.0, 0.0, -9.0, -9.0]).expand(len(ids), 4)

    assert beam_search(logits, torch.tensor([[3, 1]]), beams=2, shortest=0, longest=30, end=0) == [[3, 1]]
    # With texts of -0.007 / 2 and -5.01 / 3, an open one of -5.01 / 4 might still win, one of -10.01 / 5 not.
    assert asked == [2, 3, 4]


def test_word_pieces_are_those_of_transformers(tmp_path):
    from transformers import BertTokenizer

    _, vocabulary = files(tmp_path)
    theirs = BertTokenizer(str(vocabulary)) if not hasattr(BertTokenizer, "vocab_file") else BertTokenizer(vocabulary)
    ours = read_vocabulary(vocabulary)
    for text in ("Dogs | sandy  beach", "a-beach's sànd.", "dogsand of", "unheard-of", ""):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text
    assert ours.decode([ours.start, *ours.encode("a dog's sandy beach , of sand ."), ours.end]) == (
        "a dog's sandy beach, of sand."
    )
    (tmp_path / "bad.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"vocabulary.*has no \[PAD\]"):
        read_vocabulary(tmp_path / "bad.txt")


def test_a_checkpoint_captions_frames_each_by_itself(state, tmp_path):
    # With plain norms what is seen counts; random ones make every caption the same.
    plain = {key: torch.ones_like(value) if key.endswith("weight") else 0 * value for key, value in state.items()}
    state = {key: plain[key] if "norm" in key.lower() else value for key, value in state.items()}
    state["text_decoder.cls.predictions.bias"] = plain["text_decoder.cls.predictions.bias"]
    captioner = loaded(state, tmp_path)
    assert captioner.shrink(noise(2, 20, 48)).shape == (2, 32, 32, 3)
    frames = noise(9, 32, 32)
    together = captioner.captions(frames)
    assert together[8] == captioner.captions(frames[8:])[0] and len(set(together)) > 1
    words = WordPieces(WORDS)
    assert all(words.encode(caption) for caption in together) and not together[0].startswith(PROMPT)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_tag2text_is_refused_with_the_names_that_differ(state, tmp_path, damage):
    changed, told = damaged(state, damage, "visual_encoder.layers.1.blocks.0.norm1.bias")
    with pytest.raises(UserError, match=told):
        loaded(changed, tmp_path)


def test_layers_that_a_file_keeps_twice_must_agree(state, tmp_path):
    key = "tag_encoder.encoder.layer.0.output.dense.bias"
    with pytest.raises(UserError, match="the same layer, but differ"):
        loaded({**state, key: state[key] + 1}, tmp_path)


def test_a_list_of_tags_is_read_and_never_run(tmp_path):
    tags, _ = files(tmp_path)
    assert read_tags(tags) == ("dog", "sandy", "beach", "a-b", "sand.")
    for text in ("tags = ['dog', 3]\n", "tags = (\n", "tags = make()\n"):
        tags.write_text(text)
        with pytest.raises(UserError, match="list of tags"):
            read_tags(tags)
