"""Search spaces: relaxed variables, nearest valid examples, and draws that must not change."""

from __future__ import annotations

import pytest
import torch

import leakgauge as lg
from leakgauge.core import (
    SearchSpace,
    Status,
    dtype_of,
    nearest_examples,
    space_of,
    unit_shape,
)
from leakgauge.core.verdicts import report_nothing_found

IMAGES = lg.ImageDomain(3, 4, 5)
REAL = lg.TableDomain.from_ranges(["age", "pressure"], [18, 40], [100, 180])
MIXED = lg.TableDomain(
    (
        lg.Column("age", 18, 100, integer=True),
        lg.Column("pressure", 40, 180),
        lg.Column("blood group", 0, 3, integer=True),
    )
)


def generator() -> torch.Generator:
    return lg.Seeds(3).generator("draws")


@pytest.mark.parametrize("domain", [IMAGES, REAL, MIXED], ids=["images", "real", "mixed"])
class TestEverySpace:
    def test_it_keeps_the_protocol(self, domain: lg.Domain) -> None:
        space = space_of(domain)
        assert isinstance(space, SearchSpace)
        assert space.differentiable
        assert unit_shape(domain) == domain.shape
        assert dtype_of(domain) == torch.float32

    def test_draws_are_valid_examples(self, domain: lg.Domain) -> None:
        space = space_of(domain)
        drawn = space.sample(50, generator())
        assert drawn.shape == (50, *domain.shape)
        unit = space.relax(drawn)
        assert bool(((unit >= -1e-6) & (unit <= 1 + 1e-6)).all())
        assert torch.allclose(space.round(unit), drawn, rtol=0, atol=1e-4)
        assert torch.equal(space.sample(50, generator()), drawn)

    def test_rounding_is_done_once(self, domain: lg.Domain) -> None:
        space = space_of(domain)
        relaxed = 3 * torch.rand((20, *space.shape), generator=generator()) - 1
        valid = space.round(relaxed)
        assert torch.allclose(space.round(space.relax(valid)), valid, rtol=0, atol=1e-4)

    def test_nothing_found_is_a_valid_example(self, domain: lg.Domain) -> None:
        update = lg.Update({"w": torch.zeros(2)})
        seen = lg.Observation(
            model=torch.nn.Linear(2, 2),
            loss=torch.nn.functional.cross_entropy,
            training=lg.FedSGD(),
            update=update,
            domain=domain,
            classes=2,
            knowledge=lg.Knowledge(batch_size=2),
        )
        inputs = report_nothing_found(seen, Status.UNCONVERGED, "").inputs
        assert inputs.shape == (2, *domain.shape)
        assert torch.equal(nearest_examples(domain, inputs), inputs)


@pytest.mark.parametrize("domain", [IMAGES, REAL], ids=["images", "real"])
def test_draws_and_guesses_of_real_values_are_as_they_were(domain: lg.Domain) -> None:
    drawn = space_of(domain).sample(7, generator())
    unit = torch.rand((7, *domain.shape), generator=generator())
    assert torch.equal(drawn, domain.from_unit(unit))
    outside = domain.from_unit(3 * unit - 1)
    assert nearest_examples(domain, outside) is outside


def test_integer_columns_round_and_real_ones_stay() -> None:
    guess = torch.tensor([[52.4, 117.3, 2.6], [17.2, 117.3, 9.0]])
    valid = nearest_examples(MIXED, guess)
    assert valid[:, [0, 2]].tolist() == [[52, 3], [18, 3]]
    assert torch.allclose(valid[:, 1], guess[:, 1])


def test_each_whole_number_is_drawn_as_often_as_any_other() -> None:
    groups = space_of(MIXED).sample(4000, generator())[:, 2]
    counts = torch.bincount(groups.long(), minlength=4)
    # Each value is expected 1000 times, with a standard deviation of 27.
    assert bool(((counts - 1000).abs() < 110).all())


def test_a_column_shows_that_it_holds_whole_numbers() -> None:
    start = "Column(name='a', low=0, high=5, unit='', decimals=2"
    assert repr(lg.Column("a", 0, 5)) == f"{start})"
    assert repr(lg.Column("a", 0, 5, integer=True)) == f"{start}, integer=True)"


def test_an_integer_column_has_whole_ends() -> None:
    with pytest.raises(lg.DataError, match="whole numbers at both ends"):
        lg.Column("age", 17.5, 100, integer=True)


def test_a_fraction_in_an_integer_column_is_refused() -> None:
    rows = torch.tensor([[50.0, 100.0, 1.0], [50.0, 100.0, 1.5]])
    with pytest.raises(lg.DataError, match="1 that are not, the first is example 1"):
        lg.Dataset("patients", rows, torch.tensor([0, 1]), MIXED, 2)
