"""One contract for all attacks, and what each promises."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from conftest import images, mlp, psnr, refusal, sigmoid_cnn

import leakgauge as lg
from leakgauge import attacks
from leakgauge.inversion import LBFGS, Cosine, Direct, GradientMatching, Known, SignedAdam

Observe = Callable[..., lg.Observation]

FEW: dict[str, lg.Attack] = {
    "Auto": attacks.Auto(
        attacks=(attacks.LinearLayer(), attacks.IDLG(steps=2), attacks.InvertingGradients(steps=4))
    ),
    "ConcealmentMatching": attacks.ConcealmentMatching(attack=attacks.InvertingGradients(steps=3)),
    "CorrectedSurrogate": attacks.CorrectedSurrogate(
        attack=attacks.VanishingPrior(steps=3), stages=2
    ),
    "DropoutInversion": attacks.DropoutInversion(attack=attacks.InvertingGradients(steps=3)),
    "GradInversion": attacks.GradInversion(steps=3, trials=2),
    "GradViT": attacks.GradViT(steps=4, trials=2),
    "Inpainting": attacks.Inpainting(attack=attacks.InvertingGradients(steps=3), steps=5),
    "InstaHideDecoding": attacks.InstaHideDecoding(
        attack=attacks.InvertingGradients(steps=3), draws=2
    ),
    "MixupDecoding": attacks.MixupDecoding(
        attack=attacks.InvertingGradients(steps=3), pairings=2, moves=1
    ),
    "OneGradient": attacks.OneGradient(attack=attacks.InvertingGradients(steps=3)),
    "OrderInvariant": attacks.OrderInvariant(attack=attacks.InvertingGradients(steps=3)),
    "SignalMatching": attacks.SignalMatching(attack=attacks.InvertingGradients(steps=3)),
    "SurrogateModel": attacks.SurrogateModel(attack=attacks.InvertingGradients(steps=3), stages=2),
    "TransformationInversion": attacks.TransformationInversion(
        attack=attacks.InvertingGradients(steps=3), steps=5
    ),
    "SecondOrder": attacks.SecondOrder(warm=1, iterations=3, stages=1),
    "SoftmaxUnmixing": attacks.SoftmaxUnmixing(warm=1, iterations=3, stages=1),
}


def quick(name: str) -> lg.Attack:
    """The exported attack `name` with few steps: a new one comes under the contract by its export."""
    if name in FEW:
        return FEW[name]
    part = getattr(attacks, name)
    few = {"steps": 3} if any(field.name == "steps" for field in fields(part)) else {}
    attack: lg.Attack = part(**few)
    return attack


def transformer() -> torch.nn.Module:
    """What APRIL is for."""
    domain = lg.ImageDomain(1, 8, 8)
    options = {"patch": 2, "dim": 24, "heads": 2, "style": "plain"}
    return lg.models.build(lg.models.vit, domain, 4, **options)


def dropping() -> torch.nn.Module:
    """A network in train mode, whose masks are drawn."""
    return torch.nn.Sequential(mlp(), torch.nn.Dropout(0.2)).train()


NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    "April": transformer,
    "AprilMatching": transformer,
    "DropoutInversion": dropping,
    "GradViT": transformer,
}


UNDER: dict[str, lg.Defense] = {
    "BayesOptimal": lg.defenses.GaussianNoise(std=1e-2),
    "ConcealmentMatching": lg.defenses.DCS2(steps=3),
    "Inpainting": lg.defenses.PatchDropout(share=0.3),
    "InstaHideDecoding": lg.defenses.InstaHide(),
    "MixupDecoding": lg.defenses.Mixup(),
    "SignalMatching": lg.defenses.LocalLayers(last=1),
    "TransformationInversion": lg.defenses.ATS(policies="24-18"),
}
"""What attacks on a defense are given."""


LOCAL_STEPS = ("CorrectedSurrogate", "OneGradient", "OrderInvariant", "SurrogateModel")
"""Attacks on weight differences."""


def training(attack: lg.Attack) -> lg.LocalTraining:
    """One gradient, but for attacks on several local steps."""
    several = type(attack).__name__ in LOCAL_STEPS
    return lg.FedAvg(epochs=2, minibatch=1, shuffle=True) if several else lg.FedSGD()


def seen_by(attack: lg.Attack, batch: lg.Batch, observe: Observe) -> lg.Observation:
    """What the attack is given of a batch: under the defense that it is on, where it is on one."""
    under = UNDER.get(type(attack).__name__)
    return observe(network(attack), batch, training=training(attack), under=under)


SEVERAL = ("OrderInvariant",)
"""Attacks that one example says nothing to."""


def network(attack: lg.Attack) -> torch.nn.Module:
    """What the contract is tried on: an MLP, but for attacks on other architectures."""
    return NETWORKS.get(type(attack).__name__, mlp)()


QUICK = {name: quick(name) for name in attacks.__all__}


@pytest.mark.parametrize("attack", QUICK.values(), ids=QUICK.keys())
@pytest.mark.parametrize("batch_size", [1, 3])
class TestContract:
    def run(self, attack: lg.Attack, batch_size: int, observe: Observe) -> lg.Reconstruction:
        observation = seen_by(attack, images(batch_size), observe)
        reason = refusal(attack, observation)
        if reason is not None:
            assert batch_size > 1 or type(attack).__name__ in SEVERAL, reason
            pytest.skip(reason)
        return attack(observation, seeds=lg.Seeds(3))

    def test_is_an_attack_with_a_configuration(
        self, attack: lg.Attack, batch_size: int, observe: Observe
    ) -> None:
        assert isinstance(attack, lg.Attack)
        assert attack.requires <= lg.Knowledge.names()
        assert eval(repr(attack), vars(attacks)) == attack  # repr is the configuration

    def test_shapes_and_range(self, attack: lg.Attack, batch_size: int, observe: Observe) -> None:
        guess = self.run(attack, batch_size, observe)
        assert guess.inputs.shape == (batch_size, 1, 8, 8)
        assert guess.found.shape == (batch_size,)
        assert torch.isfinite(guess.inputs).all()
        assert not guess.inputs.requires_grad
        assert guess.targets is None or guess.targets.shape == (batch_size,)
        assert isinstance(guess.status, lg.Status)

    def test_same_seed_same_bits(
        self, attack: lg.Attack, batch_size: int, observe: Observe
    ) -> None:
        first, second = (self.run(attack, batch_size, observe) for _ in range(2))
        assert torch.equal(first.inputs, second.inputs)
        assert first.objectives == second.objectives

    def test_draws_nothing_from_the_global_generator(
        self, attack: lg.Attack, batch_size: int, observe: Observe
    ) -> None:
        before = torch.random.get_rng_state()
        self.run(attack, batch_size, observe)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_leaves_the_observed_model_alone(
        self, attack: lg.Attack, batch_size: int, observe: Observe
    ) -> None:
        observation = seen_by(attack, images(batch_size), observe)
        if refusal(attack, observation) is not None:
            pytest.skip("inapplicable")
        before = copy.deepcopy(observation.model.state_dict())
        update = observation.update.detached()
        attack(observation, seeds=lg.Seeds(3))
        after = observation.model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert all(parameter.grad is None for parameter in observation.model.parameters())
        assert all(
            torch.equal(update.tensors[name], tensor)
            for name, tensor in observation.update.tensors.items()
        )

    def test_never_sees_the_truth(
        self, attack: lg.Attack, batch_size: int, observe: Observe
    ) -> None:
        batch = images(batch_size)
        observation = seen_by(attack, batch, observe)
        if refusal(attack, observation) is not None:
            pytest.skip("inapplicable")
        expected = attack(observation, seeds=lg.Seeds(3))
        poisoned = images(batch_size)
        observation = seen_by(attack, poisoned, observe)
        poisoned.inputs.fill_(float("nan"))
        poisoned.targets.fill_(0)
        found = attack(observation, seeds=lg.Seeds(3))
        assert torch.equal(expected.inputs, found.inputs)
        if expected.targets is not None:
            assert found.targets is not None
            assert torch.equal(expected.targets, found.targets)

    def test_tells_its_progress(self, attack: lg.Attack, batch_size: int, observe: Observe) -> None:
        observation = seen_by(attack, images(batch_size), observe)
        if refusal(attack, observation) is not None:
            pytest.skip("inapplicable")
        moments: list[lg.core.Moment] = []
        guess = attack(observation, seeds=lg.Seeds(3), progress=moments.append)
        shares = [moment.fraction for moment in moments]
        assert shares[-1] == 1.0
        assert shares == sorted(shares)
        assert all(0 <= share <= 1 for share in shares)
        assert guess.cost.evaluations <= attack.plan(observation).evaluations + 64

    def test_refuses_without_the_knowledge_that_it_needs(
        self, attack: lg.Attack, batch_size: int, observe: Observe
    ) -> None:
        observation = observe(
            network(attack), images(batch_size), training=training(attack), batch_size=False
        )
        with pytest.raises(lg.KnowledgeError, match="batch_size"):
            attack(observation, seeds=lg.Seeds(3))


def test_idlg_reads_the_label_and_the_image(observe: Observe) -> None:
    batch = images(1)
    guess = attacks.IDLG(steps=60)(observe(sigmoid_cnn(), batch), seeds=lg.Seeds(0))
    assert guess.targets is not None
    assert guess.targets.tolist() == [0]
    assert guess.status is lg.Status.CONVERGED
    assert psnr(batch.inputs, guess.inputs).min() > 30


@pytest.mark.parametrize("label", range(4))
def test_idlg_reads_every_label(observe: Observe, label: int) -> None:
    batch = lg.Batch(images(1).inputs, torch.tensor([label]))
    guess = attacks.IDLG(steps=1)(observe(sigmoid_cnn(), batch), seeds=lg.Seeds(0))
    assert guess.targets is not None
    assert guess.targets.tolist() == [label]


def test_dlg_optimizes_the_label_jointly(observe: Observe) -> None:
    batch = lg.Batch(images(1).inputs, torch.tensor([2]))
    guess = attacks.BalancedDLG()(observe(sigmoid_cnn(), batch), seeds=lg.Seeds(0))
    assert guess.targets is not None
    assert guess.targets.tolist() == [2]
    assert psnr(batch.inputs, guess.inputs).min() > 40


def test_idlg_is_for_one_example(observe: Observe) -> None:
    reason = refusal(attacks.IDLG(), observe(sigmoid_cnn(), images(2)))
    assert reason is not None
    assert "batch 2 > 1" in reason


def test_inverting_gradients_improves_and_stays_in_the_box(observe: Observe) -> None:
    batch = images(1)
    observation = observe(sigmoid_cnn(), batch)
    long = attacks.InvertingGradients(steps=300, tv=0.0)(observation, seeds=lg.Seeds(0))
    short = attacks.InvertingGradients(steps=3, tv=0.0)(observation, seeds=lg.Seeds(0))
    assert long.inputs.min() >= 0
    assert long.inputs.max() <= 1
    assert long.objectives[0] < short.objectives[0]
    assert psnr(batch.inputs, long.inputs).min() > psnr(batch.inputs, short.inputs).min() + 3


def test_a_tv_prior_on_a_table_says_that_it_cannot(observe: Observe) -> None:
    domain = lg.TableDomain.from_ranges(["a", "b"], [0, 0], [1, 2])
    owner = lg.Client(
        model=mlp(2), loss=torch.nn.functional.cross_entropy, domain=domain, classes=4
    )
    batch = lg.Batch(torch.tensor([[0.5, 1.0]]), torch.tensor([1]))
    observation = lg.Server().observe(owner, batch, seeds=lg.Seeds(0))
    assert "image" in (refusal(attacks.InvertingGradients(), observation) or "")
    assert refusal(attacks.InvertingGradients(tv=0.0), observation) is None


def test_trials_are_independent_and_the_objective_chooses(observe: Observe) -> None:
    observation = observe(sigmoid_cnn(), images(1))
    guess = attacks.InvertingGradients(steps=5, trials=3)(observation, seeds=lg.Seeds(0))
    assert len(set(guess.objectives)) == 3
    assert guess.trial == min(range(3), key=lambda s: guess.objectives[s])


def test_a_chain_equals_its_parts_written_out(observe: Observe) -> None:
    """One signed Adam step of the composition against the same step by hand."""
    observation = observe(sigmoid_cnn(), images(1), labels=True)
    matching = GradientMatching(
        objective=Cosine(),
        parametrization=Direct(box=True),
        labels=Known(),
        descent=SignedAdam(steps=8, lr=0.1),
    )
    guess = matching(observation, seeds=lg.Seeds(5))
    start = torch.randn((1, 1, 8, 8), generator=lg.Seeds(5).child("trial/0").generator("inputs"))
    x = start.clone().requires_grad_()
    parameters = list(observation.model.parameters())
    loss = torch.nn.functional.cross_entropy(observation.model(x), torch.tensor([0]))
    g = torch.cat([t.flatten() for t in torch.autograd.grad(loss, parameters, create_graph=True)])
    g_star = torch.cat([t.flatten() for t in observation.update.tensors.values()])
    value = 1 - g @ g_star / (g.norm() * g_star.norm())
    (slope,) = torch.autograd.grad(value, x)
    # Adam's first step is the rate times the sign of a signed gradient.
    stepped = (start - 0.1 * slope.sign()).clamp(0, 1)
    assert guess.course[0].objective == pytest.approx(float(value.detach()), rel=1e-5)
    assert torch.allclose(guess.course[1].inputs, stepped, atol=1e-5)


def test_joint_labels_refuse_what_is_not_classification(observe: Observe) -> None:
    owner = lg.Client(
        model=mlp(classes=1),
        loss=lambda output, target: (output.squeeze(1) - target).square().mean(),
        domain=lg.ImageDomain(1, 8, 8),
        classes=None,
    )
    batch = lg.Batch(images(1).inputs, torch.tensor([0.3]))
    observation = lg.Server().observe(owner, batch, seeds=lg.Seeds(0))
    assert "classification" in (refusal(attacks.DLG(), observation) or "")
    linear = attacks.LinearLayer()(observation, seeds=lg.Seeds(0))
    # Two outputs' shapes fit one example: the number is what counts.
    assert linear.targets is not None
    assert linear.targets.flatten().tolist() == pytest.approx([0.3], abs=1e-4)
    assert psnr(batch.inputs, linear.inputs).min() > 80


def test_divergence_is_a_status_with_a_remedy(observe: Observe) -> None:
    observation = observe(sigmoid_cnn(), images(1))
    matching = GradientMatching(objective=Cosine(), labels=Known(), descent=LBFGS(steps=5, lr=1e30))
    guess = matching(observation, seeds=lg.Seeds(0))
    assert guess.status in (lg.Status.DIVERGED, lg.Status.UNCONVERGED)
    assert guess.message


class TestAuto:
    def test_stops_at_the_first_certified_result(self, observe: Observe) -> None:
        batch = images(3)
        guess = attacks.Auto()(observe(mlp(), batch), seeds=lg.Seeds(0))
        assert guess.status is lg.Status.CERTIFIED
        assert psnr(batch.inputs, guess.inputs).min() > 60
        assert any("IDLG: reads one label" in note for note in guess.notes)

    def test_stops_where_the_batch_is_told_and_matched(self, observe: Observe) -> None:
        """LinearLayer does not apply, iDLG is not certified; what costs more than second order does not run."""
        second = attacks.SecondOrder(iterations=30)
        auto = attacks.Auto(attacks=(second, attacks.InvertingGradients(steps=4000)))
        guess = auto(observe(sigmoid_cnn(), images(1)), seeds=lg.Seeds(0))
        assert guess.diagnosis is not None
        assert guess.diagnosis.verdict == "recovered"
        assert not any(note.startswith("InvertingGradients:") for note in guess.notes)

    def test_leaves_second_order_to_small_networks(self, observe: Observe) -> None:
        observation = observe(sigmoid_cnn(), images(1))
        size, second = observation.update.size, attacks.SecondOrder()
        _, plan = attacks.Entry(attack=second, most_parameters=size).plan(observation)
        assert isinstance(plan, lg.Plan)
        _, refused = attacks.Entry(attack=second, most_parameters=size - 1).plan(observation)
        assert isinstance(refused, lg.Inapplicable)
        assert refused.reason.startswith(f"{size} parameters")

    def test_chooses_descents_by_curvature(self, observe: Observe) -> None:
        angular, smooth = observe(mlp(), images(1)), observe(sigmoid_cnn(), images(1))
        for attack in (attacks.IDLG(), attacks.BalancedDLG()):
            entry = attacks.Entry(attack=attack, guards=(attacks.HasCurvature(),))
            _, refused = entry.plan(angular)
            assert isinstance(refused, lg.Inapplicable)
            assert "curvature" in refused.reason
            assert isinstance(entry.plan(smooth)[1], lg.Plan)
        entry = attacks.Entry(attack=attacks.SmoothedMatching(), guards=(attacks.HasReLU(),))
        assert entry.plan(smooth)[1] == lg.Inapplicable("no ReLU to smooth")
        assert isinstance(entry.plan(angular)[1], lg.Plan)

    def test_a_named_attack_has_no_guards(self, observe: Observe) -> None:
        auto = attacks.Auto(attacks=(attacks.IDLG(steps=2),))
        assert isinstance(auto.plan(observe(mlp(), images(1))), lg.Plan)

    def test_a_user_s_attack_joins_as_an_equal(self, observe: Observe) -> None:
        seen = observe(sigmoid_cnn(), images(1))

        class Own:
            requires = frozenset({"batch_size"})

            def plan(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
                inner = attacks.IDLG(steps=60).plan(observation)
                assert isinstance(inner, lg.Plan)
                return inner

        few = attacks.InvertingGradients(steps=2)
        auto = attacks.Auto(attacks=(attacks.Entry(attack=few), attacks.Entry(attack=Own())))
        found = auto(seen, seeds=lg.Seeds(0))
        assert found.notes[0].startswith("chosen by residual: <")
        assert found.residual is not None
        assert found.residual < few(seen, seeds=lg.Seeds(0)).residual

    def test_says_why_an_attack_does_not_apply(self, observe: Observe) -> None:
        notes = QUICK["Auto"](observe(sigmoid_cnn(), images(1)), seeds=lg.Seeds(0)).notes
        assert any(note.startswith("LinearLayer: the first linear layer") for note in notes)

    def test_takes_the_least_residual(self, observe: Observe) -> None:
        observation = observe(sigmoid_cnn(), images(1))
        auto = attacks.Auto(attacks=(attacks.IDLG(steps=1), attacks.IDLG(steps=30)))
        best = attacks.IDLG(steps=30)(observation, seeds=lg.Seeds(0).child("IDLG"))
        guess = auto(observation, seeds=lg.Seeds(0))
        assert guess.residual == best.residual


def test_a_model_left_in_training_mode_is_repeatable(observe: Observe) -> None:
    """Dropout draws from the global generator: masks come from the seed, and the generator is left alone."""
    model = torch.nn.Sequential(torch.nn.Dropout(0.2), sigmoid_cnn()).train()
    before = torch.random.get_rng_state()
    runs = []
    for _ in range(2):
        observation = observe(model, images(1))
        runs.append(attacks.InvertingGradients(steps=5)(observation, seeds=lg.Seeds(0)))
        torch.rand(7)  # what a program around an audit may do
        torch.random.set_rng_state(before)
        torch.rand(3)
    torch.random.set_rng_state(before)
    assert torch.equal(runs[0].inputs, runs[1].inputs)
