"""Aggregation: the rules compute what they define, and the examples of all clients are one batch."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import client, images, mlp, psnr
from hypothesis import given, settings
from hypothesis import strategies as st

import leakgauge as lg
from leakgauge import defenses
from leakgauge.attacks import LinearLayer
from leakgauge.audit import Source, parse
from leakgauge.audit.resolve import resolve
from leakgauge.federated import Group, Sum, WeightedMean

SEEDS = lg.Seeds(0)


def noise(observation: lg.Observation) -> tuple[float, str] | None:
    """Return the standard deviation and law of the noise that the adversary knows, or None."""
    known = observation.noise
    return None if known is None else (known.std, known.law)


def constants(*values: float, kind: str = "gradient") -> list[lg.Update]:
    """Return updates of two tensors, each filled with one value."""
    return [
        lg.Update({"a": torch.full((2, 3), v), "b": torch.full((4,), v)}, kind)  # type: ignore[arg-type]
        for v in values
    ]


@pytest.mark.parametrize(
    ("counts", "mean"), [([1, 1, 1, 1], 2.5), ([1, 2, 3, 4], 3.0), ([4, 3, 2, 1], 2.0)]
)
def test_four_clients_with_1_2_3_4(counts: list[int], mean: float) -> None:
    updates = constants(1.0, 2.0, 3.0, 4.0)
    averaged = WeightedMean()(updates, counts, seeds=SEEDS)
    summed = Sum()(updates, counts, seeds=SEEDS)
    assert list(averaged.tensors) == ["a", "b"]
    for name, tensor in averaged.tensors.items():
        assert torch.equal(tensor, torch.full_like(tensor, mean))
        assert torch.equal(summed.tensors[name], torch.full_like(tensor, 10.0))


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 50)), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_a_mean_lies_between_and_ignores_order(drawn: list[tuple[float, int]]) -> None:
    values, counts = zip(*drawn, strict=True)
    mean = WeightedMean()(constants(*values), counts, seeds=SEEDS).tensors["b"]
    assert min(values) - 1e-3 <= float(mean[0]) <= max(values) + 1e-3
    again = WeightedMean()(constants(*values[::-1]), counts[::-1], seeds=SEEDS).tensors["b"]
    assert torch.allclose(mean, again)
    # A client with n examples counts like n clients with one example.
    repeated = [value for value, count in drawn for _ in range(count)]
    single = WeightedMean()(constants(*repeated), [1] * len(repeated), seeds=SEEDS).tensors["b"]
    assert torch.allclose(mean, single, atol=1e-3)


@pytest.mark.parametrize(
    ("updates", "counts", "match"),
    [
        (constants(1) + constants(2, kind="delta"), [1, 1], "delta and gradient"),
        (constants(1, 2), [1], "one count for each"),
        (constants(1, 2), [1, 0], "at least 1"),
        ([], [], "at least one update"),
        ([*constants(1), lg.Update({"a": torch.ones(2, 3)})], [1, 1], r"missing \['b'\]"),
        (
            [*constants(1), lg.Update({"a": torch.ones(2, 2), "b": torch.ones(4)})],
            [1, 1],
            r"shape \(2, 3\)",
        ),
    ],
)
def test_updates_that_do_not_fit_are_refused(
    updates: list[lg.Update], counts: list[int], match: str
) -> None:
    with pytest.raises(lg.UpdateError, match=match) as caught:
        WeightedMean()(updates, counts, seeds=SEEDS)
    assert "\n" not in str(caught.value)


class TestAggregator:
    @pytest.mark.parametrize("clients", [1, 2, 3, 7])
    def test_the_mean_is_the_gradient_of_all_examples(self, clients: int) -> None:
        """Seven examples make parts of unequal size."""
        batch, owner = images(7), client(mlp())
        alone = lg.Server().observe(owner, batch, seeds=SEEDS)
        together = lg.Aggregator(clients=clients).observe(owner, batch, seeds=SEEDS)
        assert together.batch_size == 7
        for name, tensor in alone.update.tensors.items():
            assert torch.allclose(together.update.tensors[name], tensor, atol=1e-7)

    def test_parts_are_equal_as_can_be_and_all(self) -> None:
        batch = images(7)
        parts = Group.of(client(mlp()), 3, WeightedMean()).parts(batch)
        assert [len(part) for part in parts] == [3, 2, 2]
        assert torch.equal(torch.cat([part.inputs for part in parts]), batch.inputs)

    @pytest.mark.parametrize("threat", [lg.Aggregator(clients=4), lg.SecureAggregator(clients=4)])
    def test_attacked_as_one_batch(self, threat: lg.Aggregator) -> None:
        batch = images(4)
        seen = threat.observe(client(mlp(width=256)), batch, seeds=SEEDS)
        found = LinearLayer()(seen, seeds=SEEDS)
        assert psnr(batch.inputs, found.inputs).median() > 40

    @pytest.mark.parametrize("threat", [lg.Aggregator(clients=4), lg.SecureAggregator(clients=4)])
    def test_each_client_needs_an_example(self, threat: lg.Aggregator) -> None:
        with pytest.raises(lg.DataError, match=r"each of 4 clients.*batch 3") as caught:
            threat.observe(client(mlp()), images(3), seeds=SEEDS)
        assert "\n" not in str(caught.value)

    def test_every_client_defends_with_noise_of_its_own(self) -> None:
        """The mean of 16 noises has a quarter of the deviation of one."""
        batch = images(16)
        clean = lg.Aggregator(clients=16).observe(client(mlp()), batch, seeds=SEEDS)
        owner = client(mlp(), defense=defenses.GaussianNoise(std=0.1))
        noisy = lg.Aggregator(clients=16).observe(owner, batch, seeds=SEEDS)
        off = torch.cat(
            [(noisy.update.tensors[n] - t).flatten() for n, t in clean.update.tensors.items()]
        )
        assert float(off.std()) == pytest.approx(0.1 / 4, rel=0.05)

    @pytest.mark.parametrize(
        ("defense", "std"),
        [
            (defenses.GaussianNoise(std=0.1), 0.1 * (3**2 + 2**2 + 2**2) ** 0.5 / 7),
            (defenses.LaplacianNoise(std=0.1), 0.1 * (3**2 + 2**2 + 2**2) ** 0.5 / 7),
            # Each client's noise is divided by its B, and its weight is B / 7.
            (defenses.DPSGD(max_norm=1e3, noise_multiplier=1e-4), 0.1 * 3**0.5 / 7),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_who_looks_at_a_mean_knows_its_noise(self, defense: lg.Defense, std: float) -> None:
        """Seven examples of three clients give the weights 3, 2 and 2."""
        batch, threat = images(7), lg.Aggregator(clients=3)
        clean = threat.observe(client(mlp()), batch, seeds=SEEDS).update.tensors
        seen = threat.observe(client(mlp(), defense=defense), batch, seeds=SEEDS)
        off = torch.cat([(seen.update.tensors[n] - t).flatten() for n, t in clean.items()])
        assert noise(seen) == (pytest.approx(std), "gaussian")
        assert float(off.std()) == pytest.approx(std, rel=0.05)

    def test_equal_weights_where_the_batch_size_is_withheld(self) -> None:
        held = client(mlp(), defense=defenses.GaussianNoise(std=0.1))
        threat = lg.Aggregator(clients=4, batch_size=False)
        seen = threat.observe(held, images(8), seeds=SEEDS)
        assert noise(seen) == (pytest.approx(0.05), "gaussian")
        alone = lg.Server(batch_size=False).observe(held, images(8), seeds=SEEDS)
        assert noise(alone) == (pytest.approx(0.1), "gaussian")
        untold = lg.Aggregator(clients=4, defense=False).observe(held, images(8), seeds=SEEDS)
        assert untold.noise is None

    def test_grants_knowledge_of_the_whole_group(self) -> None:
        threat = lg.Aggregator(clients=2, label_counts=True)
        assert threat.grants == {"batch_size", "label_counts", "defense", "hyperparameters"}
        seen = threat.observe(client(mlp()), images(5), seeds=SEEDS)
        assert seen.knowledge.label_counts is not None
        assert seen.knowledge.label_counts.tolist() == [2, 1, 1, 1]

    @pytest.mark.parametrize(
        "threat",
        [
            lg.Aggregator(clients=2),
            lg.SecureAggregator(clients=2),
            lg.MaskedUpdate(clients=2),
            lg.Neighbor(nodes=4, listening=2),
            lg.Neighbor(nodes=4, start=1, listening=2),
        ],
        ids=lambda threat: type(threat).__name__,
    )
    def test_a_poisoned_batch_changes_nothing_afterwards(self, threat: lg.ThreatModel) -> None:
        def attack(poison: bool) -> lg.Reconstruction:
            batch = images(2)
            seen = threat.observe(client(mlp(width=96)), batch, seeds=SEEDS)
            if poison:
                batch.inputs.fill_(math.nan)
                batch.targets.fill_(0)
            return LinearLayer()(seen, seeds=SEEDS)

        sound, poisoned = attack(False), attack(True)
        assert torch.equal(sound.inputs, poisoned.inputs)
        assert sound.message == poisoned.message
        assert (sound.targets is None) == (poisoned.targets is None)
        if sound.targets is not None and poisoned.targets is not None:
            assert torch.equal(sound.targets, poisoned.targets)


SPECIFICATION = """
data = "digits"
model = {{name = "mlp", width = 64}}
training = {{batch_size = 4}}
attacks = "linear_layer"
threat = {threat}
"""


class TestSpecification:
    @pytest.mark.parametrize(
        ("threat", "made"),
        [
            ('{name = "aggregator", clients = 3}', lg.Aggregator(clients=3)),
            (
                '{name = "secure_aggregator", bits = 20, labels = true}',
                lg.SecureAggregator(bits=20, labels=True),
            ),
            ('"masked_update"', lg.MaskedUpdate()),
            ('{name = "neighbor", degree = 4, hops = 2}', lg.Neighbor(degree=4, hops=2)),
        ],
    )
    def test_threats_by_name(self, threat: str, made: lg.ThreatModel) -> None:
        assert case(threat).threat == made

    @pytest.mark.parametrize(
        ("threat", "where"),
        [
            ('{name = "aggregator", clients = 0}', "clients"),
            ('{name = "aggregator", bits = 8}', "bits"),
            ('{name = "neighbor", start = -1}', "start"),
        ],
    )
    def test_mistakes_are_told_in_one_line(self, threat: str, where: str) -> None:
        with pytest.raises(lg.SpecificationError, match=where) as caught:
            case(threat)
        assert "\n" not in str(caught.value)

    def test_an_audit_names_who_attacked(self) -> None:
        (cell,) = lg.audit(case('{name = "secure_aggregator", clients = 2}')).cells
        assert cell.threat.name == "secure_aggregator"
        assert cell.threat.grants == ("batch_size", "defense", "hyperparameters")
        assert len(cell.scores["psnr"]) == 4


def case(threat: str) -> lg.Case:
    """Return the one case of a specification with this threat model."""
    text = SPECIFICATION.format(threat=threat)
    (made,) = resolve(parse(Source(text)))
    return made
