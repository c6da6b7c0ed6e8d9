"""The command w2sd-vbench: what each verb prints, writes and refuses, and how it ends."""

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support import vbench_backbones
from tests.support import vbench_image_networks as networks
from tests.support.vbench_files import patterned, write_suite, write_video
from vbench_eval.commands import VERBS, build_parser, main
from vbench_eval.files import held
from vbench_eval.progress import Bars, TerminalProgress, bars
from vbench_eval.proxies import PROXIES
from vbench_eval.suite import ALL_DIMENSIONS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "evaluate_vbench.py"
NAMES = ("prompts", "score", "compare", "total", "static_filter", "images", "doctor", "fetch")
FLICKERING = ("--dimensions", "temporal_flickering", "--device", "cpu")


@pytest.fixture
def made(tmp_path):
    """Folders of two methods, two videos each."""
    for seed, method in enumerate(("strong", "w2sd")):
        (tmp_path / "videos" / method).mkdir(parents=True)
        for number, prompt in enumerate(("a cat", "a dog")):
            write_video(tmp_path / "videos" / method / f"{prompt}-0.mp4", patterned(5, 32, 48, 2 * number + seed))
    return tmp_path


def score(made: Path, method: str = "w2sd", *words: str) -> int:
    places = ("score", str(made / "videos" / method), "--output", str(made / "scores"))
    return main([*places, *FLICKERING, *words])


def report_of(made: Path, name: str = "w2sd") -> dict[str, Any]:
    return json.loads((made / "scores" / f"{name}_report.json").read_text("utf-8"))


def test_every_help_is_narrow_and_its_examples_are_what_the_command_takes(capsys):
    assert [verb.__name__.rpartition(".")[2] for verb in VERBS] == list(NAMES)
    taken = 0
    for words in ([], *([name] for name in NAMES)):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--help"])
        said = capsys.readouterr().out
        assert ended.value.code == 0 and max(map(len, said.splitlines())) <= 120
        assert f"examples:\n  w2sd-vbench {words[0]}" in said if words else "exit codes:" in said
        if not words:
            places = [said.index(f"w2sd-{step}") for step in ("vbench prompts", "video --", "vbench score", "vbench c")]
            assert places == sorted(places)
        for line in re.findall(r"^  w2sd-vbench (.*)$", said.replace("\\\n", " "), re.MULTILINE):
            example = re.split(r" {4,}(?!-)", line)[0]  # what follows is a remark
            assert callable(build_parser().parse_args(shlex.split(example)).run), example
            taken += 1
    assert taken >= 20


def test_the_makefile_runs_the_way_that_the_help_shows():
    recipe = (ROOT / "Makefile").read_text("utf-8").partition("\ndemo-vbench: ")[2].partition("\n\n")[0]
    steps = ["evaluate_vbench.py prompts", "generate_video.py --prompts", "evaluate_vbench.py score", "py compare"]
    places = [recipe.index(step) for step in steps]
    assert places == sorted(places)


REFUSED = {
    "score": "no folder of videos is given",
    "score nowhere": "nowhere",
    "score empty": "holds no videos",
    "score videos/w2sd --dimensions beauty": "'beauty'",
    "score videos/w2sd --dimensions ,": "no dimension is named",
    "score videos/w2sd --profile best": "--profile",
    "score videos/w2sd --device gpu": "device is 'gpu'",
    "score videos/w2sd --dtype float8": "float8",
    "score videos/w2sd --clip-dtype float8": "float8",
    "score videos/w2sd --read_frame True": "there is none in frames/w2sd nor in videos/w2sd",
    "score videos/w2sd --mode vbench_category": "fetch vbench_animal",
    "score videos/w2sd --category animal": "is for --mode vbench_category",
    "score videos/w2sd --mode vbench_category --category animal": "fetch vbench_animal",
    "score videos/w2sd --mode vbench_category --category cats": "one of animal",
    "evaluate --videos_path videos/w2sd --dimension color": "fetch vbench_suite",
    "static_filter": "no folder of videos",
    "static_filter videos/w2sd --filter_scope some": "temporal_flickering, all",
    "static_filter videos/w2sd --small --filter_scope all": "leave it out",
    "total": "no result file",
    "score videos/w2sd --judge beauty": "one of pickscore",
    "score videos/w2sd --judge a/b=module:function": "NAME=package.module:function",
    "score videos/w2sd --workers 0": "at least 1",
    "score videos/w2sd --backbone dino": "dimension=choice",
    "score videos/w2sd --backbone temporal_flickering=dino": "only subject_consistency",
    "score videos/w2sd --dimensions contrast --backbone subject_consistency=dino": "not scored",
    "score videos/w2sd --manifest nowhere.json": "nowhere.json",
    "score videos/w2sd --manifest videos/w2sd": "cannot be read",
    "score videos/w2sd --prompt cat": "single video",
    "score videos/w2sd --videos_path videos/w2sd": "given twice",
    "score videos/w2sd --name a/b": "name",
    "score videos/w2sd --imaging-mode widest": "imaging mode",
    "score videos/w2sd --mode vbench_standard --suite nowhere": "nowhere",
    "score videos/w2sd --best": "--best",
    "compare nowhere": "two or more",
    "compare nowhere nowhere": "nowhere",
    "compare nowhere nowhere --level 2": "--level",
    "prompts --suite nowhere": "nowhere",
    "prompts --suite sample --num-prompts 13": "13",
    "prompts --suite sample --dimensions contrast": "contrast",
    "fetch mona_lisa --offline": "mona_lisa",
    "": "VERB",
    "dance": "dance",
}


def test_bad_input_is_refused_by_one_line_with_code_2_before_torch_is_loaded(made):
    (made / "empty").mkdir()
    program = (
        "import contextlib, io, json, shlex, sys\n"
        "from vbench_eval.commands import main\n"
        "answers = []\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    out, said = io.StringIO(), io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):\n"
        "        code = main(shlex.split(words))\n"
        "    answers.append((words, code, out.getvalue(), said.getvalue()))\n"
        "print(json.dumps([answers, sorted({'torch', 'transformers', 'av'} & sys.modules.keys())]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(list(REFUSED))],
        cwd=made,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    answers, loaded = json.loads(done.stdout)
    assert loaded == []
    for words, code, out, said in answers:
        assert code == 2, words
        assert said.startswith("error: ") and said.count("\n") == 1, words
        assert REFUSED[words] in said, words
        assert out == "", words
    assert {path.name for path in made.iterdir()} == {"videos", "empty"}, "nothing was written"


def test_what_is_known_without_networks_and_frames_loads_nothing_heavy():
    program = (
        "import sys, vbench_eval\n"
        "from vbench_eval import dimensions, folders, manifest, profiles, protocols, proxies, results, suite, videos\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'numpy', 'PIL', 'av', 'vbench'}\n"
        "print(*heavy & sys.modules.keys())\n"
        "from vbench_eval.backbones.registry import inventory; inventory()\n"
        "print(*{'torch', 'transformers', 'huggingface_hub'} & sys.modules.keys())\n"
        "from vbench_eval import FramesInMemory, UserError, VideoError, find_videos, open_video\n"
        "print(open_video.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "", "open_video"]


def test_json_is_one_object_on_standard_output_also_for_a_refusal(made, capsys):
    assert score(made, "w2sd", "--format", "json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["status"] == "done" and summary["exit_code"] == 0 and summary["videos"] == 2
    assert summary["dimensions"]["temporal_flickering"]["aggregate"] == pytest.approx(
        report_of(made)["dimensions"]["temporal_flickering"]["aggregate"]
    )
    assert all(Path(file).is_file() for file in summary["files"])
    for words in (["score", "nowhere", "--format", "json"], ["score", "--format=json", "--best"]):
        assert main(words) == 2
        refusal = json.loads(capsys.readouterr().out)
        assert refusal["status"] == "refused" and refusal["exit_code"] == 2 and refusal["error"]


def test_code_1_says_that_the_report_lacks_something(made, capsys):
    assert score(made) == 0
    (made / "videos" / "w2sd" / "broken-0.mp4").write_bytes(b"")
    assert score(made) == 1
    assert "incomplete: 1 of 3 videos could not be read" in capsys.readouterr().out
    assert report_of(made)["dimensions"]["temporal_flickering"]["videos"] == 2
    write_video(made / "videos" / "strong" / "a still-0.mp4", patterned(1, 32, 48))
    assert score(made, "strong") == 1
    assert "temporal_flickering has no value for 1 of 3 videos" in capsys.readouterr().out
    only_unavailable = ("--dimensions", "subject_consistency", "--no-proxies", "--name", "bare")
    assert score(made, "strong", *only_unavailable) == 1
    assert "no dimension could be measured" in capsys.readouterr().out


def test_a_dry_run_says_what_is_there_and_writes_nothing(made, capsys):
    assert score(made, "w2sd", "--dry-run") == 0
    assert "  2 videos of 48x32, 5 frames at 8 fps (0.625 s)\n" in capsys.readouterr().out
    copy = made / "videos" / "w2sd" / "a copy-0.mp4"
    copy.write_bytes((made / "videos" / "w2sd" / "a cat-0.mp4").read_bytes())
    (made / "videos" / "w2sd" / "broken-0.mp4").write_bytes(b"")
    assert score(made, "w2sd", "--dry-run", "--format", "json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["videos"] == 4 and report["formats"][0]["videos"] == 3
    assert any("same content" in note for note in report["notes"])
    assert any("cannot be read" in note and "broken-0.mp4" in note for note in report["notes"])
    assert not (made / "scores").exists()


def test_the_whole_way_from_prompts_to_a_page(tmp_path, capsys):
    home = tmp_path / "demo"
    sampled = ["prompts", "--suite", "sample", "--num-prompts", "3", "--samples", "1", "--output", str(home)]
    assert main(sampled) == 0
    prompts = (home / "prompts.txt").read_text("utf-8").splitlines()
    assert len(prompts) == 3
    for seed, method in enumerate(("strong", "w2sd")):
        (home / "videos" / method).mkdir(parents=True)
        for number, prompt in enumerate(prompts):
            frames = patterned(5, 32, 48, 2 * number + seed)
            write_video(home / "videos" / method / f"{prompt}-0.mp4", frames)
        words = ["--manifest", str(home / "manifest.json"), "--output", str(home / "scores"), *FLICKERING]
        assert main(["score", str(home / "videos" / method), *words]) == 0
    capsys.readouterr()
    reports = [str(home / "scores" / f"{method}_report.json") for method in ("strong", "w2sd")]
    compared = ["compare", *reports, "--labels", "strong", "W2SD", "--draws", "100", "--output", str(home / "page")]
    assert main([*compared, "--format", "json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert {"index.html", "table.md", "table.csv", "table.tex"} <= {Path(file).name for file in files.values()}
    page = (home / "page" / "index.html").read_text("utf-8")
    assert all(prompt in page for prompt in prompts) and "W2SD" in page


def test_vbenchs_own_spellings_do_the_same(made):
    assert score(made) == 0
    ours = report_of(made)
    theirs = ["evaluate", "--videos_path", str(made / "videos" / "w2sd"), "--dimension", "temporal_flickering"]
    rest = ["--output_path", str(made / "theirs"), "--mode", "custom_input", "--load_ckpt_from_local", "True"]
    assert (
        main([*theirs, *rest, "--ngpus", "1", "--imaging_quality_preprocessing_mode", "longer", "--device", "cpu"]) == 0
    )
    report = json.loads((made / "theirs" / "w2sd_report.json").read_text("utf-8"))
    assert report["dimensions"] == ours["dimensions"]


# Every command of VBench's README, and of the scripts that it runs, with `w2sd-vbench` in the place of `vbench` and
# `python`: evaluate.py, static_filter.py and cal_final_score.py are the verbs evaluate, static_filter and total.
THEIRS = """\
evaluate --dimension $D --videos_path videos/w2sd/ --mode=custom_input
evaluate --dimension $D --videos_path "videos/w2sd/a cat-0.mp4" --mode=custom_input
evaluate --ngpus=2 --dimension $D --videos_path videos/w2sd --mode=custom_input
evaluate --videos_path videos/w2sd --dimension $D
evaluate --videos_path "videos/w2sd" --dimension "$D" --full_json_dir vbench/VBench_full_info.json
evaluate --videos_path videos/w2sd --dimension $D --mode=vbench_category --category=cats.txt
evaluate --dimension $D --videos_path videos/w2sd --mode=vbench_category
total --zip_file evaluation_results.zip --model_name w2sd
static_filter --videos_path videos/w2sd
static_filter --videos_path videos/w2sd --filter_scope all
static_filter --videos_path videos/w2sd --filter_scope cats.json
"""


def test_every_command_of_vbenchs_readme_is_taken(made, monkeypatch, capsys):
    prompts = [{"prompt_en": prompt, "dimension": list(ALL_DIMENSIONS)} for prompt in ("a cat", "a dog")]
    for name, content in (("vbench/VBench_full_info.json", prompts), ("cats.json", ["a cat"])):
        write_suite(made, content, name)
    (made / "vbench" / "__init__.py").write_text("raise RuntimeError('this needs CUDA')")  # an installed vbench
    (made / "cats.txt").write_text("a cat\na dog\n")
    monkeypatch.syspath_prepend(made)
    monkeypatch.chdir(made)
    monkeypatch.setattr("vbench_eval.inputs.CATEGORIES", {"cats.txt": ""})  # else it is all of VBench's, fetched
    for line in THEIRS.splitlines():
        dimensions = ALL_DIMENSIONS if line.startswith("evaluate") else ("",)
        for dimension in dimensions:
            words = shlex.split(line.replace("$D", dimension))
            arguments = build_parser().parse_args(words)
            assert callable(arguments.run), line
        if line.startswith("evaluate"):
            code = main([*words, "--dry-run", "--format", "json"])
            found = json.loads(capsys.readouterr().out)
            whole = "custom" in line or "category" in line  # the suite asks for five of each prompt
            assert code == int(not whole) and found["videos"] == (1 if "a cat-0" in line else 2), (line, found)


def test_frames_are_read_where_vbench_looks_for_them(made):
    for video in (made / "videos" / "w2sd").iterdir():
        folder = made / "frames" / "w2sd" / video.stem.replace(" ", "_")
        folder.mkdir(parents=True)
        for number, frame in enumerate(patterned(3, 32, 48, 7)):
            Image.fromarray(frame).save(folder / f"{number}.png")
    assert score(made, "w2sd", "--read_frame", "True", "--name", "frames") == 0
    report = report_of(made, "frames")
    assert report["folder"].endswith("frames/w2sd") and {video["info"]["frames"] for video in report["videos"]} == {3}


def test_clip_alone_may_be_coarser_as_vbench_has_it_on_a_gpu(made):
    networks.save_clip(networks.clip(1), made / "clip")
    words = ("--dimensions", "background_consistency", "--backbone", f"background_consistency={made / 'clip'}")
    values = []
    for name, dtype in (("full", "float32"), ("half", "float16")):
        assert score(made, "w2sd", *words, "--clip-dtype", dtype, "--read_frame", "False", "--name", name) == 0
        found = report_of(made, name)["dimensions"]["background_consistency"]
        assert found["backbone"]["dtype"] == dtype
        values.append(found["aggregate"])
    assert 0 < abs(values[0] - values[1]) < 8 * 2**-10


@pytest.mark.parametrize("verb", ["prompts", "compare"])
def test_a_folder_that_another_process_writes_to_is_refused(made, capsys, verb):
    output = made / "output"
    words = ["prompts", "--suite", "sample", "--output", str(output)]
    if verb == "compare":
        assert score(made) == score(made, "strong") == 0
        reports = [str(made / "scores" / f"{name}_report.json") for name in ("w2sd", "strong")]
        words = ["compare", *reports, "--draws", "100", "--output", str(output)]
    with held(output):
        assert main(words) == 2
    assert f"another process is writing to {output}" in capsys.readouterr().err and not output.exists()
    assert main(words) == 0


def test_a_prompt_may_be_told_for_a_video_or_for_each(made):
    video = made / "videos" / "w2sd" / "a cat-0.mp4"
    words = ["--output", str(made / "scores"), *FLICKERING]
    assert main(["score", str(video), "--prompt", 'a "cat", purring', "--name", "one", *words]) == 0
    assert [one["prompt"] for one in report_of(made, "one")["videos"]] == ['a "cat", purring']
    (made / "prompts.json").write_text(json.dumps({"a cat-0.mp4": "cats", "a dog-0.mp4": "dogs"}))
    assert score(made, "w2sd", "--prompt_file", str(made / "prompts.json"), "--name", "each") == 0
    assert [one["prompt"] for one in report_of(made, "each")["videos"]] == ["cats", "dogs"]


def test_backbones_may_be_given_by_name(made):
    words = [word for name, choice in vbench_backbones.ALL.items() for word in ("--backbone", f"{name}={choice}")]
    assert score(made, "w2sd", "--dimensions", "table12", *words) == 0
    found = report_of(made)["dimensions"]
    assert all(found[name]["status"] == "measured" for name in vbench_backbones.ALL)
    assert found["dynamic_degree"]["backbone"]["id"] == "stand-in GreyDifference"


def test_a_backbone_that_is_named_and_not_to_be_had_is_refused(made, capsys):
    words = ("--offline", "--dimensions", "subject_consistency")
    assert score(made, "w2sd", *words) == 1, "its own weights may be missing; but then nothing was measured"
    assert score(made, "w2sd", *words, "temporal_flickering") == 0
    assert score(made, "w2sd", *words, "--backbone", "subject_consistency=some/vit") == 2
    assert "--backbone subject_consistency=some/vit" in capsys.readouterr().err


def test_a_reader_that_leaves_early_gets_no_traceback():
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "score", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # as `| head -0` does, before a word is written
    complained = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert complained == b""


def test_progress_is_quiet_but_for_failures_where_there_is_no_terminal(capsys):
    for quiet, expected in ((False, "note: look\nSKIPPED b.mp4: torn\n"), (True, "SKIPPED b.mp4: torn\n")):
        progress = TerminalProgress(quiet=quiet)
        progress.note("look")
        progress.started(2, 0)
        progress.finished("a.mp4", None)
        progress.finished("b.mp4", "torn")
        progress.close()
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", expected)


def test_a_terminal_sees_a_bar_with_the_time_left(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = TerminalProgress()
    progress.started(2, 1)
    progress.finished("a.mp4", None)
    progress.close()
    said = capsys.readouterr().err
    assert "in the journal already: 1; to go: 2" in said
    assert "1/2" in said and "<" in said, "done, all, and the time left"


def test_the_zip_is_what_vbenchs_script_for_final_scores_reads(made):
    assert score(made, "w2sd", "--zip", "--no-proxies") == 0
    assert not set(report_of(made)["dimensions"]) & set(PROXIES)
    scores = {}
    with zipfile.ZipFile(made / "scores" / "w2sd.zip") as archive:
        for name in archive.namelist():
            data = json.loads(archive.read(name))
            if isinstance(data, dict):  # as the script does: each key is a dimension, each value a list
                scores.update({key: value[0] for key, value in data.items()})
    assert scores.keys() == {"temporal_flickering"} and 0 < scores["temporal_flickering"] <= 1


def test_a_bar_shows_each_name_with_what_is_done_of_how_much_and_begins_anew_when_less_is_done(capsys):
    told = Bars("picture")
    for name, done, of in (("fid", 1, 4), ("fid", 4, 4), ("aes", 2, 2), ("pickscore", 3, 4), ("pickscore", 1, 4)):
        told(name, done, of)  # the last of the baseline's pictures
    told.close()
    ended = capsys.readouterr().err
    assert "fid: 100%" in ended and "4/4" in ended and "aes: 100%" in ended and "2/2" in ended
    assert "1/4" in ended
    told = Bars("B", scaled=True)
    told("raft-things.pth", 21_000_000, 0)  # of unknown length
    told.close()
    assert "21.0MB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("watched", "quiet", "shown"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_bars_are_for_a_terminal_that_is_not_asked_to_be_quiet(monkeypatch, watched, quiet, shown):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched, raising=False)
    assert (bars("B", quiet=quiet) is not None) is shown
