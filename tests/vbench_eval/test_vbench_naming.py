"""File names follow VBench, and every name that a generator gives leads back to its prompt."""

import unicodedata

import pytest

from vbench_eval.naming import SUFFIXES, KnownPrompts, collisions, not_a_name, parse_name
from w2sd_video.runs.file_names import video_stems

PLAIN = ("a red ring moving left", "A person is riding a bike.", "Ukiyo-e, a cat; 50% off!", "the year 2049", "x-ray")


@pytest.mark.parametrize("prompt", [*PLAIN, "façades of Paris", "top-5", "a.b.c", "three - two"])
@pytest.mark.parametrize("index", [0, 4, 24])
@pytest.mark.parametrize("suffix", [".mp4", ".GIF", ""])
def test_a_name_made_by_vbenchs_rule_is_read_back_to_its_prompt_and_index(prompt, index, suffix):
    parsed = parse_name(f"{prompt}-{index}{suffix}")
    assert (parsed.prompt, parsed.index, parsed.suffix) == (prompt, index, suffix)


def test_only_the_last_number_after_a_dash_is_an_index():
    assert (parse_name("a-1-2.mp4").prompt, parse_name("a-1-2.mp4").index) == ("a-1", 2)
    assert (parse_name("a.mp4").prompt, parse_name("a.mp4").index) == ("a", None)
    assert (parse_name("-3.mp4").prompt, parse_name("-3.mp4").index) == ("-3", None)
    assert parse_name("a-٣.mp4").index is None  # a digit, but none that VBench writes
    assert parse_name("a-" + "9" * 5000 + ".mp4").index is None


def test_a_folder_of_frames_is_not_cut_at_its_dot():
    assert (parse_name("Mt. Fuji-0").prompt, parse_name("Mt. Fuji-0").index) == ("Mt. Fuji", 0)
    assert parse_name(".mp4").stem == ".mp4"


def test_a_name_in_decomposed_unicode_means_the_same_prompt():
    name = unicodedata.normalize("NFD", "façades-1.mp4")
    assert name != "façades-1.mp4"
    assert parse_name(name).prompt == "façades"
    assert KnownPrompts([unicodedata.normalize("NFC", "façades")]).find(name) == ("façades", 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_video_suffix_is_cut_off_in_any_case(suffix):
    assert parse_name(f"a cat-0{suffix.upper()}").stem == "a cat-0"


def test_collisions_are_prompts_that_one_file_system_or_another_cannot_tell_apart():
    groups = collisions(["A fantasy landscape", "b", "a fantasy landscape", "caf\u00e9", "cafe\u0301", "b"])
    assert groups == (("A fantasy landscape", "a fantasy landscape"), ("caf\u00e9", "cafe\u0301"))


@pytest.mark.parametrize("prompt", PLAIN)
def test_ordinary_prompts_can_be_names(prompt):
    assert not_a_name(prompt) is None


@pytest.mark.parametrize(
    "prompt", ["a/b", "a\\b", "what?", "two\nlines", " a", "a ", ".hidden", "-rf", "con", "nul.txt", "x" * 249, ""]
)
def test_prompts_that_some_file_system_refuses_are_told_with_the_reason(prompt):
    assert not_a_name(prompt)


def test_the_longest_name_that_fits_is_255_bytes_with_index_and_suffix():
    assert not_a_name("x" * 248) is None and len(("x" * 248 + "-00.mp4").encode()) == 255
    assert not_a_name("é" * 125) is not None  # 250 bytes, though 125 letters


def test_names_the_generator_cleaned_lead_back_to_their_prompts():
    prompts = (*PLAIN, "a/b", "two\nlines", "x" * 300, "-rf", "A fantasy landscape", "a fantasy landscape", "~", "a_b")
    known = KnownPrompts(prompts)
    for prompt, stem in zip(prompts, video_stems(prompts), strict=True):
        assert known.find(f"{stem}-3.mp4") == (prompt, 3)


def test_a_short_id_names_its_prompt():
    known = KnownPrompts(["a cat", "a dog"], {"p0001": "a cat", "p0002": "a dog"})
    assert known.find("p0002-4.mp4") == ("a dog", 4)
    assert known.find("p0003-4.mp4") is None


def test_a_prompt_that_ends_in_digits_is_found_with_and_without_an_index():
    known = KnownPrompts(["blade runner-2049"])
    assert known.find("blade runner-2049.mp4") == ("blade runner-2049", None)
    assert known.find("blade runner-2049-1.mp4") == ("blade runner-2049", 1)


def test_vbenchs_reading_wins_where_a_name_can_mean_two_prompts():
    assert KnownPrompts(["top-5", "top"]).find("top-5.mp4") == ("top", 5)


def test_another_case_is_accepted_only_where_it_names_one_prompt():
    assert KnownPrompts(["A Cat"]).find("a cat-0.mp4") == ("A Cat", 0)
    both = KnownPrompts(["A fantasy landscape", "a fantasy landscape"])
    assert both.find("a fantasy landscape-0.mp4") == ("a fantasy landscape", 0)
    assert both.find("A FANTASY LANDSCAPE-0.mp4") is None


def test_a_prompt_that_begins_like_another_is_not_taken_for_it():
    assert KnownPrompts(["a cat"]).find("a cat and a dog-0.mp4") is None
