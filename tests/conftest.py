"""Settings every test runs under: one thread, and no way onto the network."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import pytest
import torch

from tests.support import network

torch.set_num_threads(1)
network.forbid()
os.fsync = lambda descriptor: None  # milliseconds for each file; no test cuts the power


@pytest.fixture(scope="module", autouse=True)
def _what_lasts_is_not_searched() -> None:
    """Half a million objects of imported modules cost each collection of garbage a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_network() -> Iterator[None]:
    """Fails a test that asked for the network, also where a library caught the refusal."""
    network.ATTEMPTS.clear()
    yield
    assert not network.ATTEMPTS, f"asked for the network: {', '.join(network.ATTEMPTS)}"
