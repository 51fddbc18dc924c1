"""Records of settings that were attacked and trained, and their frontier."""

from __future__ import annotations

from typing import Any

from leakgauge import report
from leakgauge.records import Cell, Claim, Defense, Record, Training
from leakgauge.report import Frontier, Recommendation
from support.made import (
    NOT_RUN,
    blind,
    cell,
    data,
    defense,
    end,
    header,
    training,
)

HEADER = header(specification=None)
END = end()


def own(name: str, strength: float | None = None) -> Defense:
    """Return a defense at a strength, with one claim."""
    claim = Claim(
        defense=name,
        hides=f"what {name} hides",
        whom="whoever sees it",
        adversary="looks <twice>",
    )
    amount = None if strength is None else "amount"
    return defense(name, strength, amount, () if name == "none" else (claim,))


def attacked(
    name: str,
    strength: float | None,
    psnr: float | None,
    *,
    attack: str = "dlg",
    status: str = "converged",
    control: float = 8.0,
    size: int = 1,
    **changes: Any,
) -> Cell:
    """Return the record of an attack on a setting. size: the batch size."""
    scores = {"psnr": (psnr,) * size, "ssim": (0.0,) * size, "label": (1.0,) * size}
    ran = status not in NOT_RUN
    metric = changes.get("data", data())["headline"].metric
    return cell(
        **{
            "id": f"digits/b{size}/{name}/{strength}/{attack}",
            "case": "digits",
            "data": data(examples=range(size), labels=(1,) * size, label_names=("one",) * size),
            "batch_size": size,
            "defense": own(name, strength),
            "attack": {"name": attack, "repr": f"{attack}()"},
            "status": status,
            "scores": scores if ran else {},
            "control": blind() | {"scores": {metric: (control,) * size}} if ran else None,
            "found": (True,) * size if ran else (),
            "images": None,
            "cost": {"evaluations": 1, "seconds": 1.0},
        }
        | changes
    )


def trained(
    name: str,
    strength: float | None,
    accuracy: float,
    *,
    sent: int = 1000,
    seconds: float = 1.0,
    repeat: int = 0,
    **changes: Any,
) -> Training:
    """Return the record of a training under a setting. sent: bytes per round. seconds: duration of a round."""
    return training(
        **{
            "case": "digits",
            "defense": own(name, strength),
            "repeat": repeat,
            "accuracy": (0.1, accuracy),
            "sent_bytes": (sent, sent),
            "round_seconds": (seconds, seconds),
        }
        | changes
    )


def frontier(*records: Record) -> Frontier:
    """Return the only frontier of these records."""
    (found,) = report.frontiers(report.parse([HEADER, *records, END]))
    return found


def advised(*records: Record, loss: float = 0.02) -> Recommendation:
    """Return the recommendation from these records. loss: the accepted loss of accuracy."""
    return report.recommend(frontier(*records), loss)


def one(
    name: str, strength: float, psnr: float, accuracy: float, **costs: Any
) -> list[Cell | Training]:
    """Return the records of one setting: a converged attack and a training."""
    return [attacked(name, strength, psnr), trained(name, strength, accuracy, **costs)]


BARE = [attacked("none", None, 60.0), trained("none", None, 0.90)]
