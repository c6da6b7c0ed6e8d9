"""Every setting of every command once: field, kind, range, flags, help, who takes it (imports no torch).

Parsers, help texts, requests, dry runs, sweeps, the doctor and the documentation are made from this table. A default
stands here only where it holds for every preset; else it is None and the preset has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from w2sd_video.commands.lora_flags import parse_lora
from w2sd_video.commands.option import Option, unknown
from w2sd_video.commands.prompts import read_prompt_pairs, read_prompts
from w2sd_video.core.options import GUIDERS, MAX_DRAWS, gap_steps
from w2sd_video.core.trained_timesteps import read_timesteps
from w2sd_video.errors import UserError
from w2sd_video.hosting.caches import read_step_cache
from w2sd_video.loading.memory import ALIASES, AUTO, MEMORY_PLANS, memory_size
from w2sd_video.pair import MODES, PRECISIONS
from w2sd_video.runs.tasks import METHODS

DTYPES = ("auto", "float32", "float16", "bfloat16")
SCHEDULERS = ("ddim", "euler", "dpm-solver++", "euler-trailing")
FORMATS = ("mp4", "gif", "webp", "png")
MAX_SEED = 2**63 - 1
MAX_SIZE, MAX_STEPS = 8192, 1000  # pixels; training levels of every scheduler here

ALL = ("video", "image", "bridge", "moe")  # the families that make something
SAMPLED = ("video", "image", "bridge")  # by prompts, from pairs of pipelines
DIRECT = ("video", "image", "diagnose")  # pairs of one latent space
FIT = ("bridge fit",)  # fits a noise map
DIFF = ("diff",)  # writes the weak side as a difference
PAIRS = (*SAMPLED, "diagnose", *FIT)


def words(text: str) -> tuple[str, ...]:
    """Returns the words of a comma-separated list."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def window(text: str) -> tuple[float, float]:
    """Returns the two fractions of A:B; raises UserError for anything else."""
    try:
        first, end = (float(part) for part in text.split(":"))
    except ValueError:
        raise UserError(
            f"--window is {text!r}; give two fractions of the steps, such as 0:0.5 for the noisier half"
        ) from None
    return first, end


def shard(text: str) -> tuple[int, int]:
    """Returns the two numbers of I/N; raises UserError for anything else."""
    first, _, count = str(text).partition("/")
    if not (first.isdecimal() and count.isdecimal() and int(first) < int(count)):
        raise UserError(f"--shard is {text!r}; give I/N, the I-th of N parts counted from 0: 0/4 to 3/4 for four")
    return int(first), int(count)


def _rows(group: str, *rows: tuple[Any, ...], families: tuple[str, ...] = ALL) -> tuple[Option, ...]:
    """Rows of one group: (field, kind, help), then what differs from the rest."""
    return tuple(
        Option(name, kind, text, group, **{"families": families, **(rest[0] if rest else {})})
        for name, kind, text, *rest in rows
    )


def _lora(flag: str) -> Callable[[str], Any]:
    return lambda text: parse_lora(text, flag)


SHOW, PAIR, GAPS, PARTS = "what to show", "the pair", "gaps", "gaps of the pipeline (ControlNet, IP-Adapter)"
START = "what sampling starts from, beside noise"
HOW, BEYOND, REWARD = "sampling and reflection", "reflections beyond the paper's algorithm", "the reward of w2sd-auto"
VIDEOS, BRIDGE, NETWORK = "videos", "the bridge through pixels", "the network"
EXPERTS, SCORES, MACHINE, OUTPUT = "the weak side's experts", "scores (thousands of pictures)", "the machine", "output"

OPTIONS: tuple[Option, ...] = (
    *_rows(
        SHOW,
        ("prompt", str, "a prompt; may be given several times (default: the bundled ones)",
         {"families": PAIRS, "many": True, "metavar": "TEXT", "everyday": True, "of_run": True}),
        ("prompts", read_prompts, "a file of prompts: .txt (a line each), .csv or .json (a column or key `prompt`)",
         {"families": PAIRS, "metavar": "FILE", "everyday": True}),
        ("suite", str, "all prompts of vbench (its suite, installed or fetched), sample (12 of our own) or a suite's "
         "file, 5 videos each unless --samples says otherwise; scored as they are made, into scores/",
         {"families": ("video",), "metavar": "NAME", "of_run": True}),
        ("classes", words, "comma-separated ids, or names with labels (default: all)",
         {"families": ("moe",), "metavar": "LIST", "everyday": True}),
        ("labels", str, "class names: JSON by class id, or text, a line per class from 0 on",
         {"families": ("moe",), "metavar": "FILE"}),
        ("negative_prompt", str, "what to steer away from; counts where guidance is not 1 (Flux: with --true-cfg)",
         {"families": PAIRS, "flags": ("--negative-prompt", "--negative"), "metavar": "TEXT"}),
        ("methods", words, "comma-separated (default: weak,strong,w2sd,zero-gap, of these what can be made)",
         {"metavar": "LIST", "everyday": True}),
        ("num", int, "how many per prompt, each from other noise (default: 1)",
         {"families": (*SAMPLED, *FIT), "flags": ("--num", "--num-videos", "--num-pictures", "--num-images",
          "--samples"), "metavar": "N", "everyday": True, "default": 1, "low": 1, "high": 100_000}),
        ("num", int, "how many per class (default: 1)",
         {"families": ("moe",), "metavar": "N", "everyday": True, "low": 1, "high": 1_000_000}),
        ("total", int, "how many in all, classes in turn (default: one of each class)",
         {"families": ("moe",), "flags": ("--total", "--num-images"), "metavar": "N", "low": 1, "high": 10_000_000,
          "said": "number of images"}),
        ("seed", int, "the i-th starts from the noise of seed N + i, for every method (default: 0)",
         {"families": (*ALL, "diagnose", *FIT), "metavar": "N", "everyday": True, "default": 0, "low": 0,
          "high": MAX_SEED}),
        ("pictures", str, "pictures to fit to, of any kind and size (default: the strong model makes some)",
         {"families": FIT, "metavar": "FOLDER", "everyday": True}),
    ),
    *_rows(
        PAIR,
        ("preset", str, "a pair with its settings; --list-presets shows them (default: the bundled demo)",
         {"families": PAIRS, "metavar": "NAME", "everyday": True}),
        ("strong", str, "strong side: a hub id, a diffusers folder or a .safetensors file",
         {"families": (*PAIRS, *DIFF), "flags": ("--strong", "--checkpoint"), "metavar": "MODEL",
          "everyday": True}),
        ("strong", str, "the network of both sides: a published file or a folder (default: the bundled digits)",
         {"families": ("moe",), "flags": ("--strong", "--checkpoint"), "metavar": "MODEL", "everyday": True}),
        ("weak", str, "weak side: the same kinds (default: the strong side's network, of a video pair its unet/)",
         {"families": (*PAIRS, *DIFF), "metavar": "MODEL", "everyday": True}),
        ("config", str, "configs, tokenizers and what is missing, for .safetensors files, for use offline; or a hub id",
         {"families": (*PAIRS, *DIFF), "metavar": "FOLDER"}),
        ("weak_config", str, "likewise, for a weak .safetensors file",
         {"families": ("image", "bridge", "diagnose", *FIT), "metavar": "FOLDER"}),
        ("motion_adapter", str, "AnimateDiff's motion modules: a hub id or a folder",
         {"families": ("video", "bridge", "diagnose", *FIT), "metavar": "MODEL"}),
        ("allow_pickle", bool, "open .bin weights, which can run code: only if you trust them",
         {"families": (*ALL, "diagnose", *FIT), "default": False}),
        ("height", int, "height in pixels (default: the preset's or the model's own)",
         {"families": PAIRS, "metavar": "PX", "everyday": True, "low": 8, "high": MAX_SIZE}),
        ("width", int, "width, likewise",
         {"families": PAIRS, "metavar": "PX", "everyday": True, "low": 8, "high": MAX_SIZE}),
    ),
    *_rows(
        NETWORK,
        ("vae", str, "a folder or a hub id; a pipeline's folder brings its own", {"metavar": "MODEL"}),
        ("path", str, "noise for S and B, flow for XL and G (default: auto)",
         {"metavar": "PATH", "choices": ("auto", "noise", "flow"), "default": "auto"}),
        families=("moe",),
    ),
    *_rows(
        GAPS,
        ("prompt_pairs", read_prompt_pairs, "two columns, refined and raw (tabs, or commas in a .csv): what the "
         "strong and the weak side are told", {"metavar": "FILE"}),
        ("weak_prompt", str, "what the weak side is told in place of every prompt", {"metavar": "TEXT"}),
        ("weak_negative_prompt", str, "the weak side's negative prompt", {"metavar": "TEXT"}),
        ("loras", _lora("--lora"), "a LoRA of the strong side (file, folder or hub id; kohya's, diffusers' or "
         "peft's format); any number of times", {"flags": ("--lora",), "metavar": "NAME=FILE:SCALE", "many": True}),
        ("weak_loras", _lora("--weak-lora"), "its scale on the weak side, or NAME=FILE:SCALE (default: 0, none); "
         "scales may be negative", {"flags": ("--weak-lora",), "metavar": "NAME:SCALE", "many": True}),
        families=(*DIRECT, "bridge"),
    ),
    *_rows(
        GAPS,
        ("weak_skip_layers", words, "blocks that the weak side's network leaves out: 3,7 of its main stack, or names "
         "such as mid_block.attentions.0.transformer_blocks.0; with :pag or :seg behind one, its self-attention alone, "
         "perturbed or smoothed", {"metavar": "LIST"}),
        ("weak_levels", read_timesteps, "the noise levels that the weak side was trained at, if few: turbo, dmd, lcm, "
         "lightning-4, hyper-8; of a flow with its shift, lightning-4:5; or timesteps, 999,749,499,249; or own, of "
         "another noise schedule (default: all)", {"metavar": "LEVELS"}),
        ("strong_levels", read_timesteps, "those that the strong side is asked at inside the reflection; the weak one "
         "too, unless said (default: all)", {"metavar": "LEVELS"}),
        ("weak_precision", str, f"of the weak side's weights: {', '.join(PRECISIONS)}; the same network rounded to few "
         "bits", {"metavar": "NAME", "choices": tuple(PRECISIONS)}),
        families=("video", "image"),
    ),
    *_rows(
        PARTS,
        ("controlnet", str, "a ControlNet: a folder or a hub id", {"metavar": "MODEL"}),
        ("control_image", str, "the picture it follows, of the output's size; of videos a video, a folder of pictures "
         "or one picture", {"flags": ("--control-image", "--control-video"), "metavar": "FILE"}),
        ("canny", bool, "follow the edges of what it shows", {"default": False}),
        ("resize_control", bool, "resize and crop it to the output", {"default": False}),
        ("control_scale", float, "on the strong side (default: 1)", {"metavar": "S"}),
        ("weak_control_scale", float, "on the weak side (default: 0, none)", {"metavar": "S"}),
        ("ip_adapter", str, "an IP-Adapter: a file, a folder or a hub id", {"metavar": "MODEL"}),
        ("ip_adapter_image", str, "the picture it is told", {"metavar": "FILE"}),
        ("ip_adapter_scale", float, "on the strong side (default: 1)", {"metavar": "S", "said": "IP-Adapter scale"}),
        ("weak_ip_adapter_scale", float, "on the weak side (default: 0, none)",
         {"metavar": "S", "said": "weak IP-Adapter scale"}),
        families=DIRECT,
    ),
    *_rows(
        START,
        ("image", str, "a picture: of pictures it is noised and sampled anew (--denoise), of videos it is their first "
         "frame", {"families": ("video", "image"), "metavar": "FILE", "everyday": True, "said": "picture"}),
        ("mask", str, "with --image: white is made anew, black is kept",
         {"families": ("image",), "metavar": "FILE", "everyday": True}),
        ("last_image", str, "with --image: the last frame", {"families": ("video",), "metavar": "FILE"}),
        ("video", str, "a video that is noised and sampled anew (--denoise)",
         {"families": ("video",), "metavar": "FILE", "everyday": True}),
        ("denoise", float, "how much of the noise levels is sampled, up to 1, all of them; T steps are made of that "
         "part (default: 0.6 of a picture, 1 with a mask, 0.7 of a video)",
         {"families": ("video", "image"), "metavar": "S", "low": 0.01, "high": 1}),
        ("resize_image", bool, "scale and crop what it starts from to the output's size",
         {"families": ("video", "image"), "default": False}),
    ),
    *_rows(
        HOW,
        ("steps", int, "T, the sampling steps", {"metavar": "T", "everyday": True, "low": 1, "high": MAX_STEPS,
         "families": (*ALL, "diagnose", *FIT), "sweeps": "all", "about": "sampling steps (Figure 14)"}),
        ("guidance", float, "guidance of sampling: 1 (unguided) or more; Flux's embedded one",
         {"flags": ("--guidance", "--cfg"), "metavar": "G", "everyday": True,
          "families": (*ALL, "diagnose", *FIT), "sweeps": "all", "about": "guidance of sampling"}),
        ("reflections", int, "lambda: how many steps, from the noisiest, are reflected",
         {"flags": ("--reflections", "--lambda"), "metavar": "L", "everyday": True, "low": 0,
          "sweeps": "reflecting", "about": "how many steps are reflected (Figures 19, 20)"}),
        ("match_evaluations", int, "choose T and lambda so that W2SD costs what N steps cost: T = N/2, lambda = T/2, "
         "rounded down", {"metavar": "N"}),
        ("mode", str, "paper (Algorithm 1), fused (Theorem 1 exactly) or release (as the published code)",
         {"families": ("video", "image", "moe"), "metavar": "MODE", "choices": MODES, "sweeps": "users",
          "about": ", ".join(MODES)}),
        ("strength", float, "how much of each reflection's move is made, and the weight of auto-guidance (default: 1)",
         {"metavar": "S", "sweeps": "users", "about": "how much of each reflection's move is made"}),
        ("strong_guidance", float, "guidance of the strong side inside the reflection: any number",
         {"metavar": "G", "families": (*ALL, "diagnose")}),
        ("weak_guidance", float, "guidance of the weak side inside the reflection: any number",
         {"metavar": "G", "families": (*ALL, "diagnose"), "sweeps": "gap",
          "about": "guidance of the weak side (Figure 12, right)"}),
        ("true_cfg", float, "Flux's true guidance, above 1, with --negative-prompt",
         {"families": ("bridge", *FIT), "metavar": "G", "said": "true CFG"}),
        ("guidance_channels", int, "guide the first C channels only; as published: 3 (default: all)",
         {"families": ("moe",), "metavar": "C", "low": 1}),
        ("scheduler", str, f"{', '.join(SCHEDULERS)}, which is for few-step checkpoints (default: the preset's, or the "
         "checkpoint's own)",
         {"families": (*DIRECT, "bridge", *FIT), "metavar": "NAME", "choices": SCHEDULERS}),
    ),
    *_rows(
        BEYOND,
        ("every", int, "reflect each K-th of these steps only: saves evaluations (default: 1)",
         {"metavar": "K", "low": 1, "sweeps": "users", "about": "reflect each k-th of these steps only"}),
        ("window", window, "reflect, or auto-guide, in this part of the steps only; 0 is the noisiest (default: 0:1)",
         {"metavar": "A:B"}),
        ("fixed_point", int, "0, 1 or 2 iterations that bring the inversion of mode paper nearer to exact, an "
         "evaluation each; for 20 steps or more (default: 0)",
         {"families": ("video", "image", "moe"), "metavar": "N", "low": 0, "high": 2, "sweeps": "users",
          "about": "iterations that refine an inversion, 0 to 2"}),
        ("noise", float, "standard deviation of noise added to each reflected latent, to study errors (Table 14; "
         "default: 0)", {"metavar": "K", "low": 0, "sweeps": "users",
                         "about": "standard deviation of an error of inversion (Table 14)"}),
        ("cap", float, "the most a reflection may move the latent, as a root mean square: tames a far weaker model",
         {"metavar": "C", "sweeps": "users", "about": "the most a reflection may move the latent"}),
        ("motion_strength", float, "multiplies what a reflection's move has beside its mean over the frames: 0 leaves "
         "the differences between frames, motion, to the strong side (default: 1, as printed)",
         {"families": ("video", "bridge"), "metavar": "S", "low": -10, "high": 10, "sweeps": "users",
          "about": "how much of a move's differences between frames is made"}),
        ("gap_every", gap_steps, "nearly the price of plain sampling: reflections (of mode fused) move by a gap of "
         "sampling steps, where the strong side is asked anyway: every K-th, 0 once at the start, those of a list, or "
         "auto (as many as of 2, where the gap turns, found on the first two prompts)",
         {"metavar": "K", "sweeps": "users",
          "about": "steps between two measurements of a cached gap; 0 is one, at the start"}),
        ("guider", str, "how auto-guidance combines two predictions (default: linear); with --weak-guidance 0 it is "
         f"classifier-free guidance: {', '.join(GUIDERS)}",
         {"families": ("video", "image", "moe"), "metavar": "NAME", "choices": GUIDERS, "sweeps": "users",
          "about": "how auto-guidance combines two predictions"}),
        ("lag", bool, "an approximation: the strong prediction of the step before inside each reflection; saves an "
         "evaluation", {"families": ("video", "image", "moe"), "default": False}),
    ),
    *_rows(
        REWARD,
        ("reward", str, "oracle, pickscore, hps_v2.1, hps_v2, aes, clip_t, or a function of yours, MODULE:FUNCTION or "
         "FILE.py:FUNCTION: from frames [F, H, W, 3] uint8 and the prompt a number, higher is better (default: oracle "
         "on the bundled pairs)", {"metavar": "NAME"}),
        ("reward_weights", str, "weights of such a network, or NAME=PATH for one of several (default: where "
         "`w2sd eval fetch` puts them)", {"metavar": "PATH", "many": True}),
        ("reward_threshold", float, "rewards no further apart are a tie, which keeps the choice made before "
         "(default: 0)", {"metavar": "E", "said": "the reward's threshold", "sweeps": "users",
                          "about": "rewards no further apart are a tie"}),
        ("reward_frames", int, "at most so many frames of a video are rewarded (default: 4)",
         {"families": ("video",), "metavar": "N", "said": "the reward's number of frames", "low": 1, "high": 10_000}),
        families=("video", "image", "moe"),
    ),
    *_rows(
        VIDEOS,
        ("video", bool, "the strong side is AnimateDiff; the weak model sees the frames one by one",
         {"families": ("bridge", *FIT), "default": False}),
        ("num_frames", int, "frames per video", {"families": ("video", "bridge", "diagnose", *FIT), "metavar": "F",
         "everyday": True, "low": 1, "high": 10_000, "said": "number of frames"}),
        ("fps", float, "frames per second of the file", {"metavar": "FPS"}),
        ("video_format", str, f"{', '.join(FORMATS)}; png is a folder of frames (default: mp4)",
         {"metavar": "FORMAT", "choices": FORMATS, "default": "mp4"}),
        families=("video", "bridge"),
    ),
    *_rows(
        BRIDGE,
        ("weak_height", int, "height of the weak side (default: the strong side's)",
         {"metavar": "PX", "low": 8, "high": MAX_SIZE, "families": ("bridge", *FIT)}),
        ("weak_width", int, "width, likewise",
         {"metavar": "PX", "low": 8, "high": MAX_SIZE, "families": ("bridge", *FIT)}),
        ("noise_map", str, "auto, paired, identity, fresh, fixed or FILE.safetensors (default: auto)",
         {"metavar": "MAP", "default": "auto"}),
        ("draws", int, "of paired noise: how often each model estimates the picture in a reflection (default: 2)",
         {"metavar": "K", "low": 1, "high": MAX_DRAWS, "sweeps": "users",
          "about": "draws of paired noise in a reflection"}),
        ("codec", str, "full or tiny VAEs in the bridge (default: full)",
         {"metavar": "CODEC", "choices": ("full", "tiny"), "default": "full", "families": ("bridge", *FIT)}),
        ("strong_tiny_vae", str, "for --codec tiny: a folder or a hub id",
         {"metavar": "MODEL", "families": ("bridge", *FIT)}),
        ("weak_tiny_vae", str, "likewise", {"metavar": "MODEL", "families": ("bridge", *FIT)}),
        ("force_bridge", bool, "bridge a pair that shares its latent space, too", {"default": False}),
        families=("bridge",),
    ),
    *_rows(
        EXPERTS,
        ("weak_experts", str, "bottom, top, or experts by number: 0,3 (default: bottom)",
         {"metavar": "EXPERTS", "everyday": True}),
        ("k", int, "experts per token of the weak side (default: as the strong side)", {"metavar": "K", "low": 1}),
        ("renormalize", bool, "weights of the weak side's experts sum to 1 (default: the router's scores)",
         {"default": False}),
        ("expert_load", bool, "write expert_load.png: shares of tokens by expert, layer and level", {"default": False}),
        families=("moe",),
    ),
    *_rows(
        SCORES,
        ("metrics", words, "of fid, is: written to metrics.json; need torchmetrics", {"metavar": "LIST"}),
        ("inception", str, "pytorch-fid's Inception weights, pt_inception-2015-12-05-6726825d.pth",
         {"metavar": "FILE"}),
        ("reference", str, "for fid: statistics (mu, sigma), or real pictures", {"metavar": "NPZ|FOLDER"}),
        families=("moe",),
    ),
    *_rows(
        MACHINE,
        ("device", str, "auto, cpu, cuda, cuda:1, mps (default: auto)", {"metavar": "DEVICE", "default": "auto",
         "families": (*ALL, "diagnose", *FIT)}),
        ("dtype", str, f"{', '.join(DTYPES)} (default: auto: float32 on a CPU, else 16 bits)",
         {"metavar": "DTYPE", "choices": DTYPES, "default": "auto",
          "families": (*ALL, "diagnose", *FIT)}),
        ("memory", str, f"auto (the fastest that fits), {', '.join(MEMORY_PLANS)}: where networks wait (default: auto)",
         {"flags": ("--memory", "--offload"), "metavar": "PLAN", "everyday": True, "choices": (AUTO, *MEMORY_PLANS),
          "aliases": ALIASES, "default": AUTO, "said": "memory plan", "families": (*ALL, "diagnose")}),
        ("gpu_memory", memory_size, "of the GPU to plan for, such as 12GB (default: this machine's)",
         {"families": SAMPLED, "metavar": "SIZE"}),
        ("host_memory", memory_size, "likewise, beside the GPU", {"families": SAMPLED, "metavar": "SIZE"}),
        ("compile", bool, "compile the networks' blocks; pays off over many videos or pictures",
         {"families": SAMPLED, "default": False}),
        ("fp8", bool, "keep the networks' weights in fp8 and cast them layer by layer as they compute: half the memory "
         "of 16 bits, and the rounding of fp8 (files that are plain fp8 lose nothing)", {"families": ("video", "image"),
         "default": False}),
        ("cache", read_step_cache, "a step cache of transformers (Flux, Wan), faster and not exact: first-block=0.1 "
         "leaves out the other blocks where the first one's part changed by less (0: never); taylorseer=2 computes "
         "every 2nd evaluation", {"families": ("video", "image"), "metavar": "NAME=N"}),
        ("tiled", bool, "VAEs work in tiles: less memory, slower", {"families": ("bridge", *FIT), "default": False}),
        ("batch", int, "how many are made together (default: 16 pictures of classes, else 1): faster where networks "
         "are small, and of other rounding", {"families": ("moe", "image", "video"), "metavar": "B", "low": 1,
         "high": 65536}),
    ),
    *_rows(
        "what is measured",
        ("files_only", bool, "judge the files and load no model", {"default": False, "everyday": True}),
        ("seeds", int, "noises per prompt (default: 1)", {"metavar": "N", "everyday": True}),
        ("blocks", bool, "also rank the strong network's blocks by how their leaving out points as less guidance does",
         {"default": False}),
        families=("diagnose",),
    ),
    *_rows(
        "the difference",
        ("rank", int, "singular values kept of every layer, at most (default: 64, without --energy)",
         {"metavar": "R", "everyday": True, "low": 1, "high": 65536}),
        ("energy", float, "keep of every layer as many as hold this share of the difference's squared norm",
         {"metavar": "SHARE", "everyday": True, "low": 1e-6, "high": 1.0}),
        ("seed", int, "of randomised decompositions of large layers (default: 0)",
         {"metavar": "N", "default": 0, "low": 0, "high": MAX_SEED}),
        families=DIFF,
    ),
    *_rows(
        "the sweep",
        ("setting", str, "what is swept; --help-all lists what can be", {"metavar": "NAME", "everyday": True}),
        ("values", str, "0,5,10 or START:STOP:STEP, both ends included", {"metavar": "LIST", "everyday": True}),
        ("scorer", str, "what scores a picture or video; --help-all lists them (default: oracle)",
         {"metavar": "NAME", "default": "oracle", "everyday": True}),
        ("videos", bool, "of `w2sd video` (default: `w2sd image`)",
         {"default": False, "everyday": True, "families": ("sweep", "arena")}),
        ("family_name", str, "or another program by its name",
         {"flags": ("--family",), "metavar": "NAME", "families": ("sweep", "arena")}),
        families=("sweep",),
    ),
    *_rows(
        "the arena",
        ("reward", str, "what scores: a scorer of `w2sd sweep` or a function of yours (default: oracle)",
         {"metavar": "NAME", "default": "oracle", "everyday": True}),
        ("budgets", words, "rows (through the networks, for one picture or video) that every method may take "
         "(default: as many as the strong side's plain sampling, and twice as many)",
         {"metavar": "LIST", "everyday": True}),
        ("tuned", int, "on how many each method's settings are chosen (default: 24)",
         {"metavar": "N", "default": 24, "low": 2, "high": 100_000, "everyday": True}),
        ("count", int, "how many, of other seeds, are scored by each method (default: 48)",
         {"metavar": "N", "default": 48, "low": 2, "high": 100_000, "everyday": True}),
        ("entrants", words, "methods that are compared, of those in --help-all (default: all)", {"metavar": "LIST"}),
        families=("arena",),
    ),
    *_rows(
        OUTPUT,
        ("output", str, "where to write (default: a folder under outputs/ named after the settings; of diagnose: "
         "nothing is kept)", {"metavar": "FOLDER", "everyday": True, "families": (*ALL, "diagnose", "sweep", "arena")}),
        ("output", str, "the noise map's file", {"metavar": "FILE.safetensors", "everyday": True, "families": FIT}),
        ("output", str, "the LoRA's file; may stand without the flag", {"metavar": "FILE.safetensors",
         "everyday": True, "families": DIFF}),
        ("format", str, "text or json: how to report on standard output (default: text)",
         {"of_run": True, "choices": ("text", "json"), "default": "text"}),
        ("quiet", bool, "no progress, only failures", {"of_run": True, "everyday": True, "default": False}),
        ("dry_run", bool, "print what would be done, what it costs and what is written; load no model",
         {"of_run": True, "everyday": True, "default": False, "families": (*ALL, "sweep", "arena", *FIT, *DIFF)}),
        ("rehearse", bool, "with --dry-run: check tensors, LoRAs and noise levels with the classes that load them, too",
         {"of_run": True, "default": False, "families": (*ALL, "sweep", *FIT)}),
        ("rows_per_second", float, "of your accelerator (num_rows / seconds in a run's results.jsonl): --dry-run says "
         "how many hours all takes", {"of_run": True, "metavar": "R", "low": 1e-9, "families": ALL}),
        ("price", float, "of an hour of your accelerator: --dry-run with --rows-per-second says what all costs",
         {"of_run": True, "metavar": "P", "low": 0.0, "families": ALL}),
        ("shared", bool, "let other processes make the same run at the same time: start the same command again",
         {"of_run": True, "default": False, "families": ALL}),
        ("shard", shard, "make the I-th of N parts only, counted from 0, beside the processes that make the others (a "
         "Slurm array: --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT)",
         {"of_run": True, "metavar": "I/N", "families": ALL}),
        families=(*ALL, "diagnose", "sweep", "arena", *FIT, *DIFF),
    ),
)  # fmt: skip


def options_of(family: str) -> tuple[Option, ...]:
    """Returns the rows of one program, in the table's order."""
    return tuple(option for option in OPTIONS if family in option.families)


def option_of(family: str, name: str) -> Option:
    """Returns the row of a field; KeyError where the program has none of that name."""
    for option in options_of(family):
        if option.field == name:
            return option
    raise KeyError(name)


def takers_of(flag: str) -> list[str]:
    """Returns the programs that have a flag."""
    found: Iterable[str] = (family for option in OPTIONS if flag in option.names for family in option.families)
    return list(dict.fromkeys(found))


def check_methods(given: Sequence[str] | None, known: Mapping[str, Any] = METHODS) -> tuple[str, ...] | None:
    """Returns the methods, each once; None for None. Raises UserError for none at all, or one that is not known."""
    if given is None:
        return None
    if not given:
        raise UserError(f"no method is given; choose from {', '.join(known)}")
    for method in given:
        if method not in known:
            unknown("method", method, known)
    return tuple(dict.fromkeys(given))
