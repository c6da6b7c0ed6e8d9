"""VBench's suite, a sample of it fixed in a manifest, and names that lead back to its prompts."""

import contextlib
import hashlib
import json
import random
import shutil
import subprocess
import sys
import unicodedata

import pytest

from tests.support.vbench_files import CASES, SUITE_SIZES, TWICE, suite_entries, write_suite
from vbench_eval.errors import UserError
from vbench_eval.manifest import (
    ManifestPrompt,
    not_a_line,
    read_manifest,
    sample,
    samples_per_prompt,
    verify,
    write_manifest,
    write_prompts,
)
from vbench_eval.naming import SUFFIXES, KnownPrompts, collisions, not_a_name, parse_name
from vbench_eval.settings import TABLE_12 as SIX
from vbench_eval.suite import ALL_DIMENSIONS, GROUPS, added_words, read_suite
from w2sd_video.commands.prompts import read_prompts
from w2sd_video.demo.captions import CAPTIONS
from w2sd_video.runs.file_names import video_stems


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return read_suite(write_suite(tmp_path_factory.mktemp("suite")))


def test_the_groups_are_vbenchs_eleven_and_hold_its_sixteen_dimensions(suite):
    assert dict(GROUPS) == SUITE_SIZES == suite.group_sizes()
    assert len(GROUPS) == 11 and sum(GROUPS.values()) == suite.num_entries == 946 and len(ALL_DIMENSIONS) == 16
    assert len(suite.prompts) == len({prompt.prompt for prompt in suite.prompts}) == 944
    for group, size in SUITE_SIZES.items():
        assert [len(suite.of([name])) for name in group] == [size] * len(group)
        assert suite.of(group) == suite.of(group[:1])
    assert len(suite.of(SIX)) == 72 + 93 + 86 == 251


def test_a_prompt_that_stands_twice_is_one_prompt_with_all_its_dimensions_and_both_entries(suite):
    (found,) = [prompt for prompt in suite.prompts if prompt.prompt == TWICE[0]]
    assert found.dimensions == ("overall_consistency", "aesthetic_quality", "imaging_quality", "appearance_style")
    assert [entry["dimension"] for entry in found.entries] == [list(found.dimensions[:3]), ["appearance_style"]]
    assert found.id == "p0073"  # after the 72 of the first group


def test_entries_are_kept_letter_for_letter(suite):
    original = {entry["prompt_en"]: entry for entry in suite_entries()}
    for prompt in suite.of(["color"]):
        assert prompt.entries == (original[prompt.prompt],)
        assert prompt.entries[0]["auxiliary_info"] == {"color": {"color": "red"}}


def test_repeats_and_names_that_collide_are_told_and_nothing_else(suite):
    repeats, case = suite.warnings()
    assert "2 prompts stand in the suite more than once" in repeats and all(prompt in repeats for prompt in TWICE)
    assert all(prompt in case for prompt in CASES) and "case" in case


def test_prompts_that_differ_only_in_unicode_form_are_told(tmp_path):
    content = [{"prompt_en": text, "dimension": ["color"]} for text in ("caf\u00e9", "cafe\u0301")]
    told = read_suite(write_suite(tmp_path, content)).warnings()
    assert any("caf\u00e9" in line and "Unicode form" in line for line in told)


def test_a_suite_of_other_sizes_or_dimensions_or_unusable_names_is_told(tmp_path):
    content = [{"prompt_en": "a/b", "dimension": ["color", "camera_motion"]}]
    told = " ".join(read_suite(write_suite(tmp_path, content)).warnings())
    assert "camera_motion" in told and "color 1 instead of 85" in told and "'a/b' cannot be a file name" in told


def test_the_file_is_found_in_a_folder_and_with_a_byte_order_mark(tmp_path, suite):
    path = write_suite(tmp_path / "checkout" / "vbench")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_suite(tmp_path / "checkout").prompts == suite.prompts


def test_an_installed_vbench_is_found_without_running_its_code(tmp_path):
    package = tmp_path / "site" / "vbench"
    write_suite(package)
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    program = "from vbench_eval.suite import read_suite; suite = read_suite(); print(len(suite.prompts), suite.source)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(package.parent)!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["944", "vbench", "(version", "unknown)"]


def test_without_a_file_and_without_vbench_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"VBench_full_info\.json.*'sample'"):
        read_suite()


def test_the_sample_suite_holds_captions_that_the_demo_pair_knows():
    sample = read_suite("sample")
    assert len(sample.prompts) == 12 and sample.warnings() == ()
    assert {prompt.prompt for prompt in sample.prompts} <= set(CAPTIONS)
    assert set(sample.dimensions) == {*SIX, "overall_consistency", "scene", "temporal_flickering"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"prompt_en": "a"}, "not a list"),
        ([], "empty"),
        (["a cat"], "entry 1 has no text prompt_en"),
        ([{"prompt_en": "a", "dimension": ["color"]}, {"prompt_en": " ", "dimension": ["color"]}], "entry 2"),
        ([{"prompt_en": "a"}], "dimension is None"),
        ([{"prompt_en": "a", "dimension": "color"}], "dimension is 'color'"),
        ([{"prompt_en": "a", "dimension": []}], r"dimension is \[\]"),
    ],
)
def test_a_file_of_another_layout_is_refused_with_the_place(tmp_path, content, says):
    with pytest.raises(UserError, match=says):
        read_suite(write_suite(tmp_path, content))


@pytest.mark.parametrize("data", [b"\xff\xfe[", b"[{", b"[" * 200_000, b"[1e", b'[{"prompt_en": "' + b"9" * 5000])
def test_damaged_files_are_refused(tmp_path, data):
    (path := tmp_path / "suite.json").write_bytes(data)
    with pytest.raises(UserError, match=r"suite\.json"):
        read_suite(path)


def test_a_missing_file_and_an_unknown_dimension_are_refused(tmp_path, suite):
    with pytest.raises(UserError, match="cannot be read"):
        read_suite(tmp_path / "absent.json")
    with pytest.raises(UserError, match="no prompt for beauty"):
        suite.of(["color", "beauty"])


def texts(manifest):
    return [prompt.prompt for prompt in manifest.prompts]


def of_prompts(tmp_path, *prompts):
    content = [{"prompt_en": prompt, "dimension": ["color"]} for prompt in prompts]
    return sample(read_suite(write_suite(tmp_path, content)))


def test_the_draw_is_the_order_of_sha256_of_seed_and_prompt(suite):
    pool = {prompt.prompt for prompt in suite.of(SIX)}
    expected = sorted(pool, key=lambda prompt: hashlib.sha256(f"7\n{prompt}".encode()).digest())[:200]
    assert texts(sample(suite, SIX, 200, 7)) == expected


def test_the_draw_does_not_depend_on_the_order_of_the_file_or_of_the_dimensions(tmp_path, suite):
    content = suite_entries()
    random.Random(1).shuffle(content)
    shuffled = read_suite(write_suite(tmp_path, content))
    assert texts(sample(shuffled, SIX, 200, 3)) == texts(sample(suite, SIX[::-1], 200, 3))


def test_a_larger_sample_begins_with_the_smaller_and_seeds_draw_different_prompts(suite):
    assert texts(sample(suite, SIX, 251, 5))[:40] == texts(sample(suite, SIX, 40, 5))
    assert set(texts(sample(suite, SIX, 200, 0))) != set(texts(sample(suite, SIX, 200, 1)))


def test_every_prompt_is_drawn_equally_often_over_seeds():
    # 4 of 12 prompts over 3000 seeds: each count is binomial(3000, 1/3), whose deviation is sqrt(3000 * 1/3 * 2/3) =
    # 25.8; 5 deviations are exceeded by chance in 12 * 6e-7 of all choices of hash.
    bundled = read_suite("sample")
    counts = dict.fromkeys((prompt.prompt for prompt in bundled.prompts), 0)
    for seed in range(3000):
        for prompt in texts(sample(bundled, num_prompts=4, seed=seed)):
            counts[prompt] += 1
    assert max(abs(count - 1000) for count in counts.values()) < 5 * 25.9


def test_no_prompt_is_drawn_twice_and_all_belong_to_the_dimensions(suite):
    drawn = sample(suite, ["scene", "color"], 150, 0).prompts
    assert len({prompt.prompt for prompt in drawn}) == 150
    assert all({"scene", "color"} & set(prompt.dimensions) for prompt in drawn)


def test_without_a_number_all_prompts_come_in_the_suites_order(suite):
    everything = sample(suite)
    assert texts(everything) == [prompt.prompt for prompt in suite.prompts] and everything.seed is None
    assert len(sample(suite, SIX).prompts) == 251


def test_vbench_asks_for_5_videos_and_25_for_flickering(suite):
    assert samples_per_prompt(["color"]) == 5 and samples_per_prompt(["color", "temporal_flickering"]) == 25
    assert sample(suite).num_videos == 944 * 5 + 75 * 20 == 6220
    assert sample(suite, [name for group in GROUPS for name in group if name != "temporal_flickering"]).num_videos == (
        (944 - 75) * 5
    )
    assert sample(suite, SIX).num_videos == 251 * 5 == 1255
    assert sample(suite, samples=1).num_videos == 944


def test_25_videos_are_asked_for_only_where_flickering_is(tmp_path):
    content = [{"prompt_en": "a cat", "dimension": ["temporal_flickering", "color"]}]
    suite = read_suite(write_suite(tmp_path, content))
    assert [sample(suite, [name]).num_videos for name in ("color", "temporal_flickering")] == [5, 25]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_prompts": 252}, "number of prompts is 252; give a whole number from 1 to 251"),
        ({"num_prompts": 0}, "number of prompts is 0"),
        ({"num_prompts": True}, "number of prompts is True"),
        ({"seed": -1, "num_prompts": 3}, "seed is -1"),
        ({"seed": 0.5, "num_prompts": 3}, r"seed is 0\.5"),
        ({"samples": 0}, "samples per prompt is 0"),
    ],
)
def test_a_draw_that_cannot_be_made_is_refused(suite, arguments, says):
    with pytest.raises(UserError, match=says):
        sample(suite, SIX, **arguments)


def test_a_manifest_is_read_as_it_was_written_and_answers_which_prompts_by_itself(tmp_path, suite):
    manifest = sample(suite, SIX, 3, 0)
    write_manifest(tmp_path / "manifest.json", manifest)
    assert read_manifest(tmp_path / "manifest.json") == read_manifest(tmp_path / "manifest.json", suite) == manifest
    data = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert data["suite"]["sha256"] == suite.sha256 == hashlib.sha256(suite.path.read_bytes()).hexdigest()
    assert (data["seed"], data["num_prompts"], data["num_videos"], data["dimensions"]) == (0, 3, 15, list(SIX))
    original = {entry["prompt_en"]: entry for entry in suite_entries()}
    for prompt in data["prompts"]:
        assert prompt["entries"] == [original[prompt["prompt"]]]
        assert prompt["dimensions"] == original[prompt["prompt"]]["dimension"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data["prompts"][0].update(prompt="another"),
        lambda data: data["prompts"].pop(),
        lambda data: data["prompts"].reverse(),
        lambda data: data["prompts"][0].update(samples=1),
        lambda data: data.update(seed=1),
        lambda data: data["suite"].update(sha256="0" * 64),
        lambda data: data.pop("sha256"),
    ],
)
def test_a_manifest_that_was_edited_is_refused(tmp_path, suite, edit):
    data = sample(suite, SIX, 5, 0).to_json()
    edit(data)
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="was changed since it was written"):
        read_manifest(tmp_path / "manifest.json")


@pytest.mark.parametrize("content", ["[]", "{}", '{"schema": "vbench_eval.manifest/9"}', "not JSON"])
def test_another_file_is_no_manifest(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest.*(schema|not JSON)"):
        read_manifest(tmp_path / "manifest.json")


def test_a_manifest_does_not_pass_for_one_of_another_suite_file(tmp_path, suite):
    manifest = sample(suite, SIX, 200, 0)
    content = suite_entries()
    content[0]["prompt_en"] = "something else"
    other = read_suite(write_suite(tmp_path, content))
    with pytest.raises(UserError, match=r"SHA-256.*of its 200 prompts are not in it"):
        verify(manifest, other)


def test_a_manifest_that_the_suite_would_not_give_again_is_told(suite):
    from dataclasses import replace

    with pytest.raises(UserError, match="gives other prompts"):
        verify(replace(sample(suite, SIX, 20, 0), seed=1), suite)


def test_a_manifest_is_never_replaced_by_another_set(tmp_path, suite):
    path = tmp_path / "manifest.json"
    write_manifest(path, sample(suite, SIX, 20, 0))
    before = path.read_bytes()
    write_manifest(path, sample(suite, SIX, 20, 0))
    with pytest.raises(UserError, match="fixes another set: 20 prompts and 100 videos"):
        write_manifest(path, sample(suite, SIX, 20, 1))
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["manifest.json"]


def test_the_generator_reads_the_prompt_file_as_the_manifest_has_it(tmp_path, suite):
    manifest = sample(suite)
    path, notes = write_prompts(tmp_path, manifest)
    assert (path.name, notes) == ("prompts.txt", ())
    assert read_prompts(path) == tuple(texts(manifest))


@pytest.mark.parametrize("prompt", ["# a number sign", "two\nlines", "two\rlines", "\ufeffa mark", "a\0b"])
def test_prompts_that_cannot_be_a_line_go_into_json_and_are_told(tmp_path, prompt):
    manifest = of_prompts(tmp_path, prompt, "a cat")
    path, notes = write_prompts(tmp_path, manifest)
    assert path.name == "prompts.json" and len(notes) == 1 and "cannot be a line" in notes[0]
    assert read_prompts(path) == (prompt, "a cat")
    (bad := tmp_path / "forced.txt").write_bytes(f"{prompt}\na cat\n".encode())
    with contextlib.suppress(ValueError):
        assert read_prompts(bad) != (prompt, "a cat")  # what the refusal prevents


@pytest.mark.parametrize(
    "prompt", ["-rf", 'a, "b"; c\'d', "50% #1", "line\u2028separator", "tab\there", "ünï 😀", "//"]
)
def test_prompts_that_can_be_a_line_pass_unchanged(tmp_path, prompt):
    assert not_a_line(prompt) is None
    path, _ = write_prompts(tmp_path, of_prompts(tmp_path, prompt))
    assert path.name == "prompts.txt" and read_prompts(path) == (prompt,)


def test_a_prompt_that_no_file_can_carry_is_refused(tmp_path):
    with pytest.raises(UserError, match="ends with a space"):
        write_prompts(tmp_path, of_prompts(tmp_path, "a cat "))
    assert isinstance(of_prompts(tmp_path, "a cat ").prompts[0], ManifestPrompt)


PLAIN = ("a red ring moving left", "A person is riding a bike.", "Ukiyo-e, a cat; 50% off!", "the year 2049", "x-ray")


@pytest.mark.parametrize("prompt", [*PLAIN, "façades of Paris", "top-5", "a.b.c", "three - two"])
@pytest.mark.parametrize("index", [0, 4, 24])
@pytest.mark.parametrize("suffix", [".mp4", ".GIF", ""])
def test_a_name_made_by_vbenchs_rule_is_read_back_to_its_prompt_and_index(prompt, index, suffix):
    parsed = parse_name(f"{prompt}-{index}{suffix}")
    assert (parsed.prompt, parsed.index, parsed.suffix) == (prompt, index, suffix)


@pytest.mark.parametrize(
    ("name", "prompt", "index"),
    [
        ("a-1-2.mp4", "a-1", 2),
        ("a.mp4", "a", None),
        ("-3.mp4", "-3", None),
        ("a-٣.mp4", "a-٣", None),  # a digit, but none that VBench writes
        (f"a-{'9' * 5000}.mp4", f"a-{'9' * 5000}", None),
        ("Mt. Fuji-0", "Mt. Fuji", 0),  # a folder of frames is not cut at its dot
        (".mp4", ".mp4", None),
        (unicodedata.normalize("NFD", "façades-1.mp4"), "façades", 1),
        *((f"a cat-0{suffix.upper()}", "a cat", 0) for suffix in SUFFIXES),
    ],
)
def test_only_the_last_number_after_a_dash_is_an_index(name, prompt, index):
    assert (parse_name(name).prompt, parse_name(name).index) == (prompt, index)


def test_collisions_are_prompts_that_one_file_system_or_another_cannot_tell_apart():
    groups = collisions(["A fantasy landscape", "b", "a fantasy landscape", "caf\u00e9", "cafe\u0301", "b"])
    assert groups == (("A fantasy landscape", "a fantasy landscape"), ("caf\u00e9", "cafe\u0301"))


BAD_NAMES = ("a/b", "a\\b", "what?", "two\nlines", " a", "a ", ".hidden", "-rf", "con", "nul.txt", "x" * 249, "")


def test_prompts_that_some_file_system_refuses_are_told_with_the_reason():
    assert all(not_a_name(prompt) is None for prompt in PLAIN) and all(not_a_name(prompt) for prompt in BAD_NAMES)
    assert not_a_name("x" * 248) is None and len(("x" * 248 + "-00.mp4").encode()) == 255
    assert not_a_name("é" * 125) is not None  # 250 bytes, though 125 letters


def test_names_the_generator_cleaned_lead_back_to_their_prompts():
    prompts = (*PLAIN, "a/b", "two\nlines", "x" * 300, "-rf", "A fantasy landscape", "a fantasy landscape", "~", "a_b")
    known = KnownPrompts(prompts)
    for prompt, stem in zip(prompts, video_stems(prompts), strict=True):
        assert known.find(f"{stem}-3.mp4") == (prompt, 3)


BOTH = ("A fantasy landscape", "a fantasy landscape")


@pytest.mark.parametrize(
    ("prompts", "name", "found"),
    [
        (("a cat", "a dog"), "p0002-4.mp4", ("a dog", 4)),  # a short id
        (("a cat", "a dog"), "p0003-4.mp4", None),
        (("blade runner-2049",), "blade runner-2049.mp4", ("blade runner-2049", None)),
        (("blade runner-2049",), "blade runner-2049-1.mp4", ("blade runner-2049", 1)),
        (("top-5", "top"), "top-5.mp4", ("top", 5)),  # VBench's reading wins
        (("A Cat",), "a cat-0.mp4", ("A Cat", 0)),  # another case, where it names one prompt
        (BOTH, "a fantasy landscape-0.mp4", (BOTH[1], 0)),
        (BOTH, "A FANTASY LANDSCAPE-0.mp4", None),
        (("a cat",), "a cat and a dog-0.mp4", None),
        (("façades",), unicodedata.normalize("NFD", "façades-1.mp4"), ("façades", 1)),
    ],
)
def test_a_name_is_found_among_known_prompts_and_their_ids(prompts, name, found):
    ids = {f"p{number:04d}": prompt for number, prompt in enumerate(prompts, 1)}
    assert KnownPrompts(prompts, ids).find(name) == found


def test_a_category_scores_the_videos_of_its_prompts_whole(folder, tmp_path):
    from vbench_eval.inputs import find_inputs
    from vbench_eval.scoring import score_folder

    (tmp_path / "pets.txt").write_text("a cat\n\na do\na dog\na bird\n")
    (folder / "a cat-0.mp4").rename(folder / "a cat-3.mp4")
    shutil.copy(folder / "a cat-3.mp4", folder / "a cat-4.mp4")
    found = find_inputs(folder, mode="vbench_category", category=str(tmp_path / "pets.txt"))
    assert [(video.prompt, video.index) for video in found.videos] == [("a cat", 3), ("a cat", 4), ("a dog", 0)]
    assert found.notes == (
        "2 of the category's 4 prompts have no video",
        "2 videos are of no prompt of the category and left out",
    )
    written = score_folder(
        folder,
        dimensions="temporal_flickering",
        output=tmp_path / "scores",
        mode="vbench_category",
        category=str(tmp_path / "pets.txt"),
        device="cpu",
    )
    info = json.loads(written.full_info.read_text())
    assert [(entry["prompt_en"], len(entry["video_list"])) for entry in info] == [("a cat", 2), ("a dog", 1)]
    assert written.report["mode"] == "vbench_category"
    (tmp_path / "none.txt").write_text("a tiger\n")
    with pytest.raises(UserError, match="none of the 5 videos"):
        find_inputs(folder, mode="vbench_category", category=str(tmp_path / "none.txt"))


def test_the_suite_that_was_fetched_is_found_if_no_package_brings_one(tmp_path, monkeypatch):
    from vbench_eval.backbones import finding

    monkeypatch.setenv("VBENCH_EVAL_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="fetch vbench_suite"):
        read_suite()
    write_suite(tmp_path, [{"prompt_en": "a cat", "dimension": ["color"]}])
    with pytest.raises(UserError, match="sha256"):
        read_suite()
    monkeypatch.setattr(finding, "require_sha256", lambda *arguments, **settings: None)
    assert [prompt.prompt for prompt in read_suite().prompts] == ["a cat"]


def test_prompts_of_another_benchmarks_suite_are_drawn_by_its_own_names(tmp_path, capsys):
    from vbench_eval.commands import main

    names = ("Camera_Motion", "Human_Anatomy")
    others = {"auxiliary_info": ["a question"]}  # as VBench-2.0 has it; in VBench it is an object
    entries = [{"prompt_en": f"{name} {n}", "dimension": [name], **others} for name in names for n in (1, 2)]
    suite = write_suite(tmp_path, entries, "two.json")
    words = ("prompts", "--suite", str(suite), "--output", str(tmp_path / "out"), "--samples", "1", "--format", "json")
    assert main([*words, "--dimensions", "Camera_Motion"]) == 0
    assert (tmp_path / "out/prompts.txt").read_text() == "Camera_Motion 1\nCamera_Motion 2\n"
    assert json.loads(capsys.readouterr().out)["dimensions"] == ["Camera_Motion"]
    assert set(map(len, added_words(read_suite(suite).prompts).values())) == {0}
    assert main([*words, "--dimensions", "Dancing"]) == 2
    assert "choose from Camera_Motion, Human_Anatomy" in capsys.readouterr().err
