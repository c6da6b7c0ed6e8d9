"""Weight files: nothing in them runs, and what differs from the network is named."""

from pathlib import Path

import pytest
import torch
from torch import nn

from vbench_eval.backbones.loading import as_dtype, load_state, load_strictly, usable_device
from vbench_eval.errors import UserError


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_a_pickle_that_would_run_code_is_not_opened_unless_allowed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(2), "evil": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="--allow-pickle"):
        load_state(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="a table with weight, evil"):  # opened, and not a state
        load_state(tmp_path / "evil.pth", allow_pickle=True)
    assert (tmp_path / "ran").exists()


def test_prefixes_and_wrappings_of_states_are_taken_off(tmp_path):
    weight = torch.arange(3.0)
    for number, state in enumerate(
        ({"a.weight": weight}, {"module.a.weight": weight}, {"state_dict": {"module.a.weight": weight}, "epoch": 3})
    ):
        path = tmp_path / f"{number}.pth"
        torch.save(state, path)
        found = load_state(path)
        assert list(found) == ["a.weight"] and torch.equal(found["a.weight"], weight)


@pytest.mark.parametrize("content", [b"", b"not a network", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_refused_by_name(tmp_path, content, suffix):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"damaged{suffix}"):
        load_state(path)


def test_many_wrong_keys_are_counted_not_listed():
    with pytest.raises(
        UserError, match=r"missing: 0\.weight, 0\.bias, 1\.weight, 1\.bias, 2\.weight, 2\.bias and 2 more\)"
    ):
        load_strictly(nn.Sequential(*(nn.Linear(1, 1) for _ in range(4))), {}, source="it")


def test_types_and_devices_that_are_not_there_are_refused_with_those_that_are():
    assert as_dtype(None) is torch.float32 and as_dtype("bfloat16") is as_dtype(torch.bfloat16) is torch.bfloat16
    with pytest.raises(UserError, match="int8; choose one of float32, float16, bfloat16"):
        as_dtype("int8")
    for device in ("cuda:99", "nonsense"):
        with pytest.raises(UserError, match=f"{device}.*cpu always can"):
            usable_device(device)
