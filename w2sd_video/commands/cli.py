"""The command `w2sd-video`: arguments to a request, a request to videos.

Nothing heavy is imported before the arguments are checked.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from w2sd_video import __version__
from w2sd_video.commands.command_line import EXIT_DONE, EXIT_FAILED, Parser, run_command
from w2sd_video.commands.gap_flags import add_gaps, add_pipeline_gaps, gaps_given
from w2sd_video.commands.generate import generate, on_device
from w2sd_video.commands.matching import match_evaluations
from w2sd_video.commands.method_flags import EXAMPLES, add_refinements, add_reward, method_lines, methods_given
from w2sd_video.commands.pictures.performing import perform_plan
from w2sd_video.commands.pictures.planning import plan_images
from w2sd_video.commands.pictures.videos import needs_whole_pipelines, whole_pipelines
from w2sd_video.commands.planning import parse_methods, plan
from w2sd_video.commands.prompts import read_prompts, without_repeats
from w2sd_video.commands.reports import describe_plan, describe_summary, plan_text, summary_text
from w2sd_video.commands.request import DTYPES, OFFLOADS, SCHEDULERS, GenerationRequest
from w2sd_video.pair import MODES
from w2sd_video.presets import VIDEO_PRESETS
from w2sd_video.presets.listing import ListPresets
from w2sd_video.runs.progress import Progress, TerminalProgress, calm_libraries
from w2sd_video.runs.tasks import METHODS
from w2sd_video.runs.video_io import FORMATS

_ROOM = (
    "Try --offload model, then --offload group, a smaller --height and --width, or fewer --num-frames; --dry-run "
    "estimates what is needed."
)

EPILOG = """\
examples:
  w2sd-video                                   the bundled demo, on any machine: weak, strong, W2SD, zero-gap
  w2sd-video --prompt "a red ring moving up" --num-videos 4
  w2sd-video --mode fused --strength 2 --methods strong,w2sd,zero-gap
{examples}
  w2sd-video --preset juggernaut-vs-sdxl --prompt "a corgi runs on the beach" --dry-run
  w2sd-video --strong ./finetune.safetensors --weak stabilityai/stable-diffusion-xl-base-1.0 --prompts prompts.txt

presets:
{presets}

methods:
{methods}

prompt files (UTF-8):
  .txt   a prompt a line; blank lines and lines that start with # are skipped
  .csv   a header with a column "prompt"
  .json  a list of strings, or of objects with "prompt"

The output folder holds run.json, results.jsonl (a line per video), one folder per method with "<prompt>-<index>.mp4",
comparison/ and index.html. Stopped at any moment, the same command finishes the set. Another run is refused in the same
folder; only methods may be added, and --offload, --quiet and --format may change.

exit codes: 0 all videos are there; 1 a video failed (results.jsonl says why) or memory ran out; 2 refused: bad
arguments, files or folder, or a disk that is full or read-only (what was finished is kept); 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser.

    Flags that are not given are None: defaults stand in the presets and the request only.
    """
    presets = "\n".join(
        f"  {p.name:20s} {p.description};\n{'':23s}{p.steps} steps, guidance {p.guidance:g}, "
        f"{p.num_frames} frames of {p.width}x{p.height} at {p.fps} fps"
        for p in VIDEO_PRESETS.values()
    )
    parser = Parser(
        prog="w2sd-video",
        description="Generate videos with Weak-to-Strong Diffusion (W2SD) beside weak and strong ones.",
        epilog=EPILOG.format(presets=presets, methods=method_lines(), examples=EXAMPLES.format(program="w2sd-video")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"w2sd-video {__version__}")
    parser.add_argument(
        "--list-presets", action=ListPresets, help="print every preset with its settings and the paper's numbers"
    )
    what = parser.add_argument_group("what to show")
    what.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="a prompt; may be given several times (default: the demo's own)",
    )
    what.add_argument("--prompts", metavar="FILE", help="a file of prompts: .txt, .csv or .json (see below)")
    what.add_argument(
        "--negative-prompt", metavar="TEXT", help="what to steer away from; counts where guidance is not 1"
    )
    what.add_argument(
        "--methods", metavar="LIST", help=f"comma-separated, of {', '.join(METHODS)} (default: weak,strong,w2sd)"
    )
    what.add_argument(
        "--num-videos", type=int, metavar="N", help="videos per prompt, each from other noise (default: 1)"
    )
    what.add_argument(
        "--seed", type=int, metavar="N", help="video i of every prompt starts from the noise of seed N + i (default: 0)"
    )
    pair = parser.add_argument_group("the pair")
    pair.add_argument(
        "--preset",
        metavar="NAME",
        help=f"{', '.join(VIDEO_PRESETS)} (default: demo; with --strong and --weak, the paper's)",
    )
    pair.add_argument(
        "--strong", metavar="MODEL", help="strong side: a hub id, a diffusers folder or a .safetensors file"
    )
    pair.add_argument("--weak", metavar="MODEL", help="weak side: the same kinds, or a folder with only a unet/")
    pair.add_argument("--motion-adapter", metavar="MODEL", help="AnimateDiff-SDXL motion modules: a hub id or a folder")
    pair.add_argument(
        "--config", metavar="FOLDER", help="configs and tokenizers for .safetensors files, for use offline"
    )
    pair.add_argument(
        "--allow-pickle",
        action="store_const",
        const=True,
        help="open .bin weights, which can run code: only if you trust them",
    )
    add_gaps(parser.add_argument_group("gaps, beside checkpoints and guidance"))
    add_pipeline_gaps(parser.add_argument_group("gaps of the pipeline (AnimateDiff)"), video=True)
    how = parser.add_argument_group("sampling and reflection (default: the preset's)")
    how.add_argument("--steps", type=int, metavar="T", help="sampling steps")
    how.add_argument("--guidance", type=float, metavar="G", help="guidance of sampling: 1 (unguided) or more")
    how.add_argument(
        "--reflections", type=int, metavar="L", help="lambda: how many steps, from the noisiest, are reflected"
    )
    how.add_argument(
        "--match-evaluations",
        type=int,
        metavar="N",
        help="choose T and lambda so that W2SD costs what N steps cost: T = N/2, lambda = T/2, rounded down",
    )
    how.add_argument(
        "--mode",
        metavar="MODE",
        help=f"{', '.join(MODES)}: Algorithm 1, Theorem 1 exactly, or as the published code does",
    )
    how.add_argument(
        "--strength",
        type=float,
        metavar="S",
        help="how much of each reflection's move is made, and the weight of auto-guidance; 1 is the paper's",
    )
    how.add_argument(
        "--strong-guidance",
        type=float,
        metavar="G",
        help="guidance of the strong side inside the reflection (default: --guidance, where given)",
    )
    how.add_argument("--weak-guidance", type=float, metavar="G", help="guidance of the weak side inside the reflection")
    how.add_argument("--scheduler", metavar="NAME", help=f"{', '.join(SCHEDULERS)} (default: the checkpoint's own)")
    add_refinements(parser.add_argument_group("settings of a reflection beyond the paper's algorithm"))
    add_reward(parser, video=True)
    video = parser.add_argument_group("the videos (default: the preset's)")
    video.add_argument("--num-frames", type=int, metavar="F", help="frames per video")
    video.add_argument("--height", type=int, metavar="PX", help="height; a multiple of 8")
    video.add_argument("--width", type=int, metavar="PX", help="width; likewise")
    video.add_argument("--fps", type=float, metavar="FPS", help="frames per second of the file")
    video.add_argument(
        "--video-format", metavar="FORMAT", help=f"{', '.join(FORMATS)}; png is a folder of frames (default: mp4)"
    )
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    machine.add_argument(
        "--dtype", metavar="DTYPE", help=f"{', '.join(DTYPES)} (default: auto: float32 on a CPU, else 16 bits)"
    )
    machine.add_argument(
        "--offload",
        metavar="KIND",
        help=f"{', '.join(OFFLOADS)}: keep networks off the GPU until needed (default: none)",
    )
    machine.add_argument(
        "--compile", action="store_const", const=True, help="compile the networks' blocks; pays off over many videos"
    )
    out = parser.add_argument_group("output")
    out.add_argument(
        "--output", metavar="FOLDER", help="where to write (default: a folder under outputs/ named after the settings)"
    )
    out.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to report on standard output (default: text)"
    )
    out.add_argument("--quiet", action="store_true", help="no progress, only failures")
    out.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be done, what it costs and what is written; load no model",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `--help`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(build_parser(), words, _run, made="videos", room=_ROOM)


def _run(arguments: argparse.Namespace, words: list[str]) -> tuple[int, dict[str, Any]]:
    progress = TerminalProgress(quiet=arguments.quiet)
    calm_libraries(bars=progress.bars)
    request = request_of(arguments, progress)
    as_json = arguments.format == "json"
    command = shlex.join(["w2sd-video", *words])
    whole = plan_images(whole_pipelines(request)) if needs_whole_pipelines(request) else None
    done = plan(request) if whole is None else None
    if arguments.match_evaluations is not None:
        progress.note(match_evaluations(arguments.match_evaluations).sentence())
    if whole is not None:
        return perform_plan(whole, arguments, progress, command)
    assert done is not None
    if arguments.dry_run:
        done = on_device(done)[0]
        report = describe_plan(done)
        return EXIT_DONE, report if as_json else {"text": plan_text(report)}
    summary = generate(done, progress=progress, command=command)
    code = EXIT_DONE if summary.complete else EXIT_FAILED
    return code, describe_summary(summary) if as_json else {"text": summary_text(summary, quiet=arguments.quiet)}


def request_of(arguments: argparse.Namespace, progress: Progress) -> GenerationRequest:
    """Returns what the parsed arguments ask for; raises UserError for files that cannot be read."""
    prompts = list(arguments.prompt or [])
    if arguments.prompts is not None:
        prompts += read_prompts(arguments.prompts)
    if repeated := len(prompts) - len(without_repeats(prompts)):
        progress.note(
            f"{repeated} repeated prompts are made once: a repeat would be the same video (use --num-videos for more)"
        )
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    for name in ("format", "quiet", "dry_run", "prompt"):
        given.pop(name, None)
    given = methods_given(gaps_given(given))
    given["prompts"] = without_repeats(prompts)
    if "methods" in given:
        given["methods"] = parse_methods(given["methods"])
    return GenerationRequest(**given)
