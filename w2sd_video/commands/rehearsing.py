"""What a run would refuse after its plan and before its first evaluation, refused with the plan.

Torch is needed for it, to know the tensors of networks and the levels of schedulers, and nothing is loaded: it comes
last, after all that can be said at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from w2sd_video.commands.method_settings import config_of, hosted_name
from w2sd_video.commands.plan import Plan
from w2sd_video.demo.bundled import is_bundled
from w2sd_video.errors import UserError
from w2sd_video.loading.pair_description import SAME_IN_UNETS, PairDescription
from w2sd_video.runs.tasks import METHODS, Method


def rehearse_pair(plan: Plan) -> None:
    """Raises `UserError` for what of a pair of one latent space cannot be loaded or reflected."""
    given, weak, pair = plan.pair.strong.checkpoint, plan.pair.weak.checkpoint, plan.files
    assert pair is not None
    changed = plan.lora_sources or plan.pair.weak.skip_layers or plan.pair.weak.levels or plan.pair.strong.levels
    if is_bundled(given) and (weak is None or is_bundled(weak)) and not changed:
        return  # these come with the code, and its tests
    if pair.strong.configs is None and (pair.weak is None or pair.weak.configs is None):
        return  # nothing is here yet
    from w2sd_video.loading import rehearsal

    networks = rehearse_networks(plan, pair)
    apart = pair.weak is not None and pair.weak.kind != "network" and not pair.put_together
    if pair.weak is not None and not apart:
        _check_lent(networks, str(weak))
    moving = pair.motion_adapter is not None or pair.put_together
    for files, roles in ((pair.whole, ("strong",) if apart else ("strong", "weak")), (pair.weak, ("weak",) * apart)):
        if files is not None and roles:
            scheduler = rehearsal.scheduler_of(files, plan.scheduler, roles[0], moving=moving)
            count = plan.steps if plan.start is None else plan.start.grid(plan.steps)
            rehearsal.check_schedule(scheduler, count, methods_of(plan, roles), made=plan.steps)
            rehearsal.check_levels(scheduler, [plan.side(role).levels for role in roles])


def rehearse_networks(plan: Plan, pair: PairDescription) -> dict[str, Any]:
    """Returns the networks of both sides, by role, without values, those whose files are here.

    Raises:
        UserError: weights that they cannot be made of, a LoRA that does not fit, blocks to skip that are not there, or
            a step cache that a network cannot have.
    """
    from w2sd_video.gaps.layer_skips import find_layer_skips
    from w2sd_video.hosting.caches import check_cacheable
    from w2sd_video.loading import rehearsal

    moving = pair.motion_adapter is not None or pair.put_together
    networks = rehearsal.check_pair(pair)
    for role, network in networks.items():
        files = pair.whole if role == "strong" or pair.weak is None or pair.weak.kind == "network" else pair.weak
        if files.class_name is not None:
            kind = rehearsal.pipeline_class(files, moving=moving)
            rehearsal.check_loras(kind, network, _sources(plan, role))
    if plan.pair.weak.skip_layers and (network := networks.get("weak", networks.get("strong"))) is not None:
        find_layer_skips(network).check(plan.pair.weak.skip_layers)
    for network in networks.values() if plan.cache is not None else ():
        check_cacheable(network)
    return networks


def methods_of(plan: Plan, roles: Iterable[str], known: Any = METHODS) -> list[tuple[str, Any]]:
    """Returns the reflecting methods of a plan that sample a side of these roles, as `reflected` is told of them."""
    methods: list[tuple[str, Method]] = [(name, known[name]) for name in plan.methods]
    return [
        (hosted_name(name), config_of(name, plan.reflection))
        for name, method in methods
        if method.reflects and ("weak" if name == "swapped" else "strong") in roles
    ]


def _check_lent(networks: dict[str, Any], weak: str) -> None:
    """Raises `UserError` for two networks that one pipeline cannot serve in turn."""
    if len(networks) < 2:
        return
    for key in SAME_IN_UNETS:
        ours, theirs = (networks[role].config.get(key) for role in ("strong", "weak"))
        if ours != theirs:
            raise UserError(
                f"the network {weak} has {key} {theirs} and the strong side's {ours}, so it takes other arguments; "
                "give one of the strong side's family"
            )


def _sources(plan: Plan, role: str) -> dict[str, str]:
    """The LoRAs of a side that are files here."""
    found = {name: plan.lora_sources[name] for name, _ in plan.loras_of(role)}
    return {name: given for name, given in found.items() if Path(given).expanduser().exists()}
