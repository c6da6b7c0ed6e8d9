"""Make a run of videos on a Ray cluster: an actor per GPU holds the pair, and all of them fill one folder.

    pip install ray
    python scripts/ray_videos.py --workers 8 -- --preset juggernaut-xl --prompts prompts.txt --output /shared/run

What stands after `--` are flags of `w2sd video`; the folder must be one that every machine of the cluster sees. Batches
are claimed in the folder, so that a fast GPU makes more of them, a batch of an actor that died is made by another, and
nothing is made twice: the files are those of one process, byte for byte. Killed at any moment, the same command
finishes the run. `--cpus N` has the actors run on N CPU cores each instead of a GPU.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.commands.app import family_named
from w2sd_video.commands.engine import check_words
from w2sd_video.errors import UserError, exit_code


class Holder:
    """An actor: it loads the pair once, and makes what nobody else makes until everything is there."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)

    def run(self) -> tuple[int, int]:
        """Returns how many files the run has, and how many it should have."""
        from w2sd_video.commands.engine import make

        family = family_named("video")
        plan = check_words(family, self.words)
        command = f"w2sd video {' '.join(self.words)}"
        summary, _ = make(family, plan, command=command, shared=True)
        return summary.kept + len(summary.made), summary.total


def run_on_ray(words: Sequence[str], workers: int, cpus: int | None) -> int:
    """Returns 0 if every file is there."""
    import ray

    here = Path(__file__).resolve().parent
    places = os.pathsep.join([str(here.parent), str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(ignore_reinit_error=True, runtime_env={"env_vars": {"PYTHONPATH": places}}, log_to_driver=False)
    resources: dict[str, Any] = {"num_gpus": 1} if cpus is None else {"num_cpus": cpus}
    actor = ray.remote(**resources, max_restarts=3, max_task_retries=3)(Holder)
    holders = [actor.remote(words) for _ in range(workers)]
    there, total = zip(*ray.get([holder.run.remote() for holder in holders]), strict=True)
    print(f"{max(there)} of {max(total)} files are there")
    return 0 if max(there) == max(total) else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1, help="how many actors, each with a GPU of its own")
    parser.add_argument("--cpus", type=int, help="CPU cores for each actor, in place of a GPU")
    given = list(sys.argv[1:] if argv is None else argv)
    words = given[given.index("--") + 1 :] if "--" in given else []
    arguments = parser.parse_args(given[: given.index("--")] if "--" in given else given)

    def program() -> int:
        if arguments.workers < 1:
            raise UserError(f"--workers is {arguments.workers}; it must be 1 or more")
        plan = check_words(family_named("video"), words)
        if "--output" not in words:
            raise UserError(f"--output is missing after --; name a folder that all machines see (else {plan.output})")
        return run_on_ray(words, arguments.workers, arguments.cpus)

    return exit_code(program)


if __name__ == "__main__":
    raise SystemExit(main())
