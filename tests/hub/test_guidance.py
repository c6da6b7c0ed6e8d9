"""The guider is auto-guidance by the weak side, exactly, and saves and loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from bridges.hub.guidance import WeakToStrongGuidance
from tests.support.modular import FAMILIES, STEPS, Family, assert_near
from w2sd_video import ModelSpec, reflected


@pytest.fixture(scope="module")
def wan() -> Family:
    return FAMILIES["wan"]


def sampled(family: Family, guider: Any, *, adapter: bool = False) -> tuple[torch.Tensor, int]:
    """Latents, and how often the network was called."""
    pipe = family.modular()
    if adapter:
        torch.manual_seed(3)
        config = LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False)
        pipe.transformer.add_adapter(config, adapter_name="a")
    calls: list[int] = []
    pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    pipe.update_components(guider=guider)
    return family.call(pipe), len(calls)


def test_a_gap_of_guidance_is_auto_guidance_of_the_classic_pipeline(wan: Family) -> None:
    classic = wan.classic()
    with reflected(classic, weak=ModelSpec(guidance=1.0), method="autoguided", strength=0.7):
        expected = wan.call_classic(classic)
    out, calls = sampled(wan, WeakToStrongGuidance(wan.guidance, 1.0, strength=0.7))
    assert_near(out, expected)
    assert calls == 2 * STEPS, "the two sides share their predictions"


def test_without_a_weak_side_it_is_plain_guidance(wan: Family) -> None:
    plain = wan.call(wan.modular())
    for guider in (
        WeakToStrongGuidance(wan.guidance, strength=0.0),
        WeakToStrongGuidance(wan.guidance, enabled=False),
        WeakToStrongGuidance(wan.guidance, stop=0.0),
    ):
        assert_near(sampled(wan, guider)[0], plain)
    assert_near(sampled(wan, WeakToStrongGuidance(wan.guidance, wan.guidance))[0], plain)


def test_a_gap_of_lora_scale_counts_in_its_window_and_is_restored(wan: Family) -> None:
    with_lora, _ = sampled(wan, WeakToStrongGuidance(1.0, 1.0, adapter="a", strength=0.0), adapter=True)
    guider = WeakToStrongGuidance(1.0, 1.0, adapter="a", stop=0.4)
    out, calls = sampled(wan, guider, adapter=True)
    assert calls == STEPS + 2
    assert not torch.allclose(out, with_lora, atol=1e-4)
    same = WeakToStrongGuidance(1.0, 1.0, adapter="a", weak_adapter_scale=1.0)
    assert_near(sampled(wan, same, adapter=True)[0], with_lora)


def test_it_saves_and_loads(tmp_path: Path) -> None:
    guider = WeakToStrongGuidance(4.0, 0.5, strength=0.3, adapter="a", stop=0.5)
    guider.save_pretrained(str(tmp_path))
    again = WeakToStrongGuidance.from_pretrained(str(tmp_path))
    named = ("guidance_scale", "weak_guidance_scale", "strength", "adapter", "weak_adapter_scale", "_stop")
    assert [getattr(again, name) for name in named] == [getattr(guider, name) for name in named]
