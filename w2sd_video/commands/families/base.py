"""What a family is: one kind of pair that `w2sd NAME` makes videos or pictures of (imports no torch).

How to write one. The engine (`commands.engine`) has everything that is alike: flags, help, refusals, dry runs,
progress, files, resuming, batches, processes, summaries and exit codes. A family says what is its own:

1. Settings. Each is a row of `commands.options.OPTIONS` with the family's name among `families`. A row that another
   family has too is shared: add the name there. A `Request` then has the field, checked for kind and range.

2. `describe(request)` finds the preset and reads headers and configs: what the two sides are, their sizes, what is
   missing. It raises `UserError` for what does not exist. No torch: a refusal comes in under a second.

3. `complete(request, description)` returns the `Plan`: every default filled in, everything checked that can be before a
   model is loaded (`commands.checks` and `commands.method_settings` have the checks that families share; most of the
   work of a pair of pipelines is `families.pairs.complete_pair`). What only this family knows goes into `Plan.own`, a
   frozen dataclass of its own; if that has `settings()` or `pair_record()`, JSON data, both go into run.json and decide
   what a folder can be resumed by; `details()` are lines for the dry run. Leave `output` as it is: the engine names the
   folder. No torch.

4. `cost(plan)` returns a `Cost` for each of the plan's methods. The dry run prints it, the progress bar counts by it,
   and a test compares it with what a run counts. No torch.

5. `rehearse(plan)` raises `UserError` for what only torch can tell of files, without loading them: whether a network's
   weights have all its tensors, whether a schedule can be reflected (`commands.rehearsing`). A run asks it before it
   loads, and a dry run with `--rehearse`. A method `memory(plan)`, if there is one, returns the sizes of both sides
   (`loading.memory.Sides`) or None, of which dry runs and `--memory auto` estimate what each memory plan takes.

6. `load(plan, run)` loads. `plan.device` and `plan.dtype` are settled. `run.pending` are
   the tasks still to be made; load no more than they need. Tell `run.note` what a reader of the files should know (it
   goes to the screen and, once each, into run.json), `run.say` what is going on, `run.amend` further facts for run.json
   (a noise map), `run.read` bytes of weights as they are read, and of which part; their sum is that of `plan.weights`.
   It returns a `Maker`: of `run.kept`, where an arena or a sweep leaves the maker of the run before, take that (and
   take it out) if its models are those of this plan.

   `Maker.make(tasks, report)` makes tasks of one method together, at most `plan.batch` of them, and returns for each a
   `Made` (frames uint8 [F, H, W, 3] and what they cost) or a `NotMadeError` that says why there is none. Call
   `report(done, total)` after each evaluation. A task's noise comes from a CPU generator seeded `task.seed`, so that
   batches and processes do not matter. `commands.measuring.measured` runs one pipeline call and counts.

7. `finish(plan, run_plan, maker, progress)` writes what is made of many files (sheets, scores) and returns their paths
   by name; most families return {}. It is called in the first process only, with the maker where one was loaded.

The rest are constants: `name` (the word after `w2sd`), `about` (a line of help), `examples` ({program} stands for the
program), `details` (for --help-all), `methods` (name -> Method), `presets` (name -> something with `name` and
`description`, and `paper` if the paper reports it: tables with `lines()`), `room` (what to try when memory runs out),
`programs` (subcommands: name -> main(words) -> exit code). A method `listing()` returns what --list-presets prints,
where that is not the table of `w2sd presets`.

Plug it in by an entry point of the group `w2sd.families`, `NAME = "package.module:FAMILY"`, in pyproject.toml; a clone
that is not installed reads the same lines from its pyproject.toml. `python -m w2sd_video NAME --dry-run` tries it, and
tests/conformance runs over every family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from w2sd_video.commands.plan import Cost, Plan
from w2sd_video.commands.request import Request
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.runs import Made, NotMadeError, Report, RunPlan
from w2sd_video.runs.tasks import Method, Task


class Maker(Protocol):
    """Models in memory."""

    def make(self, tasks: Sequence[Task], report: Report) -> Sequence[Made | NotMadeError]:
        """Returns a result for each of the tasks, which are of one method."""


@dataclass
class Loading:
    """What `Family.load` is told of the run, and whom it tells what."""

    pending: Sequence[Task]
    note: Callable[[str], None]
    say: Callable[[str], None]
    amend: Callable[..., None] = lambda **facts: None
    record: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    bars: bool = False
    read: Callable[[int, str], None] = lambda size, part: None
    kept: list[Maker] = field(default_factory=list)

    @property
    def methods(self) -> set[str]:
        """The methods still to be made."""
        return {task.method for task in self.pending}

    @property
    def prompts(self) -> list[str]:
        """The prompts still needed, each once."""
        return list(dict.fromkeys(task.prompt for task in self.pending))


class Family(Protocol):
    """One kind of pair; see the module."""

    name: str
    about: str
    examples: str
    details: str
    room: str
    methods: Mapping[str, Method]
    presets: Mapping[str, Any]
    programs: Mapping[str, Callable[[Sequence[str]], int]]

    def describe(self, request: Request) -> Any:
        """Returns what files tell of the two sides."""

    def complete(self, request: Request, description: Any) -> Plan:
        """Returns the plan; raises `UserError` for what cannot be made."""

    def cost(self, plan: Plan) -> Mapping[str, Cost]:
        """Returns what one video or picture costs by each method of the plan."""

    def rehearse(self, plan: Plan) -> Sequence[str] | None:
        """Returns what the user should know beside the plan's notes; raises `UserError` for what cannot be loaded or
        reflected, as far as files tell with torch's help. Loads nothing.
        """

    def load(self, plan: Plan, run: Loading) -> Maker:
        """Returns the pair in memory."""

    def finish(self, plan: Plan, run: RunPlan, maker: Maker | None, progress: Progress) -> Mapping[str, str]:
        """Returns the paths, by name, of what is made of many files."""
