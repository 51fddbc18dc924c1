"""Sentences read exactly from text models."""

from collections.abc import Sequence

from tables import figures
from tables.columns import SECONDS
from tables.documents import Document, Row
from tables.page import Page
from tables.table import Column, Table, tabulate

NETWORKS = {
    "gpt2": "GPT-2, 12 layers",
    "gpt2 small": "GPT-2, 4 layers",
    "minilm": "MiniLM-L6",
    "stories": "LLaMA, 64 wide",
}


def trained(row: Row) -> str:
    """Return which weights are trained."""
    if not row["lora"]:
        return "all"
    return f"LoRA {row['lora']}{' after 50 steps' if row['tuned'] else ''}"


COLUMNS = [
    Column("n", figures.count("rouge1"), "sentences scored", ".0f"),
    Column("ROUGE-1", figures.mean("rouge1"), "mean ROUGE-1 in %"),
    Column("ROUGE-2", figures.mean("rouge2"), "mean ROUGE-2 in %"),
    Column("exact, %", figures.mean("exact"), "sentences read whole, in %"),
    Column("control", figures.mean("control.rouge1"), "mean ROUGE-1 of the blind guess, in %"),
    Column("tokens", figures.mean("tokens"), "mean number of tokens in the batch", ".0f"),
    SECONDS,
    Column("GiB", figures.most("peak_gib"), "most memory of the process"),
]


def lines(title: str, rows: Sequence[Row], *, altered: bool = False) -> Table:
    """Return a table with a line for each setting."""
    by = {
        "network": lambda row: NETWORKS[row["network"]],
        "data": "data",
        "trained": trained,
        "batch": "size",
    }
    return tabulate(title, rows, {"change": "altered"} if altered else by, COLUMNS)


def tables(document: Document) -> list[Table]:
    """Return whole updates, updates of adapters, and altered updates."""
    plain = [row for row in document.rows if row["altered"] == "none"]
    changed = [row for row in document.rows if row["altered"] != "none"]
    found = [
        lines("All weights shared", [row for row in plain if not row["lora"]]),
        lines("Adapters alone shared", [row for row in plain if row["lora"]]),
        lines("Altered updates of two sentences, GPT-2 of 4 layers", changed, altered=True),
    ]
    return [table for table in found if table.lines]


PAGE = Page(
    title="Sentences from text models, read exactly",
    asks="Which sentences does DAGER read from the gradients of text models?",
    short="Which sentences are read exactly from text models?",
    theme="Exact attacks",
    done=(
        "Sentences of CoLA and SST-2 with at most 32 tokens. Labels and lengths are not "
        "granted. GPT-2 has random weights and BERT's vocabulary of 30,522 pieces. MiniLM and the LLaMA "
        "(stories260K) have their own weights and a random head. The control guesses the most frequent token "
        "of other sentences at each position, at the true lengths."
    ),
    tables=tables,
    notes=(
        "DAGER's paper reports ROUGE-1 of 100 on GPT-2 with CoLA to batch 64, and 100, 100 and 94 on BERT at "
        "batch 1, 2 and 4.",
        "An adapter of rank r tells nothing if the batch has r tokens or more.",
    ),
)
