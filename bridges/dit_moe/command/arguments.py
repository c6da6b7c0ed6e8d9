"""The flags of `scripts/sample_dit_moe.py` (imports no torch).

Flags that are not given are None: defaults stand in the request and the planning only.
"""

from __future__ import annotations

import argparse

from bridges.dit_moe.command.request import GUIDANCE, PATHS, STEPS
from w2sd_video import __version__
from w2sd_video.commands.command_line import Parser
from w2sd_video.commands.options import DTYPES
from w2sd_video.pair import MODES
from w2sd_video.runs.tasks import W2SD_METHODS

PROGRAM = "sample_dit_moe.py"

EPILOG = """\
examples:
  sample_dit_moe.py                                the bundled network of handwritten digits, on any machine
  sample_dit_moe.py --classes 3,7 --num-images 16 --methods strong,w2sd --weak-experts 0,1 --expert-load
  sample_dit_moe.py convert dit_moe_s_8E2A.pt dit-moe-s
  sample_dit_moe.py --checkpoint dit-moe-s --vae stabilityai/sd-vae-ft-mse --classes 207,360 --num-images 8 \\
      --steps 50 --guidance 1.5 --methods weak,strong,w2sd,zero-gap
  accelerate launch --num_processes 8 scripts/sample_dit_moe.py --checkpoint dit-moe-s --vae ./sd-vae-ft-mse \\
      --num-images 50000 --batch 64 --methods strong,w2sd --output outputs/fifty-thousand

methods:
{methods}
The network is one; strong and weak are how it routes tokens to experts: those of highest score, and --weak-experts.

The output folder holds run.json, results.jsonl (a line per picture; its prompt is the class), one folder per method
with "<class>-<index>.png", grid-METHOD.png, comparison/ and index.html (of the first pictures). Picture i is of class
i modulo the number of classes and starts from the noise of seed N + i. Stopped at any moment, the same command
finishes the set, with any number of processes. Another run is refused in the same folder; methods may be added.
Keep --batch too: pictures of another batch size differ by rounding. Several processes on CPUs: accelerate launch
--multi_gpu --num_processes 2 (with --cpu accelerate starts one).

exit codes: 0 all pictures are there; 1 a picture failed (results.jsonl says why) or memory ran out; 2 refused: bad
arguments, files or folder, or a disk that is full or read-only (what was finished is kept); 130 interrupted
"""

CONVERT_ABOUT = """\
Convert a published checkpoint to a folder (config.json beside safetensors weights) that needs no pickle. The
configuration is told by the tensors' shapes; every key must fit.
"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    methods = "\n".join(f"  {name:10s}{method.about}" for name, method in W2SD_METHODS.items())
    parser = Parser(
        prog=PROGRAM,
        description="Sample a DiT-MoE with W2SD: the experts of highest score strong, those of lowest score weak "
        "(Table 4, Fig. 9). The subcommand convert (see its --help) makes a folder of a published checkpoint.",
        epilog=EPILOG.format(methods=methods),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    add = parser.add_argument_group("the network").add_argument
    add("--checkpoint", metavar="FILE|FOLDER", help="a published file or a folder (default: the bundled digits)")
    add("--vae", metavar="MODEL", help="a folder or a hub id; a pipeline's folder brings its own")
    add("--path", metavar="PATH", help=f"{', '.join(PATHS)}: noise for S and B, flow for XL and G (default: auto)")
    _add_pickle(parser)
    add = parser.add_argument_group("what to show").add_argument
    add("--classes", metavar="LIST", help="comma-separated ids, or names with labels (default: all)")
    add("--labels", metavar="FILE", help="class names: JSON by class id, or text, a line per class from 0 on")
    add("--num-images", type=int, metavar="N", help="in all, classes in turn (default: one of each class)")
    add("--methods", metavar="LIST", help=f"of {', '.join(W2SD_METHODS)} (default: all but swapped)")
    add("--seed", type=int, metavar="N", help="picture i starts from the noise of seed N + i (default: 0)")
    add("--batch", type=int, metavar="B", help="pictures made together (default: 16)")
    about = "write expert_load.png: shares of tokens by expert, layer and level"
    add("--expert-load", action="store_const", const=True, help=about)
    add = parser.add_argument_group("sampling and reflection").add_argument
    add("--steps", type=int, metavar="T", help=f"sampling steps (default: {STEPS})")
    add("--guidance", type=float, metavar="G", help=f"classifier-free guidance (default: {GUIDANCE})")
    add("--guidance-channels", type=int, metavar="C", help="guide the first C only; as published: 3 (default: all)")
    add("--reflections", type=int, metavar="L", help="lambda, counted from the noisiest step (default: T - 1)")
    add("--mode", metavar="MODE", help=f"{', '.join(MODES)} (default: {MODES[0]})")
    add("--strength", type=float, metavar="S", help="how much of each reflection's move is made (default: 1)")
    add = parser.add_argument_group("the weak side").add_argument
    add("--weak-experts", metavar="EXPERTS", help="bottom, top, or experts by number: 0,3 (default: bottom)")
    add("--k", type=int, metavar="K", help="experts per token of the weak side (default: as the strong side)")
    about = "weights of the weak side's experts sum to 1 (default: the router's scores)"
    add("--renormalize", action="store_const", const=True, help=about)
    add("--weak-guidance", type=float, metavar="G", help="guidance of the weak side (default: --guidance)")
    add = parser.add_argument_group("scores (of a few thousand pictures and more; need torchmetrics)").add_argument
    add("--metrics", metavar="LIST", help="of fid, is: written to metrics.json")
    add("--inception", metavar="FILE", help="pytorch-fid's Inception weights, pt_inception-2015-12-05-6726825d.pth")
    add("--reference", metavar="NPZ|FOLDER", help="for fid: statistics (mu, sigma), or real pictures")
    add = parser.add_argument_group("the machine").add_argument
    add("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    add("--dtype", metavar="DTYPE", help=f"{', '.join(DTYPES)} (default: auto: float32 on a CPU, else 16 bits)")
    add = parser.add_argument_group("output").add_argument
    add("--output", metavar="FOLDER", help="where to write (default: a folder under outputs/ named after the settings)")
    _add_reporting(parser)
    add("--dry-run", action="store_true", help="print what would be done and written; load no model")
    return parser


def build_convert_parser() -> argparse.ArgumentParser:
    """Returns the parser of the subcommand convert."""
    parser = Parser(prog=f"{PROGRAM} convert", description=CONVERT_ABOUT, allow_abbrev=False)
    parser.add_argument("checkpoint", metavar="FILE", help="a .pt or .safetensors file with the published keys")
    parser.add_argument("output", metavar="FOLDER", help="where to write; it must not be there yet")
    parser.add_argument("--weights", choices=("ema", "model"), help="which, where the file has both (default: ema)")
    parser.add_argument("--dtype", metavar="DTYPE", help=f"{', '.join(DTYPES[1:])} (default: the file's)")
    parser.add_argument("--heads", type=int, help="attention heads, for a width that is no named configuration's")
    parser.add_argument("--experts-per-token", type=int, default=2, help="which no shape tells (default: 2)")
    _add_pickle(parser)
    _add_reporting(parser)
    return parser


def _add_pickle(parser: argparse.ArgumentParser) -> None:
    about = "open a file that holds more than tensors, which can run code: only if you trust it"
    parser.add_argument("--allow-pickle", action="store_const", const=True, help=about)


def _add_reporting(parser: argparse.ArgumentParser) -> None:
    about = "how to report on standard output (default: text)"
    parser.add_argument("--format", choices=("text", "json"), default="text", help=about)
    parser.add_argument("--quiet", action="store_true", help="no progress, only failures")
