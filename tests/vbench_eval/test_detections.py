"""Measures like four of VBench's by an open-vocabulary detector: their rules, OWLv2's boxes, and their names."""

import pytest
import torch

from tests.support.vbench_backbones import Stub, number_of, numbered
from tests.support.vbench_files import write_suite
from vbench_eval.backbones.owlv2 import Owlv2Detector
from vbench_eval.backbones.registry import resolve_detector
from vbench_eval.detections import LIKE, Detected, asked_phrases, relation_score
from vbench_eval.errors import UserError
from vbench_eval.one_pass import measure
from vbench_eval.scoring import score_folder
from vbench_eval.video_info import About
from vbench_eval.videos import FramesInMemory

OBJECT = About("a bus", {"object_class": {"object": "bus"}})
BOTH = About("a bus and a dog", {"multiple_objects": {"object": "bus and dog"}})
RED = About("a red fire truck", {"color": {"color": "red"}})
RELATION = {"object_a": "bus", "object_b": "dog", "relationship": "on the left of"}
LEFT = About("a bus on the left of a dog", {"spatial_relationship": {"spatial_relationship": RELATION}})


class Seeing(Stub):
    """Finds in the n-th frame what `told` says: phrase -> score, or (score, box)."""

    sure = 0.5

    def __init__(self, told):
        self.told = told

    def detect(self, frames, phrases):
        self.phrases = tuple(phrases)
        rows = [self.told.get(number_of(frame), {}) for frame in frames]
        each = [[row.get(phrase, 0.0) for phrase in phrases] for row in rows]
        scores = torch.tensor([[one[0] if isinstance(one, tuple) else one for one in row] for row in each])
        boxes = [[one[1] if isinstance(one, tuple) else (0.0, 0.0, 1.0, 1.0) for one in row] for row in each]
        return scores, torch.tensor(boxes)


def found(name, about, told):
    detector = Seeing(told)
    video = FramesInMemory(numbered(16), fps=8)
    return measure(video, {name: Detected(name, detector)}, about=about, chunk_bytes=4000).measured[name], detector


LEFT_BOX, RIGHT_BOX = (0.0, 0.0, 0.4, 0.4), (0.5, 0.1, 0.9, 0.5)


@pytest.mark.parametrize(
    ("name", "about", "told", "value"),
    [
        ("object", OBJECT, {0: {"bus": 0.5}, 3: {"bus": 0.9}, 5: {"bus": 0.49}, 7: {"car": 0.9}}, 2 / 16),
        ("objects", BOTH, {0: {"bus": 0.6, "dog": 0.7}, 3: {"bus": 0.9}, 4: {"dog": 0.9}}, 1 / 16),
        # of the frames with a fire truck in any color; the likeliest color counts
        (
            "color",
            RED,
            {
                0: {"red fire truck": 0.8, "pink fire truck": 0.7},
                1: {"red fire truck": 0.6, "blue fire truck": 0.9},
                2: {"red fire truck": 0.4},
                3: {"red fire truck": 0.5},
            },
            2 / 3,
        ),
        (
            "relation",
            LEFT,
            {
                0: {"bus": (0.9, LEFT_BOX), "dog": (0.9, RIGHT_BOX)},
                1: {"bus": (0.9, RIGHT_BOX), "dog": (0.9, LEFT_BOX)},  # the other way round
                2: {"bus": (0.9, LEFT_BOX), "dog": (0.4, RIGHT_BOX)},
            },
            1 / 16,
        ),
    ],
)
def test_frames_in_which_the_asked_is_found_are_counted(name, about, told, value):
    got, detector = found(f"judge_detected_{name}", about, told)
    assert got["value"] == pytest.approx(value) and got["extras"]["text"]
    if name == "color":
        assert detector.phrases[0] == "red fire truck" and len(set(detector.phrases)) == 12
        assert got["extras"]["frames_with_object"] == 3
        assert found("judge_detected_color", about, {})[0]["reason"].endswith("in no frame, in no color")
    assert "--suite" in found(f"judge_detected_{name}", About("a bus"), told)[0]["reason"]


@pytest.mark.parametrize(
    ("direction", "first", "second", "score"),
    [
        ("on the left of", LEFT_BOX, RIGHT_BOX, 1.0),
        ("on the right of", LEFT_BOX, RIGHT_BOX, 0.0),
        ("on the right of", RIGHT_BOX, LEFT_BOX, 1.0),
        ("on the top of", (0, 0, 1, 1), (0, 2, 1, 3), 1.0),
        ("on the bottom of", (0, 0, 1, 1), (0, 2, 1, 3), 0.0),
        ("on the left of", (0, 0, 1, 1), (1, 1, 2, 2), 0.0),  # as far down as across
        ("on the left of", (0, 0, 2, 1), (1, 0, 3, 1), 0.1 / (1 / 3)),
        ("on the left of", (0, 0, 0, 0), (1, 0, 1, 0), 1.0),
    ],
)
def test_a_relation_holds_along_its_axis_in_its_direction_and_less_the_more_boxes_overlap(
    direction, first, second, score
):
    assert relation_score(direction, first, second) == pytest.approx(score)


def test_what_is_looked_for_is_read_from_the_suites_words():
    assert asked_phrases("judge_detected_objects", BOTH) == ("bus", "dog")
    assert asked_phrases("judge_detected_relation", LEFT) == ("bus", "dog", "on the left of")
    grey = asked_phrases("judge_detected_color", About("an grey umbrella", {"color": {"color": "grey"}}))
    assert grey[0] == "grey umbrella" and "gray umbrella" not in grey
    assert all(asked_phrases(name, About("a bus")) is None for name in LIKE)


class Fixed(Stub):
    sure = 0.5

    def detect(self, frames, phrases):
        return torch.full((len(frames), len(phrases)), 0.75), torch.zeros(len(frames), len(phrases), 4)


def test_only_videos_with_such_words_are_measured_and_never_under_vbenchs_names(folder, tmp_path):
    suite = [
        {"prompt_en": "a cat", "dimension": ["object_class"], "auxiliary_info": {"object_class": {"object": "cat"}}},
        {"prompt_en": "a dog", "dimension": ["color"]},
    ]
    written = score_folder(
        folder,
        dimensions="object_class",
        suite=write_suite(tmp_path, suite),
        detector="tests.vbench_eval.test_detections:Fixed",
        output=tmp_path / "scores",
        device="cpu",
    )
    videos = {video["prompt"]: video["measured"] for video in written.report["videos"]}
    assert videos["a cat"]["judge_detected_object"]["value"] == 1.0
    assert not set(videos["a dog"]) & set(LIKE) and "judge_detected_color" not in videos["a cat"]
    dimensions = written.report["dimensions"]
    assert dimensions["object_class"]["status"] == "unavailable" and not dimensions["judge_detected_object"]["official"]
    assert "judge_detected" not in written.eval_results.read_text()
    with pytest.raises(UserError, match="no detector"):
        resolve_detector("collections:OrderedDict")


class Letters:
    """A tokenizer: start, a token per letter, end."""

    def __len__(self):
        return 60

    def __call__(self, texts, length):
        rows = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            ids = [58, *(1 + ord(letter) % 50 for letter in text), 59][:length]
            row[: len(ids)] = torch.tensor(ids)
        return rows


@pytest.fixture(scope="module")
def owl():
    from transformers import Owlv2Config, Owlv2ForObjectDetection

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = Owlv2Config(
            text_config=sizes
            | {
                "vocab_size": 60,
                "max_position_embeddings": 8,
                "bos_token_id": 58,
                "eos_token_id": 59,
                "pad_token_id": 0,
            },
            vision_config=sizes | {"image_size": 48, "patch_size": 16},
            projection_dim=32,
        )
        network = Owlv2ForObjectDetection(config).eval()
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return network


@torch.no_grad()
def test_owlv2_gives_the_best_box_of_each_phrase_as_its_own_processing_does(owl):
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

    seen = {}

    def network(**inputs):
        seen.update(inputs)
        return owl(**inputs)

    network.config, network.class_head = owl.config, owl.class_head
    detector = Owlv2Detector(network, Letters(), provenance={"id": "owl"})
    phrases = ("bus", "dog", "cat")
    places = torch.arange(96 * 160).reshape(96, 160, 1) * torch.tensor([1, 2, 3]) % 251
    frames = torch.stack([places, 250 - places, places.flip(1)]).to(torch.uint8)
    scores, boxes = detector.detect(frames, phrases)
    # transformers' own preparation, whose filter differs a little (and the square around, grey in OWLv2's own code,
    # which several versions leave black), and its boxes for these numbers
    processor = Owlv2ImageProcessorPil(size={"height": 48, "width": 48})
    pixels = processor(list(frames.permute(0, 3, 1, 2)), return_tensors="pt")["pixel_values"]
    assert seen["pixel_values"].shape == pixels.shape
    assert float((seen["pixel_values"] - pixels)[..., :28, :].abs().mean()) < 0.1 < float(pixels.std())
    assert float(seen["pixel_values"][..., 31:, :].abs().max()) < 0.4  # near CLIP's mean
    made = owl(**seen)
    for number, found in enumerate(
        processor.post_process_object_detection(made, threshold=0.0, target_sizes=[(1, 1)] * 3)
    ):
        best = found["scores"].argmax()
        phrase = int(found["labels"][best])
        torch.testing.assert_close(boxes[number, phrase], found["boxes"][best])
        torch.testing.assert_close(scores[number, phrase], found["scores"][best])
        assert scores[number].max() == scores[number, phrase]
    torch.testing.assert_close(detector.detect(frames, ("dog", "bus", "cat"))[0][:, [1, 0, 2]], scores)
    torch.testing.assert_close(detector.detect(frames[1:2], phrases)[0], scores[1:2])
