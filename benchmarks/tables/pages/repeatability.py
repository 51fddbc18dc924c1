"""Repeatability of a run."""

from tables import figures
from tables.documents import Document
from tables.page import Page
from tables.table import Column, Table, tabulate


def tables(document: Document) -> list[Table]:
    """Return one table."""
    columns = [
        Column("records", figures.total("records"), "records of a run", ".0f"),
        Column("images", figures.total("images"), "images of a run", ".0f"),
        Column(
            "fields differ",
            figures.total("fields"),
            "fields of records that differ, times aside",
            ".0f",
        ),
        Column(
            "images differ",
            lambda rows: sum(len(row["images_that_differ"]) for row in rows),
            "images that differ in a byte",
            ".0f",
        ),
    ]
    by = {"against the first run": "comparison", "must repeat": "must_repeat"}
    return [tabulate("Second runs", document.rows, by, columns)]


PAGE = Page(
    title="Repeatability",
    asks="Does the same seed on the same machine give the same records and images, byte for byte?",
    short="Does the same seed give the same records and images?",
    theme="Cost and quality of the tool",
    done=(
        "A small audit runs again in another process, with one worker, with two, and with another seed. "
        "No attack is measured, so there is no control."
    ),
    tables=tables,
    notes=(
        "The first run has one worker.",
        "A run with another seed must differ, the others must not. The script exits with 1 if either does not hold.",
        "The data are the photographs, unless `--data` is given, and diabetes records.",
    ),
    takes="minutes, not recorded",
)
