"""Complete records for tests, with changed fields. A verdict follows from the scores unless it is given."""

from __future__ import annotations

from typing import Any

from leakgauge.metrics.leak import IMAGE_RULE, TABLE_RULE, LeakRule
from leakgauge.modalities.image import ImageModality
from leakgauge.modalities.table import TableModality
from leakgauge.records import (
    Cell,
    Claim,
    Column,
    Defense,
    End,
    Header,
    Record,
    Rule,
    Training,
    Verdict,
    record_of,
)

DECIBELS, SHARE = ImageModality.headline, TableModality.headline
COLUMNS = (
    Column(name="age", unit="years", low=0, high=120, decimals=0, tolerance=1.2),
    Column(name="glucose", unit="mmol/L", low=2, high=30, decimals=1, tolerance=0.28),
)
RULES = tuple(Rule(name=rule.name, text=rule.text) for rule in (IMAGE_RULE, TABLE_RULE))
NOT_RUN = ("inapplicable", "no signal", "failed")


def made(kind: type[Record], fields: dict[str, Any]) -> Any:
    """Return a record of one type, checked like a record from a file."""
    found = record_of(fields)
    assert isinstance(found, kind)
    return found


def header(**changes: Any) -> Header:
    """Return a header of one planned cell."""
    versions = {"leakgauge": "0.1.0", "torch": "2.13.0", "numpy": "2.3.0", "python": "3.11.2"}
    machine = {
        "system": "Linux x86_64",
        "processor": "A processor",
        "instructions": "AVX2",
        "cores": 2,
        "device": "cpu",
        "workers": 1,
        "threads": {"each_cell": 1, "interop": 2},
        "libraries": {"MKL": "2024.2"},
        "environment": {},
    }
    record = {
        "type": "header",
        "schema_version": 3,
        "specification": 'seed = 0\nname = "<quick & small>"\n',
        "settings": [],
        "seed": 0,
        "command": "leakgauge audit",
        "versions": versions,
        "machine": machine,
        "started": "2026-11-21T02:00:00+00:00",
        "planned": 1,
        "trainings_planned": 0,
        "rules": RULES,
    }
    found: Header = made(Header, record | changes)
    return found


def end(**changes: Any) -> End:
    """Return the end of a run of one cell."""
    record = {
        "type": "end",
        "completed": 1,
        "planned": 1,
        "trainings_completed": 0,
        "trainings_planned": 0,
        "failed": 0,
        "interrupted": False,
        "seconds": 3.2,
    }
    found: End = made(End, record | changes)
    return found


def defense(
    name: str = "none",
    strength: float | str | None = None,
    strength_name: str | None = None,
    claims: tuple[Claim, ...] = (),
    repr_: str | None = None,
) -> Defense:
    """Return a defense at one strength."""
    default = "none" if name == "none" else f"{name}({strength})"
    return Defense(
        name=name,
        repr=default if repr_ is None else repr_,
        strength_name=strength_name,
        strength=None if isinstance(strength, str) else strength,
        strength_text=None if strength is None else str(strength),
        claims=claims,
    )


def data(kind: str = "image", **changes: Any) -> dict[str, Any]:
    """Return the fields of a record about private data of one example."""
    table = kind == "table"
    return {
        "name": "patients" if table else "photos",
        "kind": kind,
        "licence": "CC0",
        "examples": (0,) if table else (3,),
        "labels": (3,),
        "label_names": () if table else ("cat",),
        "columns": COLUMNS if table else None,
        "headline": SHARE if table else DECIBELS,
        "layout": "rows" if table else "pictures",
    } | changes


def verdict_of(fields: dict[str, Any]) -> Verdict:
    """Return the verdict of an audit on a cell with these fields."""
    kind, ran = fields["data"]["kind"], fields["status"] not in NOT_RUN
    rule: LeakRule | None = {"image": IMAGE_RULE, "table": TABLE_RULE}.get(kind)
    control = fields["control"]["scores"] if fields["control"] else {}
    each: tuple[bool | None, ...] = ()
    if ran:
        none = (None,) * len(fields["found"])
        each = (
            rule.judge(fields["scores"], control, fields["found"], better="higher")
            if rule
            else none
        )
    known = [leaked for leaked in each if leaked is not None]
    return Verdict(
        rule=rule.name if rule else None,
        leaks=any(known) if known else None,
        per_example=each,
        floor=rule.floor if rule else None,
        margin=rule.margin if rule else None,
        why=f"{sum(known)} of {len(known)} examples leaked",
    )


def cell(psnr: float | None = 40.0, control: float | None = 8.0, /, **changes: Any) -> Cell:
    """Return a cell of one image with its PSNR and the blind control's, in dB."""
    seen = psnr is not None and psnr >= 20
    record = {
        "type": "cell",
        "index": 0,
        "id": "photographs/b1/none/dlg",
        "case": "photographs",
        "seed": 0,
        "batch_size": 1,
        "repeat": 0,
        "data": data(),
        "model": {"name": "lenet", "parameters": 15826},
        "protocol": {
            "name": "fedsgd",
            "repr": "FedSGD()",
            "kind": "gradient",
            "local_epochs": 1,
            "local_steps": 1,
        },
        "defense": defense(),
        "attack": {"name": "dlg", "repr": "DLG()"},
        "threat": {"name": "server", "grants": ("batch_size",), "always": ("model", "update")},
        "status": "converged",
        "scores": {"psnr": (psnr,), "ssim": (0.9 if seen else 0.1,), "label": (1.0,)},
        "control": blind(psnr=control),
        "found": (True,),
        "images": {"original": ["a.png"], "reconstruction": ["b.png"], "control": ["c.png"]},
        "cost": {"evaluations": 1200, "seconds": 4.1},
    } | changes
    found: Cell = made(Cell, {"verdict": verdict_of(record)} | record)
    return found


def blind(status: str = "converged", **scores: float | None) -> dict[str, Any]:
    """Return a blind control of one example with these scores."""
    each = {name: (value,) for name, value in scores.items()}
    return {"kind": "other data", "scores": each, "status": status, "message": ""}


def defended(strength: float | str, psnr: float | None, **changes: Any) -> Cell:
    """Return a cell under noise of this strength."""
    noise = defense("noise", strength, "std", repr_="Noise()")
    return cell(psnr, **({"id": f"photographs/b1/{strength}/dlg", "defense": noise} | changes))


def table(**changes: Any) -> Cell:
    """Return a cell of one table row. Its age is recovered, its glucose is not."""
    rows = {"original": [[54, 6.1]], "reconstruction": [[54.2, 9.9]], "control": [[70, 12.0]]}
    scores = {"psnr": (30.0,), "columns_read": (0.5,), "label": (None,)}
    own = {
        "data": data("table"),
        "rows": rows,
        "scores": scores,
        "images": None,
        "control": blind(columns_read=0.0),
    }
    return cell(**(own | changes))


def inapplicable(**changes: Any) -> Cell:
    """Return a cell whose attack could not run."""
    nothing = {"scores": {}, "images": None, "control": None, "found": (), "cost": {}}
    message = "a batch of one is needed; this holds <8>"
    told = {"id": "photographs/b8/none/idlg", "status": "inapplicable", "message": message}
    return cell(**(told | nothing | changes))


def failed(**changes: Any) -> Cell:
    """Return a cell that an exception ended."""
    failure = {"step": "attack", "reason": "ValueError: no", "log": "failures/000.log"}
    told = {"status": "failed", "message": "the attack failed: ValueError: no", "failure": failure}
    return inapplicable(**(told | changes))


def training(**changes: Any) -> Training:
    """Return a training without a defense."""
    record = {
        "type": "training",
        "index": 100,
        "id": "100/photographs/utility/r0/none",
        "case": "photographs",
        "seed": 0,
        "repeat": 0,
        "model": {"name": "lenet", "parameters": 15826},
        "protocol": {
            "name": "fedsgd",
            "repr": "FedSGD()",
            "kind": "gradient",
            "local_epochs": 1,
            "local_steps": 1,
        },
        "defense": defense(),
        "federation": {
            "clients": 5,
            "rounds": 2,
            "alpha": 0.5,
            "examples": None,
            "server_lr": 1.0,
        },
        "status": "trained",
        "trained_on": {"name": "digits", "count": 1000},
        "tested_on": {"name": "digits", "count": 400},
        "accuracy": (0.1, 0.9),
        "sent_bytes": (1000, 1000),
        "round_seconds": (1.0, 1.0),
        "sizes": (200,) * 5,
    } | changes
    found: Training = made(Training, record)
    return found
