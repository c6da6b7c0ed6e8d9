"""A function that asks for what it needs and waits, run in a thread of its own: one of the two runs at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import torch

Asked = TypeVar("Asked")
Made = TypeVar("Made")


class _Ended(BaseException):
    """Ends a function that is not to go on."""


class Done(Generic[Made]):
    """What a function returned."""

    def __init__(self, value: Made) -> None:
        self.value = value


class Turns(Generic[Asked, Made]):
    """Runs ``function`` up to each question that it asks by `ask`, which returns the answer that `answer` is given.

    The core's algorithms are functions that call denoisers; where a pipeline's loop makes the evaluations, they must
    wait for them in the middle. Errors of the function are raised where it was started or answered.
    """

    def __init__(self, function: Callable[[], Made]) -> None:
        self._function = function
        self._questions: SimpleQueue[Any] = SimpleQueue()
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        self._stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def start(self) -> Asked | Done[Made]:
        """Runs up to the first question, or to the end; returns it."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self._next()

    def answer(self, value: Any) -> Asked | Done[Made]:
        """Gives the answer to the question asked last, and returns the next one, or the end."""
        self._answers.put(value)
        return self._next()

    def ask(self, question: Asked) -> Any:
        """To be called by the function: its question answered."""
        self._questions.put(question)
        answer = self._answers.get()
        if answer is _Ended:
            raise _Ended
        return answer

    def close(self) -> None:
        """Ends the function where it waits."""
        if self._thread is not None and self._thread.is_alive():
            self._answers.put(_Ended)
            self._thread.join()

    def _run(self) -> None:
        grad, inference = self._modes
        try:
            with torch.inference_mode(inference), torch.set_grad_enabled(grad), torch.cuda.stream(self._stream):
                made: Any = Done(self._function())
        except _Ended:
            return
        except BaseException as error:  # raised again by the other side
            made = error
        self._questions.put(made)

    def _next(self) -> Asked | Done[Made]:
        question = self._questions.get()
        if isinstance(question, BaseException):
            raise question
        return question
