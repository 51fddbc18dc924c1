"""What an attack returns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

import torch
from torch import Tensor

from leakgauge.core.summaries import Summarized


class Status(StrEnum):
    """How an attack ended. Not reaching a solution is a status, not an exception."""

    CERTIFIED = "certified"  # proven by the update itself: reproduces it to rounding
    CONVERGED = "converged"  # the objective fell below its tolerance
    UNCONVERGED = "unconverged"  # the budget ended first
    DIVERGED = "diverged"  # the objective became non-finite
    INAPPLICABLE = "inapplicable"  # the attack's conditions do not hold here
    NO_SIGNAL = "no signal"  # every entry of the update is zero: nothing was observed
    FAILED = "failed"  # an exception ended the attack; the record gives the reason


@dataclass(frozen=True, repr=False)
class Snapshot(Summarized):
    """The iterate after `evaluations` simulated updates and `seconds`: its objective and its inputs (B, *shape)."""

    evaluations: int
    objective: float
    inputs: Tensor
    seconds: float = 0.0


@dataclass(frozen=True)
class Cost:
    """What an attack spent: simulated updates, and wall-clock seconds."""

    evaluations: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Diagnosis:
    """Whether the update identifies the batch, by the Jacobian J of the simulated update at the end.

    verdict: recovered (matched, and J tells every direction apart), collision (matched, but other
    batches nearby give the same update), stalled (not matched) or undecided (matched; J too large to
    count). J is that of the inputs, the labels held. rank counts singular values above rounding, of
    `unknowns`, and is an upper bound where not exact; condition is the ratio of the largest to the
    least of those counted.
    """

    verdict: Literal["recovered", "collision", "stalled", "undecided"]
    rank: int
    unknowns: int
    condition: float | None
    exact: bool

    @property
    def line(self) -> str:
        """For a message."""
        # The Jacobian is local: a distant batch, such as a mirror image, may give the same update.
        seen = f"{'' if self.exact else 'at most '}{self.rank} of {self.unknowns} directions"
        return f"{self.verdict}: near this batch, the update tells {seen} apart"


@dataclass(frozen=True, kw_only=True, repr=False)
class Reconstruction(Summarized):
    """A guess of the batch, in no particular order.

    inputs (B, *shape) in the domain's units; targets (B,) class indices, or None where the attack
    makes no guess; found (B,) is False where it has no guess and `inputs` holds the domain's middle;
    residual is ||g - g*|| / ||g*|| of the update that the guess would have shared, by which attacks
    compare; objectives (S,), one a restart, the attacker's own, of which `restart` is the chosen one.
    """

    inputs: Tensor
    targets: Tensor | None
    found: Tensor
    status: Status
    message: str = ""
    residual: float | None = None
    objectives: tuple[float, ...] = ()
    restart: int = 0
    trajectory: tuple[Snapshot, ...] = ()
    cost: Cost = field(default_factory=Cost)
    diagnosis: Diagnosis | None = None
    notes: tuple[str, ...] = ()

    def apart(self, device: torch.device | None = None) -> Reconstruction:
        """Return a copy that shares neither memory nor graph with this one, on `device` if one is given."""

        def copy(value: Tensor) -> Tensor:
            return value.detach().to(device or value.device, copy=True)

        return replace(
            self,
            inputs=copy(self.inputs),
            targets=None if self.targets is None else copy(self.targets),
            found=copy(self.found),
            trajectory=tuple(replace(each, inputs=copy(each.inputs)) for each in self.trajectory),
        )
