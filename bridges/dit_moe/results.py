"""What is made of a run's many pictures: a grid per method, maps of expert loads, FID and IS."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import vbench_eval.errors
from bridges.dit_moe.settings import routing_text
from vbench_eval.files import write_bytes
from vbench_eval.images import frechet
from vbench_eval.images.sources import find_pictures
from w2sd_video.commands.plan import Plan
from w2sd_video.errors import UserError
from w2sd_video.report import figures
from w2sd_video.runs.comparison import Panel, side_by_side
from w2sd_video.runs.picture_io import read_picture, write_picture
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.runs import RunPlan
from w2sd_video.runs.tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bridges.dit_moe.making import Sampler
    from vbench_eval.images.inception import Inception

COLUMNS, WIDEST, MOST = 8, 12, 64  # of a grid
BACKGROUND = (22, 24, 29)  # the comparisons'
LOADS, NUMBERS, SCORES = "expert_load.png", "expert_load.npz", "metrics.json"
PICTURES_READ = 8  # what the loads are measured on


def write_results(plan: Plan, run: RunPlan, maker: Any, progress: Progress) -> dict[str, str]:
    """Writes the grids, and the expert loads and scores where they are asked for; returns the paths by name."""
    written = {f"{method} grid": path for method, path in write_sheets(run).items()}
    if plan.own.expert_load:
        written["expert load"] = write_expert_load(plan, lambda: maker or _loaded(plan), progress)
    if plan.own.metrics:
        written["metrics"] = write_scores(plan, run, progress)
    return written


def _loaded(plan: Plan) -> Sampler:
    from bridges.dit_moe.making import Sampler, load_pipeline

    return Sampler(plan, load_pipeline(plan))


# -- grids -----------------------------------------------------------------------------------------------------------


def write_sheets(plan: RunPlan) -> dict[str, str]:
    """Writes the grid of each method that has pictures; returns their paths by method."""
    written = {}
    for position, method in enumerate(plan.record["methods"]):
        tasks = [group[position] for group in plan.groups[:MOST]]
        if not any((plan.output / task.path).exists() for task in tasks):
            continue
        path = plan.output / f"grid-{method}.png"
        title = plan.methods[method].title
        columns = _columns(len({task.prompt for task in tasks}), len(tasks))
        rows = [_row(plan, tasks[start : start + columns], title, columns) for start in range(0, len(tasks), columns)]
        sheet = np.concatenate(rows)
        write_picture(path, sheet, {"method": method, "pictures": len(tasks), "settings": plan.record["settings"]})
        written[method] = str(path)
    return written


def _columns(classes: int, pictures: int) -> int:
    """A column per class where that fits the page: pictures come class after class, again and again."""
    return min(classes if COLUMNS < classes <= WIDEST else COLUMNS, pictures)


def _row(plan: RunPlan, tasks: list[Task], title: str, columns: int) -> np.ndarray:
    blank = np.empty((plan.record["settings"]["height"], plan.record["settings"]["width"], 3), np.uint8)
    blank[:] = BACKGROUND
    panels = []
    for task in tasks:
        there = (plan.output / task.path).exists()
        frame = read_picture(plan.output / task.path).pixels if there else blank
        panels.append(Panel(task.prompt, f"{title}, seed {task.seed}" if there else "failed", frame[None]))
    # Short rows are filled up: the size of a panel depends on how many there are.
    return side_by_side(panels + [Panel("", "", blank[None])] * (columns - len(panels)))[0]


# -- expert loads ----------------------------------------------------------------------------------------------------


def write_expert_load(plan: Plan, sampler: Callable[[], Sampler], progress: Progress) -> str:
    """Measures the loads of both routings on the run's first pictures, sampled by themselves, and writes the map and
    its numbers: "strong" and "weak" [levels, layers, experts], shares that sum to 1. Returns the map's path, or that of
    the numbers where matplotlib is not installed; what is there already is kept.
    """
    path, numbers = plan.output / LOADS, plan.output / NUMBERS
    if not numbers.exists():
        shares = {method: measure(plan, sampler(), method) for method in ("strong", "weak")}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **shares)  # type: ignore[arg-type]
        write_bytes(numbers, buffer.getvalue())
    if path.exists():
        return str(path)
    if not figures.available():
        progress.note(f"{LOADS} is {figures.NOT_DRAWN}")
        return str(numbers)
    with np.load(numbers) as kept:
        routings = {"strong": plan.own.routing, "weak": plan.own.weak_routing}
        figures.save(draw({f"{name}: {routing_text(routing)}": kept[name] for name, routing in routings.items()}), path)
    return str(path)


def measure(plan: Plan, sampler: Sampler, method: str) -> NDArray[np.float64]:
    """[levels, layers, experts]: the shares of picks at each step of plain sampling, noisiest first; each guidance
    half counts.
    """
    tasks = [group[0] for group in plan.groups()[: min(PICTURES_READ, plan.batch)]]
    side, hosted, guidance = sampler.hosted(method)
    with side, hosted, sampler.pipe.transformer.recording(probabilities=False) as recording:
        sampler.call(tasks, guidance, "latent")
    loads = recording.loads().double()
    return (loads / loads.sum(-1, keepdim=True)).cpu().numpy()


@figures.style()
def draw(shares: dict[str, NDArray[np.float64]]) -> Figure:
    """A row of maps per entry, one map per expert: layers from top to bottom, levels from noise (left) to clean."""
    experts, rows = next(iter(shares.values())).shape[-1], len(shares)
    largest = max(float(share.max()) for share in shares.values())
    figure, axes = figures.subplots(rows, experts, size=(1.4, 1.5))
    for row, (title, share) in zip(axes, shares.items(), strict=True):
        for expert, place in enumerate(row):
            place.imshow(share[..., expert].T, vmin=0, vmax=largest, aspect="auto", interpolation="nearest")
            place.set(xticks=[], yticks=[], title=f"expert {expert}: {share[..., expert].mean():.2f}")
        row[0].set_ylabel(title)
    figure.supxlabel(
        f"down: layers; across: levels, noisiest left; yellow: a share of {largest:.2f}; even: {1 / experts:.2f}"
    )
    return figure


# -- scores ----------------------------------------------------------------------------------------------------------


def check_reference(metrics: Sequence[str], reference: str | None) -> None:
    """Raises `UserError` for a reference that is missing or cannot be used, or if torchmetrics is not installed."""
    if "fid" in metrics:
        if reference is None:
            raise UserError(
                "the metric fid needs --reference: statistics (.npz with mu, sigma) or a folder of pictures"
            )
        with _as_ours():
            if not Path(reference).is_dir():
                frechet.read_statistics(Path(reference))
            elif len(find_pictures(Path(reference))) < 2:
                raise UserError(f"the reference {reference} holds fewer than 2 pictures; a covariance needs more")
    with _as_ours():
        frechet.check_torchmetrics()


def write_scores(plan: Plan, run: RunPlan, progress: Progress) -> str:
    """Scores each method's finished pictures and writes metrics.json; returns its path.

    Statistics (mu, sigma, count) stand in statistics-METHOD.npz, which another run may take as its --reference, and in
    reference.npz for a folder of pictures; neither is made again while the pictures and the weights are the same.
    """
    from vbench_eval.images.inception import load_inception

    names, reference, inception = plan.own.metrics, plan.own.reference, plan.own.inception
    weights = hashlib.sha256(Path(inception).read_bytes()).hexdigest()[:16]
    networks: list[Inception] = []

    def network() -> Inception:
        if not networks:
            networks.append(load_inception(Path(inception)).to(plan.device))
        return networks[0]

    def read(paths: Sequence[Path], kept: str) -> dict[str, Any]:
        return frechet.gather(paths, network, weights=weights, kept=run.output / kept)

    ideal: dict[str, Any] = {}
    scores: dict[str, dict[str, float | None]] = {}
    with _as_ours():
        if "fid" in names:
            assert reference is not None
            path = Path(reference)
            ideal = read(find_pictures(path), "reference.npz") if path.is_dir() else frechet.read_statistics(path)
        for position, method in enumerate(run.record["methods"]):
            paths = [path for group in run.groups if (path := run.output / group[position].path).exists()]
            if len(paths) < 2:
                progress.note(f"{method} has {len(paths)} pictures, too few for {', '.join(names)}")
                continue
            found = read(paths, f"statistics-{method}.npz")
            scores[method] = {"pictures": len(paths)}
            if "fid" in names:
                scores[method]["fid"] = frechet.frechet_distance(found, ideal)
            if "is" in names:
                scores[method]["is"], scores[method]["is_std"] = frechet.inception_score(found)
    if "fid" in names and min((score["pictures"] or 0 for score in scores.values()), default=frechet.FEW) < frechet.FEW:
        progress.note(f"FID of fewer than {frechet.FEW} pictures is far too high, and comparable at equal numbers only")
    path = run.output / SCORES
    facts = {"inception": weights, "reference": reference, "methods": scores}
    write_bytes(path, (json.dumps(facts, indent=2) + "\n").encode())
    return str(path)


@contextmanager
def _as_ours() -> Iterator[None]:
    """What a user can act on is said in this command's words."""
    try:
        yield
    except vbench_eval.errors.UserError as error:
        raise UserError(str(error)) from error
