"""The verb `score`: a folder of videos to VBench's result files and a report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.commands.arguments import (
    add_network_flags,
    add_output_flags,
    add_place_flags,
    add_verb,
    listed,
    positive,
)
from vbench_eval.dimensions import I2V, OFFICIAL, SEMANTIC
from vbench_eval.errors import UserError
from vbench_eval.judges import PICTURE_REWARDS
from vbench_eval.profiles import PROFILES
from vbench_eval.proxies import PROXIES

if TYPE_CHECKING:
    from vbench_eval.inputs import Inputs

EXAMPLES = f"""\
examples:
  w2sd-vbench score videos/w2sd                                  all dimensions whose weights are here, and stand-ins
  w2sd-vbench score videos/w2sd --manifest manifest.json         and which videos of the set are missing
  w2sd-vbench score videos/w2sd --dimensions table12 --workers 4
  w2sd-vbench score videos/w2sd --dimensions proxies             needs no weights at all
  w2sd-vbench score videos/w2sd --backbone subject_consistency=/models/dino --backbone dynamic_degree=raft-things.pth
  accelerate launch --multi_gpu --num_processes 8 scripts/evaluate_vbench.py score videos/w2sd       or torchrun
  w2sd-vbench evaluate --videos_path videos --dimension subject_consistency --mode custom_input      as VBench spells it

{listed("dimensions of quality, all of them", OFFICIAL)}
{listed("dimensions of meaning, which need the prompt or the suite", SEMANTIC)}
{listed("dimensions of videos made from pictures (--image-folder)", I2V)}
{listed("proxies", PROXIES)}
{chr(10).join(listed(f"profile {profile.name}", [profile.summary]) for profile in PROFILES.values())}

A dimension without its weights is reported as unavailable, never as a number, and a proxy that needs no weights is
shown beside it under its own name; `w2sd-vbench doctor` says what is missing. Nothing is downloaded but a hub id that
--backbone names. FOLDER holds mp4, mov, webm, mkv, avi, gif or webp files named "<prompt>-<index>", or folders of
pictures; a generator's output folder is taken as it stands.

written to --output: NAME_eval_results.json and NAME_full_info.json as VBench writes them, NAME_report.json with
everything else (--zip packs the first two alone, as VBench's cal_final_score.py wants them), NAME_journal/ with a line
per finished video: stopped at any moment, the same command goes on.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the verb."""
    parser = add_verb(subparsers, "score", aliases=("evaluate",), help="score a folder of videos", examples=EXAMPLES)
    _add_inputs(parser)
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--dimensions",
        "--dimension",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help="names, comma lists, or the groups all, table12, proxies (default: all)",
    )
    what.add_argument("--profile", choices=tuple(PROFILES), default="vbench", help="see below (default: vbench)")
    what.add_argument(
        "--backbone",
        action="append",
        default=[],
        metavar="DIM=CHOICE",
        help="another backbone: a path, a hub id or package.module:factory; may be given several times",
    )
    what.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="NAME=CHOICE",
        help="a judge of yours beside the dimensions, package.module:function, or a reward of pictures over eight "
        f"frames: {', '.join(PICTURE_REWARDS)}; hpsv3=FOLDER and video_reward=FOLDER hold all that the network needs; "
        "may be given several times",
    )
    what.add_argument(
        "--long",
        action="store_true",
        help="cut videos over 5 s into clips of 2 s (10 s where an action or a style over time is judged), measure "
        "each and take the mean, as VBench-Long does by default",
    )
    what.add_argument(
        "--detector",
        metavar="CHOICE",
        help="an open-vocabulary detector, for measures like object_class, multiple_objects, color and "
        "spatial_relationship under names of their own: owlv2, a path, a hub id or package.module:function",
    )
    what.add_argument(
        "--allow-proxy",
        action="store_true",
        help='write a proxy under the official name where weights are missing, marked "backbone": "proxy:..."',
    )
    what.add_argument(
        "--no-proxies", action="store_true", help="no stand-ins beside dimensions without weights, no look for stills"
    )
    what.add_argument(
        "--imaging-mode",
        "--imaging_quality_preprocessing_mode",
        default="longer",
        metavar="MODE",
        help="how imaging_quality resizes: longer, shorter, shorter_centercrop, None (default: longer)",
    )
    machine = add_network_flags(parser)
    machine.add_argument(
        "--clip-dtype",
        metavar="DTYPE",
        help="of CLIP alone; float16 is what VBench has on CUDA, and moves scores by about 4e-4 (default: as --dtype)",
    )
    machine.add_argument(
        "--workers",
        "--ngpus",
        type=positive,
        default=1,
        metavar="N",
        help="processes that share the videos, each with its part of the cores or a GPU of its own (default: 1)",
    )
    add_output_flags(parser)
    out = add_place_flags(parser, "--output_path")
    out.add_argument(
        "--zip",
        action="store_true",
        help="write NAME.zip too, with VBench's two files alone, for its cal_final_score.py and leaderboard",
    )
    parser.set_defaults(run=run)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    inputs = parser.add_argument_group("the videos")
    inputs.add_argument("folder", nargs="?", metavar="FOLDER", help="a folder of videos, or one video")
    inputs.add_argument("--videos_path", metavar="FOLDER", help="the same, as VBench spells it")
    inputs.add_argument("--manifest", metavar="FILE", help="of the verb prompts: says which videos there should be")
    inputs.add_argument(
        "--prompt-file",
        "--prompt_file",
        metavar="FILE",
        help="JSON {file name: prompt}, where names are not the prompts",
    )
    inputs.add_argument("--prompt", metavar="TEXT", help="the prompt of a single video")
    inputs.add_argument(
        "--suite",
        "--full_json_dir",
        metavar="FILE",
        help="VBench_full_info.json, for --mode vbench_standard, and for what dimensions of meaning ask",
    )
    inputs.add_argument(
        "--mode",
        choices=("custom_input", "vbench_standard", "vbench_category"),
        metavar="MODE",
        help="custom_input: every dimension on every video, as in Table 12 (default of score); vbench_standard: each "
        "on the prompts that VBench has for it (default of evaluate, as VBench's); vbench_category: all on --category",
    )
    inputs.add_argument(
        "--category", metavar="NAME", help="VBench's animal, architecture, ..., or a file with a prompt a line"
    )
    inputs.add_argument(
        "--image-folder",
        "--custom_image_folder",
        metavar="FOLDER",
        help="the pictures that the videos were made from, named like the prompts, for i2v_subject and i2v_background",
    )
    inputs.add_argument(
        "--read_frame",
        nargs="?",
        const="True",
        default="False",
        metavar="BOOL",
        help="read folders of pictures in place of videos, where VBench looks for them (videos -> frames in the path)",
    )
    # VBench's own flag for weights from its cache, where they are always looked for here.
    inputs.add_argument("--load_ckpt_from_local", nargs="?", help=argparse.SUPPRESS)
    inputs.add_argument("--dry-run", action="store_true", help="say what is there, missing or odd, and score nothing")
    inputs.add_argument("--require-complete", action="store_true", help="refuse to score a folder that lacks videos")


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Scores and reports."""
    from vbench_eval.inputs import find_inputs
    from vbench_eval.progress import TerminalProgress
    from vbench_eval.results import report_text, submission, summarised
    from vbench_eval.scoring import score_inputs
    from vbench_eval.settings import ScoringSettings, parse_backbones, parse_judges

    if arguments.folder and arguments.videos_path:
        raise UserError("the folder is given twice; give FOLDER or --videos_path")
    if not (folder := arguments.folder or arguments.videos_path):
        raise UserError("no folder of videos is given; write w2sd-vbench score FOLDER")
    mode = arguments.mode or ("vbench_standard" if arguments.verb == "evaluate" else "custom_input")
    if arguments.read_frame.lower() not in ("false", "0"):
        folder = _frames_of(Path(folder))
    settings = ScoringSettings(
        dimensions=tuple(arguments.dimensions),
        profile=arguments.profile,
        backbones=parse_backbones(arguments.backbone),
        judges=parse_judges(arguments.judge),
        detector=arguments.detector,
        long=arguments.long,
        allow_proxy=arguments.allow_proxy,
        proxies=not arguments.no_proxies,
        device=arguments.device,
        dtype=arguments.dtype,
        clip_dtype=arguments.clip_dtype,
        offline=arguments.offline,
        allow_pickle=arguments.allow_pickle,
        cache=arguments.cache,
        imaging_mode=arguments.imaging_mode,
    )
    inputs = find_inputs(
        folder,
        manifest=arguments.manifest,
        prompt_file=arguments.prompt_file,
        prompt=arguments.prompt,
        suite=arguments.suite,
        mode=mode,
        category=arguments.category,
        image_folder=arguments.image_folder,
        dimensions=settings.dimensions,
    )
    if arguments.dry_run:
        return _looked_at(inputs, settings.dimensions)
    written = score_inputs(
        inputs,
        settings,
        output=Path(arguments.output),
        name=arguments.name,
        workers=arguments.workers,
        require_complete=arguments.require_complete,
        progress=TerminalProgress(quiet=arguments.quiet),
    )
    if written is None:  # not the first of several launched processes: the first reports
        return 0, {}
    code, summary = summarised(written)
    if arguments.zip:
        summary["files"].append(str(submission(written)))
    return code, {**summary, "text": report_text(written)}


def _frames_of(folder: Path) -> Path:
    """Returns where VBench reads frames in the place of a folder's videos: the word videos in its path is frames there,
    and blanks are underscores; or the folder itself, where it holds a folder of pictures per video.
    """
    from vbench_eval.videos import find_videos

    beside = Path(str(folder).replace("videos", "frames").replace(" ", "_"))
    for place in (beside, folder):
        if place.is_dir() and any(path.is_dir() for path in find_videos(place)):
            return place
    raise UserError(
        f"--read_frame reads a folder of pictures per video, and there is none in {beside} nor in {folder}; leave it "
        "out, or give the folder that holds them"
    )


def _looked_at(inputs: Inputs, dimensions: tuple[str, ...]) -> tuple[int, dict[str, Any]]:
    from vbench_eval.preflight import format_line, formats, look_at, repeats, warnings

    infos = look_at(inputs.paths)
    rows = formats(infos.values())
    notes = [*inputs.notes, *warnings(infos, dimensions=dimensions), *repeats(inputs.paths)]
    lacking = inputs.incomplete() is not None or any("error" in info for info in infos.values())
    lines = [f"{len(infos)} videos in {inputs.folder}", *(f"  {format_line(row)}" for row in rows)]
    report = {
        "status": "incomplete" if lacking else "done",
        "videos": len(infos),
        "formats": rows,
        "completeness": inputs.completeness,
        "notes": notes,
    }
    return int(lacking), {**report, "text": "\n".join([*lines, *(f"note: {note}" for note in notes)])}
