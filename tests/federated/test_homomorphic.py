"""Homomorphic encryption gives exactly the mean of secure aggregation. One client's ciphertexts reveal nothing."""

from __future__ import annotations

import sys

import pytest
import torch
from conftest import client, images, mlp, psnr
from scipy import stats
from torch import Tensor

import leakgauge as lg
from leakgauge.attacks import LinearLayer
from leakgauge.federated import CKKS, HomomorphicEncryption, SecureAggregation, WeightedMean
from leakgauge.federated.aggregation.finite_field import FixedPoint

SEEDS = lg.Seeds(0)
SMALL = CKKS()
LARGE = CKKS(degree=8192, primes=(60, 40, 40, 60))


def random_updates(clients: int, size: int = 3000, seed: int = 0) -> list[lg.Update]:
    """Return random updates of two tensors, too large for one ciphertext."""
    generator = torch.Generator().manual_seed(seed)
    return [
        lg.Update(
            {
                "a": torch.randn(size // 3, 3, generator=generator),
                "b": torch.randn(7, generator=generator),
            }
        )
        for _ in range(clients)
    ]


class TestParameters:
    @pytest.mark.parametrize(
        ("degree", "primes"),
        [(4096, (60, 50)), (2048, (27, 27)), (4096, (60,)), (8192, (61, 40)), (8192, (60,) * 4)],
    )
    def test_below_128_bits_they_are_refused(self, degree: int, primes: tuple[int, ...]) -> None:
        with pytest.raises(lg.SpecificationError, match="109 at degree 4096") as caught:
            CKKS(degree=degree, primes=primes)
        assert "\n" not in str(caught.value)

    def test_sums_without_room_are_refused(self) -> None:
        assert SMALL.unit(2**39, 5) >= 2 * 8 * SMALL.spread(5)
        with pytest.raises(lg.UpdateError, match="lower bits"):
            SMALL.unit(2**47, 5)
        assert LARGE.unit(2**47, 5) == 2.0**40

    def test_without_tenseal_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tenseal", None)
        with pytest.raises(lg.SpecificationError, match=r"leakgauge\[he\]") as caught:
            HomomorphicEncryption()(random_updates(1), [1], seeds=SEEDS)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module", autouse=False)
def tenseal() -> None:
    """Skip the test if the extra `he` is not installed."""
    pytest.importorskip("tenseal.sealapi", reason="needs leakgauge[he]")


@pytest.mark.usefixtures("tenseal")
class TestMean:
    @pytest.mark.parametrize("ckks", [SMALL, LARGE])
    @pytest.mark.parametrize("counts", [[1], [1, 1, 1, 1, 1], [3, 1, 4]])
    def test_is_that_of_secure_aggregation_bit_for_bit(self, ckks: CKKS, counts: list[int]) -> None:
        updates = random_updates(len(counts))
        fixed = FixedPoint(bits=28)
        found = HomomorphicEncryption(fixed=fixed, ckks=ckks).run(updates, counts, seeds=SEEDS)
        masked = SecureAggregation(fixed=fixed)(updates, counts, seeds=SEEDS)
        plain = WeightedMean()(updates, counts, seeds=SEEDS)
        for name, tensor in found.update.tensors.items():
            assert torch.equal(tensor, masked.tensors[name])
            assert float((tensor - plain.tensors[name]).abs().max()) <= fixed.step / 2 + 1e-6
        assert 0 < found.off < 0.1
        assert found.encrypted > 10 * found.plain

    def test_its_error_is_as_large_as_foreseen(self) -> None:
        """The largest of 3000 normal numbers is close to 3.5 standard deviations."""
        found = HomomorphicEncryption().run(random_updates(5), [1] * 5, seeds=SEEDS)
        spread = SMALL.spread(5) / SMALL.unit(FixedPoint().levels * 5, 5)
        assert 2 * spread < found.off < 6 * spread

    def test_same_seed_same_ciphertexts_other_seed_others(self) -> None:
        (update,) = random_updates(1)
        one, same, other = (
            HomomorphicEncryption().conceal(update, 1, clients=3, seeds=lg.Seeds(seed))
            for seed in (0, 0, 1)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_the_global_generator_is_untouched(self) -> None:
        before = torch.random.get_rng_state()
        HomomorphicEncryption()(random_updates(2), [1, 1], seeds=SEEDS)
        assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.usefixtures("tenseal")
class TestCiphertextAlone:
    def test_looks_uniform_whatever_is_inside(self) -> None:
        for value in (0.0, 3.0, -16.0):
            update = lg.Update({"a": torch.full((32_000,), value)})
            seen = HomomorphicEncryption().conceal(update, 1, clients=3, seeds=SEEDS)
            assert seen.shape == (32_000,)
            counts = torch.histc(seen, 64, min=-1, max=1).numpy()
            assert stats.chisquare(counts).pvalue > 1e-3

    def test_equal_parts_are_encrypted_apart(self) -> None:
        """With one seed for both, two ciphertexts of the same numbers would be equal."""
        update = lg.Update({"a": torch.ones(2 * SMALL.slots)})
        seen = HomomorphicEncryption().conceal(update, 1, clients=1, seeds=SEEDS)
        first, second = seen.chunk(2)
        assert not bool((first == second).any())

    def test_an_attack_on_it_is_as_good_as_blind(self) -> None:
        """An attack on the decrypted mean recovers the batch."""

        def scores(threat: lg.ThreatModel) -> tuple[Tensor, Tensor]:
            own, others = [], []
            for seed in range(8):
                batch, decoy = images(1, seed=seed), images(1, seed=100 + seed)
                for truth, found in ((batch, own), (decoy, others)):
                    seen = threat.observe(client(mlp()), truth, seeds=lg.Seeds(seed))
                    guess = LinearLayer()(seen, seeds=lg.Seeds(seed))
                    found.append(psnr(batch.inputs, guess.inputs.clamp(0, 1))[0])
            return torch.stack(own), torch.stack(others)

        own, blind = scores(lg.EncryptedUpdate(clients=4))
        assert float(own.max()) < 15
        assert abs(float(own.mean() - blind.mean())) < 1
        own, blind = scores(lg.HomomorphicAggregator(clients=1))
        assert float(own.min()) > 40 > float(blind.max())

    def test_it_observes_no_more_than_the_mean(self) -> None:
        batch = images(4)
        secure, homomorphic = (
            threat.observe(client(mlp()), batch, seeds=SEEDS).update.tensors
            for threat in (lg.SecureAggregator(clients=2), lg.HomomorphicAggregator(clients=2))
        )
        assert all(torch.equal(t, homomorphic[n]) for n, t in secure.items())
