"""Defenses of the data."""

from tables import figures
from tables.columns import adversaries
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, split

KEYS = ("defense", "size", "commit")
SSIM = [
    Column(
        f"{who} SSIM",
        figures.where("kind", who, figures.mean("ssim")),
        "mean structural similarity over images (1 for equal images)",
        ".3f",
    )
    for who in ("naive", "adaptive")
]


def reshaped(document: Document) -> list[Row]:
    """Return one row for each adversary. The time of the shared search counts for both."""
    return [
        row[who]
        | {key: row[key] for key in KEYS}
        | {"kind": who, "cpu_seconds": row["cpu_seconds"]}
        for row in document.rows
        for who in ("naive", "adaptive")
        if who in row
    ]


def tables(document: Document) -> list[Table]:
    """Return one table for each batch size."""
    return split(
        reshaped(document),
        "size",
        "Batches of {}".format,
        {"defense": "defense"},
        [*adversaries(reshaped(document), "kind"), *SSIM],
        lambda row: row["size"],
    )


PAGE = Page(
    title="Defenses of the data: ATS, pixel and patch dropout",
    asks="What do defenses that change the data hide from a naive and from an adaptive adversary?",
    short="What do ATS, pixel and patch dropout hide, and from whom?",
    theme="Defenses",
    done=(
        "The model is LeNet. Labels are granted without their order. Both adversaries use the "
        "result of the same second-order search. "
        "The control is the same reconstruction scored against other images of the same labels."
    ),
    tables=tables,
    plot=Plot(
        value="adaptive dB",
        other="naive dB",
        control="adaptive control dB",
        other_control="naive control dB",
        deviation="adaptive SD",
        low="adaptive Q1",
        high="adaptive Q3",
        keys=1,
        alt="PSNR of the naive and of the adaptive adversary under each defense, with the control",
    ),
    notes=(
        "`naive` takes the client's changed images for the private ones.",
        "`adaptive` knows the defense, and undoes or fills in its change in the same search result.",
        "Without a defense there is nothing to know, so there is no adaptive attack.",
        "The run was cut before its last rows, which have batches of 2.",
        "The search is shorter than the attack's default. Without a defense, it still reaches more "
        "than 60 dB at batch 1, and more than 40 dB at batch 2.",
    ),
    takes="15 min, on a machine with other processes",
)
