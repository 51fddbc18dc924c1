"""APRIL: vision transformers in closed form."""

from tables.columns import SECONDS, control, count, labels_right, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, split

DETERMINED = Column(
    "determined",
    lambda rows: sum("the patches are determined" in row["message"] for row in rows),
    "images whose patches are determined by the equations, as the attack says",
    ".0f",
)
COLUMNS = [count(), DETERMINED, *score(), control(), labels_right(), SECONDS]
DESIGN = {"plain": "without normalization", "pre_norm": "with normalization"}


def tables(document: Document) -> list[Table]:
    """Return one table for each way to the patches, design and precision."""
    by: dict[str, object] = {"readout": "readout", "depth": "depth", "dimension": "dim"}
    closed = [row for row in document.rows if not row["attack"].startswith("matching")]
    found = split(closed, title, str, by, COLUMNS)
    matching = [row for row in document.rows if row["attack"].startswith("matching")]
    by = {"attack": "attack", "design": lambda row: DESIGN[row["style"]]}
    return found + split(matching, "precision", lambda _: "Optimization, float32", by, COLUMNS)


def title(row: Row) -> str:
    """Return the heading of a row's table."""
    way = {"attention": "First attention", "embedding": "Patch embedding"}[row["attack"]]
    return f"{way}, {DESIGN[row['style']]}, {row['precision']}"


PAGE = Page(
    title="APRIL: images of a vision transformer in closed form",
    asks="When does the gradient of a vision transformer determine its input image?",
    short="When does a vision transformer's gradient determine its image?",
    theme="Exact attacks",
    done=(
        "An untrained transformer with learned position embeddings sees one CIFAR-10 image as 8 x "
        "8 patches of 4 x 4 pixels. The closed form uses the gradient of the first attention (the "
        "paper's way) or of the patch embedding (ours). "
        "The control is the same reconstruction scored against the next image."
    ),
    tables=tables,
    plot=Plot(
        across="dimension",
        tables=(0, 1, 2, 3),
        alt="PSNR against the dimension of the transformer, by readout and depth, with the control dotted",
    ),
    notes=(
        "`determined` is the attack's own statement, from the ranks of its equations.",
        "`readout`: the last layer reads the mean over tokens, or the class token. `depth` is the "
        "number of blocks, `dimension` the length of a token.",
        "PSNR is capped at 200 dB.",
        "Design (A) of the paper has no normalization before its first attention.",
        "Transformers without skip connections attend to all tokens almost equally. "
        "The singular values of the positional gradient then fall below the precision of float32.",
        "The optimization (`matching`) runs on the same updates. With `direction`, its objective "
        "has a term for the direction of the position embedding's gradient.",
    ),
)
