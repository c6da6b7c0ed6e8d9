"""Every prompt gets a file name that is safe, unique on any file system, and VBench's own wherever it can be."""

import re
import unicodedata
from pathlib import Path

import pytest

from w2sd_video.runs.file_names import MAX_STEM_BYTES, clean_stem, video_stems

HOSTILE = (
    "a/b",
    "..",
    ".",
    "../../etc/passwd",
    "/abs",
    "a\\b",
    "nul\0byte",
    "tab\tand\nnewline\x7f\x1b[31m",
    ".hidden",
    "-rf",
    " leading and trailing ",
    "CON",
    "con.txt",
    "x" * 300,
    "é" * 120,
    "👩‍🚀" * 40,
    "right\u202eto left",
    "line\u2028separator",
    "~",
    "\u00a0",
    "   ",
)


@pytest.mark.parametrize(
    "prompt",
    [
        "a red ring moving left",
        "A person is riding a bike.",
        "façades, in the style of Ukiyo",
        'a sign that says "50% off?"',
        "宇航员在月球上骑马",
        "v1.5 (final)",
        "wow...",
    ],
)
def test_a_prompt_that_can_be_a_file_name_is_one_letter_for_letter(prompt: str) -> None:
    assert video_stems([prompt]) == (prompt,)


@pytest.mark.parametrize("prompt", HOSTILE)
def test_a_hostile_prompt_becomes_one_plain_file_in_its_folder(prompt: str, tmp_path: Path) -> None:
    (stem,) = video_stems([prompt])
    path = tmp_path / f"{stem}-0.mp4"
    path.write_bytes(b"x")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.resolve().parent == tmp_path.resolve()
    assert len(stem.encode()) <= MAX_STEM_BYTES
    assert not stem.startswith((".", "-", " "))
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in stem)
    assert re.search(r"~[0-9a-f]{8}$", stem), "a changed name carries the hash of the true prompt"


def test_all_hostile_prompts_together_get_different_names() -> None:
    stems = video_stems(HOSTILE)
    assert len({unicodedata.normalize("NFKC", stem).casefold() for stem in stems}) == len(HOSTILE)


@pytest.mark.parametrize(
    "prompts",
    [
        ("A fantasy landscape", "a fantasy landscape"),
        (unicodedata.normalize("NFC", "façades"), unicodedata.normalize("NFD", "façades")),
        ("Straße", "STRASSE"),
        ("ﬁre", "fire"),
    ],
)
def test_prompts_equal_but_for_case_or_normal_form_differ_on_any_file_system(prompts: tuple[str, str]) -> None:
    first, second = video_stems(prompts)
    assert first == prompts[0], "the first keeps VBench's name"
    keys = {unicodedata.normalize("NFKC", name).casefold() for name in (first, second)}
    assert len(keys) == 2


def test_a_prompt_that_looks_like_anothers_safe_name_does_not_collide() -> None:
    (taken,) = video_stems(["a/b"])
    names = video_stems([taken, "a/b"])
    assert names[0] == taken
    assert len({name.casefold() for name in names}) == 2


def test_the_same_list_gives_the_same_names_and_an_appended_prompt_changes_none() -> None:
    assert video_stems(HOSTILE) == video_stems(HOSTILE)
    assert video_stems((*HOSTILE, "one more"))[:-1] == video_stems(HOSTILE)


def test_a_long_prompt_is_cut_at_a_whole_character() -> None:
    assert clean_stem("é" * 200, 11) == "é" * 5


def test_repeats_are_the_callers_fault() -> None:
    with pytest.raises(ValueError, match="repeat"):
        video_stems(["a", "a"])
