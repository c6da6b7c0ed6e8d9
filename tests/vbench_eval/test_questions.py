"""Benchmarks that ask questions about pictures: their files, their arithmetic, and how an answer becomes a number."""

import json

import pytest
import torch
from PIL import Image

from vbench_eval.errors import UserError
from vbench_eval.images.questions import (
    YES,
    ChatAnswerer,
    Question,
    VqaScore,
    read_dpg,
    read_geneval2,
    right_answers,
    soft_tifa,
    with_dependencies,
)
from vbench_eval.images.rewards import REWARDS
from vbench_eval.images.scoring import score_images
from vbench_eval.judges import PICTURE_REWARDS

GENEVAL = [
    {
        "prompt": "two red cups",
        "atom_count": 3,
        "vqa_list": [["How many cups are in the image?", "two"], ["Are the cups red?", "Yes"]],
        "skills": ["count", "attribute"],
    },
    {"prompt": "a dog", "atom_count": 4, "vqa_list": [["Is there a dog?", "Yes"]], "skills": ["object"]},
]
DPG = """item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,question_natural_language
1,two red cups,,1,0,entity,whole,Are there cups?
1,two red cups,,2,1,attribute,color,Are the cups red?
1,two red cups,,3,2,other,count,"Are the red cups two?"
2,a dog,,1,0,entity,whole,Is there a dog?
"""


def geneval_file(folder):
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GENEVAL))
    return folder / "questions.jsonl"


def dpg_file(folder):
    (folder / "dpg_bench.csv").write_text(DPG)
    return folder / "dpg_bench.csv"


TOLD = {"How many": 0.9, "Are the cups red?": 0.4, "Is there a dog?": 0.7, "Are there cups?": 0.2, "two?": 0.8}


class Answering:
    """Probabilities by question, of red pictures; of others a tenth."""

    def probability(self, picture, question, answers):
        Answering.answers = tuple(answers)
        share = next(share for words, share in TOLD.items() if words in question)
        return share if picture.getpixel((0, 0))[0] > 100 else share / 10

    def provenance(self):
        return {"id": "answering"}


def answering():
    return Answering()


@pytest.fixture
def gallery(tmp_path):
    for name, red in (("two red cups-0", 200), ("a dog-0", 200), ("a dog-1", 0)):
        (tmp_path / "ours").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (red, 0, 0)).save(tmp_path / "ours" / f"{name}.png")
    return tmp_path


def scored(gallery, name, questions):
    plugin = {name: "tests.vbench_eval.test_questions:answering"}
    return score_images(
        gallery / "ours", metrics=(name,), weights={f"{name}_questions": str(questions)}, plugins=plugin
    )["metrics"][name]


def test_geneval_2_takes_geometric_means_over_prompts_and_arithmetic_ones_over_skills(gallery):
    found = scored(gallery, "geneval2", geneval_file(gallery))
    cups = 100 * (0.9 * 0.4) ** 0.5
    assert found["per_picture"]["two red cups-0.png"] == pytest.approx(cups, rel=1e-6)
    benchmark = found["benchmark"]
    assert benchmark["total"] == pytest.approx((cups + 70 + 7) / 3, rel=1e-6)
    assert benchmark["by_kind"] == {
        "attribute": pytest.approx(40),
        "count": pytest.approx(90),
        "object": pytest.approx(38.5),
    }
    assert (
        benchmark["by_atoms"] == {"3": pytest.approx(cups), "4": pytest.approx(38.5)}
        and benchmark["prompts_without_picture"] == 0
    )
    assert found["provenance"] == {"id": "answering"} and Answering.answers == YES


def test_dpg_counts_a_question_only_if_those_it_depends_on_were_answered_yes(gallery):
    found = scored(gallery, "dpg", dpg_file(gallery))
    # there are no cups (0.2), so that neither red (0.4) nor two (0.8) of them count; the category does not ask for that
    assert found["per_picture"] == {"two red cups-0.png": 0.0, "a dog-0.png": 100.0, "a dog-1.png": 0.0}
    assert found["benchmark"]["by_kind"] == {"attribute": 0.0, "entity": pytest.approx(100 / 3), "other": 100.0}


@pytest.mark.parametrize(
    ("answers", "score"), [((1, 1, 1), 1.0), ((1, 0, 1), 1 / 3), ((0, 1, 1), 0.0), ((1, 1, 0), 2 / 3)]
)
def test_dependencies_reach_through(answers, score):
    questions = [Question("", YES, "", parents) for parents in ((), (0,), (1,))]
    assert with_dependencies(questions, answers) == pytest.approx(score)


def test_a_number_is_right_as_a_word_and_as_a_figure_and_a_zero_makes_the_mean_zero():
    assert right_answers("How many cups?", "two") == ("two", "Two", " two", " Two", "2", " 2")
    assert right_answers("How many cups?", "eleven")[-2:] == ("other", " other")
    assert right_answers("Is it red?", "Yes") == YES
    assert soft_tifa([0.5, 0.0]) == 0.0 and soft_tifa([0.25, 1.0]) == 0.5


@pytest.mark.parametrize("text", ["", "{}\n", "[1]\n", '{"prompt": "a", "vqa_list": [["x"]]}\n', "\x00"])
def test_files_of_another_kind_are_refused(tmp_path, text):
    (tmp_path / "file").write_text(text)
    for read in (read_geneval2, read_dpg):
        with pytest.raises(UserError, match=r"file"):
            read(tmp_path / "file")


def test_a_picture_of_no_prompt_of_the_benchmark_is_refused(gallery):
    Image.new("RGB", (4, 4)).save(gallery / "ours" / "a cat-0.png")
    with pytest.raises(UserError, match="'a cat' is no prompt of geneval2"):
        scored(gallery, "geneval2", geneval_file(gallery))


def test_vqascore_asks_whether_the_picture_shows_its_prompt():
    class Believing(Answering):
        def probability(self, picture, question, answers):
            assert question == 'Does this image show "a dog"? Answer the question with Yes or No.' and answers == YES
            return picture.getpixel((0, 0))[0] / 255

    pictures = [Image.new("RGB", (4, 4), (red, 0, 0)) for red in (255, 51)]
    assert VqaScore(Believing())(pictures, ["a dog"] * 2).tolist() == pytest.approx([1.0, 0.2])
    assert "vqascore" in PICTURE_REWARDS and REWARDS["vqascore"][0] == "qwen3_vl_8b"


def test_an_answer_is_the_sum_of_its_first_tokens_probabilities():
    class Words:
        def encode(self, text, add_special_tokens):
            assert add_special_tokens is False
            return [{"Yes": 1, "yes": 2, " yes": 2, " Yes": 3}[text], 9]

    class Inputs(dict):
        def to(self, device):
            return self

    class Processor:
        tokenizer = Words()

        def apply_chat_template(self, messages, **asked):
            (message,) = messages
            assert [part["type"] for part in message["content"]] == ["image", "text"] and asked["add_generation_prompt"]
            return Inputs(input_ids=torch.zeros(1, 3, dtype=torch.long))

    class Network:
        device = "cpu"

        def __call__(self, input_ids):
            self.logits = torch.zeros(1, 3, 4)
            self.logits[0, -1] = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
            return self

    answerer = ChatAnswerer(Network(), Processor(), told={"id": "vlm"})
    assert answerer.probability(Image.new("RGB", (4, 4)), "Is it?", YES) == pytest.approx(0.2 + 0.3 + 0.3 + 0.4)
    assert answerer.provenance() == {"id": "vlm"}
