"""The verb `images`: what it prints, writes and refuses."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from tests.support import vbench_image_networks as nets
from vbench_eval.commands import images
from vbench_eval.commands.arguments import Parser
from vbench_eval.errors import UserError


def run(*words: str) -> tuple[int, dict[str, Any]]:
    parser = Parser(prog="w2sd-vbench")
    images.add_parser(parser.add_subparsers(parser_class=Parser, required=True))
    arguments: argparse.Namespace = parser.parse_args(["images", *words])
    return arguments.run(arguments)


@pytest.fixture
def made(tmp_path):
    names = ["a cat-0.png", "a dog-0.png", "a fox-0.png"]
    nets.save_pictures(nets.pictures(3, seed=1), tmp_path / "made" / "w2sd", names)
    nets.save_pictures(nets.pictures(3, seed=2), tmp_path / "made" / "strong", names)
    nets.save_clip(nets.clip(1), tmp_path / "clip")
    return tmp_path


def test_scores_and_win_rates_are_printed_and_written(made):
    words = [str(made / "made" / "w2sd"), "--metrics", "pickscore,clip_t", "--baseline", str(made / "made" / "strong")]
    words += ["--weights", f"pickscore={made / 'clip'}", "--weights", f"clip_vit_b_32={made / 'clip'}"]
    code, report = run(*words, "--device", "cpu", "--offline", "--output", str(made / "out"), "--quiet")
    assert code == 0 and report["status"] == "done"
    written = json.loads((made / "out" / "w2sd_images.json").read_text())
    for metric in ("pickscore", "clip_t"):
        found = written["metrics"][metric]
        assert len(found["per_picture"]) == 3 and found["against_baseline"]["pairs"] == 3
        assert found["value"] == report["metrics"][metric]["value"] and "per_picture" not in report["metrics"][metric]
        rate = 100 * found["against_baseline"]["win_rate"]["value"]
        (row,) = [line for line in report["text"].splitlines() if line.split()[0] == metric]
        assert f"{found['value']:.4f}" in row and f"{rate:.1f}%" in row and "cosine" in row
    assert written["versions"]["torch"] and str(made / "out" / "w2sd_images.json") in report["text"]


def test_an_unavailable_metric_and_a_broken_picture_are_said_and_end_with_code_1(made):
    (made / "made" / "w2sd" / "a dog-0.png").write_bytes(b"no picture")
    words = [str(made / "made" / "w2sd"), "--metrics", "clip_t", "aes", "--weights", f"clip_vit_b_32={made / 'clip'}"]
    code, report = run(*words, "--device", "cpu", "--offline", "--output", str(made / "out"), "--name", "n")
    assert code == 1 and report["status"] == "incomplete" and (made / "out" / "n_images.json").is_file()
    assert report["metrics"]["aes"]["value"] is None and "aes is unavailable: " in report["text"]
    assert "skipped" in report["text"] and "a dog-0.png" in report["text"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--weights", "pickscore"], "--weights is 'pickscore'; write NAME=CHOICE"),
        (["--weights", "pikscore=x"], "no weights are called 'pikscore'"),
        (["--plugin", "hps=x:y"], "only mps is a plug-in"),
        (["--metrics", "pickscores"], "no image metric is called 'pickscores'"),
        (["--batch", "0"], "not a whole number"),
        (["--weights", "pickscore=path:nowhere"], "does not exist"),
    ],
)
def test_what_cannot_be_used_is_refused(words, said, made):
    with pytest.raises(UserError, match=said):
        run(str(made / "made" / "w2sd"), *words, "--device", "cpu", "--offline", "--output", str(made / "out"))
    assert not (made / "out").exists()


def test_its_help_names_every_metric(capsys):
    with pytest.raises(SystemExit) as ended:
        run("--help")
    said = capsys.readouterr().out
    assert ended.value.code == 0 and all(f"  {name} " in said for name in images.IMAGE_METRICS)
