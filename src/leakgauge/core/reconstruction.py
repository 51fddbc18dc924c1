"""The result of an attack: its reconstruction, status, cost and diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

import torch
from torch import Tensor

from leakgauge.core.summaries import Summarized, brief


class Status(StrEnum):
    """How an attack ended. An attack that finds no solution returns a status, not an exception.

    The values are:

    - `CERTIFIED`: an exact method proves the whole batch, and the residual is at most 1e-4.
    - `CONVERGED`: the update is matched: the residual is at most 1e-3, without this proof.
    - `UNCONVERGED`: the update is not matched, or not known to be.
    - `DIVERGED`: the objective became NaN or infinite.
    - `INAPPLICABLE`: the conditions of the attack are not met here.
    - `NO_SIGNAL`: every entry of the update is zero, so nothing was observed.
    - `FAILED`: an exception ended the attack. The record gives the reason.
    """

    CERTIFIED = "certified"
    CONVERGED = "converged"
    UNCONVERGED = "unconverged"
    DIVERGED = "diverged"
    INAPPLICABLE = "inapplicable"
    NO_SIGNAL = "no signal"
    FAILED = "failed"


@dataclass(frozen=True, repr=False)
class Snapshot(Summarized):
    """The state of a search at one point of its trajectory.

    Args:
        evaluations: Number of simulated updates so far.
        objective: The attacker's own objective.
        inputs: The reconstruction at this point, `(B, *shape)` in the domain's units.
        seconds: Time since the search began, by the clock.
    """

    evaluations: int
    objective: float
    inputs: Tensor
    seconds: float = 0.0


@dataclass(frozen=True)
class Cost:
    """What an attack spent.

    Args:
        evaluations: Number of simulated updates.
        seconds: Time by the clock, in seconds.
    """

    evaluations: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Diagnosis:
    """Whether the update identifies the batch, judged by the Jacobian J at the end of the search.

    J holds the derivatives of the simulated update with respect to the inputs, at fixed labels.

    Args:
        verdict: "recovered": the update is matched, and J distinguishes all directions.
            "collision": the update is matched, but other batches nearby give the same update.
            "stalled": the update is not matched. "undecided": the update is matched, but J is too
            large to count its rank.
        rank: Number of singular values of J above rounding. It is an upper bound unless `exact`.
        unknowns: Number of unknown values, the largest possible rank.
        condition: Ratio of the largest singular value to the smallest one that `rank` counts, or
            None if it is not known.
        exact: Whether the rank is exact.
    """

    verdict: Literal["recovered", "collision", "stalled", "undecided"]
    rank: int
    unknowns: int
    condition: float | None
    exact: bool

    @property
    def line(self) -> str:
        """The verdict and the rank in one line, for a message."""
        # The Jacobian is local. A distant batch, such as a mirror image, may give the same update.
        seen = f"{'' if self.exact else 'at most '}{self.rank} of {self.unknowns} directions"
        return f"{self.verdict}: near this batch, the update distinguishes {seen}"


@dataclass(frozen=True, kw_only=True, repr=False)
class Reconstruction(Summarized):
    """The batch as an attack reconstructs it, in no particular order.

    Every attack returns it. Compare it with the private batch by `leakgauge.metrics`.

    Args:
        inputs: Reconstructed examples `(B, *shape)` in the domain's units.
        targets: Reconstructed class indices (B,), or None if the attack does not reconstruct them.
        found: Whether the attack reconstructed each example (B,). Where it is False, `inputs` holds
            the middle of the domain. `inputs[found]` are the estimated examples.
        status: How the attack ended.
        message: Details of the result in words. The default is empty.
        residual: Distance `||g - g*|| / ||g*||` between the update g of this reconstruction and the
            observed update g*. Attacks compare reconstructions by it. None, the default, if the
            whole update was not simulated.
        objectives: Final objective of each restart (S,), the attacker's own.
        restart: Index of the chosen restart, from 0.
        trajectory: Snapshots along the search, first to last.
        cost: Simulated updates and seconds that the attack spent.
        diagnosis: Whether the update identifies the batch. None, the default, if this was not
            examined.
        notes: Facts that a reader of the result should know, one line each.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=2)
        >>> found = lg.attacks.LinearLayer()(observation, seeds=lg.Seeds(0))
        >>> found.status, found.found.tolist()
        (<Status.CERTIFIED: 'certified'>, [True, True])
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

    def __repr__(self) -> str:
        """Return the class and one line for each field, with the number of examples that were found."""
        text = super().__repr__()
        if not isinstance(self.found, Tensor):
            return text
        count = f"{int(self.found.sum())} of {len(self.found)} examples"
        return text.replace(f"    found={brief(self.found)},", f"    found={count},", 1)

    def apart(self, device: torch.device | None = None) -> Reconstruction:
        """Return a copy that shares neither memory nor graph with this one.

        Args:
            device: Device of the copy. By default each tensor stays on its own.
        """

        def copy(value: Tensor) -> Tensor:
            """Return the values of a tensor in new memory."""
            return value.detach().to(device or value.device, copy=True)

        return replace(
            self,
            inputs=copy(self.inputs),
            targets=None if self.targets is None else copy(self.targets),
            found=copy(self.found),
            trajectory=tuple(replace(each, inputs=copy(each.inputs)) for each in self.trajectory),
        )
