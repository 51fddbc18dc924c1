"""Records.

An audit writes one record on each line of a file, and the report reads them by the same schema.

A file `records.jsonl` holds a `Header` first. Then comes one line for each `Cell` and each
`Training`, in the order in which they were finished, and an `End`. docs/records.md describes every
field.
"""

from leakgauge.records.cell import (
    PSNR_CAP,
    Attack,
    Cell,
    Column,
    Control,
    Data,
    Described,
    Ended,
    Headline,
    Moment,
    Rows,
    Sides,
    Threat,
    Verdict,
)
from leakgauge.records.end import End
from leakgauge.records.header import (
    SCHEMA_VERSION,
    Header,
    Inspected,
    Machine,
    Rule,
    Threads,
    Versions,
)
from leakgauge.records.mistakes import mistake_of
from leakgauge.records.parts import Claim, Cost, Defense, Failure, Network, Protocol
from leakgauge.records.reading import read, record_of
from leakgauge.records.schema import Record, json_schema
from leakgauge.records.sentences import Reading, Sentence, Sentences, Token
from leakgauge.records.training import DescribedTraining, Epsilon, Examples, Federation, Training
from leakgauge.records.writing import FILE, line_of

__all__ = [
    "FILE",
    "PSNR_CAP",
    "SCHEMA_VERSION",
    "Attack",
    "Cell",
    "Claim",
    "Column",
    "Control",
    "Cost",
    "Data",
    "Defense",
    "Described",
    "DescribedTraining",
    "End",
    "Ended",
    "Epsilon",
    "Examples",
    "Failure",
    "Federation",
    "Header",
    "Headline",
    "Inspected",
    "Machine",
    "Moment",
    "Network",
    "Protocol",
    "Reading",
    "Record",
    "Rows",
    "Rule",
    "Sentence",
    "Sentences",
    "Sides",
    "Threads",
    "Threat",
    "Token",
    "Training",
    "Verdict",
    "Versions",
    "json_schema",
    "line_of",
    "mistake_of",
    "read",
    "record_of",
]
