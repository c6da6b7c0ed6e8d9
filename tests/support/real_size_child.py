"""One command of the program, measured from inside: `python -m tests.support.real_size_child REPORT.json WORDS...`.

By phase: seconds, and the most that was in memory (VmHWM, set back at each boundary); the seconds inside networks and
VAE, so that what the loop adds to them is known; and the bytes of the networks and VAEs once they are in their places.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from w2sd_video.commands import engine

TEXT, VAE = ("text_encoder", "text_encoder_2"), "vae"
START, CHECKED, LOADED, ADAPTED = "start", "check", "load", "LoRA"
ENCODED, NETWORKS, SAMPLED, DECODED = "encode", "networks", "sample", "decode"


def resident() -> float:
    """The most that was in memory since the peak was set back, pages of files included, in GB (10^9 bytes)."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9


class Watch:
    """What is measured; a phase is what was entered last."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.peaks: dict[str, float] = {}
        self.inside: dict[str, float] = defaultdict(float)  # seconds in networks and VAEs while sampling
        self.calls: Counter[str] = Counter()
        self.loop = 0.0
        self.unique = 0  # bytes of networks, text encoders and VAEs, each address once: the most at one time
        self.names = [START]
        self.since = time.perf_counter()

    def close(self) -> None:
        """The phase that was entered last is over, or another one begins inside."""
        now, name = time.perf_counter(), self.names[-1]
        self.seconds[name] += now - self.since
        self.peaks[name] = max(self.peaks.get(name, 0.0), resident())
        with suppress(OSError):  # where that is not allowed the peaks are those so far
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self.since = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.close()
        self.names.append(name)
        try:
            yield
        finally:
            self.close()
            self.names.pop()

    def report(self) -> dict[str, Any]:
        self.close()
        return {
            "seconds": dict(self.seconds),
            "peaks": self.peaks,
            "inside": dict(self.inside),
            "calls": dict(self.calls),
            "loop": self.loop,
            "unique": self.unique / 1e9,
        }


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """`owner.name(...)` is `around(its own, ...)`."""
    own = getattr(owner, name)

    @functools.wraps(own)
    def wrapped(*args: Any, **settings: Any) -> Any:
        return around(own, *args, **settings)

    setattr(owner, name, wrapped)


def install(watch: Watch) -> None:
    """Puts the measurements where the program will pass; imports torch, as the program is about to."""
    import diffusers

    from bridges.dit_moe import making as moe
    from bridges.dit_moe.network import DiTMoE
    from bridges.pixel import making as bridge
    from w2sd_video.commands import making
    from w2sd_video.loading import loras, parts
    from w2sd_video.loading.sharing import modules_of, unique_bytes

    def phase(name: str) -> Callable[..., Any]:
        def around(own: Any, *args: Any, **settings: Any) -> Any:
            with watch.phase(name):
                return own(*args, **settings)

        return around

    def filled(own: Any, name: str, part: str, *args: Any) -> Any:
        with watch.phase(LOADED if part in TEXT or part == VAE else NETWORKS):
            return own(name, part, *args)

    def count(*sides: Any) -> None:
        there = unique_bytes(*(part for side in sides if side is not None for part in modules_of(side)))
        watch.unique = max(watch.unique, there)

    def about_to_encode(own: Any, loaded: Any, *args: Any) -> Any:
        count(loaded.strong, loaded.weak)
        return own(loaded, *args)

    def placed(own: Any, strong: Any, weak: Any, *args: Any) -> Any:
        with watch.phase(NETWORKS):
            found = own(strong, weak, *args)
        count(strong, weak)
        return found

    def moe_loaded(own: Any, *args: Any, **settings: Any) -> Any:
        with watch.phase(NETWORKS):
            pipe = own(*args, **settings)
        count(pipe)
        return pipe

    def sampled(own: Any, *args: Any, **settings: Any) -> Any:
        with watch.phase(SAMPLED):
            begin = time.perf_counter()
            try:
                return own(*args, **settings)
            finally:
                watch.loop += time.perf_counter() - begin

    wrap(making, "load_pair", phase(LOADED))
    wrap(loras, "load_loras", phase(ADAPTED))
    wrap(bridge, "_pipeline", phase(LOADED))
    wrap(parts, "_fill", filled)
    wrap(moe, "load_pipeline", moe_loaded)
    for module in (making, bridge):
        wrap(module, "encoded_prompts", phase(ENCODED))
        wrap(module, "place", placed)
        wrap(module, "_place", about_to_encode)
        wrap(module, "measured", sampled)
    wrap(moe.Sampler, "call", sampled)
    for kind, name, called in (
        (diffusers.UNetMotionModel, "forward", SAMPLED),
        (diffusers.UNet2DConditionModel, "forward", SAMPLED),
        (diffusers.FluxTransformer2DModel, "forward", SAMPLED),
        (DiTMoE, "forward", SAMPLED),
        (diffusers.AutoencoderKL, "decode", DECODED),
        (diffusers.AutoencoderKL, "encode", DECODED),
    ):
        _time(watch, kind, name, called)


def _time(watch: Watch, kind: Any, name: str, phase: str) -> None:
    """Counts the calls of a method and their seconds; those of VAEs are a phase of their own."""
    label = f"{kind.__name__}.{name}"

    def timed(own: Any, *args: Any, **settings: Any) -> Any:
        begin = time.perf_counter()
        try:
            with watch.phase(phase) if phase == DECODED else nullcontext():
                return own(*args, **settings)
        finally:
            watch.inside[label] += time.perf_counter() - begin
            watch.calls[label] += 1

    wrap(kind, name, timed)


def main(argv: list[str]) -> int:
    report, *words = argv
    watch = Watch()

    def settled(own: Any, *args: Any) -> Any:
        with watch.phase(CHECKED):
            install(watch)
            return own(*args)

    wrap(engine, "settled", settled)  # the last step before torch is wanted
    from w2sd_video.commands.app import main as program

    code = program(words)
    Path(report).write_text(json.dumps(watch.report()), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
