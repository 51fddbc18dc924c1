"""Secure aggregation gives the sum up to rounding, also if clients drop out. It reveals no single client."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from conftest import client, images, mlp, psnr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import leakgauge as lg
from leakgauge.attacks import LinearLayer
from leakgauge.federated import SecureAggregation, WeightedMean
from leakgauge.federated.aggregation.finite_field import (
    MODULUS,
    FixedPoint,
    subtract,
    to_field,
    to_integers,
)
from leakgauge.federated.aggregation.masking import KeyPair, draw_key, mask, seal, unseal
from leakgauge.federated.aggregation.secret_sharing import PRIME, join, split
from leakgauge.federated.aggregation.secure_aggregation import unmasked_sum

SEEDS = lg.Seeds(0)


def random_updates(count: int, *, size: int = 40, seed: int = 0) -> list[lg.Update]:
    """Return gradients of two tensors with normal entries."""
    generator = torch.Generator().manual_seed(seed)
    return [
        lg.Update(
            {
                "w": torch.randn((size, 5), generator=generator),
                "b": torch.randn(size, generator=generator),
            }
        )
        for _ in range(count)
    ]


def largest_difference(one: lg.Update, other: lg.Update) -> float:
    """Return the largest difference between two updates."""
    return max(
        float((t.double() - other.tensors[n].double()).abs().max()) for n, t in one.tensors.items()
    )


class TestField:
    @given(st.integers(-(MODULUS // 2), MODULUS // 2))
    def test_signed_integers_come_back(self, value: int) -> None:
        element = to_field(torch.tensor([value]))
        assert 0 <= int(element) < MODULUS
        assert int(to_integers(element)) == value

    @given(st.floats(-16, 16), st.integers(2, 48), st.sampled_from(["nearest", "stochastic"]))
    def test_fixed_point_is_exact_to_its_step(self, value: float, bits: int, rounding: str) -> None:
        fixed = FixedPoint(clip=16.0, bits=bits, rounding=rounding)  # type: ignore[arg-type]
        x = torch.tensor([value], dtype=torch.float64)
        back = fixed.decode(fixed.encode(x, generator=torch.Generator().manual_seed(0)))
        within = 0.5 if rounding == "nearest" else 1.0
        assert float((back - x).abs()) <= within * fixed.step * (1 + 1e-9)

    def test_stochastic_rounding_has_no_bias(self) -> None:
        fixed = FixedPoint(clip=1.0, bits=3, rounding="stochastic")
        x = torch.full((100_000,), 0.3, dtype=torch.float64)
        codes = fixed.encode(x, generator=torch.Generator().manual_seed(0))
        assert float(fixed.decode(codes).mean()) == pytest.approx(0.3, abs=2e-3)
        nearest = FixedPoint(clip=1.0, bits=3).encode(x, generator=torch.Generator())
        assert float(FixedPoint(clip=1.0, bits=3).decode(nearest).mean()) == 0.25

    def test_what_is_beyond_the_clip_saturates(self) -> None:
        fixed = FixedPoint(clip=2.0, bits=16)
        codes = fixed.encode(torch.tensor([3.0, -math.inf]), generator=torch.Generator())
        assert fixed.decode(codes).tolist() == [2.0, -2.0]

    @pytest.mark.parametrize(
        "wrong", [{"bits": 1}, {"bits": 60}, {"clip": 0.0}, {"clip": math.inf}]
    )
    def test_no_such_fixed_point(self, wrong: dict[str, float]) -> None:
        with pytest.raises(lg.SpecificationError, match="2 to 48 bits") as caught:
            FixedPoint(**wrong)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)

    def test_a_sum_that_might_overflow_is_refused(self) -> None:
        secure = SecureAggregation(fixed=FixedPoint(bits=40), most_examples=2**20)
        with pytest.raises(lg.UpdateError, match="lower bits") as caught:
            secure(random_updates(3), [1, 1, 1], seeds=SEEDS)
        assert "\n" not in str(caught.value)
        # The largest allowed sum is still correct.
        most = 2**18
        secure = SecureAggregation(fixed=FixedPoint(clip=1.0, bits=41), most_examples=most)
        full = [lg.Update({"a": torch.tensor([1.0, -1.0])})] * 3
        assert secure(full, [most] * 3, seeds=SEEDS).tensors["a"].tolist() == [1.0, -1.0]
        with pytest.raises(lg.UpdateError, match="raise most_examples"):
            secure(full, [most + 1] * 3, seeds=SEEDS)


class TestSecretSharing:
    @given(
        st.integers(0, 2**256 - 1), st.integers(1, 6), st.integers(0, 3), st.integers(0, 2**32 - 1)
    )
    @settings(max_examples=30, deadline=None)
    def test_any_threshold_of_shares_joins(
        self, secret: int, threshold: int, more: int, seed: int
    ) -> None:
        holders = range(1, threshold + more + 1)
        shares = split(secret, holders, threshold, generator=torch.Generator().manual_seed(seed))
        for chosen in combinations(holders, threshold):
            assert join({holder: shares[holder] for holder in chosen}) == secret
        assert join(shares) == secret

    def test_fewer_shares_fit_every_secret(self) -> None:
        """For two shares of three and any secret, exactly one polynomial passes through them."""
        shares = split(12345, [1, 2, 3], 3, generator=torch.Generator().manual_seed(0))
        two = {1: shares[1], 2: shares[2]}
        assert join(two) != 12345
        for secret in (0, 7, 2**255):
            # Lagrange's formula for (0, secret) and two shares gives a third share. The three join to it.
            third = (3 * shares[2] - 3 * shares[1] + secret) % PRIME
            assert join({**two, 3: third}) == secret


class TestMasks:
    def test_two_sides_agree_and_a_third_does_not(self) -> None:
        a, b, c = (KeyPair(draw_key(SEEDS.generator(name))) for name in "abc")
        assert a.agree(b.public, "x") == b.agree(a.public, "x")
        assert a.agree(b.public, "x") != a.agree(b.public, "y")
        assert c.agree(b.public, "x") != a.agree(b.public, "x")

    def test_masks_are_uniform(self) -> None:
        drawn = mask(bytes(32), 64_000)
        assert int(drawn.min()) >= 0
        assert int(drawn.max()) < MODULUS
        counts = torch.bincount(drawn // (MODULUS // 64 + 1), minlength=64).numpy()
        assert stats.chisquare(counts).pvalue > 1e-3
        assert not torch.equal(drawn[:10], mask(bytes([1] + [0] * 31), 10))

    def test_a_letter_that_was_tampered_with_does_not_open(self) -> None:
        from cryptography.exceptions import InvalidTag

        sealed = bytearray(seal(bytes(32), b"share"))
        assert unseal(bytes(32), bytes(sealed)) == b"share"
        sealed[0] ^= 1
        with pytest.raises(InvalidTag):
            unseal(bytes(32), bytes(sealed))


class TestProtocol:
    @given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(8, 40))
    @settings(max_examples=15, deadline=None)
    def test_is_the_weighted_mean_to_half_a_step(self, counts: list[int], bits: int) -> None:
        updates = random_updates(len(counts))
        secure = SecureAggregation(fixed=FixedPoint(bits=bits))
        plain = WeightedMean()(updates, counts, seeds=SEEDS)
        rounding = 1e-6  # The error of float32.
        assert (
            largest_difference(secure(updates, counts, seeds=SEEDS), plain)
            <= secure.fixed.step / 2 + rounding
        )

    def test_the_masked_sum_is_the_plain_sum(self) -> None:
        """The integers before scaling are exactly equal."""
        updates, counts, secure = random_updates(5), [1, 2, 3, 4, 5], SecureAggregation()
        plain = sum(
            (to_integers(secure.vector(u, n, SEEDS)) for u, n in zip(updates, counts, strict=True)),
            start=torch.zeros(1, dtype=torch.int64),
        )
        transcript = secure.run(updates, counts, seeds=SEEDS)
        assert torch.equal(unmasked_sum(transcript, 3), plain)

    @pytest.mark.parametrize("lost", [(0,), (2,), (4,), (1, 3)])
    @pytest.mark.parametrize("late", [(), "one more"])
    def test_those_who_drop_out_are_left_out(self, lost: tuple[int, ...], late: object) -> None:
        updates, counts = random_updates(6), [1, 2, 3, 4, 5, 6]
        gone = (5,) if late and len(lost) < 2 else ()
        secure = SecureAggregation(threshold=4)
        transcript = secure.run(updates, counts, seeds=SEEDS, lost=lost, late=gone)
        stay = [i for i in range(6) if i not in lost]
        plain = WeightedMean()([updates[i] for i in stay], [counts[i] for i in stay], seeds=SEEDS)
        assert (
            largest_difference(secure.mean(transcript, updates[0]), plain)
            <= secure.fixed.step + 1e-6
        )
        assert set(transcript.masked) == set(stay)
        assert set(transcript.revealed) == set(stay) - set(gone)

    @pytest.mark.parametrize(("lost", "late"), [((0, 1), ()), ((0,), (1,)), ((0, 1, 2, 3), ())])
    def test_too_few_to_join_the_secrets(
        self, lost: tuple[int, ...], late: tuple[int, ...]
    ) -> None:
        with pytest.raises(lg.UpdateError, match="at least 3 clients") as caught:
            SecureAggregation().run(random_updates(4), [1] * 4, seeds=SEEDS, lost=lost, late=late)
        assert "\n" not in str(caught.value)

    def test_nobody_reveals_both_secrets_of_one_client(self) -> None:
        transcript = SecureAggregation().run(random_updates(5), [1] * 5, seeds=SEEDS, lost=[1])
        for revealed in transcript.revealed.values():
            assert set(revealed.keys) == {1}
            assert set(revealed.seeds) == {0, 2, 3, 4}

    def test_same_seed_same_transcript(self) -> None:
        one, other = (
            SecureAggregation().run(random_updates(3), [1] * 3, seeds=SEEDS).masked
            for _ in range(2)
        )
        new = SecureAggregation().run(random_updates(3), [1] * 3, seeds=lg.Seeds(1)).masked
        for own, vector in one.items():
            assert torch.equal(vector, other[own])
            assert not torch.equal(vector, new[own])


class TestMaskedAlone:
    def test_looks_uniform_whatever_is_inside(self) -> None:
        for value in (0.0, 3.0, -16.0):
            update = lg.Update({"a": torch.full((32_000,), value)})
            masked = SecureAggregation().masked(update, 1, clients=3, seeds=SEEDS)
            counts = torch.bincount(masked // (MODULUS // 64 + 1), minlength=64).numpy()
            assert stats.chisquare(counts).pvalue > 1e-3

    def test_does_not_correlate_with_the_update(self) -> None:
        (update,) = random_updates(1, size=4000)
        masked = to_integers(SecureAggregation().masked(update, 1, clients=4, seeds=SEEDS))
        flat = torch.cat([t.flatten() for t in update.tensors.values()]).double()
        correlation = float(torch.corrcoef(torch.stack([flat, masked.double()]))[0, 1])
        assert abs(correlation) < 4 / math.sqrt(len(flat))

    def test_is_what_the_protocol_sends(self) -> None:
        updates, secure = random_updates(3), SecureAggregation()
        sent = secure.run(updates, [2, 1, 1], seeds=SEEDS).masked[0]
        assert torch.equal(sent[:-1], secure.masked(updates[0], 2, clients=3, seeds=SEEDS))

    def test_the_mask_is_the_same_for_any_update(self) -> None:
        """As in a one-time pad, two masked inputs differ by the same amount as the unmasked ones."""
        one, other = random_updates(2)
        secure = SecureAggregation()
        masked = [secure.masked(u, 1, clients=2, seeds=SEEDS) for u in (one, other)]
        plain = [secure.vector(u, 1, SEEDS)[:-1] for u in (one, other)]
        assert torch.equal(subtract(*masked), subtract(*plain))

    def test_an_attack_on_it_is_as_good_as_blind(self) -> None:
        """Over several batches, the attack's score is no better than its score against other batches."""

        def scores(threat: lg.ThreatModel) -> tuple[Tensor, Tensor]:
            own, others = [], []
            for seed in range(8):
                batch, decoy = images(1, seed=seed), images(1, seed=100 + seed)
                for truth, found in ((batch, own), (decoy, others)):
                    seen = threat.observe(client(mlp()), truth, seeds=lg.Seeds(seed))
                    guess = LinearLayer()(seen, seeds=lg.Seeds(seed))
                    found.append(psnr(batch.inputs, guess.inputs.clamp(0, 1))[0])
            return torch.stack(own), torch.stack(others)

        own, blind = scores(lg.MaskedUpdate(clients=4))
        assert float(own.max()) < 15
        assert abs(float(own.mean() - blind.mean())) < 1
        own, blind = scores(lg.SecureAggregator(clients=1))
        assert float(own.min()) > 40 > float(blind.max())
