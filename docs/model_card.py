"""Write models/README.md, the cards of the shipped models, from their configurations and metrics.

The cards lie beside the models' folders and not inside: DVC hashes those folders.

Run     python -m docs.model_card       after a change of a model, of requirements.txt or of DISTRIBUTIONS
"""

from collections import Counter
from email.message import Message
from importlib import metadata
from pathlib import Path

from docs.generated import table
from onesentence.core.files import read_json, write_text
from onesentence.data.docstrings import DISTRIBUTIONS, pinned_versions

ROOT = Path(__file__).resolve().parent.parent
CARD = ROOT / "models/README.md"
# Each model's folder in models/ and its file in metrics/.
MODELS = {"phi-tiny": "pretrain", "phi-tiny-128": "pretrain-128", "phi-tiny-64": "pretrain-64"}
START, END = "<!-- {}: written by python -m docs.model_card -->\n", "<!-- end of {} -->\n"


def licence_of(package: Message) -> str:
    """The licence that metadata declares: the SPDX expression, else a text of one line, else classifiers."""
    # `get`: where another library has installed importlib_metadata's finder, a missing key is a KeyError.
    expression, text = package.get("License-Expression"), (package.get("License") or "").strip()
    if expression:
        return expression
    classifiers = [
        name.rpartition(" :: ")[2]
        for name in package.get_all("Classifier") or []
        if name.startswith("License :: ") and name != "License :: OSI Approved"
    ]
    if text and "\n" not in text:  # some packages put the whole licence here
        return text
    return "; ".join(classifiers) or "not declared"


def licence_rows() -> list[tuple[str, str, str, str]]:
    """(package, pinned version, number of its files that were read, licence) of each distribution."""
    pins = pinned_versions(ROOT / "requirements.txt")
    listing = (ROOT / "models/phi-tiny/pretraining_files.txt").read_text(encoding="utf-8")
    files = Counter(line.partition("/")[0] for line in listing.splitlines())
    return [
        (name, pins[name.replace("_", "-").lower()], f"{files[name]:,}", licence_of(metadata.metadata(name)))
        for name in DISTRIBUTIONS
    ]


def model_rows() -> list[tuple[str, ...]]:
    """(folder, parameters, width, layers, heads, megabytes, final loss) of each model."""
    rows = []
    for folder, name in MODELS.items():
        config = read_json(ROOT / f"models/{folder}/config.json")
        trained = read_json(ROOT / f"metrics/{name}.json")
        size = (ROOT / f"models/{folder}/model.safetensors").stat().st_size / 1e6
        shape = (config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"])
        row = (
            f"`{folder}`",
            f"{trained['parameters']:,}",
            *shape,
            f"{size:.1f}",
            f"{trained['final_loss']:.2f}",
        )
        rows.append(tuple(str(cell) for cell in row))
    return rows


def with_table(text: str, name: str, lines: str) -> str:
    """The card with the table between the markers of a name replaced."""
    start, end = START.format(name), END.format(name)
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return before + start + lines + end + after


def card(text: str) -> str:
    """The card with both of its tables written anew."""
    models = (
        "model",
        "parameters",
        "width",
        "layers",
        "heads",
        "MB in bfloat16",
        "final loss (nats/token)",
    )
    packages = ("package", "version", "files read", "licence, as declared")
    text = with_table(text, "models", table(models, model_rows()))
    return with_table(text, "licences", table(packages, licence_rows()))


if __name__ == "__main__":
    write_text(CARD, card(CARD.read_text(encoding="utf-8")))
