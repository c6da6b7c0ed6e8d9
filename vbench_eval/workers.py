"""Spreads videos over processes: our own (`--workers`), or those of `accelerate launch` and `torchrun`.

Knows nothing of scoring: a task goes out, a result comes back. A process that dies costs the task it had, not the run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from vbench_eval.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
MakePerform = Callable[[int], Callable[[Any], Any]]
"""Called once in each process with its number; what it returns is called with every task. Must be picklable."""

_MAX_DEATHS_BEFORE_READY = 1  # a process that cannot even start will not start the next time


@dataclass(frozen=True)
class Died:
    """The process working on a task ended without an answer; `reason` says so for people."""

    reason: str


@dataclass(frozen=True)
class Launch:
    """This process is number `rank` of `size` that one launcher started; `local_rank` counts on this machine."""

    rank: int
    size: int
    local_rank: int

    @property
    def first(self) -> bool:
        """Whether this process is the one that reports."""
        return self.rank == 0

    def share(self, tasks: Sequence[Task]) -> list[Task]:
        """Returns every `size`-th task: the shares of all ranks are disjoint and together everything."""
        return list(tasks[self.rank :: self.size])


def launched() -> Launch | None:
    """Returns this process's place if `accelerate launch` or `torchrun` started several, else None.

    Raises UserError for an environment that contradicts itself.
    """
    try:
        size = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0"))
        local = int(os.environ.get("LOCAL_RANK", str(rank)))
    except ValueError as error:
        raise UserError(f"RANK, WORLD_SIZE and LOCAL_RANK must be numbers ({error}); unset them") from None
    if size <= 1:
        return None
    if not 0 <= rank < size:
        raise UserError(f"RANK is {rank} of WORLD_SIZE {size}; start the ranks with accelerate launch or torchrun")
    return Launch(rank, size, local)


@contextlib.contextmanager
def together(launch: Launch | None) -> Iterator[Callable[[], None]]:
    """Yields a function that returns once every rank has called it (at once where there is one process only).

    Ranks may be days apart: a fast one waits for the slowest. Needs the MASTER_ADDR and MASTER_PORT that launchers set;
    a group that the caller has made already is used and kept.
    """
    if launch is None:
        yield lambda: None
        return
    import torch.distributed as distributed

    if distributed.is_initialized():
        yield distributed.barrier
        return
    try:
        distributed.init_process_group(
            "gloo", rank=launch.rank, world_size=launch.size, timeout=timedelta(days=7)
        )  # gloo: the ranks only wait for each other, whatever device they compute on
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"RANK and WORLD_SIZE are set, but the ranks cannot meet ({error}); "
            "start them with accelerate launch or torchrun, or unset both"
        ) from None
    try:
        yield distributed.barrier
    finally:
        distributed.destroy_process_group()


def threads_for(processes: int) -> int | None:
    """Returns how many threads each of `processes` should use, or None where the user has said it already."""
    if os.environ.get("OMP_NUM_THREADS"):
        return None
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    return max(1, cores // max(1, processes))


def set_threads(processes: int) -> None:
    """Gives this process, which shares the machine with `processes` - 1 others, its part of the cores."""
    if (threads := threads_for(processes)) is None:
        return
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch and by BLAS when they are loaded
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def in_turn(tasks: Sequence[Task], perform: Callable[[Task], Result]) -> Generator[tuple[Task, Result | Died]]:
    """Yields each task with its result, performed in this process."""
    for task in tasks:
        yield task, perform(task)


def in_processes(tasks: Sequence[Task], make: MakePerform, workers: int) -> Generator[tuple[Task, Any]]:
    """Yields each task with its result, or with `Died`, in the order they come in; `workers` processes perform them.

    A process that dies is replaced. Closing the generator (or an interrupt) ends the processes; they also end by
    themselves when this process is killed. Raises UserError with what a process could not be made for.
    """
    pool = _Pool(make, min(workers, len(tasks)))
    try:
        yield from pool.run(list(tasks))
    finally:
        pool.close()


class _Worker(Generic[Task]):
    def __init__(self, context: Any, make: MakePerform, number: int, processes: int) -> None:
        self.number = number
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, number, processes), daemon=True)
        self.process.start()
        theirs.close()  # only the process itself holds its end now, so that its death closes it
        self.task: tuple[Task] | None = None  # in a tuple, since a task may be None itself
        self.ready = False


class _Pool:
    def __init__(self, make: MakePerform, size: int) -> None:
        self._context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
        self._make, self._size = make, size
        self._workers = [self._start(number) for number in range(size)]
        self._gone: list[_Worker[Any]] = []
        self._early_deaths = 0

    def run(self, tasks: list[Any]) -> Iterator[tuple[Any, Any]]:
        waiting = list(reversed(tasks))
        while waiting or any(worker.task is not None for worker in self._workers):
            ready = wait([worker.connection for worker in self._workers])
            for worker in [worker for worker in self._workers if worker.connection in ready]:
                try:
                    kind, answer = worker.connection.recv()
                except (EOFError, OSError):
                    if (lost := self._replace(worker)) is not None:
                        yield lost
                    continue
                if kind == "refused":
                    raise UserError(answer)
                if kind == "raised":
                    raise RuntimeError(answer)
                worker.ready = True
                before, worker.task = worker.task, (waiting.pop(),) if waiting else None
                worker.connection.send(worker.task)
                if worker.task is None:
                    self._leave(worker)
                if before is not None:
                    yield before[0], answer

    def close(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in (*self._workers, *self._gone):
            worker.connection.close()
            worker.process.join()

    def _leave(self, worker: _Worker[Any]) -> None:
        """Lets a process go that has been told there is nothing more to do."""
        self._workers.remove(worker)
        self._gone.append(worker)

    def _start(self, number: int) -> _Worker[Any]:
        return _Worker(self._context, self._make, number, self._size)

    def _replace(self, worker: _Worker[Any]) -> tuple[Any, Died] | None:
        worker.process.join()
        code = worker.process.exitcode
        how = f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        self._workers[self._workers.index(worker)] = self._start(worker.number)
        if worker.task is not None:
            return worker.task[0], Died(
                f"the process that scored it ended {how}: out of memory, or a crash in a library"
            )
        self._early_deaths += not worker.ready
        if self._early_deaths > _MAX_DEATHS_BEFORE_READY:
            raise UserError(
                f"a worker process ended {how} before it could start; try --workers 1, which shows what is wrong"
            )
        return None


def _serve(connection: Connection, make: MakePerform, number: int, processes: int) -> None:
    """The life of a process: make, then tasks until there are none or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt reaches the whole group; the parent answers it
    try:
        set_threads(processes)
        try:
            perform = make(number)
        except UserError as error:
            connection.send(("refused", str(error)))
            return
        connection.send(("ready", None))
        while (message := connection.recv()) is not None:
            try:
                answer = ("done", perform(message[0]))
            except Exception as error:
                answer = ("raised", f"{type(error).__name__}: {error}")
            connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
