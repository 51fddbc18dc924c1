"""How private noise makes: Mironov: Renyi Differential Privacy, CSF 2017; of samples, Mironov, Talwar, Zhang: Renyi
Differential Privacy of the Sampled Gaussian Mechanism, arXiv:1908.10530. Computed by Opacus.
"""

from __future__ import annotations

import math

from leakgauge.core import SpecificationError


def rdp_epsilon(
    noise_multiplier: float, *, steps: int, sample_rate: float, delta: float, of: str
) -> float:
    """Epsilon of (epsilon, delta)-differential privacy after so many Gaussian mechanisms, by Opacus' RDP accountant.

    `noise_multiplier`: the noise's standard deviation over what one participant can change. `sample_rate` in (0, 1]:
    with which probability each takes part, drawn for each by itself. Infinite without noise. Raises
    SpecificationError, in the name of `of`, without the package opacus.
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
