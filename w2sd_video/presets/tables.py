"""The paper's result tables (arXiv 2502.00473) as data, for the presets to be shown beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class PaperTable:
    """Rows of one table of the paper, as printed: values by method in the order of `metrics`, None where it has "-".

    Of every metric here more is better. `rows` may be some of the table's rows: those of one base model.
    """

    number: int
    dataset: str
    metrics: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]

    @property
    def name(self) -> str:
        return f"Table {self.number}"

    def value(self, method: str, metric: str) -> float | None:
        """Returns what the table reports for a method, KeyError or ValueError where it has no such cell."""
        return self.rows[method][self.metrics.index(metric)]

    def lines(self) -> list[str]:
        """Returns the table as text for people, a row per method."""
        width = max(map(len, self.rows))
        head = "".join(f"{metric:>{max(9, len(metric) + 2)}s}" for metric in self.metrics)
        return [
            f"{self.name}, {self.dataset}:",
            f"  {'':{width}s}{head}",
            *(
                f"  {method:{width}s}"
                + "".join(
                    f"{'-' if value is None else format(value, '.7g'):>{max(9, len(metric) + 2)}s}"
                    for metric, value in zip(self.metrics, values, strict=True)
                )
                for method, values in self.rows.items()
            ),
        ]


PREFERENCE = ("HPS v2", "AES", "PickScore", "MPS")
PERSONAL = ("DINO", "CLIP-I", "CLIP-T")
VIDEO = (
    *("subject consistency", "background consistency", "motion smoothness"),
    *("dynamic degree", "aesthetic quality", "imaging quality"),
)
PICK, DRAW = "Pick-a-Pic", "DrawBench"


def _table(number: int, dataset: str, metrics: Sequence[str], printed: str) -> PaperTable:
    """A table from its rows as printed: a method, two blanks, and its values."""
    rows = {}
    for line in printed.strip().splitlines():
        method, _, values = line.strip().partition("  ")
        rows[method] = tuple(None if value == "-" else float(value) for value in values.split())
    return PaperTable(number, dataset, tuple(metrics), MappingProxyType(rows))


# fmt: off
FINETUNE_SD15 = (
    _table(2, PICK, PREFERENCE, """
        weak    24.9558  5.5003  20.1368        -
        strong  30.1477  6.1155  21.5035  46.8705
        W2SD    30.4924  6.2478  21.5727  53.1304
    """),
    _table(8, DRAW, PREFERENCE, """
        weak    25.3601  5.2023  21.0519        -
        strong  28.7845  5.7047  21.8522  47.8813
        W2SD    28.7901  5.7847  21.9057  52.1192
    """),
)
FINETUNE_SDXL = (
    _table(2, PICK, PREFERENCE, """
        weak    29.8701  6.0939  21.6487        -
        strong  31.6412  5.9790  22.1903  45.7397
        W2SD    32.0992  6.0712  22.2434  54.2634
    """),
    _table(8, DRAW, PREFERENCE, """
        weak    28.5536  5.4946  22.2464        -
        strong  28.9085  5.3455  22.4906  47.5648
        W2SD    29.3246  5.4261  22.5803  52.4358
    """),
)
LORA_PERSONAL = (
    _table(3, "20 LoRAs from Civitai", PERSONAL, """
        weak    27.47  52.08  20.14
        strong  48.03  64.37  25.99
        W2SD    51.58  68.04  27.66
    """),
)
LORA_SD15 = (
    _table(10, PICK, PREFERENCE, """
        base    24.9558  5.5003  20.1368        -
        strong  25.5678  5.5804  20.3514  44.2889
        W2SD    26.0825  5.6567  20.5096  55.7106
    """),
    _table(11, DRAW, PREFERENCE, """
        base    25.3601  5.2023  21.0519        -
        strong  25.8896  5.2895  21.2308  49.3617
        W2SD    25.9431  5.3553  21.2589  50.6399
    """),
)
LORA_SDXL = (
    _table(10, PICK, PREFERENCE, """
        base    29.8701  6.0939  21.6487        -
        strong  32.8040  6.1176  22.3259  48.2224
        W2SD    33.5959  6.2252  22.3644  51.7770
    """),
    _table(11, DRAW, PREFERENCE, """
        base     28.5536  5.4946  22.2464        -
        strong   31.2727  5.5487  22.7721  47.0396
        W2SD    32.34857  5.7595  22.8301  52.9588
    """),
)
GUIDANCE_SD15 = (
    _table(5, PICK, PREFERENCE, """
        strong  24.9558  5.5003  20.1368  42.1101
        W2SD    25.5069  5.5073  20.2443  57.8903
    """),
    _table(9, DRAW, PREFERENCE, """
        strong  25.3601  5.2023  21.0519  47.7075
        W2SD    25.8234  5.2157  21.2079  52.2934
    """),
)
GUIDANCE_SDXL = (
    _table(5, PICK, PREFERENCE, """
        strong  29.8701  6.0939  21.6487  43.9425
        W2SD    31.2020  6.0970  21.7980  56.0608
    """),
    _table(9, DRAW, PREFERENCE, """
        strong  28.5536  5.4946  22.2464  40.9590
        W2SD    30.1426  5.6600  22.4434  59.0415
    """),
)
PROMPT_SDXL = (
    _table(6, "GenEval", PREFERENCE, """
        weak    25.3897  5.4454  20.7144        -
        strong  28.5698  5.7714  21.6350  45.7719
        W2SD    29.4023  5.8812  21.8053  54.2275
    """),
)
CUMULATIVE = (
    _table(7, PICK, ("HPS v2", "winning rate %"), """
        strong        31.6412   -
        guidance gap  32.8217  84
        weight gap    32.0992  76
        both gaps     32.9623  90
    """),
)
FLUX_GUIDANCE = (
    _table(17, PICK, PREFERENCE[:3], """
        weak    23.2291  6.0081  20.5669
        strong  29.9532  6.3668  22.1578
        W2SD    31.1962  6.3677  22.2464
    """),
    _table(18, DRAW, PREFERENCE[:3], """
        weak    22.5098  5.5170  21.4877
        strong  29.2550  5.8035  22.8866
        W2SD    30.6314  5.9030  23.0236
    """),
)
FLUX_LORA = (
    _table(17, PICK, PREFERENCE[:3], """
        weak    29.9532  6.3668  22.1578
        strong  30.3402  6.3987  22.2199
        W2SD    31.7411  6.3580  22.3050
    """),
    _table(18, DRAW, PREFERENCE[:3], """
        weak    29.2550  5.8035  22.8866
        strong  29.5438  5.8088  22.8680
        W2SD    30.9390  5.9238  22.9202
    """),
)
# In percent. The gain comes with less motion: dynamic degree 45 -> 13 -> 8.
TABLE_12 = _table(12, "200 prompts of VBench", VIDEO, """
    weak    91.4152  95.8491  94.1647  45.0000  55.3108  58.4293
    strong  96.0820  97.5463  96.8834  13.0653  57.7097  64.1674
    W2SD    97.1398  97.9386  96.8706   8.0000  59.3736  64.6987
""")
# fmt: on
