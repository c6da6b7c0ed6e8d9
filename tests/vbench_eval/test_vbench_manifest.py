"""A sample of prompts is the same everywhere, is fixed in its manifest, and reaches the generator unharmed."""

import contextlib
import hashlib
import json
import random

import pytest

from tests.support import vbench_suites
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
from vbench_eval.settings import TABLE_12 as SIX
from vbench_eval.suite import GROUPS, read_suite
from w2sd_video.commands.prompts import read_prompts


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return read_suite(vbench_suites.write(tmp_path_factory.mktemp("suite")))


def texts(manifest):
    return [prompt.prompt for prompt in manifest.prompts]


def of_prompts(tmp_path, *prompts):
    content = [{"prompt_en": prompt, "dimension": ["color"]} for prompt in prompts]
    return sample(read_suite(vbench_suites.write(tmp_path, content)))


def test_the_draw_is_the_order_of_sha256_of_seed_and_prompt(suite):
    pool = {prompt.prompt for prompt in suite.of(SIX)}
    expected = sorted(pool, key=lambda prompt: hashlib.sha256(f"7\n{prompt}".encode()).digest())[:200]
    assert texts(sample(suite, SIX, 200, 7)) == expected


def test_the_draw_does_not_depend_on_the_order_of_the_file_or_of_the_dimensions(tmp_path, suite):
    content = vbench_suites.entries()
    random.Random(1).shuffle(content)
    shuffled = read_suite(vbench_suites.write(tmp_path, content))
    assert texts(sample(shuffled, SIX, 200, 3)) == texts(sample(suite, SIX[::-1], 200, 3))


def test_a_larger_sample_begins_with_the_smaller(suite):
    assert texts(sample(suite, SIX, 251, 5))[:40] == texts(sample(suite, SIX, 40, 5))


def test_seeds_draw_different_prompts_and_repeat_themselves(suite):
    assert texts(sample(suite, SIX, 200, 0)) == texts(sample(suite, SIX, 200, 0))
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
    suite = read_suite(vbench_suites.write(tmp_path, content))
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


def test_a_manifest_is_read_as_it_was_written(tmp_path, suite):
    manifest = sample(suite, SIX, 200, 0)
    write_manifest(tmp_path / "manifest.json", manifest)
    assert read_manifest(tmp_path / "manifest.json") == manifest
    assert read_manifest(tmp_path / "manifest.json", suite) == manifest


def test_a_manifest_answers_which_prompts_by_itself(tmp_path, suite):
    write_manifest(tmp_path / "manifest.json", sample(suite, SIX, 3, 0))
    data = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert data["suite"]["sha256"] == hashlib.sha256(suite.path.read_bytes()).hexdigest()
    assert (data["seed"], data["num_prompts"], data["num_videos"], data["dimensions"]) == (0, 3, 15, list(SIX))
    original = {entry["prompt_en"]: entry for entry in vbench_suites.entries()}
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
    content = vbench_suites.entries()
    content[0]["prompt_en"] = "something else"
    other = read_suite(vbench_suites.write(tmp_path, content))
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
