"""The pipeline's progress bar, over evaluations instead of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class EvaluationBar:
    """Stands in for the bar a pipeline makes: its own updates are ignored, `advance` is called once per evaluation."""

    def __init__(
        self, bar: Any, iterable: Iterable | None, total: int, report: Callable[[int, int], None] | None
    ) -> None:
        self._bar = bar
        self._iterable = iterable
        self._total = total
        self._report = report
        self._done = 0

    def advance(self, count: int = 1) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        if self._report is not None:
            self._report(self._done, self._total)

    def __enter__(self) -> EvaluationBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator:
        yield from () if self._iterable is None else self._iterable
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __getattr__(self, _name: str) -> Callable[..., None]:
        # update, set_postfix, set_description ... of the bar over steps
        return lambda *_args, **_kwargs: None


@contextmanager
def progress_bar_replaced(pipe: Any, make: Callable[[Iterable | None, int], EvaluationBar]) -> Iterator[None]:
    """While active, `pipe.progress_bar` returns make(iterable, number of steps)."""

    def progress_bar(iterable: Any = None, total: int | None = None) -> EvaluationBar:
        return make(iterable, total if total is not None else len(iterable))

    before = vars(pipe).get("progress_bar")
    pipe.progress_bar = progress_bar
    try:
        yield
    finally:
        if before is None:
            del pipe.progress_bar
        else:
            pipe.progress_bar = before
