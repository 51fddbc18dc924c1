"""The contract of all attacks, and what single attacks promise."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from conftest import images, mlp, psnr, refusal, sigmoid_cnn
from support.attack_cases import ATTACK_CASES, AttackCase, attack_cases

import leakgauge as lg
from leakgauge import attacks
from leakgauge.inversion import LBFGS, Cosine, Direct, GradientMatching, Known, SignedAdam

Observe = Callable[..., lg.Observation]


def seen_by(case: AttackCase, batch: lg.Batch, observe: Observe, **granted: bool) -> lg.Observation:
    """Return the observation that the attack of a case is made for."""
    network = mlp if case.network is None else case.network
    training = case.training or lg.FedSGD()
    return observe(network(), batch, under=case.defense, training=training, **granted)


def remedy_of(case: AttackCase, batch_size: int, observe: Observe) -> str | None:
    """Return what to do if the attack cannot run on its own case, or None if it can."""
    try:
        reason = refusal(case.attack, seen_by(case, case.batch(batch_size), observe))
    except lg.LeakGaugeError as error:
        return case.refused(error)
    return None if reason is None or not case.made_for(batch_size) else case.refused(reason)


def test_every_exported_attack_runs_on_its_case(observe: Observe) -> None:
    remedies = [
        remedy_of(case, size, observe) for case in ATTACK_CASES for size in case.batch_sizes
    ]
    assert [one for one in remedies if one is not None] == []


def test_an_attack_without_a_case_is_tried_with_its_defaults(
    observe: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack on a usual gradient needs no case. For an attack on a defense, the error says what to add."""

    class Novel(attacks.VanishingPrior):
        pass

    class Undoing(attacks.BayesOptimal):
        pass

    for one in (Novel, Undoing):
        monkeypatch.setattr(attacks, one.__name__, one, raising=False)
    plain, undoing = attack_cases(1, ["Novel", "Undoing"])
    assert plain == AttackCase(Novel(steps=3))
    assert remedy_of(plain, 2, observe) is None
    remedy = remedy_of(undoing, 2, observe) or ""
    assert "Add AttackCase(A.Undoing(...), ...)" in remedy
    assert "expected knowledge of defense" in remedy


@pytest.mark.parametrize("case", ATTACK_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("batch_size", [1, 3])
class TestContract:
    def run(self, case: AttackCase, batch_size: int, observe: Observe) -> lg.Reconstruction:
        observation = seen_by(case, case.batch(batch_size), observe)
        reason = refusal(case.attack, observation)
        if reason is not None:
            assert not case.made_for(batch_size), case.refused(reason)
            pytest.skip(reason)
        return case.attack(observation, seeds=lg.Seeds(3))

    def test_is_an_attack_with_a_configuration(
        self, case: AttackCase, batch_size: int, observe: Observe
    ) -> None:
        attack = case.attack
        assert isinstance(attack, lg.Attack)
        assert attack.requires <= lg.Knowledge.names()
        assert eval(repr(attack), vars(attacks)) == attack  # The repr is the configuration.

    def test_shapes_and_range(self, case: AttackCase, batch_size: int, observe: Observe) -> None:
        guess = self.run(case, batch_size, observe)
        assert guess.inputs.shape == case.batch(batch_size).inputs.shape
        assert guess.found.shape == (batch_size,)
        assert torch.isfinite(guess.inputs).all()
        assert not guess.inputs.requires_grad
        assert guess.targets is None or guess.targets.shape == (batch_size,)
        assert isinstance(guess.status, lg.Status)

    def test_same_seed_same_bits(self, case: AttackCase, batch_size: int, observe: Observe) -> None:
        first, second = (self.run(case, batch_size, observe) for _ in range(2))
        assert torch.equal(first.inputs, second.inputs)
        assert first.objectives == second.objectives

    def test_draws_nothing_from_the_global_generator(
        self, case: AttackCase, batch_size: int, observe: Observe
    ) -> None:
        before = torch.random.get_rng_state()
        self.run(case, batch_size, observe)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_leaves_the_observed_model_alone(
        self, case: AttackCase, batch_size: int, observe: Observe
    ) -> None:
        observation = seen_by(case, case.batch(batch_size), observe)
        if refusal(case.attack, observation) is not None:
            pytest.skip("inapplicable")
        before = copy.deepcopy(observation.model.state_dict())
        update = observation.update.detached()
        case.attack(observation, seeds=lg.Seeds(3))
        after = observation.model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert all(parameter.grad is None for parameter in observation.model.parameters())
        assert all(
            torch.equal(update.tensors[name], tensor)
            for name, tensor in observation.update.tensors.items()
        )

    def test_never_sees_the_truth(
        self, case: AttackCase, batch_size: int, observe: Observe
    ) -> None:
        batch = case.batch(batch_size)
        observation = seen_by(case, batch, observe)
        if refusal(case.attack, observation) is not None:
            pytest.skip("inapplicable")
        expected = case.attack(observation, seeds=lg.Seeds(3))
        poisoned = case.batch(batch_size)
        observation = seen_by(case, poisoned, observe)
        poisoned.inputs.fill_(float("nan") if poisoned.inputs.is_floating_point() else 1)
        poisoned.targets.fill_(0)
        found = case.attack(observation, seeds=lg.Seeds(3))
        assert torch.equal(expected.inputs, found.inputs)
        if expected.targets is not None:
            assert found.targets is not None
            assert torch.equal(expected.targets, found.targets)

    def test_tells_its_progress(self, case: AttackCase, batch_size: int, observe: Observe) -> None:
        observation = seen_by(case, case.batch(batch_size), observe)
        if refusal(case.attack, observation) is not None:
            pytest.skip("inapplicable")
        moments: list[lg.core.Moment] = []
        guess = case.attack(observation, seeds=lg.Seeds(3), progress=moments.append)
        shares = [moment.fraction for moment in moments]
        assert shares[-1] == 1.0
        assert shares == sorted(shares)
        assert all(0 <= fraction <= 1 for fraction in shares)
        assert guess.cost.evaluations <= case.attack.plan(observation).evaluations

    def test_refuses_without_the_knowledge_that_it_needs(
        self, case: AttackCase, batch_size: int, observe: Observe
    ) -> None:
        observation = seen_by(case, case.batch(batch_size), observe, batch_size=False)
        with pytest.raises(lg.KnowledgeError, match="batch_size"):
            case.attack(observation, seeds=lg.Seeds(3))


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


def test_restarts_are_independent_and_the_objective_chooses(observe: Observe) -> None:
    observation = observe(sigmoid_cnn(), images(1))
    guess = attacks.InvertingGradients(steps=5, restarts=3)(observation, seeds=lg.Seeds(0))
    assert len(set(guess.objectives)) == 3
    assert guess.restart == min(range(3), key=lambda s: guess.objectives[s])


def test_a_chain_equals_its_parts_written_out(observe: Observe) -> None:
    """One signed Adam step of the composition equals the same step written out."""
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
    assert guess.trajectory[0].objective == pytest.approx(float(value.detach()), rel=1e-5)
    assert torch.allclose(guess.trajectory[1].inputs, stepped, atol=1e-5)


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
    # Two shapes of targets fit one example, so that only the number is compared.
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
        assert any("IDLG: recovers one label" in note for note in guess.notes)

    def test_stops_where_the_batch_is_told_and_matched(self, observe: Observe) -> None:
        """Second order determines and matches the batch. The costlier attack after it must not run."""
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
        assert entry.plan(smooth)[1] == lg.Inapplicable("the model runs no ReLU to smooth")
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
        assert found.notes[0].startswith("chosen by residual: Own()")
        assert found.residual is not None
        assert found.residual < few(seen, seeds=lg.Seeds(0)).residual

    def test_says_why_an_attack_does_not_apply(self, observe: Observe) -> None:
        auto = attacks.Auto(attacks=(attacks.LinearLayer(), attacks.IDLG(steps=2)))
        notes = auto(observe(sigmoid_cnn(), images(1)), seeds=lg.Seeds(0)).notes
        assert any(note.startswith("LinearLayer: the first linear layer") for note in notes)

    def test_takes_the_least_residual(self, observe: Observe) -> None:
        observation = observe(sigmoid_cnn(), images(1))
        auto = attacks.Auto(attacks=(attacks.IDLG(steps=1), attacks.IDLG(steps=30)))
        best = attacks.IDLG(steps=30)(observation, seeds=lg.Seeds(0).child("IDLG"))
        guess = auto(observation, seeds=lg.Seeds(0))
        assert guess.residual == best.residual


def test_a_model_left_in_training_mode_is_repeatable(observe: Observe) -> None:
    """Dropout draws from the global generator. The masks must come from the seed and leave that generator unchanged."""
    model = torch.nn.Sequential(torch.nn.Dropout(0.2), sigmoid_cnn()).train()
    before = torch.random.get_rng_state()
    runs = []
    for _ in range(2):
        observation = observe(model, images(1))
        runs.append(attacks.InvertingGradients(steps=5)(observation, seeds=lg.Seeds(0)))
        torch.rand(7)  # A program around an audit may draw, too.
        torch.random.set_rng_state(before)
        torch.rand(3)
    torch.random.set_rng_state(before)
    assert torch.equal(runs[0].inputs, runs[1].inputs)
