"""The parts of gradient matching, each against its formula, and the search that combines them."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from conftest import client, images, mlp, planned, psnr, sigmoid_cnn
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge import attacks, inversion
from leakgauge.core import Tensors
from leakgauge.inversion import (
    L2,
    LBFGS,
    BalancedL2,
    Candidate,
    Cosine,
    Direct,
    FixedLabels,
    GradientMatching,
    Joint,
    Known,
    LastLayer,
    SignedAdam,
    Term,
    TotalVariation,
)
from leakgauge.inversion.descents.descent import Ending, Evaluation, Request, Run, Setting
from leakgauge.inversion.descents.lbfgs import Memory
from leakgauge.inversion.evaluation.problem import Variables
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.output import head_of

Observe = Callable[..., lg.Observation]


def tensors(seed: int) -> Tensors:
    """Return three tensors of different shapes and sizes."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (4, 3), "b": (4,), "c": (2, 2, 2)}
    scales = {"a": 1.0, "b": 10.0, "c": 1e-2}
    return {n: scales[n] * torch.randn(s, generator=generator) for n, s in shapes.items()}


def candidate(
    simulated: Tensors | None = None,
    observed: Tensors | None = None,
    *,
    unit: Tensor | None = None,
) -> Candidate:
    return Candidate(
        unit=torch.zeros(1, 1, 2, 2) if unit is None else unit,
        targets=torch.zeros(1, dtype=torch.long),
        simulated=tensors(0) if simulated is None else simulated,
        observed=tensors(1) if observed is None else observed,
    )


def flat(values: Tensors) -> Tensor:
    return torch.cat([t.flatten() for t in values.values()]).double()


class TestDistances:
    def test_l2_is_the_squared_distance_of_the_whole(self) -> None:
        expected = (flat(tensors(0)) - flat(tensors(1))).square().sum()
        assert float(L2()(candidate())) == pytest.approx(float(expected), rel=1e-5)

    def test_balanced_l2_weighs_each_tensor_by_its_norm(self) -> None:
        g, star = tensors(0), tensors(1)
        whole = float(flat(star).norm())
        expected = sum(
            float((g[n] - star[n]).square().sum()) / (float(star[n].norm()) * whole) for n in g
        )
        assert float(BalancedL2()(candidate())) == pytest.approx(expected, rel=1e-5)

    def test_balanced_l2_has_no_unit(self) -> None:
        large = [{n: 1e3 * t for n, t in tensors(seed).items()} for seed in (0, 1)]
        assert float(BalancedL2()(candidate(*large))) == pytest.approx(
            float(BalancedL2()(candidate())), rel=1e-4
        )

    def test_cosine_is_one_less_the_cosine(self) -> None:
        x, y = flat(tensors(0)), flat(tensors(1))
        expected = 1 - float(x @ y / (x.norm() * y.norm()))
        assert float(Cosine()(candidate())) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("scale", [1e-4, 7.0, 1e5])
    def test_cosine_does_not_see_scale(self, scale: float) -> None:
        scaled = {n: scale * t for n, t in tensors(0).items()}
        assert float(Cosine()(candidate(scaled))) == pytest.approx(
            float(Cosine()(candidate())), abs=1e-5
        )
        assert float(L2()(candidate(scaled))) != pytest.approx(float(L2()(candidate())), rel=0.1)

    def test_cosine_of_opposites_is_two(self) -> None:
        opposite = {n: -t for n, t in tensors(1).items()}
        assert float(Cosine()(candidate(opposite))) == pytest.approx(2, abs=1e-6)

    @pytest.mark.parametrize("term", [L2(), BalancedL2(), Cosine()], ids=repr)
    def test_zero_where_both_agree(self, term: Term) -> None:
        assert float(term(candidate(tensors(1)))) == pytest.approx(0, abs=1e-6)
        assert float(term(candidate())) > 0.1

    @pytest.mark.parametrize("term", [L2(), BalancedL2(), Cosine()], ids=repr)
    @pytest.mark.parametrize(
        "zeroed", [("observed", "b"), ("simulated", "b"), ("both", "b"), ("observed", "all")]
    )
    def test_zeroed_tensors_give_numbers(self, term: Term, zeroed: tuple[str, str]) -> None:
        """A defense may set a tensor to zero, or a candidate may not excite a tensor. Values stay finite."""
        g, star = tensors(0), tensors(1)
        side, which = zeroed
        for sides, values in (("simulated", g), ("observed", star)):
            for name in values if side in (sides, "both") else ():
                if which in (name, "all"):
                    values[name] = torch.zeros_like(values[name])
        leaves = {n: t.requires_grad_() for n, t in g.items()}
        value = term(candidate(leaves, star))
        value.backward()
        assert math.isfinite(float(value.detach()))
        assert all(t.grad is None or bool(torch.isfinite(t.grad).all()) for t in leaves.values())

    def test_a_candidate_without_any_gradient_can_still_move(self) -> None:
        """At zero the cosine has no direction. Its slope must not be NaN there."""
        leaves = {n: torch.zeros_like(t).requires_grad_() for n, t in tensors(0).items()}
        value = Cosine()(candidate(leaves))
        value.backward()
        assert float(value.detach()) == pytest.approx(1)
        assert all(t.grad is not None and torch.isfinite(t.grad).all() for t in leaves.values())

    @pytest.mark.parametrize("term", [L2(), BalancedL2(), Cosine()], ids=repr)
    def test_slopes_agree_with_finite_differences(self, term: Term) -> None:
        star = {n: t.double() for n, t in tensors(1).items()}
        names = list(star)
        values = tuple(t.double().requires_grad_() for t in tensors(0).values())

        def at(*now: Tensor) -> Tensor:
            return term(candidate(dict(zip(names, now, strict=True)), star))

        assert torch.autograd.gradcheck(at, values)

    def test_relative_residual(self) -> None:
        g, star = tensors(0), tensors(1)
        expected = (flat(g) - flat(star)).norm() / flat(star).norm()
        assert float(relative_residual(g, star)) == pytest.approx(float(expected), rel=1e-5)
        assert float(relative_residual(star, star)) == 0
        nothing = {n: torch.zeros_like(t) for n, t in star.items()}
        assert float(relative_residual(nothing, star)) == pytest.approx(1)
        assert float(relative_residual(nothing, nothing)) == 0
        assert float(relative_residual(g, nothing)) > 1e9


class TestPriors:
    @pytest.mark.parametrize("channels", [1, 3, 5])
    def test_total_variation_is_written_out(self, channels: int) -> None:
        generator = torch.Generator().manual_seed(0)
        unit = torch.rand((2, channels, 4, 6), generator=generator)
        vertical = [
            abs(float(unit[b, c, i + 1, j] - unit[b, c, i, j]))
            for b in range(2)
            for c in range(channels)
            for i in range(3)
            for j in range(6)
        ]
        horizontal = [
            abs(float(unit[b, c, i, j + 1] - unit[b, c, i, j]))
            for b in range(2)
            for c in range(channels)
            for i in range(4)
            for j in range(5)
        ]
        expected = sum(vertical) / len(vertical) + sum(horizontal) / len(horizontal)
        assert float(TotalVariation()(candidate(unit=unit))) == pytest.approx(expected, rel=1e-5)

    def test_flat_images_have_none(self) -> None:
        assert float(TotalVariation()(candidate(unit=torch.full((1, 3, 4, 4), 0.7)))) == 0

    @pytest.mark.parametrize("shape", [(1, 1, 1, 5), (1, 1, 5, 1)])
    def test_an_image_one_pixel_wide_has_it_along_its_length_alone(
        self, shape: tuple[int, ...]
    ) -> None:
        unit = torch.arange(5.0).reshape(shape)
        assert float(TotalVariation()(candidate(unit=unit))) == 1


class TestObjectives:
    def test_terms_add_and_scale(self) -> None:
        at = candidate(unit=torch.rand(1, 1, 4, 4))
        value = (2 * L2() + Cosine() + 0.5 * TotalVariation())(at)
        expected = 2 * L2()(at) + Cosine()(at) + 0.5 * TotalVariation()(at)
        assert float(value) == pytest.approx(float(expected))

    def test_sums_scale_as_one(self) -> None:
        at = candidate(unit=torch.rand(1, 1, 4, 4))
        value = (3 * (2 * Cosine() + TotalVariation()))(at)
        expected = 6 * Cosine()(at) + 3 * TotalVariation()(at)
        assert float(value) == pytest.approx(float(expected))

    def test_a_weight_may_be_a_function_of_progress(self) -> None:
        term = (lambda progress: 1 - progress) * L2()
        assert [term.parts(p) for p in (0.0, 0.25, 1.0)] == [((w, L2()),) for w in (1, 0.75, 0)]
        assert float(term(candidate())) == 0
        nested = 2.0 * (term + 3.0 * Cosine())
        assert nested.parts(0.5) == ((1.0, L2()), (6.0, Cosine()))

    def test_a_falling_weight_is_geometric(self) -> None:
        weight = inversion.GeometricSchedule(1e-1, 1e-5)
        assert [weight(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1e-1, 1e-3, 1e-5])

    @pytest.mark.parametrize(
        "term",
        [L2(), BalancedL2(), Cosine(), inversion.Smoothness(), inversion.InRange()],
        ids=repr,
    )
    def test_the_value_is_the_squared_norm_of_the_residuals(self, term: Term) -> None:
        unit = 2 * torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)) - 0.5
        guess = candidate(unit=unit)
        residuals = term.residuals(guess)
        assert residuals is not None
        assert float(term(guess)) == pytest.approx(float(residuals.square().sum()), rel=1e-4)

    def test_total_variation_is_reweighted_least_squares(self) -> None:
        unit = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
        residuals = TotalVariation().residuals(candidate(unit=unit))
        whole = float(TotalVariation()(candidate(unit=unit)))
        assert float(residuals.square().sum()) == pytest.approx(whole, rel=1e-2)

    def test_smoothness_is_zero_on_flat_images_and_blind_to_no_pattern(self) -> None:
        assert float(inversion.Smoothness()(candidate(unit=torch.ones(1, 1, 4, 4)))) == 0
        checks = (torch.arange(4)[:, None] + torch.arange(4)) % 2
        assert float(inversion.Smoothness()(candidate(unit=checks[None, None].float()))) > 1

    @pytest.mark.parametrize(
        "text",
        [
            "L2()",
            "Cosine() + 0.0001 * TotalVariation()",
            "1000000.0 * BalancedL2()",
            "2 * L2() + 3 * Cosine() + TotalVariation()",
            "2 * (L2() + Cosine())",
            "2 * (3 * L2() + 0.5 * (Cosine() + TotalVariation()))",
        ],
    )
    def test_its_repr_is_the_equation(self, text: str) -> None:
        term = eval(text, vars(inversion))
        assert repr(term) == text
        assert eval(repr(term), vars(inversion)) == term

    def test_a_sum_is_inapplicable_where_a_part_is(self) -> None:
        domain = lg.TableDomain.from_ranges(["a", "b"], [0, 0], [1, 1])
        owner = lg.Client(model=mlp(2), loss=functional.cross_entropy, domain=domain, classes=4)
        batch = lg.Batch(torch.rand(1, 2), torch.tensor([1]))
        table = lg.Server().observe(owner, batch, seeds=lg.Seeds(0))
        assert L2().inapplicable(table) is None
        for term in (L2() + TotalVariation(), 2 * (TotalVariation() + L2())):
            assert "table" in (term.inapplicable(table) or "")


Function = Callable[[Tensor], Tensor]


def follow(
    descent: inversion.Descent,
    function: Function,
    start: Tensor,
    *,
    tolerance: float = 0.0,
    project: Callable[[Variables], None] = lambda variables: None,
) -> tuple[list[Tensor], list[float], list[float]]:
    """Answer a descent's requests. Return the requested places, the objective there, and the progress."""
    run = descent.run((start,), Setting(project=project, tolerance=tolerance))
    places: list[Tensor] = []
    values: list[float] = []
    progress: list[float] = []
    request = next(run)
    while True:
        x = request.variables[0].detach().clone().requires_grad_()
        value = function(x)
        (gradient,) = torch.autograd.grad(value, x)
        places.append(x.detach())
        values.append(float(value.detach()))
        progress.append(request.progress)
        try:
            request = run.send(Evaluation(values[-1], (gradient,)))
        except StopIteration:
            return places, values, progress


def starting_labels(observation: lg.Observation) -> Tensor:
    """Return the labels that a search starts from."""
    found = Known().prepare(observation)
    assert not isinstance(found, lg.Inapplicable)
    return found.start(observation, torch.Generator().manual_seed(0))


def bowl(x: Tensor) -> Tensor:
    """Return a quadratic in five dimensions whose minimum is at 1."""
    return (torch.tensor([1.0, 2.0, 3.0, 5.0, 8.0]).to(x) * (x - 1).square()).sum()


def valley(x: Tensor) -> Tensor:
    """Return Rosenbrock's function of four numbers, whose minimum is at 1."""
    return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum()


FOUR = torch.full((5,), 4.0)
DESCENTS = [LBFGS(steps=50), SignedAdam(steps=80), LBFGS(steps=50, line_search="strong_wolfe")]


class TestDescents:
    @pytest.mark.parametrize(
        "descent",
        [
            LBFGS(steps=200, lr=0.1),
            LBFGS(steps=60, line_search="strong_wolfe"),
            SignedAdam(steps=400, lr=0.1),
        ],
        ids=repr,
    )
    def test_a_quadratic_is_minimized(self, descent: inversion.Descent) -> None:
        places, values, _ = follow(descent, bowl, FOUR)
        assert torch.allclose(places[-1], torch.ones(5), atol=1e-2)
        assert values[-1] < 1e-4 * values[0]
        assert len(values) <= descent.evaluations

    @pytest.mark.parametrize(
        ("steps", "function"),
        [(1, bowl), (2, bowl), (3, bowl), (10, bowl), (60, valley)],
        ids=["1", "2", "3", "10", "60"],
    )
    def test_the_longest_run_of_a_line_search(self, steps: int, function: Function) -> None:
        """The objective falls up to some evaluation, and is higher at every later one."""
        descent, longest = LBFGS(steps=steps, line_search="strong_wolfe"), 0

        def rising(falling: int) -> Function:
            asked = itertools.count(1)
            return lambda x: function(x) + (0.0 if next(asked) <= falling else 1e9)

        for falling in range(1, steps + 1):
            _, values, _ = follow(descent, rising(falling), torch.zeros(5, dtype=torch.float64))
            longest = max(longest, len(values))
        assert longest == descent.bound

    @pytest.mark.parametrize("history", [2, 10, 100])
    def test_the_searched_descent_follows_a_curved_valley(self, history: int) -> None:
        descent = LBFGS(steps=300, history=history, line_search="strong_wolfe")
        places, values, _ = follow(descent, valley, torch.zeros(4, dtype=torch.float64))
        assert min(values) < 1e-12
        assert torch.allclose(places[int(torch.tensor(values).argmin())], torch.ones(4).double())

    def test_the_plain_descent_is_torchs(self) -> None:
        """The places are those of torch.optim.LBFGS, which evaluates the first of each call again."""
        theirs = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([theirs], lr=0.5, max_iter=25, history_size=7)
        seen: list[Tensor] = []

        def closure() -> Tensor:
            seen.append(theirs.detach().clone())
            optimizer.zero_grad()
            value = valley(theirs)
            value.backward()
            return value

        optimizer.step(closure)
        descent = LBFGS(steps=len(seen), lr=0.5, history=7)
        places, _, _ = follow(descent, valley, torch.zeros(4, dtype=torch.float64))
        # A memory of seven pairs drops one pair at a time, as torch's does.
        assert len(places) == len(seen) == 25
        assert torch.allclose(torch.stack(places), torch.stack(seen), rtol=1e-9, atol=1e-12)

    def test_the_compact_form_is_the_two_loops(self) -> None:
        generator = torch.Generator().manual_seed(0)
        matrix = torch.randn(12, 12, generator=generator, dtype=torch.float64)
        matrix = matrix @ matrix.T + torch.eye(12)
        memory = Memory(6, matrix[0])
        for _ in range(9):
            step = torch.randn(12, generator=generator, dtype=torch.float64)
            memory.add(step, matrix @ step)
            probe = torch.randn(12, generator=generator, dtype=torch.float64)
            assert torch.allclose(memory.direction(probe), memory.two_loops(probe), rtol=1e-8)

    def test_a_preconditioner_that_is_the_inverse_gives_newtons_step(self) -> None:
        memory = Memory(5, torch.zeros(3))
        assert memory.preconditioned(torch.tensor([2.0, 4.0, 8.0]), lambda v: v / 2).tolist() == [
            -1,
            -2,
            -4,
        ]

    def test_pairs_without_curvature_are_dropped(self) -> None:
        memory = Memory(5, torch.zeros(2))
        memory.add(torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0]))
        memory.add(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        assert memory.length == 0

    @pytest.mark.parametrize("line_search", ["none", "strong_wolfe"])
    def test_lbfgs_ends_at_its_tolerance_and_where_nothing_moves(self, line_search: str) -> None:
        descent = LBFGS(steps=500, lr=0.1, line_search=line_search)  # type: ignore[arg-type]
        _, values, _ = follow(descent, bowl, FOUR, tolerance=1e-3)
        assert values[-1] <= 1e-3
        assert len(values) < 100
        _, values, _ = follow(descent, bowl, torch.ones(5))
        assert len(values) <= 2

    def test_signed_adam_ends_at_its_tolerance(self) -> None:
        _, values, _ = follow(SignedAdam(steps=400), bowl, FOUR, tolerance=1.0)
        assert values[-1] <= 1.0 < min(values[:-1])

    def test_signed_adam_cuts_its_rate_at_three_five_and_seven_eighths(self) -> None:
        """Under a constant slope Adam moves by its rate, so the steps show the schedule."""
        descent = SignedAdam(steps=80, lr=0.1)
        places, _, _ = follow(descent, lambda x: 100 - 7 * x.sum(), torch.zeros(1))
        moves = [float(after - before) for before, after in itertools.pairwise(places)]
        expected = [0.1] * 30 + [0.01] * 20 + [0.001] * 20 + [0.0001] * 9
        assert moves == pytest.approx(expected, rel=0.05)

    def test_the_sign_decides_and_not_the_size(self) -> None:
        ends = []
        for slope in (1e-3, 1e3):
            falling = lambda x, slope=slope: 1e6 - slope * x.sum()  # noqa: E731
            places, _, _ = follow(SignedAdam(steps=16, lr=0.1), falling, torch.zeros(1))
            ends.append(float(places[-1]))
        assert ends[0] == ends[1] > 0

    @pytest.mark.parametrize("descent", DESCENTS, ids=repr)
    def test_progress_goes_from_zero_towards_one(self, descent: inversion.Descent) -> None:
        _, _, told = follow(descent, lambda x: 100 + (x - 1).pow(4).sum(), torch.zeros(3))
        assert told[0] == 0
        assert told == sorted(told)
        assert told[-1] < 1

    @pytest.mark.parametrize("descent", [LBFGS(steps=50), SignedAdam(steps=16)], ids=repr)
    def test_a_projection_holds_after_each_step(self, descent: inversion.Descent) -> None:
        def project(variables: Variables) -> None:
            variables[0].clamp_(max=0.25)

        places, _, _ = follow(
            descent, lambda x: 1 + (x - 1).square().sum(), torch.zeros(2), project=project
        )
        assert all(bool((x <= 0.25).all()) for x in places)
        assert places[-1].tolist() == [0.25, 0.25]

    @pytest.mark.parametrize("descent", DESCENTS, ids=repr)
    def test_it_stops_where_numbers_end(self, descent: inversion.Descent) -> None:
        _, values, _ = follow(descent, lambda x: (x * math.nan).sum(), torch.zeros(2))
        assert len(values) == 1


class TestDirect:
    def test_start_has_the_spread_that_it_says(self, observe: Observe) -> None:
        observation = observe(mlp(), images(4))
        direct = Direct(center=0.5, spread=0.25, noise=2.0)
        start = direct.start(observation, torch.Generator().manual_seed(0))
        assert start.shape == (4, 1, 8, 8)
        assert float(start.std()) == pytest.approx(2, rel=0.1)
        decoded = direct.decode(start)
        assert float(decoded.mean()) == pytest.approx(0.5, abs=0.1)
        assert float(decoded.std()) == pytest.approx(0.5, rel=0.1)

    @pytest.mark.parametrize(
        ("center", "spread"), [(0.0, 1.0), (0.5, 0.25), (0.5, 1.0), (0.25, 2.0)]
    )
    def test_the_box_is_the_unit_cube(self, center: float, spread: float) -> None:
        direct = Direct(center=center, spread=spread, box=True)
        variables = torch.linspace(-9, 9, 181)
        inside = (direct.decode(variables) >= 0) & (direct.decode(variables) <= 1)
        moved = variables.clone()
        direct.project(moved)
        unit = direct.decode(moved)
        assert float(unit.min()) == 0
        assert float(unit.max()) == 1
        assert torch.equal(moved[inside], variables[inside])
        assert 0 < int(inside.sum()) < len(variables)

    def test_without_a_box_nothing_is_moved(self) -> None:
        variables = torch.linspace(-9, 9, 19)
        moved = variables.clone()
        Direct().project(moved)
        assert torch.equal(moved, variables)


class TestLabels:
    def test_joint_targets_are_distributions(self, observe: Observe) -> None:
        observation = observe(mlp(), images(3))
        joint = Joint()
        assert joint.free
        rows = joint.prepare(observation)
        assert not isinstance(rows, lg.Inapplicable)
        start = rows.start(observation, torch.Generator().manual_seed(0))
        targets = joint.decode(start)
        assert targets.shape == (3, 4)
        assert torch.allclose(targets.sum(1), torch.ones(3))
        assert bool((targets > 0).all())
        even = Joint(spread=0.0)
        rows = even.prepare(observation)
        assert not isinstance(rows, lg.Inapplicable)
        start = rows.start(observation, torch.Generator().manual_seed(0))
        assert torch.equal(even.decode(start), torch.full((3, 4), 0.25))

    @pytest.mark.parametrize("label", range(4))
    @pytest.mark.parametrize("model", [mlp(), sigmoid_cnn()], ids=["mlp", "cnn"])
    def test_the_last_layer_tells_the_label_of_one(
        self, observe: Observe, model: nn.Module, label: int
    ) -> None:
        batch = lg.Batch(images(1).inputs, torch.tensor([label]))
        observation = observe(model, batch)
        rule = LastLayer()
        found = rule.prepare(observation)
        assert isinstance(found, FixedLabels)
        assert found.labels.tolist() == [label]

    def test_the_last_layer_tells_nothing_of_several(self, observe: Observe) -> None:
        assert "batch 2 > 1" in str(LastLayer().prepare(observe(mlp(), images(2))))

    def test_the_head_is_the_last_layer_of_the_classes_size(self, observe: Observe) -> None:
        domain = lg.ImageDomain(1, 8, 8)
        found = head_of(mlp(width=4), domain)
        assert found is not None
        assert found.name == "5"
        convolution = head_of(nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), domain)
        assert convolution is not None
        assert convolution.name == "0"

    def test_granted_labels_come_first(self, observe: Observe) -> None:
        batch = lg.Batch(images(4).inputs, torch.tensor([2, 0, 2, 3]))
        observation = observe(mlp(), batch, labels=True, label_counts=True)
        found = starting_labels(observation)
        assert torch.equal(found, observation.knowledge.labels)  # type: ignore[arg-type]

    def test_granted_counts_come_next(self, observe: Observe) -> None:
        batch = lg.Batch(images(4).inputs, torch.tensor([2, 0, 2, 3]))
        found = starting_labels(observe(mlp(), batch, label_counts=True))
        assert found.tolist() == [0, 2, 2, 3]

    @pytest.mark.parametrize(
        "labels", [[0, 0, 0, 0], [1, 1, 3, 3], [0, 2, 2, 2], [3, 1, 0, 2], [2]]
    )
    @pytest.mark.parametrize("model", [mlp(), sigmoid_cnn()], ids=["mlp", "cnn"])
    def test_counts_are_estimated_on_an_untrained_model(
        self, observe: Observe, model: nn.Module, labels: list[int]
    ) -> None:
        batch = lg.Batch(images(len(labels)).inputs, torch.tensor(labels))
        observation = observe(model, batch)
        found = starting_labels(observation)
        assert found.tolist() == sorted(labels)

    def test_without_a_bias_labels_must_be_granted(self, observe: Observe) -> None:
        blind = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False))
        assert "no bias" in str(Known().prepare(observe(blind, images(2))))
        for granted in ("labels", "label_counts"):
            assert isinstance(
                Known().prepare(observe(blind, images(2), **{granted: True})), FixedLabels
            )

    def test_an_estimate_leaves_running_statistics_alone(self, observe: Observe) -> None:
        """The observed model is in train mode here, so a plain forward pass would change its buffers."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(
                nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 4)
            ).train()
        observation = observe(model, images(3))
        before = copy.deepcopy(observation.model.state_dict())
        starting_labels(observation)
        assert all(torch.equal(before[k], v) for k, v in observation.model.state_dict().items())

    def test_fixed_labels_stay_fixed(self, observe: Observe) -> None:
        observation = observe(sigmoid_cnn(), images(2), labels=True)
        granted = observation.knowledge.labels
        assert granted is not None
        expected = granted.clone()
        guess = attacks.InvertingGradients(steps=5)(observation, seeds=lg.Seeds(0))
        assert guess.targets is not None
        assert torch.equal(guess.targets, expected)
        assert torch.equal(granted, expected)


class Wandering:
    """A descent that visits given places. It ends at the last one, not at the best."""

    def __init__(self, places: list[Tensor]) -> None:
        self.places = places

    @property
    def evaluations(self) -> int:
        return len(self.places)

    @property
    def bound(self) -> int:
        return len(self.places)

    def inapplicable(self, observation: lg.Observation) -> str | None:
        return None

    def run(self, start: Variables, setting: Setting) -> Run:
        for place in self.places:
            yield Request((place, *start[1:]), 0.5)
        return Ending(notes=("wandered",))


class TestEngine:
    def test_the_best_iterate_is_chosen_by_the_objective(self, observe: Observe) -> None:
        batch = images(1)
        observation = observe(sigmoid_cnn(), batch, labels=True)
        far, near = torch.zeros_like(batch.inputs), batch.inputs + 0.01
        visits = Wandering([far, near, far, torch.full_like(far, math.nan), 2 - far])
        matching = GradientMatching(objective=L2(), labels=Known(), descent=visits)
        guess = matching(observation, seeds=lg.Seeds(0))
        assert torch.equal(guess.inputs, near)
        assert guess.cost.evaluations == 5
        assert guess.trajectory[-1].inputs is not None
        assert torch.equal(guess.trajectory[-1].inputs, near)

    def test_finding_the_truth_is_converged(self, observe: Observe) -> None:
        batch = images(2)
        observation = observe(sigmoid_cnn(), batch, label_counts=True)
        matching = GradientMatching(
            objective=L2(), labels=Known(), descent=Wandering([batch.inputs])
        )
        guess = matching(observation, seeds=lg.Seeds(0))
        assert guess.status is lg.Status.CONVERGED
        assert guess.residual == pytest.approx(0, abs=1e-6)
        assert guess.objectives == pytest.approx((0,), abs=1e-9)

    def test_nothing_finite_is_diverged_and_nothing_found(self, observe: Observe) -> None:
        batch = images(2)
        nowhere = Wandering([torch.full_like(batch.inputs, math.nan)])
        matching = GradientMatching(objective=L2(), labels=Joint(), descent=nowhere)
        guess = matching(observe(sigmoid_cnn(), batch), seeds=lg.Seeds(0))
        assert guess.status is lg.Status.DIVERGED
        assert not guess.found.any()
        assert guess.targets is None
        assert torch.equal(guess.inputs, torch.full_like(batch.inputs, 0.5))
        assert guess.cost.evaluations == 1

    def test_restarts_end_once_one_reaches_the_tolerance(self, observe: Observe) -> None:
        observation = observe(sigmoid_cnn(), images(1))
        many = attacks.InvertingGradients(steps=2, restarts=4).matching()
        assert len(many(observation, seeds=lg.Seeds(0)).objectives) == 4
        generous = GradientMatching(
            objective=L2(), labels=Known(), descent=SignedAdam(steps=2), restarts=4, tolerance=1e9
        )
        assert len(generous(observation, seeds=lg.Seeds(0)).objectives) == 1

    def test_the_trajectory_starts_at_the_start_and_rises(self, observe: Observe) -> None:
        observation = observe(sigmoid_cnn(), images(1))
        guess = attacks.InvertingGradients(steps=100)(observation, seeds=lg.Seeds(0))
        spent = [snapshot.evaluations for snapshot in guess.trajectory]
        assert spent[0] == 0
        assert spent == sorted(spent)
        assert spent[-1] == guess.cost.evaluations == 100
        assert 10 < len(spent) < 40

    @pytest.mark.parametrize("labels", [Joint(), Known()], ids=repr)
    def test_in_double_precision(self, observe: Observe, labels: inversion.Labels) -> None:
        """The adversary's own copy computes in float64. The returned inputs have the type of the client's model."""
        batch = images(1)
        observation = observe(sigmoid_cnn(), batch)
        matching = GradientMatching(
            objective=1e6 * BalancedL2(),
            parametrization=Direct(center=0.5, noise=0.01),
            labels=labels,
            descent=LBFGS(steps=750, line_search="strong_wolfe"),
            precision="double",
        )
        guess = matching(observation, seeds=lg.Seeds(0))
        assert psnr(batch.inputs, guess.inputs).min() > 40
        assert guess.inputs.dtype == torch.float32
        assert all(snapshot.inputs.dtype == torch.float32 for snapshot in guess.trajectory)
        assert observation.model(guess.inputs).shape == (1, 4)
        assert next(observation.model.parameters()).dtype == torch.float32

    @pytest.mark.parametrize("precision", ["observed", "double"])
    def test_granted_soft_labels(self, observe: Observe, precision: str) -> None:
        soft = torch.tensor([[0.25, 0.75, 0.0, 0.0]])
        observation = observe(sigmoid_cnn(), lg.Batch(images(1).inputs, soft), labels=True)
        matching = GradientMatching(
            objective=L2(),
            labels=Known(),
            descent=LBFGS(steps=40),
            precision=precision,  # type: ignore[arg-type]
        )
        guess = matching(observation, seeds=lg.Seeds(0))
        assert torch.isfinite(guess.inputs).all()

    def test_a_table_is_searched_in_its_units(self) -> None:
        """Columns in years and in mm Hg are returned in years and in mm Hg."""
        domain = lg.TableDomain.from_ranges(["age", "pressure"], [18, 40], [100, 180])

        def loss(output: Tensor, target: Tensor) -> Tensor:
            return functional.cross_entropy(output, target)

        class Scaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = mlp(2, width=16)

            def forward(self, x: Tensor) -> Tensor:
                return self.net(domain.to_unit(x))  # type: ignore[no-any-return]

        owner = lg.Client(model=Scaled(), loss=loss, domain=domain, classes=4)
        batch = lg.Batch(torch.tensor([[54.0, 81.0]]), torch.tensor([1]))
        observation = lg.Server().observe(owner, batch, seeds=lg.Seeds(0))
        guess = attacks.InvertingGradients(steps=300, tv=0.0)(observation, seeds=lg.Seeds(0))
        unit = domain.to_unit(guess.inputs)
        assert float(unit.min()) >= -1e-6
        assert float(unit.max()) <= 1 + 1e-6
        assert guess.inputs.min() >= 18

    def test_train_mode_statistics_of_the_observed_model_stay(self, observe: Observe) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(
                nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 4)
            ).train()
        observation = observe(model, images(2), labels=True)
        before = copy.deepcopy(observation.model.state_dict())
        attacks.InvertingGradients(steps=3)(observation, seeds=lg.Seeds(0))
        assert all(torch.equal(before[k], v) for k, v in observation.model.state_dict().items())

    def test_what_a_sparsification_dropped_is_not_matched(self, observe: Observe) -> None:
        """With a known mask, the truth is a minimum of the objective. Without it, the truth is not."""
        batch = images(1)
        values = {}
        for told in (True, False):
            seen = observe(
                sigmoid_cnn(),
                batch,
                under=lg.defenses.TopK(sparsity=0.5),
                defense=told,
                labels=True,
            )
            matching = GradientMatching(
                objective=Cosine(), labels=Known(), descent=Wandering([batch.inputs])
            )
            values[told] = matching(seen, seeds=lg.Seeds(0)).objectives[0]
        assert values[True] == pytest.approx(0, abs=1e-6)
        assert values[False] > 1e-4

    def test_it_satisfies_the_attack_protocol(self, observe: Observe) -> None:
        matching = GradientMatching(objective=L2(), labels=Known(), descent=SignedAdam(steps=7))
        assert isinstance(matching, lg.Attack)
        assert planned(matching, observe(mlp(), images(1))).evaluations == 7
        owner = client(mlp())
        seen = lg.Server(batch_size=False).observe(owner, images(1), seeds=lg.Seeds(0))
        with pytest.raises(lg.KnowledgeError):
            matching(seen, seeds=lg.Seeds(0))
