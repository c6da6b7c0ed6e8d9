"""What a video is meant to show: the text each dimension asks for, CLIP and ViCLIP against plain arithmetic."""

import gzip
import html
import math
import re
from dataclasses import replace

import ftfy
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from tests.support.vbench_backbones import DAMAGES, Stub, damaged, info, measure, noise, number_of, numbered
from tests.support.vbench_files import write_suite
from tests.support.vbench_image_networks import MEAN, STD
from vbench_eval.backbones import bpe
from vbench_eval.backbones.bpe import BytePairTokenizer, cleaned_text, read_tokenizer
from vbench_eval.backbones.clip_text import load_clip_text
from vbench_eval.backbones.viclip import Viclip, ViclipSizes, load_viclip
from vbench_eval.dimensions.semantic import middle_frames
from vbench_eval.errors import UserError
from vbench_eval.video_info import About, VideoError

MERGES = [("a", "b"), ("ab", "c</w>"), ("l", "l"), ("h", "e"), ("he", "ll"), ("hell", "o</w>")]
STYLE = About("a cat, watercolor painting", {"appearance_style": {"appearance_style": "watercolor painting"}})


class TableTexts(Stub):
    """The n-th frame is n hundredths like the style, and n hundredths of a right angle away from any prompt."""

    num_frames, dim = 8, 2

    def similarities(self, frames: torch.Tensor, text: str) -> torch.Tensor:
        self.text = text
        return torch.tensor([number_of(frame) / 100 for frame in frames])

    def shrink(self, frames: torch.Tensor) -> torch.Tensor:
        return frames[:, :1, :1]

    def encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        self.frames = [number_of(frame) for frame in frames]
        angle = sum(self.frames) / len(self.frames) * math.pi / 200
        return 3 * torch.tensor([math.cos(angle), math.sin(angle)])

    def encode_text(self, text: str) -> torch.Tensor:
        self.text = text
        return torch.tensor([5.0, 0.0])


def shown(about: About, name: str, count: int, backbone: TableTexts, profile: str = "vbench"):
    return measure(name, numbered(count), backbone, profile=profile, about=replace(info(), about=about), cuts=[1, 3])


def test_appearance_style_is_the_mean_likeness_to_the_suites_words_or_on_several_devices_the_last_frames():
    backbone = TableTexts()
    for profile, score in (("vbench", 0.015), ("vbench-ngpus", 0.03), ("fixed", 0.015)):
        measured = shown(STYLE, "appearance_style", 4, backbone, profile)
        assert backbone.text == measured.extras["text"] == "watercolor painting"
        assert (measured.value, measured.score) == pytest.approx((0.015, score), rel=1e-6) and measured.weight == 4
        assert measured.extras["frame_results"] == pytest.approx([0, 0.01, 0.02, 0.03], rel=1e-6)
        assert measured.extras["cur_sim"] == measured.extras["frame_results"][-1]


@pytest.mark.parametrize("name", ["temporal_style", "overall_consistency"])
def test_consistency_with_the_prompt_is_the_cosine_of_eight_middle_frames(name):
    backbone = TableTexts()
    measured = shown(STYLE, name, 16, backbone)
    assert backbone.frames == [0, 2, 4, 6, 8, 10, 12, 14]
    assert measured.value == measured.score == pytest.approx(math.cos(7 * math.pi / 200), rel=1e-6)
    assert measured.extras == {"text": STYLE.prompt} and backbone.text == STYLE.prompt


@pytest.mark.parametrize(
    ("name", "about", "remedy"),
    [
        ("appearance_style", About("a cat"), "--suite or --manifest"),
        ("appearance_style", About("a cat", {"appearance_style": "watercolor"}), "--suite"),
        ("temporal_style", About(), "--prompt-file"),
    ],
)
def test_a_video_of_which_nobody_says_what_it_shows_has_no_value(name, about, remedy):
    with pytest.raises(VideoError, match=f"{name} needs to know.*{remedy}"):
        shown(about, name, 4, TableTexts())


@pytest.mark.parametrize(
    ("count", "wanted", "indices"),
    [
        (16, 8, [0, 2, 4, 6, 8, 10, 12, 14]),
        (8, 8, list(range(8))),
        (25, 8, [1, 4, 7, 10, 13, 16, 19, 22]),  # parts begin at 0 3 6 9 12 15 18 21: 25/8 cut to integers
        (3, 8, [0, 1, 2, 2, 2, 2, 2, 2]),
        (1, 2, [0, 0]),
    ],
)
def test_the_middles_of_equal_parts_are_taken_and_the_last_frame_repeated(count, wanted, indices):
    assert middle_frames(count, wanted) == indices


def test_merges_go_by_rank_and_the_end_closes_what_is_cut():
    tokenizer = BytePairTokenizer(MERGES)
    size = 512 + len(MERGES) + 2
    assert len(tokenizer) == size
    start, end = size - 2, size - 1
    hello, abc = 512 + MERGES.index(("hell", "o</w>")), 512 + MERGES.index(("ab", "c</w>"))
    found = tokenizer(["Hello", "ABC hello abc"], 4)
    assert found.tolist() == [[start, hello, end, 0], [start, abc, hello, end]]
    assert tokenizer.encode("a") == [256 + ord("a") - ord("!")]
    assert len(tokenizer.encode("é")) == 2, "two bytes that nothing merges"


@pytest.mark.parametrize(
    "text", ["it\u2019s a \u201ccat\u201d", "fa\u0063\u0327ade", "ﬁne ＦＵＬＬ", " a\n\tb  c ", "&amp;lt; x"]
)
def test_texts_are_cleaned_as_ftfy_cleans_them(text):
    expected = re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(text)))).strip().lower()
    assert cleaned_text(text) == expected


def test_lists_of_merges_are_read_from_every_form_and_others_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bpe, "MERGES", len(MERGES))
    lines = "\n".join(["#version", *map(" ".join, MERGES), "not used"])
    (tmp_path / "list.gz").write_bytes(gzip.compress(lines.encode()))
    for folder, file, content in (
        ("old", "merges.txt", lines),
        ("new", "tokenizer.json", '{"model": {"merges": [' + ", ".join(f'"{a} {b}"' for a, b in MERGES) + "]}}"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(content)
    expected = BytePairTokenizer(MERGES).encode("hello abc")
    for name in ("list.gz", "old", "new"):
        assert read_tokenizer(tmp_path / name).encode("hello abc") == expected
    (tmp_path / "short.gz").write_bytes(gzip.compress(b"#version\na b"))
    (tmp_path / "none.gz").write_bytes(b"a b")
    for name in ("short.gz", "none.gz"):
        with pytest.raises(UserError, match="give bpe_simple_vocab"):
            read_tokenizer(tmp_path / name)


WORDS = len(BytePairTokenizer(MERGES))


def test_likeness_is_that_of_clip_on_pictures_that_pillow_shrank(tmp_path):
    side = 32
    depth = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
    text = depth | {"vocab_size": WORDS, "bos_token_id": WORDS - 2, "eos_token_id": WORDS - 1}
    config = CLIPConfig(
        text_config=text, vision_config=depth | {"image_size": side, "patch_size": 8}, projection_dim=16
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = CLIPModel(config).eval()
    clip.save_pretrained(tmp_path / "clip")
    scorer = load_clip_text(tmp_path / "clip", BytePairTokenizer(MERGES))
    frames = noise(2, 48, 70)
    found = scorer.similarities(frames, "hello")

    expected = []
    for frame in frames:
        small = Image.fromarray(frame.numpy()).resize((int(side * 70 / 48), side), Image.Resampling.BICUBIC)
        left = round((small.width - side) / 2)
        pixels = np.asarray(small.crop((left, 0, left + side, side)), dtype=np.float64) / 255
        pixels = torch.tensor((pixels - MEAN) / STD, dtype=torch.float32).permute(2, 0, 1)[None]
        tokens = torch.tensor([[WORDS - 2, 512 + 5, WORDS - 1]])
        with torch.no_grad():
            expected.append(clip(input_ids=tokens, pixel_values=pixels).logits_per_text[0, 0] / 100)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-6)
    assert abs(found[0] - found[1]) > 1e-4
    with pytest.raises(UserError, match=f"makes {WORDS - 1} tokens and the network"):
        load_clip_text(tmp_path / "clip", BytePairTokenizer(MERGES[1:]))


TINY = ViclipSizes(
    *(28, 14, 8, 8, 2, 2),  # side, patch, frames; width, layers, heads of the video
    *(12, 2, 3, WORDS, 6, 5),  # width, layers, heads, words, length of the text; features
)


@pytest.fixture(scope="module")
def viclip_state():
    draw = torch.Generator().manual_seed(3)
    state = {key: 0.5 * torch.randn(value.shape, generator=draw) for key, value in Viclip(TINY).state_dict().items()}
    state["vision_encoder.temporal_positional_embedding"] *= 20  # beside the patches it would hardly count
    return state


def loaded(state, tmp_path, antialias=False):
    torch.save({"model": state}, tmp_path / "viclip.pth")
    return load_viclip(tmp_path / "viclip.pth", BytePairTokenizer(MERGES), antialias=antialias, sizes=TINY)


class Reference:
    """The two towers written out in numpy, one head and one token at a time."""

    def __init__(self, state, prefix):
        self.state = {key.removeprefix(prefix): value.double().numpy() for key, value in state.items()}

    def norm(self, x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def blocks(self, x, layers, heads, causal):
        for layer in range(layers):
            at = f"transformer.resblocks.{layer}"
            y = self.norm(x, f"{at}.ln_1")
            y = y @ self.state[f"{at}.attn.in_proj_weight"].T + self.state[f"{at}.attn.in_proj_bias"]
            q, k, v = (part.reshape(len(x), heads, -1) for part in np.split(y, 3, axis=-1))
            out = np.zeros_like(q)
            for head in range(heads):
                for place in range(len(x)):
                    seen = place + 1 if causal else len(x)
                    weights = np.exp(k[:seen, head] @ q[place, head] / math.sqrt(q.shape[-1]))
                    out[place, head] = weights @ v[:seen, head] / weights.sum()
            x = x + self.linear(out.reshape(len(x), -1), f"{at}.attn.out_proj")
            y = self.linear(self.norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc")
            x = x + self.linear(y / (1 + np.exp(-1.702 * y)), f"{at}.mlp.c_proj")
        return x

    def video(self, frames):
        """Of normalised frames [T, 28, 28, 3]."""
        kernel = self.state["conv1.weight"][:, :, 0]
        rows = []
        for number, (top, left) in enumerate([(0, 0), (0, 14), (14, 0), (14, 14)]):
            for time, frame in enumerate(frames):
                patch = np.einsum("wchv,hvc->w", kernel, frame[top : top + 14, left : left + 14])
                place = self.state["positional_embedding"][1 + number]
                rows.append(patch + place + self.state["temporal_positional_embedding"][0, time])
        first = self.state["class_embedding"] + self.state["positional_embedding"][0]
        x = self.blocks(self.norm(np.stack([first, *rows]), "ln_pre"), 2, 2, causal=False)
        return self.norm(x[0], "ln_post") @ self.state["proj"]

    def text(self, tokens):
        x = self.state["token_embedding.weight"][tokens] + self.state["positional_embedding"]
        x = self.blocks(x, 2, 3, causal=True)
        return self.norm(x[int(np.argmax(tokens))], "ln_final") @ self.state["text_projection"]


def test_viclip_is_its_arithmetic_written_out(viclip_state, tmp_path):
    encoder = loaded(viclip_state, tmp_path)
    frames = noise(8, 28, 28)
    pixels = (frames.double().numpy() / 255 - MEAN) / STD
    expected = Reference(viclip_state, "vision_encoder.").video(pixels)
    np.testing.assert_allclose(encoder.encode_video(frames).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(encoder.encode_video(frames.flip(0)).numpy() - expected).max() > 1e-2, "the order of frames counts"
    tokens = [WORDS - 2, 512 + 5, 512 + 1, WORDS - 1, 0, 0]
    expected = Reference(viclip_state, "text_encoder.").text(tokens)
    np.testing.assert_allclose(encoder.encode_text("hello abc").numpy(), expected, rtol=1e-5, atol=1e-5)


def test_viclip_shrinks_integers_clamped_and_rounded(viclip_state, tmp_path):
    frames = torch.zeros(1, 56, 60, 3, dtype=torch.uint8)
    frames[:, :, 30:] = 200
    small = loaded(viclip_state, tmp_path).shrink(frames)
    assert small.shape == (1, 28, 28, 3) and small.dtype == torch.uint8
    # Half the size samples between two pixels; Keys' weights, a = -0.75: -3/32, 19/32. One side overshoots below 0.
    assert small[0, 0, 12:16, 0].tolist() == [0, 0, round(200 * 35 / 32), 200]
    assert loaded(viclip_state, tmp_path, antialias=True).shrink(frames)[0, 0, 13, 0] != 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_viclip_is_refused_with_the_names_that_differ(viclip_state, tmp_path, damage):
    state, told = damaged(viclip_state, damage, "text_encoder.transformer.resblocks.1.mlp.c_fc.weight")
    with pytest.raises(UserError, match=told):
        loaded(state, tmp_path)


def test_a_video_is_judged_again_when_another_text_is_asked_of_it_and_not_otherwise(folder, tmp_path, monkeypatch):
    from vbench_eval.scoring import score_folder

    asked = []

    class Remembering(TableTexts):
        def similarities(self, frames: torch.Tensor, text: str) -> torch.Tensor:
            asked.append(text)
            return torch.full((len(frames),), len(text) / 100)

    def run(suite):
        written = score_folder(
            folder,
            dimensions="appearance_style",
            backbones={"appearance_style": "tests.vbench_eval.test_semantic:TableTexts"},
            suite=suite,
            output=tmp_path / "scores",
            proxies=False,
            device="cpu",
        )
        return written.report

    monkeypatch.setattr(f"{__name__}.TableTexts", Remembering)

    def suite(name, style):
        words = {"appearance_style": {"appearance_style": style}}
        prompts = ("a cat", "a dog", "a fox", "an owl")
        entries = [{"prompt_en": one, "dimension": ["appearance_style"], "auxiliary_info": words} for one in prompts]
        return write_suite(tmp_path, entries, name)

    report = run(None)
    assert report["dimensions"]["appearance_style"]["aggregate"] is None and not asked
    assert "--suite" in report["videos"][0]["measured"]["appearance_style"]["reason"]
    for style in ("oil", "pixel art"):
        report = run(suite(f"{style}.json", style))
        assert report["dimensions"]["appearance_style"]["aggregate"] == pytest.approx(len(style) / 100, rel=1e-6)
        assert report["dimensions"]["appearance_style"]["rule"] == "mean over frames"
        assert set(asked) == {style}
        asked.clear()
        assert run(suite(f"{style}.json", style))["scores"] == report["scores"] and not asked
