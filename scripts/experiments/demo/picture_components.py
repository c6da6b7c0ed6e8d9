"""The networks of the picture pair's flow side, in diffusers' and transformers' own classes; the other side is SDXL's.

The noise side has the demo's own UNet, VAE and text encoders (`components`).
"""

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from experiments.demo.components import TEXT_WIDTH, build_vae
from w2sd_video.demo.captions import COLOURS, SHAPES
from w2sd_video.demo.pictures import PICTURE_TOKENS

FLOW_CHANNELS = 8  # of the flow side's latents; the noise side's have 4
HEADS, HEAD_WIDTH = 4, 32


def build_t5_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of the toy world, any other word unknown; a sentence ends with </s>, as T5's do."""
    words = ["<pad>", "</s>", "<unk>", "a", *COLOURS, *SHAPES]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=PICTURE_TOKENS,
    )


def build_t5(tokenizer: PreTrainedTokenizerFast) -> T5EncoderModel:
    """A T5 encoder of two layers; its embeddings start at standard deviation 1 and stay in that range."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_WIDTH,
        d_ff=64,
        d_kv=8,
        num_heads=4,
        num_layers=2,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5EncoderModel(config)


def build_flow_vae() -> AutoencoderKL:
    """RGB [B, 3, 32, 32] in [-1, 1] to 8 latent channels [B, 8, 8, 8]; without quant convolutions, as Flux's."""
    return build_vae(FLOW_CHANNELS, use_quant_conv=False, use_post_quant_conv=False)


def build_transformer() -> FluxTransformer2DModel:
    """A Flux transformer over 16 tokens of 32 channels (2x2 blocks of [B, 8, 8, 8] latents), no embedded guidance."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * FLOW_CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        axes_dims_rope=(8, 12, 12),
        guidance_embeds=False,
    )


def build_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The flow path with even levels: so few tokens need no shift towards noise."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False)
