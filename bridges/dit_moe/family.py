"""`w2sd moe`: pictures by a DiT-MoE, whose routing to experts is the weak-to-strong gap (Table 4, Fig. 9; imports no
torch until it loads).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bridges.dit_moe.configurations import count_parameters
from bridges.dit_moe.files import NetworkFiles, describe_checkpoint, vae_factor
from bridges.dit_moe.labels import ids_of, read_labels
from bridges.dit_moe.settings import MoeSettings, routing_text, sampling_guidance
from w2sd_video.commands import checks
from w2sd_video.commands.command_line import EXIT_DONE, Parser, run_command, said
from w2sd_video.commands.families.base import Loading, Maker
from w2sd_video.commands.families.pairs import DEFAULT_METHODS
from w2sd_video.commands.method_settings import (
    GAPPED,
    SideRows,
    check_lag,
    check_reflection,
    check_sides_alone,
    check_used,
    chosen_mode,
    plan_reflection,
    settled_steps,
)
from w2sd_video.commands.options import DTYPES, check_methods
from w2sd_video.commands.plan import Cost, Plan
from w2sd_video.commands.request import Request
from w2sd_video.commands.rewards import plan_reward
from w2sd_video.demo.bundled import is_bundled
from w2sd_video.errors import UserError
from w2sd_video.loading.describe import Weights
from w2sd_video.loading.files import read_json, weight_files
from w2sd_video.loading.memory import AUTO, Load, Sides
from w2sd_video.loading.sizes import KNOWN, Sizes
from w2sd_video.pair import ModelPair, ModelSpec, ReflectionConfig, Routing
from w2sd_video.runs.file_names import video_stems
from w2sd_video.runs.progress import Progress, calm_libraries
from w2sd_video.runs.runs import RunPlan
from w2sd_video.runs.tasks import METHODS, Method

STEPS, GUIDANCE, BATCH = 50, 1.5, 16  # the first two are the paper's for DiT-MoE (App. C.1)
SHOWN = 24  # pictures of each method on the page and in the comparisons, whatever the size of the run
MEMORY = ("resident", "model-offload", "sequential")
METRICS = ("fid", "is")


@dataclass(frozen=True)
class Described:
    """The network's files, and how many pixels a cell of its latents has on each side."""

    files: NetworkFiles
    factor: int


class MoeFamily:
    name = "moe"
    about = "pictures by a DiT-MoE, whose best experts are the strong side and whose worst are the weak one"
    examples = """\
  {program}                                the bundled network of handwritten digits, on any machine
  {program} --classes 3,7 --num-images 16 --methods strong,w2sd --weak-experts 0,1 --expert-load
  {program} convert dit_moe_s_8E2A.pt dit-moe-s
  {program} --strong dit-moe-s --vae stabilityai/sd-vae-ft-mse --classes 207,360 --num-images 8 --steps 50
  accelerate launch --num_processes 8 scripts/sample_dit_moe.py --checkpoint dit-moe-s --vae ./sd-vae-ft-mse \\
      --num-images 50000 --batch 64 --methods strong,w2sd --output outputs/fifty-thousand
"""
    details = """\
The network is one; strong and weak are how it routes tokens to experts: those of highest score, and --weak-experts.
A picture's prompt is its class. Picture i is of class i modulo the number of classes. The folder also holds
grid-METHOD.png; comparisons and page are of the first pictures. Any number of processes may share the folder; keep
--batch, as pictures of another batch size differ by rounding. Several processes on CPUs: accelerate launch --multi_gpu
--num_processes 2 (with --cpu accelerate starts one).
"""
    room = "Try a smaller --batch, --dtype bfloat16, or --memory model-offload."
    methods: Mapping[str, Method] = METHODS
    presets: Mapping[str, Any] = {}
    programs: Mapping[str, Callable[[Sequence[str]], int]] = {"convert": lambda words: convert(words)}

    def describe(self, request: Request) -> Described:
        files = describe_checkpoint(request.strong, allow_pickle=request.allow_pickle)
        return Described(files, vae_factor(files, request.vae))

    def complete(self, request: Request, description: Described) -> Plan:
        files = description.files
        own = _settings(request, files)
        counts, mode = settled_steps(request, STEPS, spare=1), chosen_mode(request, "paper")
        guidance = GUIDANCE if request.guidance is None else request.guidance
        inside = guidance if request.strong_guidance is None else request.strong_guidance
        outer = inside if request.weak_guidance is None else request.weak_guidance
        prompts, total = tuple(own.class_ids), request.total
        if total is not None and request.num is not None:
            raise UserError("--num is per class and --num-images in all; leave one of the two out")
        total = (request.num or 1) * len(prompts) if total is None else total
        done = Plan(
            family=self.name,
            preset=None,
            pair=ModelPair(
                ModelSpec(checkpoint=files.given, guidance=inside, routing=own.routing),
                ModelSpec(checkpoint=files.given, guidance=outer, routing=own.weak_routing),
                name=f"{Path(files.given).stem}-{routing_text(own.routing)}-over-{routing_text(own.weak_routing)}".replace(
                    " ", "-"
                ),
            ),
            reflection=plan_reflection(request, ReflectionConfig(), num_reflections=counts.reflections, mode=mode),
            prompts=prompts,
            stems=video_stems(prompts),
            methods=_methods(request, outer),
            steps=counts.steps,
            plain_steps=counts.plain_steps,
            guidance=guidance,
            height=description.factor * files.config["sample_size"],
            width=description.factor * files.config["sample_size"],
            seed=request.seed,
            total=total,
            device=request.device,
            dtype=request.dtype,
            memory=request.memory,
            batch=own.batch,
            shown=SHOWN,
            allow_pickle=request.allow_pickle,
            weights=files.weights(request.vae),
            own=own,
        )
        check_used(request, done.methods)
        _check(done, own, files)
        size = (done.height, done.width)
        reward = plan_reward(request, done.methods, preset=None, prompts=prompts, size=size, video=False)
        return replace(done, reward=reward)

    def cost(self, plan: Plan) -> Mapping[str, Cost]:
        strong, weak = (sampling_guidance(plan, role) for role in ("strong", "weak"))
        sides = SideRows(
            _rows(strong),
            _rows(weak),
            _rows(plan.strong_guidance),
            _rows(plan.weak_guidance),
            together=plan.own.routing == plan.own.weak_routing,
            strong_visit=_rows(strong, plan.strong_guidance),
            weak_visit=_rows(weak, plan.weak_guidance),
        )
        return plan.costs(sides)

    memory_plans = MEMORY

    def memory(self, plan: Plan) -> Sides:
        """Returns the sizes of the network, which is both sides, and what it has to do."""
        given = str(plan.pair.strong.checkpoint)
        config = describe_checkpoint(given, allow_pickle=plan.allow_pickle).config
        folder = Path(given).expanduser() / "vae" if plan.own.vae is None else Path(plan.own.vae).expanduser()
        files = weight_files(folder) if folder.is_dir() else []
        experts = {name: config[name] for name in ("num_experts", "expert_hidden_size", "patch_size")}
        sizes = Sizes(
            {"transformer": count_parameters(config).total},
            vae=Weights(tuple(files)).numel if files else KNOWN["SD 1.5"].vae,
            vae_config=read_json(folder / "config.json") if files else KNOWN["SD 1.5"].vae_config,
            largest=2 * config["num_experts"] * config["expert_hidden_size"] * config["hidden_size"],
            config={"_class_name": "DiTMoE", **experts},
        )
        rows = max(_rows(plan.strong_guidance), _rows(plan.weak_guidance), _rows(sampling_guidance(plan, "strong")))
        count = min(plan.batch, plan.per_method)
        return Sides(sizes, None, (Load(rows, plan.height, plan.width, batch=count), None))

    def rehearse(self, plan: Plan) -> None:
        if not is_bundled(str(plan.pair.strong.checkpoint)):
            from bridges.dit_moe.making import rehearse

            rehearse(plan)

    def load(self, plan: Plan, run: Loading) -> Maker:
        from bridges.dit_moe.making import load_sampler

        return load_sampler(plan, run)

    def finish(self, plan: Plan, run: RunPlan, maker: Maker | None, progress: Progress) -> Mapping[str, str]:
        from bridges.dit_moe.results import write_results

        return write_results(plan, run, maker, progress)


FAMILY = MoeFamily()


def _rows(*guidances: float) -> int:
    return 1 if set(guidances) in ({0}, {1}) else 2


def _settings(request: Request, files: NetworkFiles) -> MoeSettings:
    metrics = _metrics(request)
    channels, guided = files.config["in_channels"], request.guidance_channels
    if guided is not None:
        guided = checks.whole(guided, channels, "guidance channels", 1, channels)
    weak = _weak_routing(request, files.experts_per_token)
    weak.check(files.config["num_experts"])
    return MoeSettings(
        kind=files.kind,
        vae=request.vae,
        path=_path(request.path, files),
        class_ids={label: i for i, label in _labels(request, files)},
        guidance_channels=guided,
        routing=Routing(k=files.experts_per_token),
        weak_routing=weak,
        batch=request.batch or BATCH,
        expert_load=request.expert_load,
        metrics=metrics,
        inception=request.inception,
        reference=request.reference,
    )


def _metrics(request: Request) -> tuple[str, ...]:
    """The metrics asked for; refuses what they cannot be computed from."""
    names, inception, reference = request.metrics, request.inception, request.reference
    if names is None:
        if inception is not None or reference is not None:
            raise UserError("--inception and --reference are for --metrics; give that too, such as --metrics fid,is")
        return ()
    chosen = tuple(checks.one_of(name, METRICS, "metric") for name in dict.fromkeys(names))
    if not chosen:
        raise UserError(f"no metric is given; choose from {', '.join(METRICS)}")
    if inception is None or not Path(inception).is_file():
        raise UserError(
            f"--inception is {inception}; --metrics needs the file of the Inception weights "
            "(pytorch-fid's release fid_weights: pt_inception-2015-12-05-6726825d.pth)"
        )
    from bridges.dit_moe.results import check_reference

    check_reference(chosen, reference)
    return chosen


def _methods(request: Request, weak_guidance: float) -> tuple[str, ...]:
    given = check_methods(request.methods)
    if given is not None:
        return given
    return tuple(name for name in DEFAULT_METHODS if name != "weak" or weak_guidance >= 1)


def _check(done: Plan, own: MoeSettings, files: NetworkFiles) -> None:
    """Raises `UserError` for settings that do not go together."""
    assert done.guidance is not None and done.total is not None
    if done.guidance < 1:
        raise UserError(f"guidance is {done.guidance:g}; sampling takes 1 (unguided) or more")
    if done.memory not in (AUTO, *MEMORY):
        raise UserError(f"--memory {done.memory}: the network is one, so choose from {', '.join((AUTO, *MEMORY))}")
    alike = own.routing == own.weak_routing
    if alike and done.weak_guidance == done.strong_guidance and {"weak", *GAPPED} & set(done.methods):
        raise UserError(
            "the weak side routes and is guided as the strong one, so there is no gap; change --weak-experts, --k, "
            "--renormalize or --weak-guidance, or make the methods strong and zero-gap only"
        )
    asked = [name for name in ("weak", "swapped") if name in done.methods]
    if asked and done.weak_guidance < 1:
        raise UserError(
            f"weak guidance is {done.weak_guidance:g}; inside the reflection it may be any number, but the method "
            f"{asked[0]} samples with it, which takes 1 (unguided) or more: leave it out, or raise it"
        )
    check_reflection(done.reflection, done.methods, done.steps)
    alone = {role: sampling_guidance(done, role) for role in ("strong", "weak")}
    check_sides_alone(done.methods, done.pair, alone, {})
    scales = (alone["strong"], done.strong_guidance), (alone["weak"], done.weak_guidance)
    check_lag(done.reflection, done.methods, strong=scales[0], weak=scales[1])
    checks.check_seeds(done.seed, done.total, done.noun)


def _labels(request: Request, files: NetworkFiles) -> list[tuple[int, str]]:
    """(id, label) of each class asked for, once each: "207 golden retriever", or "207" where it has no name."""
    count = files.config["num_classes"]
    names: Mapping[int, str] = files.id2label
    if request.labels is not None:
        names = read_labels(request.labels)
        if beyond := [i for i in names if not 0 <= i < count]:
            raise UserError(
                f"the labels file {request.labels} names class {beyond[0]}; the network has 0 to {count - 1}"
            )
    asked = request.classes or ("all",)
    ids = range(count) if asked == ("all",) else [_class_id(word, names, count) for word in asked]
    return [(i, _label(i, names)) for i in dict.fromkeys(ids)]


def _class_id(word: str, names: Mapping[int, str], count: int) -> int:
    if not word.lstrip("-").isdecimal():
        if not names:
            raise UserError(f"class {word!r} is a name, and there are no labels; give ids, or --labels FILE")
        return ids_of([word], names)[0]
    if not 0 <= int(word) < count:
        raise UserError(f"class {word} is not one of this network's; give ids from 0 to {count - 1}")
    return int(word)


def _label(i: int, names: Mapping[int, str]) -> str:
    name = names.get(i, "").split(",")[0].strip()
    return f"{i} {name}" if name and name != str(i) else str(i)


def _weak_routing(request: Request, experts_per_token: int) -> Routing:
    given = request.weak_experts or "bottom"
    if given in ("top", "bottom"):
        k = experts_per_token if request.k is None else request.k
        return Routing(given, k, renormalize=request.renormalize)
    words = [word.strip() for word in given.split(",")]
    if not all(word.isdecimal() for word in words):
        raise UserError(f"--weak-experts is {given!r}; give bottom, top, or experts by number, such as 0,3")
    if request.k is not None:
        raise UserError("--k says how many of the top or bottom experts; with experts by number leave it out")
    return Routing(experts=tuple(map(int, words)), renormalize=request.renormalize)


def _path(given: str, files: NetworkFiles) -> str | None:
    if files.kind == "pipeline":
        if given != "auto":
            raise UserError(f"{files.given} is a pipeline and has its scheduler; leave --path out")
        return None
    if given != "auto":
        return given
    return "flow" if files.config["qk_norm"] else "noise"  # as published: XL and G normalise queries and keys


# -- w2sd moe convert ------------------------------------------------------------------------------------------------


def convert(words: Sequence[str]) -> int:
    """Runs the subcommand that converts a published checkpoint, and returns its exit code."""
    about = (
        "Convert a published checkpoint to a folder (config.json beside safetensors weights) that needs no pickle. The "
        "configuration is told by the tensors' shapes; every key must fit."
    )
    parser = Parser(prog="w2sd moe convert", description=about, allow_abbrev=False)
    add = parser.add_argument
    add("checkpoint", metavar="FILE", help="a .pt or .safetensors file with the published keys")
    add("output", metavar="FOLDER", help="where to write; it must not be there yet")
    add("--weights", choices=("ema", "model"), help="which, where the file has both (default: ema)")
    add("--dtype", metavar="DTYPE", help=f"{', '.join(DTYPES[1:])} (default: the file's)")
    add("--heads", type=int, help="attention heads, for a width that is no named configuration's")
    add("--experts-per-token", type=int, default=2, help="which no shape tells (default: 2)")
    add("--allow-pickle", action="store_true", help="open a file that can run code: only if you trust it")
    add("--format", choices=("text", "json"), default="text", help="how to report on standard output (default: text)")
    add("--quiet", action="store_true", help="no progress, only failures")
    return run_command(parser, words, _convert, room=FAMILY.room)


def _convert(arguments: argparse.Namespace, words: list[str]) -> tuple[int, dict[str, Any]]:
    if arguments.dtype is not None:
        checks.one_of(arguments.dtype, DTYPES[1:], "dtype")
    for name in ("heads", "experts_per_token"):
        if getattr(arguments, name) is not None:
            checks.whole(getattr(arguments, name), 1, name.replace("_", " "), 1, 10_000)
    calm_libraries()
    import torch

    from bridges.dit_moe import convert as converted
    from bridges.dit_moe import count_parameters

    config = converted(
        arguments.checkpoint,
        arguments.output,
        torch_dtype=getattr(torch, arguments.dtype) if arguments.dtype else None,
        weights=arguments.weights,
        num_attention_heads=arguments.heads,
        num_experts_per_tok=arguments.experts_per_token,
        allow_pickle=arguments.allow_pickle,
    ).config
    counts, folder = count_parameters(config), Path(arguments.output)
    sizes = {name: config[name] for name in ("num_layers", "hidden_size", "num_experts", "num_experts_per_tok")}
    report = {"status": "done", "folder": str(folder), **sizes, "parameters": counts.total, "active": counts.active}
    total, active = (f"{n / 1e6:.1f} M" if n >= 1e6 else f"{n:,}" for n in (counts.total, counts.active))
    text = (
        f"wrote {folder}: {config.num_layers} layers of width {config.hidden_size}, {config.num_experts} experts; "
        f"{total} parameters, {active} of them active for a token"
    )
    return EXIT_DONE, said(arguments, report, text, str(folder))
