"""The expected time of the exact inversion, in simulated updates."""

from __future__ import annotations

import pytest

import leakgauge as lg
from leakgauge.analytic.convolutions.batch_norm import mixes
from leakgauge.analytic.convolutions.cost import usual_updates
from leakgauge.analytic.convolutions.tracing import trace

DOMAIN = lg.ImageDomain(3, 32, 32)


@pytest.mark.parametrize(
    ("count", "measured"),
    # Seconds of a run divided by those of a simulated update and its derivative, on one thread.
    [(2, 437)],
)
def test_train_mode_takes_as_long_as_measured(count: int, measured: int) -> None:
    model = lg.models.build(lg.models.resnet18, DOMAIN, 10)
    steady, mixing = trace(model.eval(), DOMAIN), trace(model.train(), DOMAIN)
    assert not isinstance(steady, lg.Inapplicable)
    assert not isinstance(mixing, lg.Inapplicable)
    assert (mixes(steady), mixes(mixing)) == (False, True)
    expected = usual_updates(mixing, count, steps=30)
    assert measured / 2 < expected < 2 * measured
    assert expected > 4 * usual_updates(steady, count, steps=30)
