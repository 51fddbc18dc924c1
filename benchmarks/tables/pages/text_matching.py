"""Sentences from gradient matching."""

from collections.abc import Sequence

from tables import figures
from tables.columns import SECONDS
from tables.documents import Document, Row
from tables.figures import Figure
from tables.page import Page
from tables.table import Column, Table, tabulate

NETWORKS = {
    "bert": "BERT, 2 layers, random weights",
    "minilm": "MiniLM-L6",
    "masked": "BERT as a masked language model",
}
COLUMNS = [
    Column("n", figures.count("found.rouge1"), "sentences scored", ".0f"),
    Column("ROUGE-1", figures.mean("found.rouge1"), "mean ROUGE-1 in %"),
    Column("ROUGE-2", figures.mean("found.rouge2"), "mean ROUGE-2 in %"),
    Column("ROUGE-L", figures.mean("found.rouge_l"), "mean ROUGE-L in %"),
    Column("tokens, %", figures.mean("found.token_accuracy"), "tokens at their places, in %"),
    Column("exact, %", figures.mean("found.exact"), "sentences read whole, in %"),
    Column("control", figures.mean("control.rouge1"), "mean ROUGE-1 of the blind guess, in %"),
    Column("evaluations", figures.mean("evaluations"), "mean number of evaluations", ".0f"),
    SECONDS,
]
STAGES = (0, 10, 50, 100, 200, 400)
"""Evaluations after which the tokens are counted."""


def after(count: int) -> Figure:
    """Return the mean share of tokens, in %, that a search had read after some evaluations."""

    def figure(rows: Sequence[Row]) -> float | None:
        shares = [[share for done, share in row["trajectory"] if done <= count][-1] for row in rows]
        return 100 * float(sum(shares)) / len(shares)

    return figure


def tables(document: Document) -> list[Table]:
    """Return the scores, and the tokens of DLG by evaluation."""
    by = {"network": lambda row: NETWORKS[row["network"]], "attack": "attack", "batch": "size"}
    masked = [row for row in document.rows if row["network"] == "masked"]
    stages = [Column(str(n), after(n), f"tokens read after {n} evaluations, in %") for n in STAGES]
    counted = [Column("n", figures.length, "sentences scored", ".0f"), *stages]
    found = [tabulate("Sentences of CoLA", document.rows, by, COLUMNS)]
    if masked:
        title = "DLG on a masked language model, by evaluations"
        found.append(tabulate(title, masked, {"attack": "attack"}, counted))
    return found


PAGE = Page(
    title="Sentences from gradient matching",
    asks="Which words and sentences do DLG, TAG, LAMP and TIGER read from the gradients of encoders?",
    short="Which words does gradient matching read from encoders?",
    theme="What leaks",
    done=(
        "Sentences of CoLA with at most 32 tokens. Labels, lengths, [CLS] and [SEP] are known, as in the papers. "
        "MiniLM has its own weights and a random head, the small BERT random weights. Adam takes 500 steps on BERT and "
        "150 on MiniLM, where the papers take 1000 (TAG) and 2000 (LAMP). LAMP has 50 starts and 20 moves at a time, "
        "where the paper has 500 and 200. The control guesses the most frequent token of other sentences at each "
        "position, at the true lengths."
    ),
    tables=tables,
    notes=(
        "The paper of LAMP reports ROUGE-1 of 89.6, 77.8 and 66.2 for LAMP on a trained BERT of 12 layers at batch 1, "
        "2 and 4, and of 78.9, 68.9 and 56.3 for TAG.",
        "Every attack rounds to the bag of words, the tokens whose embeddings have a gradient.",
        "A masked language model ties its embedding, so it has no bag of words here.",
    ),
)
