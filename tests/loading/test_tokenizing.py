"""What a text encoder reads of a text: told by tokenizer files alone as by the tokenizers themselves."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import diffusers
import pytest
from transformers import CLIPTokenizer

from tests.support import tiny
from w2sd_video.errors import UserError
from w2sd_video.loading.describe import describe
from w2sd_video.loading.tokenizing import LENGTHS, cut_notes, cut_off, readers_of, readers_of_pipeline

MERGES = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("'", "s</w>")]
TEXTS = ("a cat's DOG", "two  cats,\tone dog 42", "ca t", "façade ü!?", "x" * 200, "cat " * 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose tokenizers are files of the original kind, a vocabulary and its merges."""
    root = tmp_path_factory.mktemp("texts")
    tiny.sdxl(1).save_pretrained(root)
    pieces = [*tiny.CHARACTERS, *(c + "</w>" for c in tiny.CHARACTERS), *("".join(pair) for pair in MERGES)]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    for name in ("tokenizer", "tokenizer_2"):
        (root / name / "tokenizer.json").unlink()
        (root / name / "vocab.json").write_text(json.dumps(vocabulary))
        (root / name / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, MERGES)) + "\n")
        encoder = root / name.replace("tokenizer", "text_encoder") / "config.json"
        encoder.write_text(json.dumps({**json.loads(encoder.read_text()), "vocab_size": len(vocabulary)}))
    return root


def test_files_are_read_as_transformers_reads_them(folder: Path) -> None:
    (reader, _) = readers_of(describe(str(folder), "strong")) or ()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    assert (reader.limit, reader.special, reader.words) == (77, 2, len(tokenizer))
    for text in TEXTS:
        whole = tokenizer(text, truncation=False, verbose=False).input_ids
        assert list(reader.tokens(text)[0]) == whole[1:-1], text
        assert reader.reads(text) == tokenizer(text, truncation=True, max_length=77).input_ids[1:-1], text


def test_what_is_cut_off_is_the_end_of_the_text_itself(folder: Path) -> None:
    readers = readers_of(describe(str(folder), "strong")) or []
    pipe = tiny.sdxl(1)
    assert cut_off(readers, "x" * 75) is None and cut_off(readers, "x" * 75 + "YZ") == ("YZ", 77)
    assert cut_off(readers_of_pipeline(pipe), "x" * 75 + "YZ") == ("YZ", 77)
    notes = cut_notes([readers], [f"{'x' * 80} {number}" for number in range(30)])
    assert len(notes) == 11 and notes[-1] == "so have 20 more prompts, whose ends are cut off too"
    assert cut_notes([None], ["x" * 80]) == []


def test_a_text_that_one_text_encoder_reads_to_its_end_is_not_cut() -> None:
    flux = readers_of_pipeline(tiny.flux(1))
    assert [reader.limit for reader in flux] == [77, 512]
    assert cut_off(flux, "x" * 100) is None and cut_off(flux, "x" * 511 + "yz") == ("yz", 512)


def test_the_lengths_are_those_of_the_pipelines_calls() -> None:
    for name, length in LENGTHS.items():
        call = inspect.signature(getattr(diffusers, name).__call__)
        assert call.parameters["max_sequence_length"].default == length


def test_a_damaged_tokenizer_is_refused_by_its_folder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "damaged")
    (tmp_path / "damaged" / "tokenizer" / "merges.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="damaged/tokenizer is damaged"):
        readers_of(describe(str(tmp_path / "damaged"), "strong"))
