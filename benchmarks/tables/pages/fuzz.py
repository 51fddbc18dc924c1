"""Hostile inputs."""

from tables import figures
from tables.documents import Document
from tables.page import Page
from tables.table import Column, Table, tabulate

WHAT = {
    "mutants": "mutants read as the command reads them",
    "success": "mutants that were accepted",
    "refused": "mutants that were refused in one line",
    "measuring": "valid and large specifications, still computing an update of their own model at the limit",
    "traceback": "mutants that ended in another exception, a dead process, a warning or a line that is not printable",
    "hung": "mutants that took over 10 seconds of the processor, or 60 by the clock",
    "wrote": "mutants that wrote a file",
}


def tables(document: Document) -> list[Table]:
    """Return one table."""
    columns = [Column(name, figures.total(name), about, ".0f") for name, about in WHAT.items()]
    longest = Column("longest s", figures.most("seconds"), "seconds of the slowest mutant")
    rows = [row for row in document.rows if "kind" in row]
    return [tabulate("Mutants by kind", rows, {"kind": "kind"}, [*columns, longest])]


PAGE = Page(
    title="Hostile inputs",
    asks="Does the command accept or refuse every hostile input, without a traceback, a hang or a write?",
    short="Does every hostile input end in success or one clear line?",
    theme="Cost and quality of the tool",
    done=(
        "Mutants of specifications, archives, images, updates and weights are read up to the first cell. "
        "Writes are found by Python's audit events, and by comparing the folder before and after. "
        "No attack runs, so there is no control."
    ),
    tables=tables,
    notes=(
        "Success, or one line with our message, is correct. Everything else is a fault.",
        "`benchmarks/fuzz_mutants.py` and `benchmarks/fuzz_records.py` make the mutants from the seed.",
        "The script now also makes 2,000 mutants of records. They are not in these results.",
    ),
    takes="27 min by the clock, on two cores shared with other work",
)
