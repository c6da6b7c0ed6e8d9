"""What all samplers have in common: exact counts, lambda 0, seeds, batches, dtypes, callbacks, solvers."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from benchmarks.measuring import HostReads
from experiments.theory.mixtures import PATHS, Mixture, schedule
from torch import Tensor

from tests.support.sampled import by_autoguidance, by_resampling, by_selection, by_w2sd
from w2sd_video.core import (
    Denoiser,
    DPMSolverMultistep,
    Level,
    NoiseSampler,
    Past,
    Path,
    Selector,
    sample,
    second_order_step,
)

Method = Callable[..., Tensor]
"""A sampler of (x, levels, strong, weak, path), a noise sampler, and the settings all reflecting samplers have."""


def reward(clean: Tensor) -> Tensor:
    return (5 * clean).sin().flatten(1).sum(1)


def reflecting(mode: str, **options: Any) -> Method:
    return lambda *run, **other: by_w2sd(*run, mode=mode, **options, **other)


def selecting(mode: str, **options: Any) -> Method:
    return lambda *run, **other: by_selection(*run, Selector(reward), mode=mode, **options, **other)


def aligned(mode: str, opposed: bool = False) -> Method:
    return lambda *run, **other: by_resampling(*run, mode=mode, opposed=opposed, **other)


def resampled(x: Tensor, levels: list[Level], strong: Denoiser, weak: Denoiser, path: Path, **other: Any) -> Tensor:
    return by_resampling(x, levels, strong, None, path, **other)


METHODS: dict[str, tuple[Method, Callable[[int, int], int]]] = {
    "paper": (reflecting("paper"), lambda t, lam: t + 2 * lam),
    "fused": (reflecting("fused"), lambda t, lam: t + 2 * lam),
    "release": (reflecting("release"), lambda t, lam: t + 2 * lam),
    "fixed points": (reflecting("paper", fixed_point=2), lambda t, lam: t + 4 * lam),
    "noise": (reflecting("paper", noise=0.1), lambda t, lam: t + 2 * lam),
    "cap": (reflecting("fused", cap=0.05), lambda t, lam: t + 2 * lam),
    "every second": (reflecting("paper", every=2), lambda t, lam: t + 2 * -(-lam // 2)),
    "cached": (reflecting("paper", lag=True), lambda t, lam: t + lam + min(lam, 1)),
    "cached, fused": (reflecting("fused", lag=True), lambda t, lam: t + lam + min(lam, 1)),
    "cached gap": (reflecting("fused", gap_every=1), lambda t, lam: t + max(lam - 1, 0)),
    "cached gap, third": (reflecting("fused", gap_every=3), lambda t, lam: t + -(-max(lam - 1, 0) // 3)),
    "auto": (selecting("paper"), lambda t, lam: t + 3 * lam),
    "auto, fused": (selecting("fused"), lambda t, lam: t + 2 * lam),
    "auto, noise": (selecting("fused", noise=0.1), lambda t, lam: t + 2 * lam),
    "auto, fixed points": (selecting("paper", fixed_point=1), lambda t, lam: t + 4 * lam),
    "resample": (resampled, lambda t, lam: t + lam),
    "aligned": (aligned("paper"), lambda t, lam: t + 2 * lam),
    "opposed": (aligned("paper", opposed=True), lambda t, lam: t + 2 * lam),
    "aligned, fused": (aligned("fused"), lambda t, lam: t + 2 * lam),
}
DRAWING = ("noise", "auto, noise", "resample", "aligned", "opposed", "aligned, fused")
MEANS = ((-1.0, -0.5, 0.3), (1.0, 0.2, -0.7), (0.4, 0.9, 1.0))
every_method = pytest.mark.parametrize("method", METHODS)
both_paths = pytest.mark.parametrize("name", ["sdxl", "flow"])


def models(path: Path) -> tuple[Denoiser, Denoiser]:
    """Two exact mixtures in three dimensions."""
    strong, weak = Mixture(MEANS, (0.3, 0.5, 0.2), 0.4), Mixture(MEANS, (0.1, 0.8, 0.1), 0.5)
    return strong.denoiser(path), weak.denoiser(path)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(*seeds: int) -> NoiseSampler:
    """Noise that each sample draws with a generator of its own."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return lambda x: torch.stack(
        [torch.randn(x.shape[1:], generator=generator, dtype=torch.float64) for generator in generators]
    ).to(x.dtype)


def refuse(x: Tensor) -> Tensor:
    raise AssertionError("drawn")


@every_method
@pytest.mark.parametrize("lam", [0, 1, 2, 5])
def test_evaluations_are_exactly_as_many_as_said(method: str, lam: int) -> None:
    calls: list[Level] = []

    def counted(model: Denoiser) -> Denoiser:
        return lambda x, level: (calls.append(level), model(x, level))[1]  # type: ignore[func-returns-value]

    run, evaluations = METHODS[method]
    strong, weak = map(counted, models(PATHS["sdxl"]))
    run(noise(1, 3), schedule("sdxl", 6), strong, weak, PATHS["sdxl"], num_reflections=lam, noise_sampler=seeded(0))
    assert len(calls) == evaluations(6, lam)


@every_method
@both_paths
def test_lambda_0_is_plain_sampling_bit_for_bit_and_draws_nothing(method: str, name: str) -> None:
    path, levels, x = PATHS[name], schedule(name, 6), noise(4, 3)
    strong, weak = models(path)
    for solver in (None, DPMSolverMultistep(path)):
        plain = sample(x, levels, strong, path, solver=solver)
        settings: dict[str, Any] = {"num_reflections": 0, "solver": solver, "noise_sampler": refuse}
        assert torch.equal(METHODS[method][0](x, levels, strong, weak, path, **settings), plain)


@both_paths
@pytest.mark.parametrize("mode", ["paper", "fused"])
def test_strength_0_evaluates_everything_and_changes_nothing(name: str, mode: str) -> None:
    path, levels, x = PATHS[name], schedule(name, 6), noise(4, 3)
    strong, weak = models(path)
    plain = sample(x, levels, strong, path)
    always_tied = Selector(lambda clean: torch.zeros(len(clean)))
    for cap in (None, 0.01):
        settings: dict[str, Any] = {"mode": mode, "strength": 0.0, "cap": cap}
        assert torch.equal(by_w2sd(x, levels, strong, weak, path, **settings), plain)
        assert torch.equal(by_selection(x, levels, strong, weak, path, always_tied, **settings), plain)


@every_method
def test_a_seed_says_all_that_is_random(method: str) -> None:
    path, levels, x = PATHS["sdxl"], schedule("sdxl", 6), noise(4, 3)
    run = METHODS[method][0]
    first, again, other = (
        run(x, levels, *models(path), path, noise_sampler=seeded(*seeds))
        for seeds in ([0, 1, 2, 3],) * 2 + ([4, 5, 6, 7],)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (method not in DRAWING)
    torch.manual_seed(5)
    default = run(x, levels, *models(path), path)
    torch.manual_seed(5)
    assert torch.equal(default, run(x, levels, *models(path), path))
    assert torch.equal(default, first) == (method not in DRAWING)


@every_method
@both_paths
def test_a_batch_is_its_samples_one_by_one(method: str, name: str) -> None:
    path, levels, x, run = PATHS[name], schedule(name, 8), noise(6, 3, seed=2), METHODS[method][0]
    together = run(x, levels, *models(path), path, noise_sampler=seeded(*range(6)))
    for b in range(6):
        alone = run(x[b : b + 1], levels, *models(path), path, noise_sampler=seeded(b))
        torch.testing.assert_close(together[b : b + 1], alone, rtol=0, atol=1e-10)  # of orders of summation


def test_the_batch_of_that_test_does_choose_differently() -> None:
    path, selector = PATHS["sdxl"], Selector(reward)
    by_selection(noise(6, 3, seed=2), schedule("sdxl", 8), *models(path), path, selector)
    assert any(0 < int(choice.sum()) < 6 for choice in selector.choices)


@every_method
@both_paths
@pytest.mark.parametrize(
    ("given", "carried"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64,) * 2]
)
def test_the_latent_is_carried_in_float32_or_better_and_so_is_what_is_drawn(
    method: str, name: str, given: torch.dtype, carried: torch.dtype
) -> None:
    path, levels, seen = PATHS[name], schedule(name, 6), set()

    def network(x: Tensor, level: Level) -> Tensor:
        seen.add(x.dtype)
        return (0.9 * x).sin().to(torch.float16)

    def draw(x: Tensor) -> Tensor:
        seen.add(x.dtype)
        return torch.randn_like(x)

    x = noise(4, 3).to(given)
    kept = x.clone()
    assert METHODS[method][0](x, levels, network, network, path, noise_sampler=draw).dtype == carried
    assert seen == {carried}
    assert torch.equal(x, kept)


@every_method
@both_paths
def test_callbacks_see_each_step_and_reflection_and_may_replace_the_latent(method: str, name: str) -> None:
    path, levels, run, x = PATHS[name], schedule(name, 6), METHODS[method][0], noise(4, 3)
    steps: list[tuple[int, Tensor]] = []
    moves: list[tuple[int, Tensor, Tensor]] = []
    arguments = levels, *models(path), path
    settings: dict[str, Any] = {"num_reflections": 3, "on_reflect": lambda *move: moves.append(move)}
    end = run(x, *arguments, noise_sampler=seeded(*range(4)), callback=lambda *step: steps.append(step), **settings)
    assert [i for i, _ in steps] == [0, 1, 2, 3, 4, 5] and torch.equal(steps[-1][1], end)
    assert [i for i, _, _ in moves] == {"every second": [0, 2]}.get(
        method, [0, 1, 2][method.startswith("cached gap") :]
    )
    for i, before, after in moves:
        assert torch.equal(before, x if i == 0 else steps[i - 1][1]) and not torch.equal(before, after)

    fresh = noise(4, 3, seed=9)
    replaced = run(
        x, *arguments, noise_sampler=seeded(*range(4)), callback=lambda i, x: fresh if i == 4 else None, **settings
    )
    # After the third step nothing is reflected any more.
    if not method.startswith("auto"):
        assert torch.equal(replaced, sample(fresh, levels[5:], arguments[1], path))


@every_method
@both_paths
def test_steps_of_second_order_remember_sampling_steps_alone(method: str, name: str) -> None:
    path, levels, run = PATHS[name], schedule(name, 6), METHODS[method][0]
    latents, given = [], []

    class Watched:
        solver = DPMSolverMultistep(path)
        init = solver.init

        def step(self, x: Tensor, prediction: Tensor, start: Level, end: Level, state: Any) -> Any:
            given.append((x, prediction, start, end))
            lower, state = self.solver.step(x, prediction, start, end, state)
            latents.append(lower)
            return lower, state

    tildes: dict[int, Tensor] = {}
    settings: dict[str, Any] = {
        "noise_sampler": seeded(*range(4)),
        "on_reflect": lambda i, x, tilde: tildes.update({i: tilde}),
    }
    x = noise(4, 3)
    end = run(x, levels, *models(path), path, solver=Watched(), **settings)
    assert [step[2:] for step in given] == list(itertools.pairwise(levels)) and torch.equal(end, latents[-1])
    assert set(tildes) == set(range(method.startswith("cached gap"), 5, 1 + (method == "every second")))
    before: Past | None = None
    for i, (at, prediction, start, to) in enumerate(given):
        assert torch.equal(at, tildes.get(i, latents[i - 1] if i else x))
        clean = at - start.sigma * prediction if name == "flow" else (at - start.sigma * prediction) / start.alpha
        if before is None or to.sigma == 0:
            expected = path.step(at, prediction, start, to)
        else:
            expected = second_order_step(at, clean, start, to, before)
        torch.testing.assert_close(latents[i], expected, rtol=0, atol=1e-11)
        before = Past(start, clean)


def test_autoguidance_takes_two_evaluations_a_step_and_carries_float32() -> None:
    path, levels, seen = PATHS["flow"], schedule("flow", 6), []

    def network(x: Tensor, level: Level) -> Tensor:
        seen.append(x.dtype)
        return (0.9 * x).sin().half()

    assert by_autoguidance(noise(4, 3).half(), levels, network, network, path).dtype == torch.float32
    assert seen == [torch.float32] * 12


@pytest.mark.parametrize("method", [method for method in METHODS if not method.startswith("auto")])
@both_paths
def test_no_sampler_but_the_selecting_ones_reads_from_the_device(method: str, name: str) -> None:
    def network(x: Tensor, level: Level) -> Tensor:
        return (0.9 * x).sin() + level.sigma

    with HostReads() as reads:
        METHODS[method][0](
            noise(4, 3), schedule(name, 6), network, network, PATHS[name], noise_sampler=torch.randn_like
        )
    assert reads.total == 0


@pytest.mark.parametrize("method", [method for method in METHODS if not method.startswith("auto")])
def test_latents_of_one_number_a_sample_are_taken_too(method: str) -> None:
    def strong(x: Tensor, level: Level) -> Tensor:
        return (0.9 * x).sin() + level.sigma

    def weak(x: Tensor, level: Level) -> Tensor:
        return 0.8 * strong(x, level)

    run = schedule("sdxl", 6), strong, weak, PATHS["sdxl"]
    flat, tall = (METHODS[method][0](x, *run, noise_sampler=torch.zeros_like) for x in (noise(7), noise(7)[:, None]))
    torch.testing.assert_close(flat[:, None], tall, rtol=0, atol=1e-12)
