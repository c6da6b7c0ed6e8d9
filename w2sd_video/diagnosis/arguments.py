"""The flags of `scripts/diagnose.py` (imports no torch).

Flags that are not given are None: defaults stand in the presets and the requests only.
"""

from __future__ import annotations

import argparse

from w2sd_video import __version__
from w2sd_video.commands.command_flags import add_machine, add_prompts
from w2sd_video.commands.command_line import Parser
from w2sd_video.commands.gap_flags import add_gaps, add_pipeline_gaps
from w2sd_video.commands.request import SCHEDULERS
from w2sd_video.diagnosis.verdicts import VERDICTS
from w2sd_video.presets.listing import ListPresets

PROGRAM = "diagnose.py"

EPILOG = """\
examples:
  diagnose.py                                      the bundled pair of videos
  diagnose.py --preset picture-demo                the bundled pictures: one network, guidance 1 over 0
  diagnose.py --strong ./finetune.safetensors --weak ./sdxl --config ./sdxl --files-only
  diagnose.py --strong ./sdxl --lora art=./art.safetensors:0.8 --weak-lora art:-1.5 --prompt "a fox" --prompt "a lake"
  diagnose.py --strong ./flux --weak ./sdxl --format json

verdicts, from files alone:
{verdicts}

measured with a few prompts and steps, where the sides share their latent space: by noise level the size of the gap, the
error of the inversion (the zero-gap control) and the cosine of successive gaps; whether the pair conflicts or is too
similar, by thresholds whose rates of false alarm and detection are printed; and one setting to begin with.

exit codes: 0 the pair can be reflected, as the verdict says; 1 it cannot (refuse), or a measurement failed; 2 refused:
bad arguments, or a side that does not exist; 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    verdicts = "\n".join(f"  {name:10s}{about}" for name, about in VERDICTS.items())
    parser = Parser(
        prog=PROGRAM,
        description="Say of a pair, before it is paid for: whether its sides share a latent space, how large their gap "
        "is, whether it fails in a known way, and how to reflect it.",
        epilog=EPILOG.format(verdicts=verdicts),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        "--list-presets", action=ListPresets, help="print every preset with its settings and the paper's numbers"
    )
    pair = parser.add_argument_group("the pair")
    pair.add_argument("--preset", metavar="NAME", help="of generate_video.py or generate_image.py (default: demo)")
    pair.add_argument(
        "--strong", metavar="MODEL", help="strong side: a hub id, a diffusers folder or a .safetensors file"
    )
    pair.add_argument("--weak", metavar="MODEL", help="weak side: the same kinds (default: the strong side's network)")
    pair.add_argument("--motion-adapter", metavar="MODEL", help="AnimateDiff's motion modules: a hub id or a folder")
    for flag, side in (("--config", "strong"), ("--weak-config", "weak")):
        pair.add_argument(
            flag, metavar="FOLDER", help=f"configs, and what is missing, for a {side} .safetensors file; or a hub id"
        )
    pair.add_argument("--allow-pickle", action="store_const", const=True, help="open .bin weights, which can run code")
    add_gaps(parser.add_argument_group("gaps, beside another checkpoint and guidance"))
    add_pipeline_gaps(parser.add_argument_group("gaps of the pipeline"))
    how = parser.add_argument_group("what is measured (default: the preset's)")
    how.add_argument("--files-only", action="store_true", help="judge the files and load no model")
    add_prompts(how)
    how.add_argument("--negative-prompt", metavar="TEXT", help="what to steer away from; counts at guidance not 1")
    how.add_argument("--steps", type=int, metavar="T", help="sampling steps of the measurement (default: 12)")
    how.add_argument("--seeds", type=int, metavar="N", help="noises per prompt (default: 1)")
    how.add_argument("--seed", type=int, metavar="N", help="the first of them (default: 0)")
    how.add_argument("--guidance", type=float, metavar="G", help="guidance of sampling: 1 (unguided) or more")
    for side in ("strong", "weak"):
        how.add_argument(
            f"--{side}-guidance", type=float, metavar="G", help=f"of the {side} side inside the reflection"
        )
    how.add_argument("--scheduler", metavar="NAME", help=f"{', '.join(SCHEDULERS)} (default: the checkpoint's own)")
    for name in ("height", "width"):
        how.add_argument(f"--{name}", type=int, metavar="PX", help="of the pictures or videos")
    how.add_argument("--num-frames", type=int, metavar="F", help="frames per video")
    machine = add_machine(parser)
    machine.add_argument("--memory", metavar="PLAN", help="as generate_image.py; for pictures")
    out = parser.add_argument_group("output")
    out.add_argument(
        "--output", metavar="FOLDER", help="where diagnosis.json and gap.png go (default: nothing is kept)"
    )
    out.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to report on standard output (default: text)"
    )
    out.add_argument("--quiet", action="store_true", help="no progress, only the report")
    return parser
