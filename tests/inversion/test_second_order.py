"""Second-order descent: the Jacobian against autograd's, the preconditioner against its matrix, and the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import images, mlp, planned, psnr, refusal, sigmoid_cnn
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge import attacks
from leakgauge.core import Tensors
from leakgauge.inversion import (
    L2,
    Affine,
    BalancedL2,
    Cosine,
    Direct,
    GaussNewton,
    GradientMatching,
    InRange,
    Joint,
    Known,
    Smoothness,
    Term,
    TotalVariation,
)
from leakgauge.inversion.descents.curvature import Curvature, bound_rank, count_sketch, lower_gram
from leakgauge.inversion.descents.descent import Identification, flatten, unflatten
from leakgauge.inversion.evaluation.jacobian import (
    Compression,
    Linearization,
    Tangents,
    least_squares,
)
from leakgauge.inversion.evaluation.problem import Problem, Variables
from leakgauge.inversion.objectives.objective import Candidate
from leakgauge.inversion.search.composition import count_halved
from leakgauge.inversion.search.judgment import diagnose
from leakgauge.inversion.simulation.simulator import functional_simulator, in_precision

Observe = Callable[..., lg.Observation]


def problem(
    observe: Observe,
    objective: Term,
    *,
    batch: int = 2,
    joint: bool = False,
    model: torch.nn.Module | None = None,
    **seen: object,
) -> tuple[Problem, Variables]:
    """Return a problem in float64, and a place that is not its solution."""
    observation = observe(model or sigmoid_cnn(), images(batch), **seen)
    observation = in_precision(observation, torch.float64)
    labels = Joint() if joint else Known()
    ready = labels.prepare(observation)
    assert not isinstance(ready, lg.Inapplicable)
    held = ready.start(observation, torch.Generator().manual_seed(0))
    inputs = torch.rand(
        batch, *observation.domain.shape, generator=torch.Generator().manual_seed(1)
    ).double()
    made = Problem(observation, objective, Direct(), labels, None if joint else held)
    return made, ((inputs, held.double()) if joint else (inputs,))


def residuals(of: Problem, variables: Variables) -> Tensor:
    """Return all residuals, weighted, by the terms' own formulas."""
    simulate = functional_simulator(of.observation, lg.FedSGD())
    candidate = of.candidate(variables, simulate)
    parts = zip(of.weights(0.0), of.terms, strict=True)
    return torch.cat([w**0.5 * least_squares(t, candidate).reshape(-1) for w, t in parts])


def gram(of: Problem, variables: Variables) -> Tensor:
    """Return 2 J'J by reverse differentiation of each residual."""
    flat = flatten(variables)
    jacobian = torch.func.jacrev(lambda v: residuals(of, unflatten(v, variables)))(flat)
    return 2 * jacobian.T @ jacobian


def dense(of: Problem, variables: Variables) -> Curvature:
    return Curvature(of, variables, of.weights(0.0), torch.Generator().manual_seed(0))


OBJECTIVES = [
    L2(),
    BalancedL2() + 0.1 * Smoothness(),
    Cosine() + 0.01 * (InRange() + Smoothness()),
    L2() + 0.3 * TotalVariation(),
]


class TestCurvature:
    @pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
    @pytest.mark.parametrize("joint", [False, True])
    def test_the_matrix_is_twice_the_jacobians_gram(
        self, observe: Observe, objective: Term, joint: bool
    ) -> None:
        """The solve, applied to a vector, inverts the Gram matrix."""
        of, at = problem(observe, objective, joint=joint)
        curvature = dense(of, at)
        damping = curvature.factorize(1e-4)
        assert damping == 1e-4
        expected = gram(of, at) + curvature.shift * torch.eye(flatten(at).numel())
        probe = torch.randn(len(expected), generator=torch.Generator().manual_seed(3)).double()
        found = curvature.inverse(at)(expected @ probe)
        assert torch.allclose(found, probe, rtol=1e-5, atol=1e-6)

    def test_a_known_defense_is_seen_through(self, observe: Observe) -> None:
        of, at = problem(observe, L2(), under=lg.defenses.TopK(sparsity=0.5), defense=True)
        curvature = dense(of, at)
        curvature.factorize(1e-4)
        expected = gram(of, at) + curvature.shift * torch.eye(flatten(at).numel())
        probe = torch.ones(len(expected)).double()
        assert torch.allclose(curvature.inverse(at)(expected @ probe), probe, rtol=1e-5)

    def test_examples_that_meet_in_the_model_are_differentiated_together(
        self, observe: Observe
    ) -> None:
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 4)
        ).train()
        of, at = problem(observe, L2(), model=model, batch=3, label_counts=True)
        place = Linearization(of, at, of.weights(0.0))
        assert not place.separable
        curvature = dense(of, at)
        curvature.factorize(1e-4)
        expected = gram(of, at) + curvature.shift * torch.eye(flatten(at).numel())
        probe = torch.ones(len(expected)).double()
        assert torch.allclose(curvature.inverse(at)(expected @ probe), probe, rtol=1e-4)

    def test_a_sum_over_examples_is_separable_too(self, observe: Observe) -> None:
        of, at = problem(observe, L2(), batch=3, label_counts=True)
        seen = replace(of.observation, loss=torch.nn.CrossEntropyLoss(reduction="sum"))
        of = replace(of, observation=seen)
        assert Linearization(of, at, of.weights(0.0)).fraction == 1.0
        curvature = dense(of, at)
        curvature.factorize(1e-4)
        expected = gram(of, at) + curvature.shift * torch.eye(flatten(at).numel())
        probe = torch.ones(len(expected)).double()
        assert torch.allclose(curvature.inverse(at)(expected @ probe), probe, rtol=1e-4)

    def test_linear_layers_are_compressed_without_loss(self, observe: Observe) -> None:
        of, at = problem(observe, L2(), model=mlp())
        place = Linearization(of, at, of.weights(0.0))
        assert place.compressions
        tangents = Tangents(torch.eye(64).double().reshape(64, *at[0].shape[1:]), None)
        rows = torch.cat(list(place.columns(0, tangents)))
        assert rows.shape[1] < sum(t.numel() for t in place.whole.values())
        expected = gram(of, at)[:64, :64]
        assert torch.allclose(2 * rows @ rows.T, expected, rtol=1e-6, atol=1e-12)

    def test_damping_grows_until_the_matrix_is_definite(self, observe: Observe) -> None:
        of, at = problem(observe, L2())
        curvature = dense(of, at)
        curvature.matrix.zero_().diagonal().copy_(torch.ones(128))
        curvature.matrix[1, 0] = 1.05
        assert curvature.factorize(1e-3) == pytest.approx(0.1)


class TestParts:
    def test_smoothness_weighs_color_more_than_brightness(self) -> None:
        """The ratio is exactly `chroma`. With 1 and 1 it is the plain Laplacian. One channel has no color."""
        bump = torch.zeros(1, 1, 5, 5)
        bump[0, 0, 2, 2] = 1.0

        def energy(color: tuple[float, float, float], prior: Smoothness) -> float:
            unit = torch.tensor(color).reshape(1, 3, 1, 1) * bump
            return float(prior(Candidate(unit, torch.zeros(1), {}, {})))

        gray, blue, green = (1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0)
        plain, prior = Smoothness(chroma=(1.0, 1.0)), Smoothness()
        assert energy(gray, prior) == pytest.approx(energy(gray, plain))
        assert energy(blue, prior) == pytest.approx(16 * energy(blue, plain))
        assert energy(green, prior) == pytest.approx(50 * energy(green, plain))
        one = Candidate(bump, torch.zeros(1), {}, {})
        assert float(prior(one)) == pytest.approx(float(plain(one)))

    def test_a_gram_in_blocks(self) -> None:
        rows = torch.randn(900, 5, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(lower_gram(rows).tril(), (rows @ rows.T).tril(), atol=1e-5)

    def test_a_sketch_keeps_lengths_on_average_and_is_linear(self) -> None:
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(50, 4000, generator=generator)
        sketch = count_sketch(values, 400, generator)
        assert sketch is not None
        ratio = sketch(values).square().sum(1) / values.square().sum(1)
        assert float(ratio.mean()) == pytest.approx(1, abs=0.1)
        assert torch.allclose(
            sketch(values[:1] + values[1:2]), sketch(values[:2]).sum(0), atol=1e-4
        )
        assert count_sketch(values, 4000, generator) is None

    def test_compression_is_an_isometry_of_the_tangent_space(self) -> None:
        generator = torch.Generator().manual_seed(0)
        left, right, moved, turned = (
            torch.randn(n, 2, generator=generator).double() for n in (7, 9, 7, 9)
        )
        compression = Compression.of(left @ right.T, 2)
        tangent = moved @ right.T + left @ turned.T
        assert compression(tangent).numel() == 2 * (7 + 9 - 2)
        assert float(compression(tangent).norm()) == pytest.approx(float(tangent.norm()))

    def test_eight_halved_restarts_cost_less_than_three(self) -> None:
        assert count_halved(8, 1000) < 3000
        assert count_halved(1, 1000) == 1000

    @pytest.mark.parametrize(
        ("rank", "exact", "residual", "verdict"),
        [
            (10, True, 1e-6, "recovered"),
            (9, True, 1e-6, "collision"),
            (9, False, 1e-6, "collision"),
            (10, False, 1e-6, "undecided"),
            (10, True, 0.1, "stalled"),
        ],
    )
    def test_the_verdict(self, rank: int, exact: bool, residual: float, verdict: str) -> None:
        found = diagnose(Identification(rank, 10, 1.0, exact), residual)
        assert found is not None
        assert found.verdict == verdict
        assert f"{rank} of 10" in found.line
        assert diagnose(None, residual) is None


class TestDescent:
    @pytest.mark.parametrize("labels", ["recovered", "joint"])
    def test_it_reads_an_image_to_the_last_digits(self, observe: Observe, labels: str) -> None:
        batch = images(1)
        attack = attacks.SecondOrder(iterations=30, labels=labels)  # type: ignore[arg-type]
        guess = attack(observe(sigmoid_cnn(), batch), seeds=lg.Seeds(0))
        assert psnr(guess.inputs, batch.inputs) > 60
        assert guess.targets is not None
        assert torch.equal(guess.targets, batch.targets)
        assert guess.diagnosis is not None
        assert guess.diagnosis.exact
        assert guess.diagnosis.verdict == "recovered"
        assert guess.cost.evaluations <= planned(attack, observe(sigmoid_cnn(), batch)).evaluations

    def test_halving_drops_restarts_and_keeps_the_best(self, observe: Observe) -> None:
        attack = attacks.SecondOrder(iterations=8, stages=1, restarts=4)
        observation = observe(sigmoid_cnn(), images(1))
        guess = attack(observation, seeds=lg.Seeds(0))
        assert len(guess.objectives) == 4
        assert guess.objectives[guess.restart] == min(guess.objectives)
        assert guess.cost.evaluations <= planned(attack, observation).evaluations
        assert (
            planned(attack, observation).evaluations
            < 3 * planned(replace(attack, restarts=1), observation).evaluations
        )

    def test_the_same_seed_gives_the_same_bits(self, observe: Observe) -> None:
        attack = attacks.SecondOrder(iterations=8, stages=2)
        one, two = (attack(observe(sigmoid_cnn(), images(2)), seeds=lg.Seeds(4)) for _ in "ab")
        assert torch.equal(one.inputs, two.inputs)

    def test_a_term_that_is_no_sum_of_squares_is_told(self, observe: Observe) -> None:
        class Odd(Term):
            def __call__(self, candidate: object) -> Tensor:
                return torch.ones(())

        of, at = problem(observe, L2() + Odd())
        with pytest.raises(lg.ModelError, match="sums of squares"):
            dense(of, at)

    def test_beyond_the_dense_it_goes_on_without_a_matrix(self, observe: Observe) -> None:
        """Two examples of 64 values are 128 unknowns. Counting residuals bounds the rank."""
        of, at = problem(observe, L2())
        assert bound_rank(of, at, of.weights(0.0)).rank == 128
        matching = attacks.SecondOrder(iterations=20).matching()
        matching = replace(matching, descent=replace(matching.descent, dense=127))
        guess = matching(observe(sigmoid_cnn(), images(2)), seeds=lg.Seeds(0))
        assert guess.diagnosis is not None
        assert not guess.diagnosis.exact
        assert any("L-BFGS alone" in note for note in guess.notes)

    def test_joint_targets_are_affine(self) -> None:
        """They sum to 1 for any variables. A step moves them equally far, however certain they are."""
        values = torch.tensor([[50.0, 0.0, 1.0]])
        assert Affine().decode(values).sum() == pytest.approx(1)
        moved = Affine().decode(values + torch.tensor([[0.3, 0.0, 0.0]])) - Affine().decode(values)
        assert moved[0].tolist() == pytest.approx([0.2, -0.1, -0.1], abs=1e-5)

    def test_a_protocol_of_several_steps_is_told(self, observe: Observe) -> None:
        class Local:
            kind = "delta"

            def __call__(self, *arguments: object, create_graph: bool = False) -> Tensors:
                raise AssertionError("not reached")

        of, at = problem(observe, L2())
        of = replace(of, observation=replace(of.observation, training=Local()))
        with pytest.raises(lg.ModelError, match="one gradient"):
            Linearization(of, at, (1.0,))

    def test_it_runs_on_tables(self, observe: Observe) -> None:
        matching = GradientMatching(
            objective=BalancedL2(),
            labels=Known(),
            descent=GaussNewton(warm=1, warm_iterations=5, stages=1),
        )
        assert isinstance(matching, lg.Attack)
        assert refusal(attacks.SecondOrder(smoothness=0), observe(mlp(), images(1))) is None


@pytest.mark.parametrize("loss", [functional.mse_loss, nn.MSELoss(reduction="sum")])
def test_squared_error_is_matched_too(loss: lg.core.Loss) -> None:
    """PyTorch's own kernel of squared error has no forward-over-reverse derivative in torch.func."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
        batch = lg.Batch(torch.rand(1, 1, 8, 8), torch.rand(1, 10))
    client = lg.Client(model=model, loss=loss, domain=lg.ImageDomain(1, 8, 8), classes=None)
    seen = lg.Server(labels=True).observe(client, batch, seeds=lg.Seeds(0))
    attack = lg.attacks.SecondOrder(warm=20, iterations=100)
    assert refusal(attack, seen) is None
    found = attack(seen, seeds=lg.Seeds(0))
    assert found.status is lg.Status.CONVERGED
    assert psnr(batch.inputs, found.inputs).min() > 40


class Root(nn.Module):
    """A square root of features that are 0. Its derivative is infinite, and times 0 it is NaN."""

    def forward(self, inputs: Tensor) -> Tensor:
        return (0 * inputs).sqrt() + inputs


def test_a_jacobian_that_is_not_finite_ends_the_stage() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), Root(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 4))
        batch = lg.Batch(torch.rand(1, 1, 8, 8), torch.tensor([1]))
    client = lg.Client(
        model=model, loss=functional.cross_entropy, domain=lg.ImageDomain(1, 8, 8), classes=4
    )
    seen = lg.Server().observe(client, batch, seeds=lg.Seeds(0))
    found = lg.attacks.SecondOrder(warm=1, iterations=5, stages=2)(seen, seeds=lg.Seeds(0))
    assert found.status in (lg.Status.UNCONVERGED, lg.Status.DIVERGED)
    assert torch.isfinite(found.inputs).all()
