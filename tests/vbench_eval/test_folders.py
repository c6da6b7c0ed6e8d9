"""A generator's folder is taken as it stands, and what it lacks of a manifest is told before scoring."""

import json
import unicodedata
from pathlib import Path

import pytest

from tests.support.vbench_files import write_suite
from vbench_eval.errors import UserError
from vbench_eval.folders import check_completeness, methods_of, read_folder
from vbench_eval.inputs import find_inputs
from vbench_eval.manifest import sample, write_manifest, write_prompts
from vbench_eval.suite import read_suite
from w2sd_video.commands.prompts import read_prompts
from w2sd_video.runs.file_names import video_stems
from w2sd_video.runs.tasks import task_groups

HARD = ("a cat", "a/b", "two\nlines", "x" * 300, "A fantasy landscape", "a fantasy landscape", "A rider. Bikes.")


def touch(folder: Path, *names: str) -> list[Path]:
    """Empty files: what is in them is not this room's concern."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def generated(folder: Path, prompts: tuple[str, ...], methods=("w2sd",), count=2, failed=()) -> Path:
    """A folder as scripts/generate_video.py leaves it, named and journalled by its own rules."""
    lines = []
    groups = task_groups(methods, prompts, video_stems(prompts), seed=7, count=count, suffix=".mp4")
    for task in (task for group in groups for task in group):
        line = {"method": task.method, "prompt": task.prompt, "index": task.index, "seed": task.seed, "path": task.path}
        if (task.prompt, task.index) in failed:
            lines.append({**line, "path": None, "status": "failed", "reason": "its frames are not finite"})
        else:
            touch(folder, task.path)
            lines.append({**line, "frames": 8, "fps": 8, "status": "done"})
    (folder / "run.json").write_text("{}")
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "results.jsonl").write_text(text, encoding="utf-8")
    return folder


def of(tmp_path, *prompts, samples=2):
    content = [{"prompt_en": prompt, "dimension": ["color"]} for prompt in prompts]
    return sample(read_suite(write_suite(tmp_path, content)), samples=samples)


def listed(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix == ".mp4"]


def named(folder, **arguments):
    found = read_folder(folder, videos=listed(Path(folder)), **arguments)
    return {video.name: (video.prompt, video.index, video.source) for video in found.videos}


def test_true_prompts_come_from_the_generators_journal(tmp_path):
    run = generated(tmp_path, HARD)
    found = read_folder(run / "w2sd", videos=listed(run / "w2sd"))
    assert {(video.prompt, video.index) for video in found.videos} == {(p, i) for p in HARD for i in (0, 1)}
    assert {video.source for video in found.videos} == {"results.jsonl"}
    assert {video.generation["seed"] - video.index for video in found.videos} == {7}
    assert [video.name for video in found.videos] == sorted(video.name for video in found.videos)


def test_without_the_journal_the_names_lead_to_known_prompts(tmp_path):
    run = generated(tmp_path, HARD)
    (run / "results.jsonl").unlink()
    found = named(run / "w2sd", prompts=HARD)
    assert {(prompt, index) for prompt, index, _ in found.values()} == {(p, i) for p in HARD for i in (0, 1)}
    assert {source for *_, source in found.values()} == {"file name"}


def test_a_run_of_one_method_is_taken_whole_and_of_several_one_must_be_named(tmp_path):
    one = generated(tmp_path / "one", ("a cat",))
    assert methods_of(one) == ("w2sd",)
    assert read_folder(one, videos=listed(one / "w2sd")).path == one / "w2sd"
    two = generated(tmp_path / "two", ("a cat",), methods=("weak", "w2sd"))
    assert methods_of(two) == ("weak", "w2sd") and methods_of(two / "weak") == ()
    with pytest.raises(UserError, match=r"2 methods \(weak, w2sd\).*two/w2sd"):
        read_folder(two)
    assert {video.generation["method"] for video in read_folder(two / "weak", videos=listed(two / "weak")).videos} == {
        "weak"
    }


def test_torn_and_foreign_lines_of_a_journal_say_nothing(tmp_path):
    run = generated(tmp_path, ("a cat",), count=1)
    with open(run / "results.jsonl", "ab") as file:
        file.write(b'[1]\n\xff\xfe\n{"prompt": 3}\n{"path": "w2sd/a cat-0.mp4"}\n{"prompt": "a dog", "index": 0, "pa')
    assert named(run / "w2sd") == {"a cat-0.mp4": ("a cat", 0, "results.jsonl")}


def test_plain_folders_are_read_by_vbenchs_rule_and_files_that_no_known_prompt_fits_are_surplus(tmp_path):
    touch(tmp_path, "a cat-0.mp4", "a cat-1.mp4", "nameless.mp4", "p0002-1.mp4")
    by_name = {"a cat-0.mp4": ("a cat", 0, "file name"), "a cat-1.mp4": ("a cat", 1, "file name")}
    unknown = {"nameless.mp4": ("nameless", 0), "p0002-1.mp4": ("p0002", 1)}
    assert named(tmp_path) == by_name | {name: (*found, "file name") for name, found in unknown.items()}
    assert named(tmp_path, prompts=["a cat", "a dog"], ids={"p0002": "a dog"}) == by_name | {
        "nameless.mp4": ("nameless", 0, "surplus"),
        "p0002-1.mp4": ("a dog", 1, "file name"),
    }


def test_one_video_is_a_folder_of_its_own(tmp_path):
    (path,) = touch(tmp_path, "a cat-3.mp4")
    (video,) = read_folder(path).videos
    assert (video.path, video.name, video.prompt, video.index) == (path, "a cat-3.mp4", "a cat", 3)
    with pytest.raises(UserError, match="is not there"):
        read_folder(tmp_path / "absent")


def test_vbenchs_prompt_file_names_the_prompt_of_each_file(tmp_path):
    videos = tmp_path / "videos"
    touch(videos, "1.mp4", "2.mp4", "fa\u00e7ade.mp4")
    file = tmp_path / "prompts.json"
    table = {
        "./1.mp4": "a/b",
        str((videos / "2.mp4").absolute()): "a dog",
        unicodedata.normalize("NFD", "fa\u00e7ade.mp4"): "a wall",
    }
    file.write_text(json.dumps(table))
    expected = {"1.mp4": ("a/b", 0), "2.mp4": ("a dog", 0), "fa\u00e7ade.mp4": ("a wall", 0)}
    for given in (file, table):
        assert {name: found[:2] for name, found in named(videos, prompt_file=given).items()} == expected


def test_videos_of_one_prompt_are_numbered_where_their_names_do_not_do_it(tmp_path):
    touch(tmp_path, "x.mp4", "y.mp4", "z-4.mp4", "z-2.mp4")
    table = {"x.mp4": "a cat", "y.mp4": "a cat", "z-4.mp4": "a dog", "z-2.mp4": "a dog"}
    assert {name: found[:2] for name, found in named(tmp_path, prompt_file=table).items()} == {
        "x.mp4": ("a cat", 0),
        "y.mp4": ("a cat", 1),
        "z-2.mp4": ("a dog", 2),
        "z-4.mp4": ("a dog", 4),
    }


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"1.mp4": "a"}, r"no prompt for 1 of 2 videos, such as 2\.mp4"),
        ({"1.mp4": "a", "2.mp4": 3}, "not an object of file names and prompts"),
        (["a", "b"], "not an object of file names and prompts"),
    ],
)
def test_a_prompt_file_must_name_every_video(tmp_path, table, says):
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "prompts.json").write_text(json.dumps(table))
    with pytest.raises(UserError, match=says):
        named(tmp_path, prompt_file=tmp_path / "prompts.json")


def test_a_finished_run_of_a_manifest_is_complete(tmp_path):
    manifest = of(tmp_path, *HARD)
    path, _ = write_prompts(tmp_path, manifest)
    run = generated(tmp_path / "run", read_prompts(path))
    done = check_completeness(manifest, read_folder(run, videos=listed(run / "w2sd")))
    assert done.complete and (done.expected, done.found) == (14, 14)
    assert done.lines() == ("14 of 14 videos are there",) and done.to_json()["missing"] == []


def test_what_is_missing_is_named_by_prompt_and_index_with_the_generators_reason(tmp_path):
    manifest = of(tmp_path, "a cat", "a dog", "a bird", samples=3)
    run = generated(tmp_path / "run", ("a cat", "a dog"), count=3, failed=[("a dog", 2)])
    (run / "w2sd" / "a cat-1.mp4").unlink()
    done = check_completeness(manifest, read_folder(run, videos=listed(run / "w2sd")))
    assert not done.complete and (done.expected, done.found) == (9, 4)
    assert done.missing == (("a cat", 1), ("a dog", 2), ("a bird", 0), ("a bird", 1), ("a bird", 2))
    assert done.lines() == (
        "4 of 9 videos are there",
        "missing: 'a cat', index 1",
        "missing: 'a dog', index 2 (its frames are not finite)",
        "missing: 'a bird', index 0-2",
    )
    assert done.to_json()["missing"][1] == {"prompt": "a dog", "index": 2, "reason": "its frames are not finite"}


def test_failures_of_another_method_or_made_good_later_are_no_reason_here(tmp_path):
    run = generated(tmp_path, ("a cat",), methods=("weak", "w2sd"), count=1, failed=[("a cat", 0)])
    again = {"method": "w2sd", "prompt": "a cat", "index": 0, "path": "w2sd/a cat-0.mp4", "status": "done"}
    failed = {"method": "weak", "prompt": "a cat", "index": 1, "path": None, "status": "failed", "reason": "no memory"}
    touch(run, "w2sd/a cat-0.mp4", "weak/a cat-2.mp4")
    with open(run / "results.jsonl", "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in (again, failed))
    assert read_folder(run / "w2sd", videos=listed(run / "w2sd")).failed == {}
    assert read_folder(run / "weak", videos=listed(run / "weak")).failed[("a cat", 1)] == "no memory"


def test_surplus_files_are_told_and_do_no_harm(tmp_path):
    manifest = of(tmp_path, "a cat", samples=1)
    touch(tmp_path / "v", "a cat-0.mp4", "a cat-1.mp4", "a dog-0.mp4")
    found = read_folder(tmp_path / "v", prompts=["a cat"], videos=listed(tmp_path / "v"))
    done = check_completeness(manifest, found)
    assert done.complete and done.surplus == ("a cat-1.mp4", "a dog-0.mp4")
    assert done.lines()[1] == "surplus: 2 files are none of these videos, such as a cat-1.mp4, a dog-0.mp4"


def test_two_files_of_one_prompt_and_index_are_told(tmp_path):
    manifest = of(tmp_path, "a cat", samples=1)
    touch(tmp_path / "v", "a cat-0.mp4", "a cat.mp4", "p0001-0.mp4")
    found = read_folder(tmp_path / "v", prompts=["a cat"], ids=manifest.ids, videos=listed(tmp_path / "v"))
    done = check_completeness(manifest, found)
    assert not done.complete and done.repeated == {("a cat", 0): ("a cat-0.mp4", "a cat.mp4", "p0001-0.mp4")}
    assert "several files are 'a cat', index 0" in done.lines()[1]


def test_names_in_another_unicode_form_are_the_same_video(tmp_path):
    manifest = of(tmp_path, "fa\u00e7ades", samples=1)
    touch(tmp_path / "v", unicodedata.normalize("NFD", "fa\u00e7ades-0.mp4"))
    found = read_folder(tmp_path / "v", videos=listed(tmp_path / "v"))
    assert check_completeness(manifest, found).complete
    run = generated(tmp_path / "run", (unicodedata.normalize("NFD", "fa\u00e7ades"),), count=1)
    assert check_completeness(manifest, read_folder(run, videos=listed(run / "w2sd"))).complete


def test_thousands_of_missing_videos_are_told_in_a_few_lines(tmp_path):
    manifest = sample(read_suite(write_suite(tmp_path)))
    (tmp_path / "empty").mkdir()
    done = check_completeness(manifest, read_folder(tmp_path / "empty", videos=[]))
    assert len(done.missing) == 6220 and len(done.lines()) == 22
    assert done.lines()[-1] == "missing: videos of 924 more prompts"


def test_a_manifest_is_checked_against_a_suite_that_is_given_beside_it(tmp_path):
    for name, prompt in (("one", "a cat"), ("other", "a whale")):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"prompt_en": prompt, "dimension": ["human_action"]}]))
    write_manifest(tmp_path / "m.json", sample(read_suite(tmp_path / "one.json"), samples=1))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a cat-0.mp4").write_bytes(b"")
    found = find_inputs(tmp_path / "videos", manifest=tmp_path / "m.json", suite=tmp_path / "one.json")
    assert found.check is not None and found.check.complete
    with pytest.raises(UserError, match="1 of its 1 prompts are not in it"):
        find_inputs(tmp_path / "videos", manifest=tmp_path / "m.json", suite=tmp_path / "other.json")
