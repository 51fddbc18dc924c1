"""Effects that a defense states: how effects of several parts join, and which statements are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conftest import client, images, mlp, refusal
from torch import Tensor, nn

import leakgauge as lg
from leakgauge import defenses
from leakgauge.core import (
    BatchNoise,
    ChangedExamples,
    ChangedTraining,
    ConcealedExamples,
    Effect,
    Encoding,
    HiddenModel,
    InUpdateUnits,
    KeptLocal,
    Misleading,
    MixedExamples,
    Noise,
    PrivacyBound,
    Rounding,
    RoundMemory,
    SpecificationError,
    Tensors,
    effect,
    effects_of,
    mean_noise,
)
from leakgauge.core.verdicts import explain_unproven
from leakgauge.defenses import Chain, GaussianNoise, StochasticQuantization, TopK, Undefended


@dataclass(frozen=True)
class Stating(Undefended):
    """A defense that does nothing, and states the effects that it was given."""

    stated: tuple[Effect, ...] = ()

    @property
    def effects(self) -> tuple[Effect, ...]:
        return self.stated


class Plain:
    """A user's own defense, without a base class, that states nothing."""

    def __getattr__(self, name: str) -> Any:
        if name in {"on_batch", "on_model", "on_training", "on_update", "adapt"}:
            return lambda *_, **__: None
        raise AttributeError(name)


def chain(*stated: Effect) -> Chain:
    return Chain(defenses=tuple(Stating((one,)) for one in stated))


class TestSource:
    def test_an_observation_tells_the_known_defense_alone(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        under = GaussianNoise(std=0.1)
        known, unknown = (
            observe(mlp(), images(1), under=under, defense=granted) for granted in (True, False)
        )
        assert effect(known, Noise) == effect(under, Noise) == Noise(std=0.1) == known.noise
        assert effect(unknown, Noise) is None
        assert effect(None, Noise) is None

    def test_a_defense_that_states_nothing_has_no_effects(self) -> None:
        plain: Any = Plain()
        assert isinstance(plain, lg.Defense)
        assert effects_of(plain, Effect) == ()
        assert effects_of(Undefended(), Effect) == ()

    def test_all_are_in_the_order_in_which_the_parts_act(self) -> None:
        one, two, three = Noise(std=1.0), Encoding(bits=8), Noise(std=2.0)
        nested = Chain(defenses=(chain(one, two), TopK(), Stating((three,))))
        assert effects_of(nested, Effect) == (one, two, three) == nested.effects
        assert effects_of(nested, Noise) == (one, three)


class TestJoined:
    def test_noises_add_their_variances(self) -> None:
        laws = Noise(std=3.0), Noise(std=4.0, law="laplacian"), Noise(std=0.0)
        assert effect(chain(*laws), Noise) == Noise(std=5.0)
        assert effect(chain(*laws[1:]), Noise) == laws[1]
        assert effect(chain(laws[2]), Noise) is None
        assert effect(chain(BatchNoise(std=3.0), BatchNoise(std=4.0)), BatchNoise) == BatchNoise(
            std=5.0
        )

    def test_each_client_adds_noise_of_its_own(self) -> None:
        plain, batch = Stating((Noise(std=2.0),)), Stating((BatchNoise(std=6.0),))
        assert mean_noise(plain, [3, 1]) == Noise(std=2 * math.hypot(0.75, 0.25))
        assert mean_noise(batch, [3]) == Noise(std=2.0)
        assert mean_noise(batch, [3, 3]) == Noise(std=math.hypot(1, 1))
        assert mean_noise(plain, [None, None]) == Noise(std=math.hypot(1, 1))
        assert mean_noise(batch, [None]) is None
        assert mean_noise(Chain(defenses=(plain, batch)), [2]) == Noise(std=math.hypot(2, 3))

    def test_the_shortest_format_and_any_units_count(self) -> None:
        assert effect(chain(Encoding(bits=8), Encoding(bits=16)), Encoding) == Encoding(bits=8)
        assert effect(chain(InUpdateUnits(), InUpdateUnits()), InUpdateUnits) == InUpdateUnits()
        assert effect(chain(Encoding(bits=8)), InUpdateUnits) is None

    def test_functions_are_composed_in_their_order(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        plus, double = (
            Misleading(believed=lambda u: u.map(lambda t: t + 1)),
            Misleading(believed=lambda u: u.map(lambda t: 2 * t)),
        )
        joined = effect(chain(plus, double), Misleading)
        assert joined is not None
        assert joined.believed(lg.Update({"a": torch.ones(1)})).tensors["a"].item() == 4
        trained = effect(
            chain(
                ChangedTraining(simulated=lambda training: ("first", training)),  # type: ignore[arg-type, return-value]
                ChangedTraining(simulated=lambda training: ("second", training)),  # type: ignore[arg-type, return-value]
            ),
            ChangedTraining,
        )
        assert trained is not None
        assert trained.simulated("plain") == ("second", ("first", "plain"))  # type: ignore[arg-type, comparison-overlap]

    def test_models_are_hidden_one_after_the_other_and_kept_names_are_united(self) -> None:
        def wrapped(model: nn.Module, *, seeds: lg.Seeds) -> nn.Module:
            return nn.Sequential(model)

        hidden = effect(chain(HiddenModel(shown=wrapped), HiddenModel(shown=wrapped)), HiddenModel)
        assert hidden is not None
        assert len(list(hidden.shown(nn.Identity(), seeds=lg.Seeds(0)).modules())) == 3
        kept = effect(
            chain(
                KeptLocal(names=lambda held: frozenset(held[:1])),
                KeptLocal(names=lambda held: frozenset(held[-1:])),
            ),
            KeptLocal,
        )
        assert kept is not None
        assert kept.names(["a", "b", "c"]) == {"a", "c"}

    def test_of_two_that_change_examples_none_is_told(self) -> None:
        mixing = MixedExamples(per_mixture=2, weights=lambda count, *, seeds: torch.eye(count))
        concealing = ConcealedExamples(mixing=0.7, divisor=3.0)
        assert effect(chain(mixing, concealing), MixedExamples) == mixing
        assert effect(chain(mixing, mixing), MixedExamples) is None
        assert effect(chain(mixing, concealing), ChangedExamples) is None
        assert len(effects_of(chain(mixing, concealing), ChangedExamples)) == 2

    def test_rounding_counts_at_the_end_alone(self) -> None:
        rounding = StochasticQuantization()
        for parts, kept in (
            ((rounding,), True),
            ((TopK(), rounding), True),
            ((rounding, TopK()), False),
            ((Chain(defenses=(TopK(), rounding)),), True),
            ((Chain(defenses=(rounding,)), TopK()), False),
            ((rounding, Chain()), True),
            ((rounding, rounding), True),
        ):
            assert (effect(Chain(defenses=parts), Rounding) is not None) == kept, parts

    def test_a_chain_keeps_the_memory_of_its_parts_itself(self) -> None:
        whole = Chain(defenses=(defenses.DGC(), defenses.DGC()))
        assert [type(one) for one in whole.effects] == [RoundMemory]
        assert effects_of(chain(Noise(std=1.0)), RoundMemory) == ()


@dataclass(frozen=True)
class OwnPair(Undefended):
    """A user's own combination, which states no effects."""

    defenses: tuple[lg.Defense, ...] = ()

    def of(self, defenses: tuple[lg.Defense, ...]) -> OwnPair:
        return OwnPair(defenses)


def test_a_user_s_own_combination_has_the_effects_of_its_parts() -> None:
    pair = OwnPair((Stating((Noise(std=3.0),)), Stating((Noise(std=4.0),))))
    assert effect(pair, Noise) == Noise(std=5.0)
    assert effect(Chain(defenses=(pair, TopK())), Noise) == Noise(std=5.0)


def own_case(defense: lg.Defense) -> lg.Case:
    domain = lg.ImageDomain(1, 8, 8)
    return lg.Case(
        name="own",
        data=lg.Dataset("noise", torch.rand(8, 1, 8, 8), torch.arange(8) % 4, domain, 4),
        model=mlp(),
        attacks=[lg.attacks.LinearLayer()],
        defenses=[defense],
    )


WRONG: dict[str, Any] = {
    "a text": "noise",
    "one effect": Noise(std=1.0),
    "a list": [Noise(std=1.0)],
    "a class": (Noise,),
    "a number within": (Noise(std=1.0), 3),
    "none": None,
}


@pytest.mark.parametrize("stated", WRONG.values(), ids=WRONG)
class TestRefusals:
    def test_wrong_effects_are_refused_wherever_they_are_read(self, stated: Any) -> None:
        for defense in (Stating(stated), Chain(defenses=(Stating(stated), TopK()))):
            with pytest.raises(SpecificationError, match="a tuple of effects") as refusal:
                effect(defense, Noise)
            assert "\n" not in str(refusal.value)
            assert "defense Stating, effects" in str(refusal.value)

    def test_an_audit_refuses_them_before_it_computes(self, stated: Any) -> None:
        for defense in (Stating(stated), Chain(defenses=(TopK(), Stating(stated)))):
            with pytest.raises(SpecificationError, match="a tuple of effects"):
                lg.audit(own_case(defense))


class Nothing(Undefended):
    """A defense that states None instead of a tuple."""

    effects = None  # type: ignore[assignment]


def test_none_on_the_class_is_refused_too() -> None:
    with pytest.raises(SpecificationError, match=r"a tuple of effects.*found None"):
        effects_of(Nothing(), Noise)


class Failing(Undefended):
    """A defense whose `effects` fails with an AttributeError, as a missing attribute does."""

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (Noise(std=self.nowhere),)  # type: ignore[attr-defined]


def test_effects_that_fail_are_not_taken_for_none() -> None:
    with pytest.raises(AttributeError, match="nowhere"):
        effects_of(Failing(), Noise)
    with pytest.raises(SpecificationError, match="Failing that fails: AttributeError"):
        lg.audit(own_case(Failing()))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Noise(std=-1.0), "Noise.std"),
        (lambda: Noise(std=1.0, law="cauchy"), "Noise.law"),  # type: ignore[arg-type]
        (lambda: Encoding(bits=0), "Encoding.bits"),
        (lambda: Rounding(steps=1.0), "Rounding.steps"),  # type: ignore[arg-type]
        (lambda: PrivacyBound(protects="nobody", epsilon=abs), "PrivacyBound.protects"),  # type: ignore[arg-type]
    ],
)
def test_an_effect_checks_its_fields(make: Callable[[], Effect], field: str) -> None:
    with pytest.raises(SpecificationError, match=field):
        make()


class Flipped(Undefended):
    """A defense that changes the batch but states no effect."""

    def on_batch(
        self, inputs: Tensor, targets: Tensor, *, seeds: lg.Seeds
    ) -> tuple[Tensor, Tensor]:
        return inputs.flip(0), targets


@pytest.mark.parametrize(
    ("defense", "acts"),
    [
        (None, False),
        (TopK(), False),
        (GaussianNoise(), False),
        (defenses.Mixup(), True),
        (
            defenses.DCS2(),
            True,
        ),  # It changes the training: it states its effect, although `on_batch` is the identity.
        (Flipped(), True),
        (Chain(defenses=(TopK(), Flipped())), True),
        (Stating((ChangedExamples(),)), True),
        (Plain(), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_who_acts_on_examples(defense: Any, acts: bool) -> None:
    assert (explain_unproven(defense) is not None) == acts


def test_a_number_of_the_name_of_a_method_is_no_effect(
    observe: Callable[..., lg.Observation],
) -> None:
    """DCS-2 has a number called `steps`. It must not be mistaken for the `steps` of random rounding."""
    seen = observe(mlp(), images(1), under=defenses.DCS2(steps=1))
    assert effect(seen, Rounding) is None
    assert "does not round" in str(refusal(lg.attacks.BayesOptimal(), seen))


def test_memory_and_local_parameters_reach_the_client() -> None:
    def remember(
        update: lg.Update, memory: Tensors, *, seeds: lg.Seeds
    ) -> tuple[lg.Update, Tensors]:
        rounds = memory.get("rounds", torch.zeros(())) + 1
        return update.map(lambda t: rounds * t), {"rounds": rounds}

    stated = (
        RoundMemory(remember=remember),
        KeptLocal(names=lambda held: frozenset(held[-1:])),
    )
    owner, batch = client(mlp(), defense=Stating(stated)), images(2)
    model = owner.global_model(seeds=lg.Seeds(0))
    first, memory = owner.share_and_remember(model, batch, {}, seeds=lg.Seeds(0))
    second, _ = owner.share_and_remember(model, batch, memory, seeds=lg.Seeds(0))
    *_, last = first.tensors
    assert set(memory) == {"rounds", f"own/{last}"}
    assert all(torch.equal(2 * first.tensors[n], t) for n, t in second.tensors.items())
