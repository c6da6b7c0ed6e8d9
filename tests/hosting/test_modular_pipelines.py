"""`reflected(...)` of a modular pipeline is that of the classic one, and leaves it as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.modular import FAMILIES, STEPS, Family, assert_near
from w2sd_video import ModelSpec, ReflectionConfig, reflected
from w2sd_video.errors import UserError


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def wan() -> Family:
    return FAMILIES["wan"]


@pytest.mark.parametrize("settings", [{}, {"mode": "fused"}], ids=lambda settings: settings.get("mode", "paper"))
def test_it_samples_and_counts_as_the_classic_pipeline(wan: Family, settings: dict[str, Any]) -> None:
    weak, spec = wan.weak(), ModelSpec(guidance=1.0)
    given = {"weak": (weak, spec), "num_reflections": 3, "reflector": ModelSpec(guidance=2.0), **settings}
    classic, pipe, seen = wan.classic(), wan.modular(), list[tuple[int, Tensor, Tensor]]()
    with reflected(classic, **given) as expected_run:
        expected = wan.call_classic(classic)
    plain = wan.call(pipe)
    with reflected(pipe, **given, on_reflect=lambda *told: seen.append(told)) as run:
        assert_near(wan.call(pipe), expected)
    for name in ("num_steps", "num_reflections", "num_evaluations", "num_forwards", "num_rows"):
        assert getattr(run, name) == getattr(expected_run, name), name
    assert run.gaps == pytest.approx(expected_run.gaps, rel=1e-4) and [step for step, *_ in seen] == [0, 1, 2]
    assert torch.equal(wan.call(pipe), plain), "as it was before"


@pytest.mark.parametrize(("gap_every", "measured"), [(1, 3), (2, 2), (0, 1)])
def test_cached_gaps_are_those_of_the_classic_pipeline_at_its_price(wan: Family, gap_every: int, measured: int) -> None:
    weak = wan.weak(), ModelSpec(guidance=1.0)
    config = ReflectionConfig(num_reflections=4, mode="fused", gap_every=gap_every)
    classic, pipe = wan.classic(), wan.modular()
    with reflected(classic, weak, config=config) as expected_run:
        expected = wan.call_classic(classic)
    plain = wan.call(pipe)
    with reflected(pipe, weak, config=config) as run:
        assert_near(wan.call(pipe), expected)
    assert run.num_evaluations == expected_run.num_evaluations == STEPS + measured
    assert run.gaps == pytest.approx(expected_run.gaps, rel=1e-4) and run.num_reflections == 3
    with reflected(pipe, "zero-gap", config=config):
        assert torch.equal(wan.call(pipe), plain)
    assert torch.equal(wan.call(pipe), plain), "as it was before"


def test_the_control_and_weak_sides_of_every_kind(wan: Family) -> None:
    pipe, weak = wan.modular(), wan.weak()
    plain = wan.call(pipe)

    def sampled(weak: Any, **given: Any) -> Tensor:
        with reflected(pipe, weak, num_reflections=2, **given):
            return wan.call(pipe)

    assert torch.equal(sampled("zero-gap", mode="fused"), plain)
    other = wan.modular()
    other.update_components(transformer=weak)
    assert torch.equal(sampled(other), sampled(weak))
    assert torch.equal(sampled({"transformer": weak}), sampled(weak))
    assert not torch.equal(sampled(ModelSpec(guidance=1.0)), plain)
    with reflected(pipe, num_reflections=0):
        assert torch.equal(wan.call(pipe), plain)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"weak": 3}, "give a network"),
        ({"weak": {"unet": torch.nn.Linear(1, 1)}}, "this pipeline's are transformer"),
        ({"weak": ModelSpec(prompt="a cat")}, "the weak side differs in prompt"),
        ({"weak": ModelSpec(guidance=1.0), "method": "autoguided"}, "cannot be set"),
    ],
    ids=["weak", "network", "spec", "method"],
)
def test_what_a_modular_pipeline_has_not_is_refused(wan: Family, given: dict[str, Any], said: str) -> None:
    pipe = wan.modular()
    settings = {} if "method" in given else {"num_reflections": 2}
    with pytest.raises(UserError, match=said), reflected(pipe, **given, **settings):
        pass
    assert len(wan.call(pipe)) == 1 and STEPS == 5


def test_an_error_inside_leaves_the_pipeline_as_it_was(wan: Family) -> None:
    pipe = wan.modular()
    plain = wan.call(pipe)
    with pytest.raises(UserError, match="number from 0 to 4"), reflected(pipe, "zero-gap", num_reflections=9):
        wan.call(pipe)
    assert torch.equal(wan.call(pipe), plain)
