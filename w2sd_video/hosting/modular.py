"""`reflected(...)` for modular pipelines: a reflection block in every loop for the duration of the `with`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from typing import Any

from diffusers.modular_pipelines import ModularPipeline
from torch import Tensor, nn

from w2sd_video.core.denoisers import OnReflect
from w2sd_video.core.options import ReflectionConfig
from w2sd_video.errors import UserError
from w2sd_video.hosting.reflection_block import ReflectionBlock, loops_of
from w2sd_video.hosting.run import Run
from w2sd_video.pair import ModelSpec


@contextmanager
def reflected_modular(
    pipe: ModularPipeline, weak: Any, config: ReflectionConfig, on_reflect: OnReflect | None = None
) -> Iterator[Run]:
    """While active, every call of a modular pipeline is reflected; yields the `Run` of the latest one.

    Args:
        pipe: a modular pipeline whose components are loaded.
        weak: a network, in the place of all the pipeline's; networks by the names of the pipeline's own; a `ModelSpec`
            of the guidance; (network or networks, ModelSpec); another modular pipeline of that family, whose networks
            are taken; or "zero-gap".
        config: the settings; a reflector may differ in guidance.
        on_reflect: as for `reflected`.

    Raises:
        UserError: on entry or in the call's first step, for what cannot be reflected.
    """
    networks, spec = _weak(pipe, weak, asked=not config.plain())
    reflector = config.reflector or ModelSpec()
    for side, given in (("weak", spec), ("reflector", reflector)):
        if others := [f.name for f in fields(given) if f.name != "guidance" and getattr(given, f.name) != f.default]:
            raise UserError(
                f"the {side} side differs in {', '.join(others)}; of a modular pipeline it may differ in guidance and "
                "networks: use the classic pipeline of that family for more"
            )
    run = Run()
    block = ReflectionBlock()
    block.weak_networks, block.given = networks, config
    block.scales = reflector.guidance, spec.guidance
    counted = [*dict.fromkeys([*networks.values(), *(c for c in pipe.components.values() if isinstance(c, nn.Module))])]

    def moved(step: int, x: Tensor, tilde: Tensor) -> None:
        run.num_reflections += 1
        run._gaps.append((tilde - x).norm())
        if on_reflect is not None:
            on_reflect(step, x, tilde)

    def evaluated() -> None:
        run._counter.evaluations += 1

    def begun(steps: int) -> None:
        run.reset()
        run.num_steps = steps
        run._counter.evaluations = steps  # of the loop's own steps; those of reflections are added as they are made

    block.on_reflect, block.on_evaluation, block.on_begin = moved, evaluated, begun

    def forward(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        latent = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
        run._counter.forwards += 1
        run._counter.rows += len(latent) if isinstance(latent, Tensor | list) else 1

    block.insert(pipe._blocks)
    with ExitStack() as stack:
        for loop in loops_of(pipe._blocks):
            stack.callback(block.remove, loop)
        names = block.networks_of(pipe._blocks)
        if unknown := [name for name in networks if name not in names]:
            raise UserError(f"weak has networks {', '.join(unknown)}, but this pipeline's are {', '.join(names)}")
        own = [getattr(pipe, name, None) for name in names]
        for network in counted:
            if any(network is each for each in (*own, *networks.values())):
                stack.callback(network.register_forward_pre_hook(forward, with_kwargs=True).remove)
        yield run


def _weak(pipe: ModularPipeline, weak: Any, *, asked: bool) -> tuple[dict[str, Any], ModelSpec]:
    """The weak side's networks by name, and what else differs."""
    spec = ModelSpec()
    if isinstance(weak, tuple) and len(weak) == 2:
        weak, spec = weak
    if isinstance(weak, ModelSpec):
        return {}, weak
    if weak is None and not asked:
        return {}, spec
    if weak == "zero-gap" or weak is pipe:
        return {}, spec
    if isinstance(weak, Mapping):
        return dict(weak), spec
    names = ReflectionBlock().networks_of(pipe._blocks)
    if isinstance(weak, ModularPipeline):
        return {name: getattr(weak, name) for name in names if getattr(weak, name, None) is not None}, spec
    if isinstance(weak, nn.Module):
        return dict.fromkeys(names, weak), spec
    raise UserError(
        f"weak is a {type(weak).__name__}; give a network, networks by name ({', '.join(names)}), a ModelSpec of the "
        'guidance, another modular pipeline, or the control weak="zero-gap"'
    )
