"""Videos spread over processes: everything is done once, by whoever, and a process that dies costs one video.

The processes import this file, which therefore imports nothing heavy.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vbench_eval.errors import UserError
from vbench_eval.workers import Died, Launch, in_processes, in_turn, launched, threads_for, together


def squaring(number: int) -> Callable[[int], tuple[int, int]]:
    return lambda task: (task * task, os.getpid())


def dying(number: int) -> Callable[[int], int]:
    def perform(task: int) -> int:
        if task == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    return perform


def refusing(number: int) -> Callable[[int], int]:
    raise UserError("no such device")


def raising(number: int) -> Callable[[int], int]:
    return lambda task: 1 // task


def dead_at_birth(number: int) -> Callable[[int], int]:
    os._exit(7)


def slow(number: int) -> Callable[[Any], int]:
    def perform(task: Any) -> int:
        if task is None:
            return 0
        Path(task).write_text(str(os.getpid()))
        time.sleep(60)
        return 1

    return perform


def test_all_tasks_are_done_once_by_two_processes_other_than_this_one():
    results = list(in_processes(range(12), squaring, 2))
    assert sorted((task, value) for task, (value, _) in results) == [(task, task * task) for task in range(12)]
    processes = {process for _, (_, process) in results}
    assert os.getpid() not in processes and 1 <= len(processes) <= 2
    assert [(task, result) for task, (result, _) in in_turn(range(3), squaring(0))] == [(0, 0), (1, 1), (2, 4)]


def test_a_process_killed_on_a_task_costs_that_task_only():
    results = dict(in_processes(range(6), dying, 2))
    lost = results.pop(3)
    assert isinstance(lost, Died)
    assert "SIGKILL" in lost.reason
    assert results == {task: task for task in range(6) if task != 3}


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (refusing, UserError, "no such device"),
        (raising, RuntimeError, "ZeroDivisionError"),  # an error in our own code is not hidden
        (dead_at_birth, UserError, "exit code 7"),  # and not started forever
    ],
)
def test_what_a_process_refuses_raises_or_dies_of_ends_the_run(make, error, told):
    with pytest.raises(error, match=told):
        list(in_processes([0], make, 1))


def test_closing_the_results_ends_the_processes(tmp_path):
    mark = tmp_path / "pid"
    results = in_processes([None, str(mark)], slow, 1)
    assert next(results) == (None, 0)
    _wait_for(mark.exists)
    _wait_for(lambda: bool(mark.read_text()))
    results.close()
    _wait_for(lambda: not _alive(int(mark.read_text())))


def test_processes_end_when_their_parent_is_killed(tmp_path):
    program = (
        "from tests.vbench_eval.test_workers import squaring\n"
        "from vbench_eval.workers import in_processes\n"
        "import time\n"
        "if __name__ == '__main__':\n"
        "    for task, (value, process) in in_processes(range(3), squaring, 1):\n"
        "        print(process, flush=True)\n"
        "        time.sleep(60)\n"
    )
    (tmp_path / "program.py").write_text(program)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert _alive(worker)
    parent.kill()
    parent.communicate()
    _wait_for(lambda: not _alive(worker))


def test_shares_of_all_ranks_are_disjoint_and_together_everything():
    for size in range(1, 6):
        for count in range(12):
            shares = [Launch(rank, size, rank).share(range(count)) for rank in range(size)]
            assert sorted(task for share in shares for task in share) == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_launcher_is_known_by_its_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert launched() is None
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() is None, "one process shares with nobody"
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert launched() == Launch(2, 3, 0)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(UserError, match="RANK is 3 of WORLD_SIZE 3"):
        launched()
    monkeypatch.setenv("RANK", "two")
    with pytest.raises(UserError, match="must be numbers"):
        launched()


def test_ranks_without_a_meeting_point_are_told_so(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="unset both"), together(Launch(0, 2, 0)):
        pass


def test_threads_are_shared_out_unless_the_user_has_said_how_many(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert [threads_for(processes) for processes in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_for(2) is None


def _alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status != "Z"


def _wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
