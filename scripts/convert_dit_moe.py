"""Convert a published DiT-MoE checkpoint: python scripts/convert_dit_moe.py dit_moe_s_8E2A.pt dit-moe-s

Writes a folder (config.json beside safetensors weights) that `DiTMoE.from_pretrained` and scripts/sample_dit_moe.py
read without opening a pickle. The configuration is told by the tensors' shapes; every key must fit.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.errors import exit_code

DTYPES = ("float32", "bfloat16", "float16")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a .pt or .safetensors file with the published keys")
    parser.add_argument("output", type=Path, help="the folder to write; it must not be there yet")
    parser.add_argument("--weights", choices=("ema", "model"), help="which, where the file has both (default: ema)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the written weights (default: the file's)")
    parser.add_argument("--heads", type=int, help="attention heads, for a width that is no named configuration's")
    parser.add_argument("--experts-per-token", type=int, default=2, help="no shape tells them (default 2)")
    parser.add_argument("--allow-pickle", action="store_true", help="open a file that could run code when opened")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    import torch

    from bridges.dit_moe import convert, count_parameters

    network = convert(
        options.checkpoint,
        options.output,
        torch_dtype=getattr(torch, options.dtype) if options.dtype else None,
        weights=options.weights,
        num_attention_heads=options.heads,
        num_experts_per_tok=options.experts_per_token,
        allow_pickle=options.allow_pickle,
    )
    config, counts = network.config, count_parameters(network.config)
    print(
        f"wrote {options.output}: {config.num_layers} layers of width {config.hidden_size}, {config.num_experts} "
        f"experts; {number(counts.total)} parameters, {number(counts.active)} of them active for a token"
    )
    return 0


def number(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return exit_code(lambda: run(options))


if __name__ == "__main__":
    raise SystemExit(main())
