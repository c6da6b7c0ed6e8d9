"""Measure what one decode saves: python scripts/benchmark_vbench.py [--quick] [--only counts|times|networks]

All measures that need no weights (the proxies and temporal_flickering) of a 16-frame mp4 at 512x512 and at 1024x1024,
the size of the paper's videos: in one pass, as the runner measures a video, against a pass with a decode of its own per
measure; and the two consistencies with DINO and CLIP at their true size (random weights) against the bare calls of
these networks. First integers: decodes, and flows between two frames; and that both ways give the same values. Then
CPU times taken in turn on one thread. About 6 minutes of one core, --quick one. Exit code 1 if a count is off, or if
one pass takes more than half of the time (less than twice the videos per second), or scoring with networks more than
1.1 times their bare calls, by more than the A/A spread.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import torch
from torch import Tensor, nn

from benchmarks.measuring import (
    Row,
    at_most,
    bench_parser,
    claim,
    cpu_seconds,
    equal,
    paired_ratio,
    recorded_calls,
    report,
)
from vbench_eval.backbones.clip import ClipEncoder
from vbench_eval.backbones.dino import DinoEncoder
from vbench_eval.dimensions import Dimension, build
from vbench_eval.one_pass import measure
from vbench_eval.profiles import get_profile
from vbench_eval.proxies.flow import HornSchunck
from vbench_eval.selection import select
from vbench_eval.settings import ScoringSettings
from vbench_eval.video_files import VideoFile
from vbench_eval.videos import CHUNK_BYTES, open_video

FRAMES, FPS = 16, 8
MOST_TIME = 0.5  # of a decode per measure: twice the videos per second
MOST_OVER_NETWORKS = 1.1  # decoding, resizing, moving and comparing, over the networks alone


class Counts:
    """How often videos were decoded and flows estimated while `counting`, whoever asked for it."""

    def __init__(self) -> None:
        self.decodes = self.flows = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        original, decoded = HornSchunck.flow, VideoFile.chunks

        def chunks(video: VideoFile, max_bytes: int = CHUNK_BYTES) -> Iterator[Tensor]:
            self.decodes += 1
            return decoded(video, max_bytes)

        def flow(estimator: HornSchunck, a: Tensor, b: Tensor) -> Tensor:
            self.flows += len(a)
            return original(estimator, a, b)

        HornSchunck.flow = flow  # type: ignore[method-assign]
        VideoFile.chunks = chunks  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            HornSchunck.flow = original  # type: ignore[method-assign]
            VideoFile.chunks = decoded  # type: ignore[method-assign]


def write_video(path: Path, side: int, frames: int = FRAMES) -> None:
    """A texture that drifts by 3 pixels in 256 per frame, H.264 at crf 17."""
    world = texture(2 * side)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "17"})
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            start = index * 3 * side // 256
            frame = world[start : start + side, start : start + side].contiguous().numpy()
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def texture(side: int) -> Tensor:
    """A coloured picture `[side, side, 3]`, uint8, with the spectrum of photographs: amplitudes fall as 1/frequency."""
    noise = torch.randn(3, side, side, generator=torch.Generator().manual_seed(0))
    frequency = torch.fft.fftfreq(side)
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt().clamp(min=1 / side)
    picture = torch.fft.ifft2(torch.fft.fft2(noise) / radius).real
    return (128 + 45 * picture / picture.std()).clamp(0, 255).round().byte().permute(1, 2, 0)


def one_pass(path: Path, dimensions: Mapping[str, Dimension]) -> dict[str, Any]:
    """Every measure of the video from one decode."""
    result = measure(open_video(path), dimensions)
    if result.error is not None:
        raise RuntimeError(f"the benchmark's own video cannot be read: {result.error}")
    return result.measured


def pass_by_pass(path: Path, dimensions: Mapping[str, Dimension]) -> dict[str, Any]:
    """The same with a decode per measure, nothing being shared."""
    measured: dict[str, Any] = {}
    for name, dimension in dimensions.items():
        measured.update(one_pass(path, {name: dimension}))
    return measured


def count(side: int, path: Path, dimensions: Mapping[str, Dimension]) -> Iterator[Row]:
    """Decodes and flows of both ways, and whether their values are the same."""
    together, apart = Counts(), Counts()
    with together.counting():
        ours = one_pass(path, dimensions)
    with apart.counting():
        theirs = pass_by_pass(path, dimensions)
    size = f"{side}x{side}"
    yield equal("decodes", f"decodes for {len(dimensions)} measures in one pass, {size}", together.decodes, 1)
    yield equal("decodes", f"decodes with a pass per measure, {size}", apart.decodes, len(dimensions))
    neighbours, halves = FRAMES - 1, (FRAMES - 1) // 2
    yield equal("flows", f"flows between two frames in one pass, {size}", together.flows, 2 * neighbours + halves)
    yield equal("flows", f"flows with a pass per measure, {size}", apart.flows, 3 * neighbours + halves)
    differing = sum(ours[name] != theirs[name] for name in dimensions)
    yield equal("values", f"measures whose result differs between the two ways, {size}", differing, 0)
    yield equal("values", f"measures without a value, {size}", sum(ours[n]["value"] is None for n in dimensions), 0)


def time_passes(side: int, path: Path, dimensions: Mapping[str, Dimension], rounds: int) -> Iterator[Row]:
    """The ratio of both ways, and what it is made of."""
    print(f"measuring: {side}x{side}", file=sys.stderr, flush=True)
    taken: list[float] = []

    def together() -> None:
        taken.append(cpu_seconds(lambda: one_pass(path, dimensions)))

    size = f"{side}x{side}, {FRAMES} frames"
    ratio, spread = paired_ratio(together, lambda: pass_by_pass(path, dimensions), rounds)
    yield at_most(
        "time", f"one pass / a decode per measure, {len(dimensions)} measures, {size}", ratio, MOST_TIME, spread
    )
    yield Row("time", f"times the videos per second of a decode per measure, {size}", 1 / ratio)
    yield Row("rate", f"videos per second of one core in one pass, {size}", 1 / statistics.median(taken[1:]))
    decode: Callable[[], int] = lambda: sum(len(chunk) for chunk in open_video(path).chunks())  # noqa: E731
    ratio, spread = paired_ratio(decode, lambda: one_pass(path, dimensions), rounds)
    yield Row("time", f"a decode alone / one pass, {size}", ratio, spread=spread)


def with_networks(*, layers: int = 12, width: int = 768) -> tuple[dict[str, Dimension], list[nn.Module]]:
    """Both consistencies, and their networks: DINO ViT-B/16 and CLIP ViT-B/32 with random weights, or smaller ones."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, ViTConfig, ViTModel

    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, "image_size": 224}
    sizes["num_attention_heads"] = width // 64
    dino = ViTModel(ViTConfig(**sizes, patch_size=16), add_pooling_layer=False).eval()
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, patch_size=32, projection_dim=512)).eval()
    profile = get_profile("vbench")
    made = {
        "subject_consistency": DinoEncoder(dino, provenance={"id": "random DINO"}, antialias=False),
        "background_consistency": ClipEncoder(clip, provenance={"id": "random CLIP"}, antialias=False),
    }
    return {name: build(name, profile, encoder) for name, encoder in made.items()}, [dino, clip]


def time_networks(
    side: int,
    path: Path,
    dimensions: Mapping[str, Dimension],
    networks: Sequence[nn.Module],
    rounds: int,
    frames: int = FRAMES,
) -> Iterator[Row]:
    """Scoring by networks against nothing but the calls of these networks."""
    print(f"measuring: networks, {side}x{side}", file=sys.stderr, flush=True)
    bare = recorded_calls(networks, lambda: one_pass(path, dimensions))
    taken: list[float] = []

    def scored() -> None:
        taken.append(cpu_seconds(lambda: one_pass(path, dimensions)))

    ratio, spread = paired_ratio(scored, bare, rounds)
    size = f"{side}x{side}, {frames} frames"
    what = f"scoring by {' and '.join(dimensions)} / the networks' bare calls, {size}"
    yield at_most("networks", what, ratio, MOST_OVER_NETWORKS, spread)
    yield Row("rate", f"videos per second of one core with these networks, {size}", 1 / statistics.median(taken[1:]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = bench_parser(
        __doc__,
        output="outputs/benchmark_vbench.json",
        parts=("counts", "times", "networks"),
        quick="512x512 alone and fewer rounds: a minute",
    )
    options = parser.parse_args(arguments)
    claim(parser, options.output)
    torch.set_num_threads(1)
    settings = ScoringSettings(dimensions=("proxies", "temporal_flickering"), device="cpu", offline=True)
    dimensions = select(settings).dimensions
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for side in (512,) if options.quick else (512, 1024):
            path = Path(folder) / f"drift {side}-0.mp4"
            write_video(path, side)
            if options.only in (None, "counts"):
                rows += count(side, path, dimensions)
            if options.only in (None, "times"):
                rows += time_passes(side, path, dimensions, 3 if options.quick else 7)
            if options.only in (None, "networks"):
                # Networks of true size: beside smaller ones the share of all else would be another.
                frames, rounds = (FRAMES // 4, 1) if options.quick else (FRAMES, 3)
                short = Path(folder) / f"short {side}-0.mp4"
                write_video(short, side, frames)
                rows += time_networks(side, short, *with_networks(), rounds, frames)
    return report(rows, options.output, {"quick": options.quick, "measures": list(dimensions)})
