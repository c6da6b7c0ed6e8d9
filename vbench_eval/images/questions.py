"""Benchmarks that ask questions about pictures: GenEval 2 (arXiv 2512.16853) and DPG-Bench (arXiv 2403.05135).

- GenEval 2: each prompt has questions with one right answer; a network's probability of it is the question's score
  (Soft-TIFA). A prompt's score is their geometric mean, a skill's the arithmetic mean over its questions.
- DPG-Bench: questions are answered yes or no. One counts only if those that it depends on were answered yes; a prompt's
  score is the share that counts, a category's the share of yes, whatever they depend on.

The questions are the benchmarks' own files, the answers a network's: any that answers about a picture.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from vbench_eval.errors import UserError, malformed
from vbench_eval.files import read_bytes
from vbench_eval.images.rewards import check_prompts
from vbench_eval.images.sources import Pictures, Sources, as_pictures
from vbench_eval.naming import nfc

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

YES = ("Yes", "yes", " yes", " Yes")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ONE_WORD = " Answer in one word."


@runtime_checkable
class PictureAnswerer(Protocol):
    """A network that answers questions about pictures (Qwen3-VL)."""

    def probability(self, picture: Image.Image, question: str, answers: Sequence[str]) -> float:
        """Returns how likely the answer begins with the first token of one of `answers`, 0..1."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Returns where the network comes from."""
        ...


@dataclass(frozen=True)
class Question:
    """One question: what is right, the skill or category it belongs to, and the places of those it depends on."""

    text: str
    answers: tuple[str, ...]
    kind: str
    parents: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """A prompt with its questions; `atoms` is how many things it asks for, None where nobody says."""

    prompt: str
    questions: tuple[Question, ...]
    atoms: int | None = None


def right_answers(question: str, answer: str) -> tuple[str, ...]:
    """Returns the ways to give the right answer that GenEval 2 adds up: a number as a word and as a figure, or yes."""
    if not question.startswith("How many"):
        return YES
    figure = str(NUMBERS.index(answer) + 1) if answer in NUMBERS else "other"
    return (answer, answer.capitalize(), f" {answer}", f" {answer.capitalize()}", figure, f" {figure}")


def read_geneval2(path: Path) -> tuple[Prompt, ...]:
    """Returns the prompts of geneval2_data.jsonl; raises UserError for another file."""
    remedy = "give GenEval 2's geneval2_data.jsonl, an object with prompt, vqa_list, skills and atom_count a line"
    with malformed(str(path), remedy):
        rows = [json.loads(line) for line in read_bytes(path, "questions").decode("utf-8").splitlines() if line.strip()]
        found = []
        for row in rows:
            asked = tuple(
                Question(text + ONE_WORD, right_answers(text, answer), kind)
                for (text, answer), kind in zip(row["vqa_list"], row["skills"], strict=True)
            )
            found.append(Prompt(str(row["prompt"]), asked, int(row["atom_count"])))
    return _some(found, path)


def read_dpg(path: Path) -> tuple[Prompt, ...]:
    """Returns the prompts of dpg_bench.csv, of which each line is a question; raises UserError for another file."""
    remedy = "give DPG-Bench's dpg_bench.csv, with the columns item_id, text, proposition_id, dependency, ..."
    with malformed(str(path), remedy):
        lines = list(csv.DictReader(io.StringIO(read_bytes(path, "questions").decode("utf-8"))))
        items: dict[str, list[dict[str, str]]] = {}
        for line in lines:
            items.setdefault(line["item_id"], []).append(line)
        found = []
        for rows in items.values():
            places = {int(row["proposition_id"]): place for place, row in enumerate(rows)}
            asked = []
            for row in rows:
                parents = [int(word) for word in row["dependency"].split(",") if word.strip()]
                known = tuple(places[number] for number in parents if number)  # 0 is none
                asked.append(Question(row["question_natural_language"], YES, row["category_broad"], known))
            found.append(Prompt(rows[0]["text"], tuple(asked)))
    return _some(found, path)


def _some(found: list[Prompt], path: Path) -> tuple[Prompt, ...]:
    if not found or not all(prompt.questions for prompt in found):
        raise UserError(f"{path} holds no questions, or a prompt without any")
    return tuple(found)


def soft_tifa(scores: Sequence[float]) -> float:
    """Returns the geometric mean; 0 if one of them is."""
    return 0.0 if min(scores) <= 0 else math.exp(math.fsum(map(math.log, scores)) / len(scores))


def with_dependencies(questions: Sequence[Question], answers: Sequence[float]) -> float:
    """Returns the share of questions that count: answered yes (1), those they depend on too, as far as decided so far:
    DPG-Bench goes through them in their order.
    """
    counted = list(answers)
    for place, question in enumerate(questions):
        if any(counted[parent] == 0 for parent in question.parents):
            counted[place] = 0.0
    return math.fsum(counted) / len(counted)


def summarised(name: str, prompts: Sequence[Prompt], scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Returns the benchmark's own numbers, 0..100, of the questions' scores: the total, by skill or category, and for
    GenEval 2 by how many things a prompt asks for.
    """
    if name == "geneval2":
        each = [soft_tifa(some) for some in scores]
    else:
        each = [with_dependencies(prompt.questions, some) for prompt, some in zip(prompts, scores, strict=True)]
    kinds: dict[str, list[float]] = {}
    atoms: dict[str, list[float]] = {}
    for prompt, some, whole in zip(prompts, scores, each, strict=True):
        for question, score in zip(prompt.questions, some, strict=True):
            kinds.setdefault(question.kind, []).append(score)
        if prompt.atoms is not None:
            atoms.setdefault(str(prompt.atoms), []).append(whole)
    return {
        "total": 100 * math.fsum(each) / len(each),
        "by_kind": {kind: 100 * math.fsum(some) / len(some) for kind, some in sorted(kinds.items())},
        "by_atoms": {count: 100 * math.fsum(some) / len(some) for count, some in sorted(atoms.items())},
        "prompts": len(each),
    }


READERS = {"geneval2": read_geneval2, "dpg": read_dpg}


class Questioner:
    """A benchmark as a metric of pictures: a picture's score is that of its prompt, 0..1."""

    def __init__(self, name: str, prompts: Sequence[Prompt], answerer: PictureAnswerer) -> None:
        self.name, self._answerer = name, answerer
        self._prompts = {nfc(prompt.prompt): prompt for prompt in prompts}
        self.asked: list[tuple[Prompt, list[float]]] = []

    def __call__(self, pictures: Pictures, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[N]`; raises UserError for a prompt that is none of the benchmark's."""
        import torch

        found = as_pictures(pictures)
        check_prompts(found, prompts)
        return torch.tensor([self._one(picture, prompt) for picture, prompt in zip(found, prompts, strict=True)])

    def _one(self, picture: Image.Image, prompt: str) -> float:
        known = self._prompts.get(nfc(prompt))
        if known is None:
            raise UserError(f"{prompt!r:.120} is no prompt of {self.name}; give pictures made from its prompts")
        scores = [self._answerer.probability(picture, one.text, one.answers) for one in known.questions]
        if not all(math.isfinite(score) for score in scores):
            raise UserError("the answering network gave a probability that is not a finite number")
        if self.name == "geneval2":
            self.asked.append((known, scores))
            return soft_tifa(scores)
        answers = [float(score > 0.5) for score in scores]
        self.asked.append((known, answers))
        return with_dependencies(known.questions, answers)

    def summary(self) -> dict[str, Any]:
        """Returns the benchmark's own numbers over the pictures since it was last asked for."""
        prompts, scores = [one for one, _ in self.asked], [some for _, some in self.asked]
        self.asked = []
        missing = len(set(self._prompts) - {nfc(prompt.prompt) for prompt in prompts})
        return {**summarised(self.name, prompts, scores), "prompts_without_picture": missing}

    def provenance(self) -> dict[str, Any]:
        return self._answerer.provenance()


class ChatAnswerer:
    """A vision-language model of transformers, by the probabilities of its answer's first token."""

    def __init__(self, network: Any, processor: Any, *, told: Mapping[str, Any]) -> None:
        self._network, self._processor, self._told = network, processor, dict(told)

    def probability(self, picture: Image.Image, question: str, answers: Sequence[str]) -> float:
        """Returns how likely the answer begins with the first token of one of `answers`, each token counted as often as
        it is named, as GenEval 2 does.
        """
        import torch

        content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._network.device)
        with torch.inference_mode():
            shares = self._network(**inputs).logits[0, -1].float().softmax(-1)
        tokenizer = self._processor.tokenizer
        return float(sum(shares[tokenizer.encode(answer, add_special_tokens=False)[0]] for answer in answers))

    def provenance(self) -> dict[str, Any]:
        return dict(self._told)


def load_questioner(name: str, sources: Sources, plugin: str | None = None) -> Questioner:
    """The benchmark of that name with its questions, asked of the plug-in "package.module:function", else of Qwen3-VL.

    Raises:
        Unavailable: the questions or the network are nowhere.
        UserError: they cannot be used, or the plug-in is none.
    """
    from vbench_eval.backbones.registry import called

    prompts = READERS[name](sources.find(f"{name}_questions"))
    if plugin is not None:
        made = called(plugin, {"device": sources.device, "dtype": sources.dtype})
        if not isinstance(made, PictureAnswerer):
            raise UserError(f"{plugin} returned a {type(made).__name__}, which is no PictureAnswerer")
        return Questioner(name, prompts, made)
    return Questioner(name, prompts, load_chat_answerer(sources))


def load_chat_answerer(sources: Sources) -> ChatAnswerer:
    """Qwen3-VL, of any size.

    Raises:
        Unavailable: it is nowhere.
        UserError: what was given for it cannot be used.
    """
    path = sources.find("qwen3_vl_8b")
    from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    from vbench_eval.backbones.loading import origin, placed, pretrained
    from vbench_eval.backbones.weights import named

    network = placed(pretrained(Qwen3VLForConditionalGeneration, path), sources.device, sources.dtype)
    processor = Qwen3VLProcessor.from_pretrained(path, local_files_only=True)
    told = origin(named("qwen3_vl_8b"), path, network, cache=sources.cache)
    return ChatAnswerer(network, processor, told=told)


class VqaScore:
    """VQAScore (arXiv 2404.01291) as GenEval 2 asks it: how likely a picture is said to show its prompt."""

    name = "vqascore"

    def __init__(self, answerer: PictureAnswerer) -> None:
        self._answerer = answerer

    def __call__(self, pictures: Pictures, prompts: Sequence[str]) -> Tensor:
        import torch

        found = as_pictures(pictures)
        check_prompts(found, prompts)
        asked = [f'Does this image show "{prompt}"? Answer the question with Yes or No.' for prompt in prompts]
        each = zip(found, asked, strict=True)
        return torch.tensor([self._answerer.probability(picture, question, YES) for picture, question in each])

    def provenance(self) -> dict[str, Any]:
        return self._answerer.provenance()
