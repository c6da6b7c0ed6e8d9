"""Prompt files are read as they are, or refused with the place of the fault."""

import json
from pathlib import Path

import pytest

from w2sd_video.commands.prompts import check_prompt, read_prompt_pairs, read_prompts, without_repeats
from w2sd_video.errors import UserError


def written(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def test_txt_gives_lines_without_blanks_comments_and_byte_order_mark(tmp_path: Path) -> None:
    path = written(tmp_path, "p.txt", "\ufeffa red ring\r\n\n  # not this\n  façades, at dusk.  \n")
    assert read_prompts(path) == ("a red ring", "façades, at dusk.")


def test_txt_takes_the_line_ends_of_every_system(tmp_path: Path) -> None:
    assert read_prompts(written(tmp_path, "p.txt", b"one\rtwo\r\nthree\n\rfour")) == ("one", "two", "three", "four")


def test_txt_keeps_separators_that_only_python_takes_for_line_ends(tmp_path: Path) -> None:
    assert read_prompts(written(tmp_path, "p.txt", "one\x0btwo\u2028three\n")) == ("one\x0btwo\u2028three",)


def test_csv_takes_the_prompt_column_with_quotes_and_line_breaks(tmp_path: Path) -> None:
    text = 'id,Prompt\n1,"a cat, ""asleep"""\n\n2,"two\nlines"\n'
    assert read_prompts(written(tmp_path, "p.csv", "\ufeff" + text)) == ('a cat, "asleep"', "two\nlines")


def test_json_takes_strings_and_objects_and_vbench_entries(tmp_path: Path) -> None:
    entries = ["one", {"prompt": "two", "id": 2}, {"prompt_en": "three", "dimension": ["color"]}, "a\0b"]
    assert read_prompts(written(tmp_path, "p.json", json.dumps(entries))) == ("one", "two", "three", "a\0b")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", b"", "is empty"),
        ("p.txt", b"\n# only this\n", "holds no prompt"),
        ("p.txt", b"one\ntwo\xff\n", "line 2 (byte 7) holds 0xff"),
        ("p.txt", b"\xef\xbb\xbfone\n\xe9", "line 2 (byte 7) holds 0xe9"),
        ("p.txt", b"one\n\x00\x01", "line 2 (byte 4) holds a NUL"),
        ("p.txt", "one".encode("utf-16"), "UTF-16"),
        ("p.csv", b"text,id\nhello,1\n", "the columns are text, id; one must be called prompt"),
        ("p.csv", b"id,prompt\n1\n", "line 2"),
        ("p.csv", b"id,prompt\n1,\n", "line 2: the prompt is empty"),
        ("p.csv", b'prompt\n"open\n', "line 2"),
        ("p.json", b'["a",\n]', "line 2 column 1"),
        ("p.json", b'{"a": 1}', "the JSON is an object"),
        ("p.json", b'["a", 3]', "entry 2 is a number"),
        ("p.json", b'[{"text": "a"}]', "entry 1 is an object without a text prompt"),
        ("p.json", b'["\\ud800"]', "entry 1: character 0 of the prompt is not valid Unicode"),
        ("p.json", b"[" * 100_000, "nested too deeply"),
        ("p.json", b"[" + b"1" * 5000 + b"]", "write a list of strings"),
        ("p.csv", b"prompt,Seed\na,1\n", "line 1: 'seed' would be a setting of one prompt"),
        ("p.json", b'["a", {"prompt": "b", "negative_prompt": "c"}]', "entry 2: 'negative_prompt' would be"),
        ("p.txt", b"a\n" + b"x" * 10_000_000, "line 2: the prompt has 10000000 characters; at most"),
        ("p.md", b"hello", "ends in '.md'; use one of .txt, .csv, .json"),
        ("prompts", b"hello", "ends in nothing; use"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(UserError) as refusal:
        read_prompts(written(tmp_path, name, content))
    assert said in str(refusal.value)
    assert name in str(refusal.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.txt").mkdir()
    for name in ("none.txt", "d.txt"):
        with pytest.raises(UserError, match=r"cannot be read|is no file"):
            read_prompts(tmp_path / name)


def test_an_empty_prompt_is_refused_where_it_stands() -> None:
    with pytest.raises(UserError, match="prompt 2: the prompt is empty"):
        check_prompt(" \t", "prompt 2")


def test_only_exact_repeats_are_dropped() -> None:
    assert without_repeats(["b", "a", "b", "A", "a "]) == ("b", "a", "A", "a ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("refined\traw\n", "no pair of prompts"),
        ("a\n", "line 1: 1 columns"),
        ("a\tb\nc\td\te\n", "line 2: 3 columns"),
        ("a\t\n", "line 1: the prompt is empty"),
        ("a\tb\na\tc\n", "line 2: 'a' has another raw prompt"),
    ],
)
def test_prompt_pairs_that_cannot_be_used_are_refused_with_their_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        read_prompt_pairs(written(tmp_path, "pairs.tsv", text))
