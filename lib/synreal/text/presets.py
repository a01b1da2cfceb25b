"""Published text sets by name: real ones, and ones that language models wrote."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Preset:
    """Where a text set is published on the Hugging Face hub, and what it is."""

    hub: str
    written_by: str
    licence: str
    kind: Literal["real", "synthetic"]
    config: str | None = None
    column: str = "text"


PRESETS = {
    "wikitext": Preset(
        "Salesforce/wikitext", "Wikipedia's authors", "CC-BY-SA-3.0", "real", config="wikitext-103-raw-v1"
    ),
    "openwebtext": Preset("Skylion007/openwebtext", "authors of web pages", "CC0 (the selection)", "real"),
    "tinystories": Preset("roneneldan/TinyStories", "GPT-3.5 and GPT-4", "CDLA-Sharing-1.0", "synthetic"),
    "alpaca-gpt4": Preset("vicgalle/alpaca-gpt4", "GPT-4", "CC-BY-NC-4.0", "synthetic", column="output"),
    "cosmopedia": Preset("HuggingFaceTB/cosmopedia-100k", "Mixtral-8x7B-Instruct", "Apache-2.0", "synthetic"),
}
