"""From a request to a plan: defaults filled in, everything checked before a model is loaded (imports no torch)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bridges.dit_moe.command.checkpoint_files import NetworkFiles, describe_checkpoint, vae_factor
from bridges.dit_moe.command.request import GUIDANCE, PATHS, STEPS, SamplePlan, SampleRequest
from bridges.dit_moe.command.scores import check_scores
from bridges.dit_moe.labels import ids_of, read_labels
from w2sd_video.commands.checks import MAX_SEED, finite, one_of, whole
from w2sd_video.commands.options import DTYPES
from w2sd_video.errors import UserError
from w2sd_video.pair import MODES, Routing
from w2sd_video.runs.tasks import W2SD_METHODS

MAX_STEPS, MAX_IMAGES, MAX_BATCH = 1000, 10_000_000, 65536
BATCH = 16


def plan_sampling(request: SampleRequest) -> SamplePlan:
    """Returns the request completed and checked against everything the files tell.

    Raises UserError saying what was got, what is allowed and what to do.
    """
    methods = _methods(request.methods)
    metrics = check_scores(request.metrics, request.inception, request.reference)
    files = describe_checkpoint(request.checkpoint, allow_pickle=request.allow_pickle)
    factor = vae_factor(files, request.vae)
    labels = _labels(request, files)
    steps = whole(request.steps, STEPS, "steps", 1, MAX_STEPS)
    guidance = finite(request.guidance, GUIDANCE, "guidance")
    if guidance < 1:
        raise UserError(f"guidance is {guidance:g}; sampling takes 1 (unguided) or more")
    channels = files.config["in_channels"]
    guided = request.guidance_channels
    if guided is not None:
        guided = whole(guided, channels, "guidance channels", 1, channels)
    experts = files.config["num_experts"]
    routing = Routing(k=files.experts_per_token)
    weak = _weak_routing(request, files.experts_per_token)
    weak.check(experts)
    weak_guidance = finite(request.weak_guidance, guidance, "weak guidance")
    _check_gap(methods, routing == weak and weak_guidance == guidance)
    if weak_guidance < 1 and {"weak", "swapped"} & set(methods):
        raise UserError(
            f"weak guidance is {weak_guidance:g}; inside the reflection it may be any number, but the methods weak and "
            "swapped sample with it, which takes 1 (unguided) or more: leave them out, or raise it"
        )
    num_images = whole(request.num_images, len(labels), "number of images", 1, MAX_IMAGES)
    seed = whole(request.seed, 0, "seed", 0, MAX_SEED)
    if seed + num_images - 1 > MAX_SEED:
        raise UserError(f"seed {seed} + {num_images} pictures goes beyond {MAX_SEED}; use a smaller seed")
    done = SamplePlan(
        checkpoint=files.given,
        checkpoint_kind=files.kind,
        vae=request.vae,
        path=_path(request.path, files),
        labels=labels,
        num_images=num_images,
        methods=methods,
        steps=steps,
        guidance=guidance,
        guidance_channels=guided,
        reflections=_reflections(request.reflections, steps),
        mode=one_of(request.mode or MODES[0], MODES, "mode"),
        strength=finite(request.strength, 1.0, "strength"),
        routing=routing,
        weak_routing=weak,
        weak_guidance=weak_guidance,
        seed=seed,
        batch=whole(request.batch, BATCH, "batch", 1, MAX_BATCH),
        size=factor * files.config["sample_size"],
        expert_load=request.expert_load,
        metrics=metrics,
        inception=request.inception,
        reference=request.reference,
        allow_pickle=request.allow_pickle,
        dtype=one_of(request.dtype, DTYPES, "dtype"),
        device=request.device,
        output=Path(),
    )
    return replace(done, output=_output(request.output, done))


def _methods(given: tuple[str, ...] | None) -> tuple[str, ...]:
    if given is None:
        return ("weak", "strong", "w2sd", "zero-gap")
    if not given:
        raise UserError(f"no method is given; choose from {', '.join(W2SD_METHODS)}")
    return tuple(one_of(method, W2SD_METHODS, "method") for method in dict.fromkeys(given))


def _check_gap(methods: tuple[str, ...], none: bool) -> None:
    if none and {"weak", "w2sd", "swapped"} & set(methods):
        raise UserError(
            "the weak side routes and is guided as the strong one, so there is no gap; change --weak-experts, --k, "
            "--renormalize or --weak-guidance, or make the methods strong and zero-gap only"
        )


def _labels(request: SampleRequest, files: NetworkFiles) -> tuple[tuple[int, str], ...]:
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
    return tuple((i, _label(i, names)) for i in dict.fromkeys(ids))


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


def _weak_routing(request: SampleRequest, experts_per_token: int) -> Routing:
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
    """ "noise" or "flow"; None for a pipeline, which has a scheduler of its own."""
    one_of(given, PATHS, "path")
    if files.kind == "pipeline":
        if given != "auto":
            raise UserError(f"{files.given} is a pipeline and has its scheduler; leave --path out")
        return None
    if given != "auto":
        return given
    return "flow" if files.config["qk_norm"] else "noise"  # as published: XL and G normalise queries and keys


def _reflections(given: int | None, steps: int) -> int:
    if given is None:
        return steps - 1
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < steps:
        raise UserError(f"reflections is {given!r} with {steps} steps; use a whole number from 0 to {steps - 1}")
    return given


def _output(given: str | Path | None, done: SamplePlan) -> Path:
    if given is not None:
        return Path(given)
    identity = json.dumps([done.settings(), done.pair_record(), done.prompts, done.dtype, done.device], sort_keys=True)
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in done.pair_record()["name"])[:80].strip(".")
    return Path("outputs") / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
