"""DP-FedAvg: its bound, each client's part of the noise, the sum of all parts, and its epsilon."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from conftest import client, images, mlp
from torch import Tensor

import leakgauge as lg
from leakgauge.core import Noise
from leakgauge.defenses import DPSGD, Chain, Clipping, DPFedAvg

SEEDS = lg.Seeds(0)


def flat(update: lg.Update) -> Tensor:
    """Return all entries as one vector."""
    return torch.cat([t.flatten() for t in update.tensors.values()])


def shared(defense: lg.Defense | None, root: int = 0) -> lg.Update:
    """Return a weight difference of two local steps."""
    held = client(mlp(), defense=defense, training=lg.FedAvg(epochs=2, learning_rate=0.1))
    return held.share(held.global_model(seeds=SEEDS), images(2), seeds=lg.Seeds(root))


def test_without_noise_the_whole_weight_difference_is_clipped() -> None:
    plain = flat(shared(None))
    for norm in (0.01, 1e3):
        quiet = DPFedAvg(max_norm=norm, noise_multiplier=0.0)
        found = shared(quiet)
        assert found.kind == "delta"
        assert torch.allclose(flat(found), plain * min(1.0, norm / float(plain.norm())))
        assert torch.equal(flat(found), flat(shared(Clipping(norm=norm))))


@pytest.mark.parametrize("clients", [1, 4])
def test_each_client_adds_its_share_of_the_noise(clients: int) -> None:
    defense = DPFedAvg(max_norm=0.5, noise_multiplier=2.0, clients=clients)
    quiet = flat(shared(DPFedAvg(max_norm=0.5, noise_multiplier=0.0)))
    noise = flat(shared(defense)) - quiet
    assert defense.std == 2.0 * 0.5 / clients**0.5
    assert float(noise.std()) == pytest.approx(defense.std, rel=0.05)
    assert not torch.equal(flat(shared(defense, root=1)), quiet + noise)


def test_the_mean_of_all_clients_has_the_noise_of_the_paper_s_server() -> None:
    """The noise is z S / C. An adversary that sees the mean knows it."""
    noisy, quiet = (
        lg.Aggregator(clients=4).observe(
            client(mlp(), defense=DPFedAvg(max_norm=0.5, noise_multiplier=z, clients=4)),
            images(8),
            seeds=SEEDS,
        )
        for z in (3.0, 0.0)
    )
    assert noisy.noise is not None
    assert noisy.noise.std == pytest.approx(3.0 * 0.5 / 4)
    assert noisy.noise.law == "gaussian"
    assert quiet.noise is None
    off = flat(noisy.update) - flat(quiet.update)
    assert float(off.std()) == pytest.approx(3.0 * 0.5 / 4, rel=0.05)


def test_behind_a_chain_its_noise_is_known() -> None:
    held = client(mlp(), defense=Chain(defenses=(DPFedAvg(noise_multiplier=0.1, clients=4),)))
    assert lg.Server().observe(held, images(1), seeds=SEEDS).noise == Noise(std=0.05)


class TestEpsilon:
    def test_without_noise_there_is_none(self) -> None:
        assert DPFedAvg(noise_multiplier=0.0).epsilon(steps=1, delta=1e-5) == math.inf

    def test_without_opacus_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "opacus.accountants", None)
        with pytest.raises(lg.SpecificationError, match=r"DPFedAvg.*leakgauge\[dp\]") as caught:
            DPFedAvg().epsilon(steps=1, delta=1e-5)
        assert "\n" not in str(caught.value)

    def test_a_round_of_clients_counts_as_a_step_of_examples(self) -> None:
        pytest.importorskip("opacus")
        for rate in (1.0, 0.1):
            found = DPFedAvg(noise_multiplier=2.0).epsilon(steps=9, delta=1e-5, sample_rate=rate)
            steps = DPSGD(noise_multiplier=2.0).epsilon(steps=9, sample_rate=rate, delta=1e-5)
            assert found == steps
            # The bound of Mironov 2017 is T / (2 s^2) + sqrt(2 T log(1 / delta)) / s. Sampling only helps.
            assert 0 < found <= 9 / 8 + (18 * math.log(1e5)) ** 0.5 / 2

    def test_more_rounds_cost_more_and_more_noise_less(self) -> None:
        pytest.importorskip("opacus")
        base, longer, quieter = (
            DPFedAvg(noise_multiplier=z).epsilon(steps=rounds, delta=1e-5)
            for z, rounds in ((4.0, 1), (4.0, 10), (2.0, 1))
        )
        assert base < min(longer, quieter)

    def test_the_share_of_noise_is_no_matter_of_the_whole(self) -> None:
        pytest.importorskip("opacus")
        local, central = (DPFedAvg(clients=n).epsilon(steps=1, delta=1e-5) for n in (1, 100))
        assert local == central
