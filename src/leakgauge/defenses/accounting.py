"""Privacy accounting for noisy updates, with the RDP accountant of Opacus."""

from __future__ import annotations

import math

from leakgauge.core import SpecificationError


def rdp_epsilon(
    noise_multiplier: float, *, steps: int, sample_rate: float, delta: float, of: str
) -> float:
    """Return the epsilon of (epsilon, delta)-differential privacy after `steps` Gaussian mechanisms.

    The RDP accountant of Opacus computes it. Epsilon is infinite if there is no noise.

    Args:
        noise_multiplier: Standard deviation of the noise, at least 0, in units of the largest change
            that one participant can cause.
        steps: Number of times that the Gaussian mechanism runs, at least 1.
        sample_rate: Probability in (0, 1] that a participant takes part in one step. Each
            participant is drawn independently.
        delta: Probability in (0, 1) with which the bound may fail.
        of: Name of the defense, for the error message.

    Raises:
        SpecificationError: The package opacus cannot be imported.

    References:
        Mironov. Rényi Differential Privacy. CSF 2017. arXiv:1702.07476.

        Mironov, Talwar, Zhang. Rényi Differential Privacy of the Sampled Gaussian Mechanism. 2019.
        arXiv:1908.10530.
    """
    if noise_multiplier == 0:
        return math.inf
    try:
        from opacus.accountants import RDPAccountant
    except ImportError as error:
        raise SpecificationError(
            f"{of}.epsilon",
            expected="the package opacus",
            found="none that can be imported",
            remedy="install it: pip install 'leakgauge[dp]'",
        ) from error
    accountant = RDPAccountant()
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    return float(accountant.get_epsilon(delta))
