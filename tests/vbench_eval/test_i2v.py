"""How a video keeps to the picture it was made from, as VBench-I2V measures it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.support.vbench_backbones import TableEncoder, noise, numbered
from tests.support.vbench_files import write_suite
from vbench_eval.backbones.dino import MEAN, STD, DinoForPictures
from vbench_eval.dimensions import asked_text, build
from vbench_eval.errors import UserError
from vbench_eval.inputs import find_inputs
from vbench_eval.one_pass import measure
from vbench_eval.profiles import get_profile
from vbench_eval.scoring import score_folder
from vbench_eval.settings import parse_dimensions
from vbench_eval.video_info import About
from vbench_eval.videos import FramesInMemory


class Table(TableEncoder):
    """The picture has the feature of its red."""

    def encode_picture(self, picture):
        return self.features[[picture.getpixel((0, 0))[0]]]


def test_the_value_is_made_of_the_likest_frame_and_of_the_steps(tmp_path):
    angles = torch.tensor([0.0, 0.1, 0.3, 0.2, 2.5])
    encoder = Table(torch.stack([angles.cos(), angles.sin()], dim=1).tolist())
    path = tmp_path / "p.png"
    Image.new("RGBA", (8, 6), (2, 0, 0, 255)).save(path)
    frames = numbered(5)[[0, 1, 3, 4]]
    dimension = build("i2v_subject", get_profile("vbench"), encoder)
    video = FramesInMemory(frames, fps=8)
    found = measure(video, {"d": dimension}, about=About("p", {}, str(path)), chunk_bytes=1600).measured["d"]
    # to the picture, at 0.3: 0.3, 0.2, 0.1, 2.2 rad; steps: 0.1, 0.1, 2.3 rad, whose cosine counts as 0
    steps = [np.cos(0.1), np.cos(0.1), 0.0]
    assert found["value"] == pytest.approx(0.4 * np.cos(0.1) + 0.3 * np.mean(steps) + 0.3 * 0.0, abs=1e-6)
    assert found["extras"]["likest_frame"] == 2 and found["extras"]["text"].startswith("p.png, ")
    for about, reason in ((About("p"), "--image-folder"), (About("p", {}, str(tmp_path)), "cannot be read")):
        assert reason in measure(video, {"d": dimension}, about=about).measured["d"]["reason"]
    one = measure(FramesInMemory(frames[:1], fps=8), {"d": dimension}, about=About("p", {}, str(path))).measured["d"]
    assert "two frames" in one["reason"]


def test_frames_are_filtered_and_cropped_and_the_picture_is_pillows():
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    network = ViTModel(ViTConfig(image_size=224, patch_size=112, **sizes), add_pooling_layer=False).eval()
    encoder = DinoForPictures(network, provenance={"id": "dino"}, antialias=True)
    frames = noise(2, 300, 401)
    small = F.interpolate(frames.permute(0, 3, 1, 2).float(), (256, 342), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    expected = (small[..., 16:240, 59:283] / 255 - mean) / std
    torch.testing.assert_close(encoder.prepare(frames), expected)
    # Pillow's filter is the same, on integers: its features are near those of the frame, and not by chance
    picture = Image.fromarray(frames[0].numpy())
    likeness = F.cosine_similarity(encoder.encode_picture(picture), encoder.encode(frames))
    assert float(likeness[0]) > 0.999 and encoder.encode_picture(picture).shape == (1, 12)


def test_pictures_are_found_by_the_prompt_or_by_the_suites_name(folder, tmp_path):
    pictures = tmp_path / "crop" / "1-1"
    pictures.mkdir(parents=True)
    for name in ("a cat.png", "hound.jpg"):
        Image.new("RGB", (8, 8), (9, 9, 9)).save(pictures / name)
    suite = write_suite(
        tmp_path, [{"prompt_en": "a dog", "dimension": ["i2v_subject"], "image_name": "hound.jpg"}], "i2v.json"
    )
    found = find_inputs(folder, image_folder=tmp_path / "crop")
    assert {video.prompt: video.picture for video in found.videos if video.picture} == {
        "a cat": str(pictures / "a cat.png")
    }
    written = score_folder(
        folder,
        dimensions="i2v",
        backbones={"i2v_subject": "tests.vbench_eval.test_i2v:grey"},
        suite=suite,
        mode="custom_input",
        image_folder=tmp_path / "crop",
        output=tmp_path / "scores",
        device="cpu",
    )
    values = {video["prompt"]: video["measured"]["i2v_subject"]["value"] for video in written.report["videos"]}
    assert values["a dog"] > 0 and values["a cat"] > 0 and values["a fox"] is None
    assert written.report["dimensions"]["i2v_background"]["status"] == "unavailable"
    with pytest.raises(UserError, match="holds no pictures"):
        find_inputs(folder, image_folder=folder)
    assert parse_dimensions("i2v") == ("i2v_subject", "i2v_background")
    assert asked_text("i2v_subject", About("a dog", {}, str(tmp_path / "gone.png"))) is None


class Grey:
    name, dim = "grey", 2

    def encode(self, frames):
        mean = frames.float().mean(dim=(1, 2, 3))
        return torch.stack([mean, torch.full_like(mean, 100)], dim=1)

    def encode_picture(self, picture):
        return self.encode(torch.from_numpy(np.array(picture))[None])

    def provenance(self):
        return {"id": "grey"}


def grey():
    return Grey()
