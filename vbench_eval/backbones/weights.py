"""The table of published weights, and of VBench's prompts: what each file is called, how large it is, who may use it
and where it comes from.

Sizes are about; a sha256 is given where it is published, and a file that does not have it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from vbench_eval.errors import UserError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")
SITES = {
    "clip": "https://openaipublic.azureedge.net/clip/models",
    "dino": "https://dl.fbaipublicfiles.com/dino",
    "iqa": "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights",
    "laion": "https://raw.githubusercontent.com/LAION-AI/aesthetic-predictor/main",
    "mlp": "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main",
    "fid": "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights",
}
VBENCH = "https://raw.githubusercontent.com/Vchitect/VBench/45e79ec14e69a2187202c675d2dbce1a71843d53"
SUITE_SHA256 = "5dd2de80ee43cda750b2b72ea7023657c0b90d3702041c7e4608c65dbe50dccd"
CATEGORIES = {  # VBench's lists of 100 prompts each, by their sha256
    "animal": "06574782d81fd1e69744afb89ec51a54f71079065c4591157eec18a1f1483086",
    "architecture": "d0afc3c90b570e68236c717adc9cd9ed0d4e8b698f5addd77ff7b6eb9e353623",
    "food": "5e06d5be0d58e1af66d73913c03c352c6a44c11c91ec83c8ee412d1d78ae2bdb",
    "human": "3b0a1cfa429b07fa4cd80efa6f69a47276a35ed2b70902a46a49206309994a52",
    "lifestyle": "a85cd6ce4b29719bec0da29e7d0299ee3ae8b2115f2a8aa23d091adc2ed9c0e9",
    "plant": "d729b0b198f09d438dee94f1c83ef93760f76270ea7bcfe027cbf14ad1603ec6",
    "scenery": "3f0293619c04a3597132c8e04b328d1397b2eff0cf1db44f0c5f94405717187f",
    "vehicles": "bd6dda5d801e4ad6758fbf80557ec9ad5e37f9cb4a8ac810c149bc1465cdbbbc",
}
MERGES_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
CLIP_B_SHA256 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
CLIP_L_SHA256 = "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"


@dataclass(frozen=True)
class Weights:
    """One set of published weights, as a file, as a folder of the hub, or as either.

    Attributes:
        name: what `fetch` and the table of `doctor` call it.
        what: one phrase for people.
        megabytes: about how much is downloaded.
        licence: its licence's short name.
        commercial_ok: whether that licence allows commercial use; None if nobody said.
        file: the published file's name; "" if it is only published as a folder.
        url: that file's address, or of the zip archive that holds it as `member`; "" if there is none.
        member: path inside the archive.
        sha256: of that file, where published.
        hub: hub id "org/name"; with `hub_file` that one file of it, without it the folder that transformers loads.
        hub_file: the file in the hub repository that equals `file`.
        extra: further files of the hub folder to fetch if they are there (a tokenizer's).
        network: whether the folder must hold a network; without one only its configuration and tokenizer are meant.
        vbench: where VBench's own cache folder keeps `file`.
        elsewhere: other places where VBench's packages leave `file` ("~" and variables are expanded).
        fetchable: False if it is of no use without code that is not ours to bring.
    """

    name: str
    what: str
    megabytes: float
    licence: str
    commercial_ok: bool | None
    file: str = ""
    url: str = ""
    member: str = ""
    sha256: str = ""
    hub: str = ""
    hub_file: str = ""
    extra: tuple[str, ...] = ()
    network: bool = True
    vbench: str = ""
    elsewhere: tuple[str, ...] = ()
    fetchable: bool = True

    @property
    def size(self) -> str:
        """The size as people read it."""
        return f"{self.megabytes:g} MB" if self.megabytes >= 0.1 else f"{self.megabytes * 1000:g} KB"

    @property
    def origins(self) -> tuple[str, ...]:
        """Where it may be had, first choice first."""
        hub = f"https://huggingface.co/{self.hub}"
        if self.hub and self.hub_file:
            hub += f"/resolve/main/{self.hub_file}"
        inside = f"{self.url} ({self.member})" if self.member else self.url
        return tuple(origin for origin in (hub if self.hub else "", inside) if origin)


WEIGHTS = {
    weights.name: weights
    for weights in (
        Weights(
            "dino_vitb16",
            "DINO ViT-B/16",
            343,
            "Apache-2.0",
            True,
            file="dino_vitbase16_pretrain.pth",
            url=f"{SITES['dino']}/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
            hub="facebook/dino-vitb16",
            vbench="dino_model/dino_vitbase16_pretrain.pth",
            elsewhere=(
                "$TORCH_HOME/hub/checkpoints/dino_vitbase16_pretrain.pth",
                "~/.cache/torch/hub/checkpoints/dino_vitbase16_pretrain.pth",
            ),
        ),
        Weights(
            "clip_vit_b_32",
            "CLIP ViT-B/32",
            605,
            "MIT",
            True,
            file="ViT-B-32.pt",
            url=f"{SITES['clip']}/{CLIP_B_SHA256}/ViT-B-32.pt",
            sha256=CLIP_B_SHA256,
            hub="openai/clip-vit-base-patch32",
            extra=TOKENIZER_FILES,
            vbench="clip_model/ViT-B-32.pt",
            elsewhere=("~/.cache/clip/ViT-B-32.pt",),
        ),
        Weights(
            "clip_merges",
            "CLIP's list of byte-pair merges",
            1.4,
            "MIT",
            True,
            file="bpe_simple_vocab_16e6.txt.gz",
            url="https://raw.githubusercontent.com/openai/CLIP/main/clip/bpe_simple_vocab_16e6.txt.gz",
            sha256=MERGES_SHA256,
            vbench="ViCLIP/bpe_simple_vocab_16e6.txt.gz",
        ),
        Weights(
            "viclip",
            "ViCLIP-L/14, InternVid-10M-FLT",
            1710,
            "Apache-2.0",
            True,
            file="ViClip-InternVid-10M-FLT.pth",
            hub="OpenGVLab/VBench_Used_Models",
            hub_file="ViClip-InternVid-10M-FLT.pth",
            vbench="ViCLIP/ViClip-InternVid-10M-FLT.pth",
        ),
        Weights(
            "clip_vit_l_14",
            "CLIP ViT-L/14",
            1710,
            "MIT",
            True,
            file="ViT-L-14.pt",
            url=f"{SITES['clip']}/{CLIP_L_SHA256}/ViT-L-14.pt",
            sha256=CLIP_L_SHA256,
            hub="openai/clip-vit-large-patch14",
            extra=TOKENIZER_FILES,
            vbench="clip_model/ViT-L-14.pt",
            elsewhere=("~/.cache/clip/ViT-L-14.pt",),
        ),
        Weights(
            "aesthetic_linear",
            "LAION linear aesthetic head (768 to 1)",
            0.004,
            "MIT",
            True,
            file="sa_0_4_vit_l_14_linear.pth",
            url=f"{SITES['laion']}/sa_0_4_vit_l_14_linear.pth",
            vbench="aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
            elsewhere=("~/.cache/emb_reader/sa_0_4_vit_l_14_linear.pth",),
        ),
        Weights(
            "raft_things",
            "RAFT, large, FlyingThings",
            21,
            "BSD-3-Clause",
            True,
            file="raft-things.pth",
            url="https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip",
            member="models/raft-things.pth",
            sha256="fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1",
            hub="ddrfan/RAFT",
            hub_file="raft-things.pth",
            vbench="raft_model/models/raft-things.pth",
        ),
        Weights(
            "musiq_spaq",
            "MUSIQ trained on SPAQ",
            109,
            "Apache-2.0 (network), PolyForm-Noncommercial (package of the converted file)",
            None,
            file="musiq_spaq_ckpt-358bb6af.pth",
            url=f"{SITES['iqa']}/musiq_spaq_ckpt-358bb6af.pth",
            hub="chaofengc/IQA-PyTorch-Weights",
            hub_file="musiq_spaq_ckpt-358bb6af.pth",
            vbench="pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
            elsewhere=(
                "$TORCH_HOME/hub/pyiqa/musiq_spaq_ckpt-358bb6af.pth",
                "~/.cache/torch/hub/pyiqa/musiq_spaq_ckpt-358bb6af.pth",
            ),
        ),
        Weights(
            "amt_s",
            "AMT-S frame interpolator",
            12,
            "CC-BY-NC-4.0",
            False,
            file="amt-s.pth",
            hub="lalala125/AMT",
            hub_file="amt-s.pth",
            vbench="amt_model/amt-s.pth",
            fetchable=False,
        ),
        Weights(
            "dreamsim",
            "DreamSim, ensemble",
            1900,
            "MIT",
            True,
            file="dreamsim_ensemble_checkpoint.zip",
            url="https://github.com/ssundaram21/dreamsim/releases/download/v0.1.0/dreamsim_ensemble_checkpoint.zip",
            fetchable=False,
        ),
        Weights(
            "dino_vits16",
            "DINO ViT-S/16",
            87,
            "Apache-2.0",
            True,
            hub="facebook/dino-vits16",
            extra=("preprocessor_config.json",),
        ),
        Weights(
            "pickscore",
            "PickScore v1 (CLIP ViT-H/14)",
            3940,
            "MIT",
            True,
            hub="yuvalkirstain/PickScore_v1",
            extra=TOKENIZER_FILES,
        ),
        Weights(
            "clip_vit_h_14",
            "CLIP ViT-H/14: configuration and tokenizer",
            4,
            "MIT",
            True,
            hub="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
            extra=TOKENIZER_FILES,
            network=False,
        ),
        Weights(
            "hps_v2.1",
            "HPS v2.1",
            1970,
            "Apache-2.0",
            True,
            file="HPS_v2.1_compressed.pt",
            hub="xswu/HPSv2",
            hub_file="HPS_v2.1_compressed.pt",
        ),
        Weights(
            "hps_v2",
            "HPS v2",
            1970,
            "Apache-2.0",
            True,
            file="HPS_v2_compressed.pt",
            hub="xswu/HPSv2",
            hub_file="HPS_v2_compressed.pt",
        ),
        Weights(
            "aesthetic_mlp",
            "LAION aesthetic MLP head (sac+logos+ava1)",
            3.7,
            "Apache-2.0",
            True,
            file="sac+logos+ava1-l14-linearMSE.pth",
            url=f"{SITES['mlp']}/sac%2Blogos%2Bava1-l14-linearMSE.pth",
            hub="trl-lib/ddpo-aesthetic-predictor",
            hub_file="aesthetic-model.pth",
        ),
        Weights(
            "image_reward",
            "ImageReward v1.0",
            1790,
            "Apache-2.0",
            True,
            file="ImageReward.pt",
            hub="zai-org/ImageReward",
            hub_file="ImageReward.pt",
        ),
        Weights(
            "hpsv3",
            "HPSv3",
            16600,
            "MIT",
            True,
            file="HPSv3.safetensors",
            hub="MizzenAI/HPSv3",
            hub_file="HPSv3.safetensors",
        ),
        Weights(
            "geneval2_questions",
            "GenEval 2's prompts and questions",
            0.42,
            "CC-BY-NC-4.0",
            False,
            file="geneval2_data.jsonl",
            url="https://raw.githubusercontent.com/facebookresearch/GenEval2/"
            "a6e82d2289e8d418f27f0adee77908b07060eea3/geneval2_data.jsonl",
            sha256="09233adbc9f877fba205f1a20efa4a8640e7e62a91dfd55893562bed8a928e43",
        ),
        Weights(
            "dpg_questions",
            "DPG-Bench's prompts and questions",
            4,
            "Apache-2.0",
            True,
            file="dpg_bench.csv",
            url="https://raw.githubusercontent.com/TencentQQGYLab/ELLA/main/dpg_bench/dpg_bench.csv",
        ),
        Weights(
            "qwen3_vl_8b",
            "Qwen3-VL-8B-Instruct",
            17500,
            "Apache-2.0",
            True,
            hub="Qwen/Qwen3-VL-8B-Instruct",
            extra=(
                *TOKENIZER_FILES,
                "preprocessor_config.json",
                "chat_template.json",
                "video_preprocessor_config.json",
            ),
        ),
        Weights(
            "inception",
            "Inception v3 of FID",
            95,
            "Apache-2.0",
            True,
            file="pt_inception-2015-12-05-6726825d.pth",
            url=f"{SITES['fid']}/pt_inception-2015-12-05-6726825d.pth",
            elsewhere=(
                "$TORCH_HOME/hub/checkpoints/pt_inception-2015-12-05-6726825d.pth",
                "~/.cache/torch/hub/checkpoints/pt_inception-2015-12-05-6726825d.pth",
            ),
        ),
        Weights(
            "umt_l16",
            "UMT-L/16, Kinetics-400",
            1220,
            "Apache-2.0",
            True,
            file="l16_ptk710_ftk710_ftk400_f16_res224.pth",
            hub="OpenGVLab/VBench_Used_Models",
            hub_file="l16_ptk710_ftk710_ftk400_f16_res224.pth",
            vbench="umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",
        ),
        Weights(
            "kinetics_400",
            "the actions of Kinetics-400, numbered",
            0.008,
            "Apache-2.0",
            True,
            file="kinetics_400_categories.txt",
            url=f"{VBENCH}/vbench/third_party/umt/kinetics_400_categories.txt",
            sha256="903552632974b59d4d1beda96f7bb2829602bfeca1b3fdd5eb4bec3c5a12c1df",
        ),
        Weights(
            "owlv2",
            "OWLv2 ViT-B/16, ensemble",
            620,
            "Apache-2.0",
            True,
            hub="google/owlv2-base-patch16-ensemble",
            extra=TOKENIZER_FILES,
        ),
        Weights(
            "tag2text",
            "Tag2Text, Swin-B",
            4480,
            "Apache-2.0",
            True,
            file="tag2text_swin_14m.pth",
            url="https://huggingface.co/spaces/xinyu1205/recognize-anything/resolve/main/tag2text_swin_14m.pth",
            vbench="caption_model/tag2text_swin_14m.pth",
        ),
        Weights(
            "tag2text_tags",
            "the tags that Tag2Text knows",
            0.039,
            "Apache-2.0",
            True,
            file="tag_class.py",
            url=f"{VBENCH}/vbench/third_party/tag2Text/tag_class.py",
            sha256="8e33d5653fc4f5f1792bad82e64dcbf4a004dacf633b8e8d6a811ae07b7a73bf",
        ),
        Weights(
            "bert_vocabulary",
            "the word pieces of BERT, uncased",
            0.23,
            "Apache-2.0",
            True,
            file="vocab.txt",
            hub="google-bert/bert-base-uncased",
            hub_file="vocab.txt",
        ),
        Weights(
            "vbench_suite",
            "VBench's prompt suite",
            0.23,
            "Apache-2.0",
            True,
            file="VBench_full_info.json",
            url=f"{VBENCH}/vbench/VBench_full_info.json",
            sha256=SUITE_SHA256,
        ),
        *(
            Weights(
                f"vbench_{category}",
                f"VBench's prompts of the category {category}",
                0.006,
                "Apache-2.0",
                True,
                file=f"vbench_{category}.txt",
                url=f"{VBENCH}/prompts/prompts_per_category/{category}.txt",
                sha256=digest,
            )
            for category, digest in CATEGORIES.items()
        ),
    )
}


def named(name: str) -> Weights:
    """Returns the entry of that name; raises UserError listing the names there are."""
    if name not in WEIGHTS:
        raise UserError(f"no weights are called {name!r}; there are {', '.join(WEIGHTS)}")
    return WEIGHTS[name]
