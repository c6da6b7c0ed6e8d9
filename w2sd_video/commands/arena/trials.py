"""What an arena makes: for each budget and method the plans that fit, tried on some seeds, the best scored on others
(imports no torch)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from w2sd_video.commands.arena.entrants import Entrant, Settings, asked
from w2sd_video.commands.engine import make, plan_of, settled
from w2sd_video.commands.families.base import Family, Maker
from w2sd_video.commands.method_settings import without_unused
from w2sd_video.commands.plan import Plan
from w2sd_video.commands.request import Request
from w2sd_video.commands.sweep.scoring import Key, Scorer, scored
from w2sd_video.errors import UserError
from w2sd_video.runs.file_names import clean_stem
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.tasks import ALONE

LEAST_STEPS = 4
OTHER_SEEDS = 100_000  # from the first that settings are chosen on to the first that is scored

SCORES = "scores.jsonl"

Found = Mapping[Key, float]
"""A number for each picture or video."""


@dataclass(frozen=True)
class Trial:
    """An entrant with some settings at a budget: `plan` makes it, with as many steps as the budget has room for."""

    entrant: Entrant
    settings: Settings
    budget: int
    request: Request
    plan: Plan
    evaluations: int
    rows: int
    method: str

    @property
    def unguided(self) -> bool:
        """Whether nothing asks for the prediction without the prompt, as a distilled model must be used."""
        sides = (self.plan.pair.strong.guidance, self.plan.pair.weak.guidance) if self.method not in ALONE else ()
        return self.plan.embedded or {self.plan.guidance, *sides} <= {1.0}

    @property
    def steps(self) -> int:
        return self.plan.steps_of(self.method)

    def said(self) -> str:
        """Returns the settings in words."""
        said = {name: value for name, value in self.settings.items() if name in SAID}
        scaled = said.get("guidance") == 1 and "strength" in said and "weak_guidance" in self.settings
        if scaled:  # of auto-guidance by the unconditional prediction: the scale of guidance that it comes to
            said["guidance"] = 1 + said.pop("strength")
        parts = [f"{name.replace('_', ' ')} {_written(value)}" for name, value in said.items()]
        return ", ".join([*parts, f"T {self.steps}"])

    def control(self, family: Family) -> Trial:
        """Returns the same with the strong side on both sides."""
        request = without_unused(self.request.changed(methods=("zero-gap",)), ("zero-gap",))
        plan = family.complete(request, family.describe(request))
        cost = _cost(family, plan, "zero-gap")
        made = replace(self, evaluations=cost["evaluations"], rows=cost["rows"])
        return replace(made, request=request, plan=plan, method="zero-gap")


def _written(value: Any) -> str:
    return ":".join(f"{end:g}" for end in value) if isinstance(value, tuple) else f"{value:g}"


SAID = ("guidance", "strength", "gap_every", "window")


@dataclass(frozen=True)
class Arena:
    """Who meets whom: all trials that there are, and why some entrants are not among them."""

    family: Family
    base: Plan
    budgets: tuple[int, ...]
    trials: tuple[Trial, ...]
    missing: Mapping[str, str]

    def of(self, budget: int, entrant: Entrant) -> list[Trial]:
        return [trial for trial in self.trials if (trial.budget, trial.entrant) == (budget, entrant)]


def entered(family: Family, request: Request, entrants: Sequence[Entrant], budgets: Sequence[str] | None) -> Arena:
    """Returns the arena of a request: each entrant with as many steps as each budget of rows has room for.

    Raises:
        UserError: plain sampling of the request cannot be had, or has no room in a budget.
    """
    alone = without_unused(request, ("strong",)).changed(methods=("strong",))
    base = family.complete(alone, family.describe(alone))
    stock = _cost(family, base, "strong")["rows"]
    if request.has("prompts"):  # evenly mixed, so that a few are an even sample; the same order for every method
        prompts = list(base.prompts)
        random.Random(0).shuffle(prompts)
        request = request.changed(prompts=tuple(prompts))
    share = None if request.reflections is None else request.reflections / base.steps
    asked_budgets = tuple(dict.fromkeys(map(_whole, budgets))) if budgets else (stock, 2 * stock)
    trials: list[Trial] = []
    missing: dict[str, str] = {}
    for budget in asked_budgets:
        for entrant in entrants:
            for settings in entrant.grid:
                try:
                    trials.append(
                        _fitted(family, entrant, settings, budget, asked(entrant, settings, request, base), share)
                    )
                except UserError as error:
                    if entrant.method == "strong" and not settings:
                        raise
                    missing[entrant.name] = str(error)
    kept = {trial.entrant.name for trial in trials}
    return Arena(family, base, asked_budgets, tuple(trials), {k: v for k, v in missing.items() if k not in kept})


def _whole(word: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word)):
        raise UserError(f"the budgets name {word!r}; give whole numbers of rows above 0, such as 40,80")
    return int(word)


def _fitted(
    family: Family, entrant: Entrant, settings: Settings, budget: int, request: Request, share: float | None
) -> Trial:
    """The trial with the most steps that the budget has room for; UserError where not even a few fit."""
    description = family.describe(request)

    def at(steps: int | None) -> tuple[Request, Plan, dict[str, int]]:
        lam = {} if share is None or steps is None else {"reflections": round(share * steps)}
        chosen = request if steps is None else request.changed(steps=steps, **lam)
        plan = family.complete(chosen, description)
        return chosen, plan, _cost(family, plan, entrant.method)

    _, plan, cost = at(None)
    steps = max(LEAST_STEPS, round(budget * plan.steps_of(entrant.method) / cost["rows"]))
    while at(steps)[2]["rows"] > budget:
        steps -= 1
        if steps < LEAST_STEPS:
            raise UserError(
                f"{budget} rows have no room for {LEAST_STEPS} steps of {entrant.name}; give more --budgets"
            )
    while at(steps + 1)[2]["rows"] <= budget:
        steps += 1
    chosen, plan, cost = at(steps)
    return Trial(entrant, settings, budget, chosen, plan, method=entrant.method, **cost)


def _cost(family: Family, plan: Plan, method: str) -> dict[str, int]:
    found = family.cost(plan)[method]
    return {"evaluations": found.evaluations, "rows": found.evaluations if found.rows is None else found.rows}


@dataclass(frozen=True)
class Runner:
    """Makes and scores trials, each in a folder of its own, of which what is there is kept."""

    arena: Arena
    folder: Path
    scorers: Sequence[Scorer]
    progress: Callable[[], Progress]
    command: str = ""
    kept: list[Maker] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def plan(self, trial: Trial, part: str, count: int) -> Plan:
        """Returns the plan of `count` pictures or videos of a trial; `part` is "tuned" or "scored"."""
        words = [f"{name} {value}" for name, value in trial.settings.items()]
        name = clean_stem(" ".join([trial.entrant.name, trial.method, *words, f"rows {trial.budget}"]))
        seed = trial.request.seed + (OTHER_SEEDS if part == "scored" else 0)
        request = trial.request.changed(seed=seed, output=str(self.folder / part / name))
        return replace(plan_of(self.arena.family, request), num=1, total=count)

    def check(self, counts: Mapping[str, int]) -> None:
        """Leaves out methods that cannot be loaded or reflected, as far as files tell; raises `UserError` where plain
        sampling cannot.
        """
        trials = {trial.entrant.name: trial for trial in self.arena.trials}
        for trial in sorted(trials.values(), key=lambda trial: trial.entrant.name != "plain"):
            with self.leaving_out(trial.entrant):
                settled(self.arena.family, self.plan(trial, "tuned", counts["tuned"]))

    @contextlib.contextmanager
    def leaving_out(self, entrant: Entrant) -> Iterator[None]:
        """Inside, a `UserError` of a method is why it is missing from then on; that of plain sampling is raised."""
        try:
            yield
        except UserError as error:
            if entrant.name == "plain":
                raise
            self.failed[entrant.name] = str(error)
            self.progress().note(f"without {entrant.name}: {error}")

    def scores(self, trial: Trial, part: str, count: int) -> list[Found]:
        """Returns what each scorer says of `count` of a trial."""
        plan, told = self.plan(trial, part, count), self.progress()
        record = [plan.settings(), plan.pair_record(), plan.prompts, plan.dtype, plan.device, trial.method]
        record += [[scorer.name, scorer.source] for scorer in self.scorers]
        name = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        if (known := self._known(name)) is not None:
            return known
        told.note(f"{part}, at most {trial.budget} rows: {trial.entrant.name} ({trial.method}; {trial.said()})")
        summary, _ = make(self.arena.family, plan, progress=told, command=self.command, kept=self.kept)
        if summary.failed:
            raise UserError(f"{len(summary.failed)} could not be made: {summary.folder}/results.jsonl says why")
        found = [scored(summary, scorer)[trial.method] for scorer in self.scorers]
        kept = [[key.prompt, key.index, *(each[key] for each in found)] for key in found[0]]
        with (self.folder / SCORES).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps({"run": name, "folder": str(plan.output), "scores": kept}) + "\n")
        return found

    def _known(self, name: str) -> list[Found] | None:
        """The scores of a trial that is finished; a torn line is none."""
        path = self.folder / SCORES
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry["run"] == name:
                    keys = [Key(prompt, index) for prompt, index, *_ in entry["scores"]]
                    return [
                        dict(zip(keys, values, strict=True))
                        for values in zip(*(s[2:] for s in entry["scores"]), strict=True)
                    ]
        return None
