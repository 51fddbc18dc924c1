"""Priors: total variations, orthogonality, feature statistics and the deep image prior, against values by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import client, images, mlp, psnr, refusal, sigmoid_cnn
from safetensors.torch import save_file
from support.specifications import case, refused
from torch import Tensor, nn
from torch.func import functional_call

import leakgauge as lg
from leakgauge import attacks
from leakgauge.audit import Source, plan_from
from leakgauge.audit.run import execute
from leakgauge.inversion import (
    VARIATIONS,
    BalancedL2,
    BatchStatistics,
    Candidate,
    ColorVariation,
    Consensus,
    Cosine,
    DeepPrior,
    Direct,
    FeatureStatistics,
    GaussNewton,
    GradientMatching,
    IsotropicVariation,
    Known,
    LangevinAdam,
    Orthogonality,
    Term,
    TotalVariation,
)
from leakgauge.inversion.evaluation.problem import Problem
from leakgauge.inversion.evaluation.step import Compiled, DoubleBackward, ForwardOverReverse
from leakgauge.inversion.objectives.objective import value_at_zero_update
from leakgauge.inversion.objectives.variation import FLOOR

Observe = Callable[..., lg.Observation]
SEEDS = lg.Seeds(0)
IMAGE = lg.ImageDomain(1, 8, 8)


def value(term: Term, unit: Tensor) -> float:
    return float(term(Candidate(unit, torch.zeros(0), {}, {})))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class TestVariation:
    def test_isotropic_is_the_mean_length_of_the_gradient(self) -> None:
        unit = noise(2, 3, 5, 5).double()
        total = 0.0
        for image in unit.flatten(0, 1):
            for i in range(5):
                for j in range(5):
                    down = image[i + 1, j] - image[i, j] if i < 4 else torch.tensor(0.0)
                    across = image[i, j + 1] - image[i, j] if j < 4 else torch.tensor(0.0)
                    length = float(down**2 + across**2) ** 0.5
                    total += (length**2 + FLOOR**2) ** 0.5 - FLOOR
        assert value(IsotropicVariation(), unit) == pytest.approx(total / (2 * 3 * 5 * 4))

    def test_color_is_of_opponent_axes(self) -> None:
        unit = noise(2, 3, 5, 4)
        red, green, blue = unit.unbind(1)
        # The axes have the length of the axis of the mean, (1/3, 1/3, 1/3).
        axes = [
            (red + green + blue) / 3,
            (red - blue) / 6**0.5,
            (red - 2 * green + blue) / 18**0.5,
        ]
        parts = [value(TotalVariation(), axis[:, None]) for axis in axes]
        expected = parts[0] + 4 * parts[1] + 7 * parts[2]
        assert value(ColorVariation(), unit) == pytest.approx(expected, rel=1e-5)

    def test_a_gray_image_has_no_more_in_color(self) -> None:
        gray = noise(1, 1, 6, 6).expand(1, 3, 6, 6)
        anisotropic = value(TotalVariation(), gray)
        assert value(ColorVariation(), gray) == pytest.approx(anisotropic, rel=1e-5)
        assert value(ColorVariation(), noise(1, 3, 6, 6)) > 2 * value(TotalVariation(), gray)

    def test_isotropic_lies_under_anisotropic(self) -> None:
        for shape in ((1, 3, 6, 6), (2, 1, 4, 9), (1, 1, 1, 5), (1, 2, 7, 1)):
            unit = noise(*shape)
            one, other = value(IsotropicVariation(), unit), value(TotalVariation(), unit)
            assert one <= other + 1e-6
            assert one > 0.5 * other

    def test_a_straight_edge_is_as_long_in_both_and_a_diagonal_slope_shorter(self) -> None:
        straight = torch.zeros(1, 1, 8, 8)
        straight[..., 4:] = 1
        assert value(IsotropicVariation(), straight) == pytest.approx(
            value(TotalVariation(), straight), rel=1e-2
        )
        ramp = torch.arange(32.0) / 32
        diagonal = (ramp[:, None] + ramp)[None, None]
        ratio = value(IsotropicVariation(), diagonal) / value(TotalVariation(), diagonal)
        assert ratio == pytest.approx(0.5**0.5, abs=0.03)

    @pytest.mark.parametrize("name", VARIATIONS)
    def test_a_flat_image_has_none_and_a_slope(self, name: str) -> None:
        unit = torch.full((1, 3, 4, 4), 0.3, requires_grad=True)
        at = VARIATIONS[name](Candidate(unit, torch.zeros(0), {}, {}))
        (slope,) = torch.autograd.grad(at, unit)
        assert float(at.detach()) == pytest.approx(0, abs=1e-6)
        assert torch.isfinite(slope).all()
        assert slope.abs().max() < 1e-5

    @pytest.mark.parametrize(
        ("name", "near"), [("anisotropic", 1e-2), ("isotropic", 1e-5), ("color", 1e-2)]
    )
    def test_the_residuals_give_the_value(self, name: str, near: float) -> None:
        unit = noise(2, 3, 5, 4)
        residuals = VARIATIONS[name].residuals(Candidate(unit, torch.zeros(0), {}, {}))
        assert float(residuals.square().sum()) == pytest.approx(
            value(VARIATIONS[name], unit), rel=near
        )

    @pytest.mark.parametrize("name", VARIATIONS)
    def test_second_order_takes_it(self, name: str) -> None:
        domain = lg.ImageDomain(3, 8, 8)
        owner = replace(client(sigmoid_cnn(3)), domain=domain)
        batch = lg.Batch(noise(1, 3, 8, 8), torch.tensor([1]))
        seen = lg.Server(labels=True).observe(owner, batch, seeds=SEEDS)
        matching = GradientMatching(
            objective=BalancedL2() + 1e-4 * VARIATIONS[name],
            parametrization=Direct(center=0.5, noise=0.1),
            labels=Known(),
            descent=GaussNewton(warm=1, warm_iterations=5, stages=1, iterations=8),
        )
        guess = matching(seen, seeds=SEEDS)
        assert guess.residual is not None
        assert guess.residual < 0.05

    def test_color_wants_three_channels(self, observe: Observe) -> None:
        seen = observe(mlp(), images(1))
        reason = refusal(attacks.InvertingGradients(variation="color"), seen)
        assert reason is not None
        assert "needs 3 channels, and the images have 1" in reason
        assert refusal(attacks.InvertingGradients(variation="isotropic"), seen) is None

    def test_recipes_choose_by_name(self, observe: Observe) -> None:
        seen = observe(mlp(), images(1))
        assert "IsotropicVariation" in repr(
            attacks.InvertingGradients(variation="isotropic").matching().objective
        )
        assert "IsotropicVariation" in repr(
            attacks.GradInversion(variation="isotropic").terms(seen)
        )
        refused(
            'data = "digits"\nmodel = "lenet"\nattacks = {name = "inverting_gradients", variation = "x"}',
            "variation",
            "'anisotropic', 'isotropic' or 'color'",
        )


class TestOrthogonality:
    def test_it_is_the_mean_squared_correlation(self) -> None:
        unit = noise(4, 1, 3, 3)
        rows = torch.corrcoef(unit.flatten(1)).square()
        expected = float((rows.sum() - 4) / 12)
        assert value(Orthogonality(), unit) == pytest.approx(expected, rel=1e-5)

    def test_its_ends(self) -> None:
        orthogonal = torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1], [1, 1, -1, -1]])
        assert value(Orthogonality(), 0.5 + orthogonal.reshape(3, 1, 2, 2)) < 1e-12
        same = noise(1, 1, 4, 4)
        assert value(Orthogonality(), same) == 0
        # Brightness and contrast do not change the correlation.
        assert value(Orthogonality(), torch.cat([same, 0.5 * same, 1 - same])) == pytest.approx(1)

    def test_flat_examples_have_a_slope(self) -> None:
        unit = torch.full((2, 1, 4, 4), 0.5, requires_grad=True)
        (slope,) = torch.autograd.grad(Orthogonality()(Candidate(unit, unit, {}, {})), unit)
        assert torch.isfinite(slope).all()

    def test_it_parts_blends(self) -> None:
        one, other = noise(1, 1, 8, 8), noise(1, 1, 8, 8, seed=1)
        blends = torch.cat([0.6 * one + 0.4 * other, 0.4 * one + 0.6 * other])
        assert value(Orthogonality(), torch.cat([one, other])) < value(Orthogonality(), blends) / 4

    def test_it_is_no_distance(self, observe: Observe) -> None:
        """A term of the batch alone does not count in the value at an update of zero."""
        seen = observe(mlp(), images(2), labels=True)
        assert value_at_zero_update(Cosine() + 3.0 * Orthogonality(), seen) == value_at_zero_update(
            Cosine(), seen
        )

    def test_a_search_heeds_it(self, observe: Observe) -> None:
        seen = observe(sigmoid_cnn(), images(2), labels=True)
        plain, held = (
            attacks.InvertingGradients(steps=40, orthogonality=weight)(seen, seeds=SEEDS)
            for weight in (0.0, 10.0)
        )
        assert value(Orthogonality(), held.inputs) < value(Orthogonality(), plain.inputs)

    @pytest.mark.parametrize("warm", [0, 1])
    def test_second_order_leaves_it_out_of_its_matrix(self, observe: Observe, warm: int) -> None:
        seen = observe(sigmoid_cnn(), images(2), labels=True)
        ranks = []
        for objective in (Cosine(), Cosine() + 1e-3 * Orthogonality()):
            descent = GaussNewton(warm=warm, warm_iterations=3, stages=1, iterations=2)
            matching = GradientMatching(objective=objective, labels=Known(), descent=descent)
            diagnosis = matching(seen, seeds=SEEDS).diagnosis
            assert diagnosis is not None
            ranks.append(diagnosis.unknowns)
        assert ranks[0] == ranks[1]


class Twice(nn.Module):
    """A network that calls one convolution twice."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(self.convolution(x).sigmoid())  # type: ignore[no-any-return]


class TestFeatureStatistics:
    def measured(self, network: nn.Module, count: int = 6, **options: object) -> FeatureStatistics:
        return FeatureStatistics.measured(network, images(count).inputs, IMAGE, **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize("network", [sigmoid_cnn(), Twice()])
    def test_it_is_zero_where_it_was_measured(self, network: nn.Module) -> None:
        term = self.measured(network)
        assert value(term, images(6).inputs) < 1e-9
        assert value(term, images(6).inputs.flip(0)) < 1e-9
        assert value(term, images(6, seed=1).inputs) > 1e-5
        assert value(term, torch.full((6, 1, 8, 8), 0.5)) > 1e-2

    def test_by_hand(self) -> None:
        network = sigmoid_cnn()
        term = self.measured(network, layers=["2"])
        other = images(2, seed=3).inputs
        with torch.no_grad():
            aim, found = (network[:2](x) for x in (images(6).inputs, other))  # type: ignore[index]
        axes = (0, 2, 3)
        variance = aim.var(axes) + 1e-5
        gap = (found.mean(axes) - aim.mean(axes)).square().sum()
        gap += ((found.var(axes) + 1e-5).sqrt() - variance.sqrt()).square().sum()
        assert value(term, other) == pytest.approx(float(gap / (8 * variance.mean())), rel=1e-4)

    def test_in_parts_as_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = self.measured(sigmoid_cnn())
        monkeypatch.setattr("leakgauge.inversion.objectives.feature_statistics.CHUNK", 4)
        parts = self.measured(sigmoid_cnn())
        for name, moments in whole.moments[0].targets.items():
            assert torch.allclose(moments.mean, parts.moments[0].targets[name].mean, atol=1e-6)
            assert torch.allclose(
                moments.variance, parts.moments[0].targets[name].variance, rtol=1e-4
            )

    def test_running_statistics_are_the_special_case(self, observe: Observe) -> None:
        network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, momentum=1.0), nn.Flatten())
        network(images(6).inputs)
        network = nn.Sequential(*network, nn.Linear(108, 4)).eval()
        seen = observe(network, images(2))
        prior, own = BatchStatistics.prior(seen), self.measured(network)
        other = images(3, seed=4).inputs
        assert list(own.moments[0].targets) == ["1"]
        assert value(prior, other) == pytest.approx(value(own, other), rel=1e-3)

    def test_a_batch_that_gives_one_value_a_channel_has_its_mean_compared(self) -> None:
        network = nn.Sequential(nn.Conv2d(1, 2, 8), nn.Conv2d(2, 2, 1))
        term = self.measured(network, layers=["1"])
        at = Candidate(images(1).inputs.requires_grad_(), torch.zeros(0), {}, {})
        (slope,) = torch.autograd.grad(term(at), at.unit)
        assert len(term.residuals(at)) == 2
        assert torch.isfinite(slope).all()

    @pytest.mark.parametrize(
        ("network", "options", "word"),
        [
            (mlp(), {}, "BatchNorm or convolution"),
            (sigmoid_cnn(), {"layers": ["2", "nine"]}, "nine"),
            (sigmoid_cnn(), {"layers": []}, "no names"),
        ],
    )
    def test_nothing_to_measure_is_an_error_of_one_line(
        self, network: nn.Module, options: dict[str, object], word: str
    ) -> None:
        with pytest.raises(lg.ModelError, match=word) as caught:
            self.measured(network, **options)
        assert "\n" not in str(caught.value)

    def test_layers_that_are_never_called_are_told(self) -> None:
        network = sigmoid_cnn()
        network.spare = nn.Conv2d(1, 1, 3)
        network.forward = lambda x: nn.Sequential(*list(network)[:-1])(x)  # type: ignore[method-assign, call-overload]
        with pytest.raises(lg.ModelError, match="spare"):
            self.measured(network)

    def test_one_value_to_measure_is_an_error(self) -> None:
        with pytest.raises(lg.ModelError, match="two finite values"):
            self.measured(mlp(), count=1, layers=["1"])

    def test_grad_inversion_needs_no_batchnorm_with_public_images(self, observe: Observe) -> None:
        seen = observe(mlp(), images(2))
        public = images(5, seed=2).inputs
        attack = attacks.GradInversion(proxy=sigmoid_cnn(), public=public, restarts=1, steps=3)
        assert "FeatureStatistics(2 layers)" in repr(attack.terms(seen))
        assert "FeatureStatistics" not in repr(replace(attack, public=None).terms(seen))
        bare = refusal(replace(attack, public=None), seen)
        assert bare is not None
        assert "set public to images" in bare
        assert attack(seen, seeds=SEEDS).inputs.shape == (2, 1, 8, 8)
        reason = refusal(replace(attack, public=noise(3, 3, 8, 8)), seen)
        assert reason is not None
        assert "(3, 8, 8)" in reason

    def test_its_repr_is_one_line_that_tells_networks_apart(self) -> None:
        one, other = (
            repr(attacks.GradInversion(proxy=sigmoid_cnn(seed=seed), public=images(2).inputs))
            for seed in (0, 1)
        )
        assert "\n" not in one
        assert one != other
        assert one == repr(attacks.GradInversion(proxy=sigmoid_cnn(), public=images(2).inputs))
        assert "parameters" in one
        assert "Tensor[(2, 1, 8, 8)" in one


def problem(seen: lg.Observation, prior: DeepPrior) -> Problem:
    return Problem(seen, Cosine(), prior, Known(), seen.knowledge.labels)


class TestDeepPrior:
    @pytest.mark.parametrize("image", [(1, 8, 8), (3, 32, 32), (2, 9, 13), (1, 3, 40)])
    def test_any_size_in_range_and_differentiable(self, image: tuple[int, int, int]) -> None:
        prior = DeepPrior(image=image, width=4)
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn((2, prior.size), generator=generator).requires_grad_()
        unit = prior.decode(weights)
        assert unit.shape == (2, *image)
        assert unit.min() > 0
        assert unit.max() < 1
        (slope,) = torch.autograd.grad(unit.square().sum(), weights)
        assert torch.isfinite(slope).all()

    def test_it_is_the_network_written_out(self) -> None:
        prior = DeepPrior(image=(2, 8, 8), width=3, levels=1)
        weights = torch.randn(prior.size, generator=torch.Generator().manual_seed(0))
        pieces = torch.split(weights, [81, 3, 3, 81, 3, 3, 6, 2])
        block = lambda: nn.Sequential(  # noqa: E731
            nn.Conv2d(3, 3, 3, padding=1, padding_mode="replicate", bias=False),
            nn.InstanceNorm2d(3, affine=True),
            nn.LeakyReLU(0.2),
        )
        up = nn.Upsample(scale_factor=2, mode="bilinear")
        network = nn.Sequential(block(), up, block(), nn.Conv2d(3, 2, 1), nn.Sigmoid())
        pairs = zip(network.named_parameters(), pieces, strict=True)
        state = {name: piece.reshape(p.shape) for (name, p), piece in pairs}
        expected = functional_call(network, state, (prior.noise,))
        assert torch.allclose(prior.decode(weights[None]), expected, atol=1e-5)

    def test_examples_are_independent_and_draws_are_named(self, observe: Observe) -> None:
        prior, seen = DeepPrior(image=(1, 8, 8), width=4), observe(mlp(), images(3))
        before = torch.random.get_rng_state()
        one, same = (prior.start(seen, SEEDS.generator("inputs")) for _ in range(2))
        other = prior.start(seen, SEEDS.generator("others"))
        unit = prior.decode(one)
        assert torch.equal(before, torch.random.get_rng_state())
        assert one.shape == prior.shape(seen) == (3, prior.size)
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert torch.allclose(prior.decode(one[1:2]), unit[1:2], atol=1e-6)
        assert (unit[0] - unit[1]).abs().max() > 0.01
        assert unit.std((1, 2, 3)).min() > 0.01

    def test_every_step_has_its_slope(self, observe: Observe) -> None:
        model = sigmoid_cnn().double()
        batch = images(2)
        seen = observe(model, lg.Batch(batch.inputs.double(), batch.targets), labels=True)
        prior = DeepPrior(image=(1, 8, 8), width=4, levels=2)
        posed = problem(seen, prior)
        variables = (prior.start(seen, SEEDS.generator("inputs")),)
        steps = [DoubleBackward(posed), ForwardOverReverse(posed), Compiled.of(posed)]
        steps.append(Compiled.of(posed, order="forward"))
        found = [step(variables, 0.0) for step in steps]
        for at, (slope,) in found[1:]:
            assert float(at) == pytest.approx(float(found[0][0]), rel=1e-8)
            assert torch.allclose(slope, found[0][1][0], rtol=1e-6, atol=1e-10)

    def test_restarts_are_one_axis(self, observe: Observe) -> None:
        seen = observe(sigmoid_cnn(), images(1), labels=True)
        prior = DeepPrior(image=(1, 8, 8), width=4, levels=1)
        posed = problem(seen, prior)
        starts = torch.stack([prior.start(seen, SEEDS.generator(str(i))) for i in range(3)])
        labels = seen.knowledge.labels
        assert labels is not None
        step = Compiled.of(posed, restarts=3)
        step = replace(step, problem=replace(posed, fixed=labels.expand(3, 1)))
        values, (slopes,) = step((starts,), 0.0)
        for i in range(3):
            at, (slope,) = DoubleBackward(posed)((starts[i],), 0.0)
            assert float(values[i]) == pytest.approx(float(at), rel=1e-4)
            assert torch.allclose(slopes[i], slope, atol=1e-5)

    def test_the_attack_descends(self, observe: Observe) -> None:
        smooth = torch.linspace(0, 1, 8)
        batch = lg.Batch((smooth[:, None] * smooth)[None, None], torch.tensor([1]))
        seen = observe(sigmoid_cnn(), batch, labels=True)
        guess = attacks.DeepImagePrior(steps=200, width=8, levels=2)(seen, seeds=SEEDS)
        assert guess.residual is not None
        assert guess.residual < 0.5
        assert psnr(batch.inputs, guess.inputs).min() > 15

    def test_it_has_no_variables_for_any_example(self, observe: Observe) -> None:
        seen = observe(mlp(), images(1), labels=True)
        prior = DeepPrior(image=(1, 8, 8), width=4)
        plain = GradientMatching(
            objective=Cosine(),
            parametrization=prior,
            labels=Known(),
            descent=LangevinAdam(steps=2),
        )
        assert refusal(plain, seen) is None
        for other in (replace(plain, group=Consensus()), replace(plain, descent=GaussNewton())):
            reason = refusal(other, seen)
            assert reason is not None
            assert "generator" in reason
        with pytest.raises(lg.ModelError, match="inverse"):
            prior.encode(images(1).inputs)

    def test_tables_are_refused(self) -> None:
        domain = lg.TableDomain.from_ranges(["a", "b"], [0, 0], [1, 1])
        owner = replace(client(mlp(2)), domain=domain)
        batch = lg.Batch(torch.rand(1, 2), torch.tensor([1]))
        seen = lg.Server().observe(owner, batch, seeds=SEEDS)
        assert "not a table" in (refusal(attacks.DeepImagePrior(), seen) or "")


WITH_PROXY = """
data = "digits"
model = {name = "mlp", width = 8, depth = 2}
attacks = {name = "grad_inversion", steps = 2, restarts = 1, group = "none", proxy = PROXY}
"""


def with_proxy(proxy: str) -> str:
    return WITH_PROXY.replace("PROXY", proxy)


class TestSpecifiedNetworks:
    def test_a_table_names_a_network_on_the_audit_s_domain(self, tmp_path: Path) -> None:
        (attack,) = case(with_proxy('{name = "lenet", activation = "relu"}')).attacks
        assert isinstance(attack, attacks.GradInversion)
        assert isinstance(attack.proxy, nn.Module)
        assert attack.proxy(torch.rand(2, 1, 8, 8)).shape == (2, 10)
        assert not attack.proxy.training
        weights = tmp_path / "mine.safetensors"
        save_file({n: t * 0 for n, t in attack.proxy.state_dict().items()}, weights)
        table = f'{{name = "lenet", weights = "{weights}"}}'
        (loaded,) = case(with_proxy(table)).attacks
        assert all(not p.any() for p in loaded.proxy.parameters())  # type: ignore[attr-defined]

    def test_its_classes_may_be_others(self) -> None:
        (attack,) = case(with_proxy('{name = "resnet20", classes = 3}')).attacks
        assert attack.proxy(torch.rand(1, 1, 8, 8)).shape == (1, 3)  # type: ignore[attr-defined]

    def test_a_name_alone_is_enough_and_a_list_is_a_sweep(self) -> None:
        assert len(case(with_proxy('"lenet"')).attacks) == 1
        found = case(with_proxy('["lenet", {name = "resnet20"}]')).attacks
        assert [type(a.proxy).__name__ for a in found] == ["LeNet", "CifarResNet"]  # type: ignore[attr-defined]

    def test_within_another_attack(self) -> None:
        inner = '{name = "grad_inversion", proxy = "lenet"}'
        text = with_proxy('"lenet"').splitlines()
        text[-1] = f'attacks = {{name = "auto", attacks = [{inner}, "idlg"]}}'
        (auto,) = case("\n".join(text)).attacks
        assert type(auto.attacks[0].proxy).__name__ == "LeNet"  # type: ignore[attr-defined]

    def test_public_images_are_a_data_set(self) -> None:
        text = with_proxy('"lenet", public = {name = "digits"}')
        (attack,) = case(text).attacks
        assert attack.public.shape[1:] == (1, 8, 8)  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("proxy", "words"),
        [
            ('"resnet21"', ("cases.0.attacks.0.proxy", "did you mean 'resnet")),
            ('{name = "lenet", widht = 3}', ("cases.0.attacks.0.proxy.widht", "3")),
            ('{name = "lenet", weights = 3}', ("cases.0.attacks.0.proxy.weights", "safetensors")),
            ('{name = "lenet", classes = 0}', ("cases.0.attacks.0.proxy.classes", "at least 1")),
            ('{name = "lenet", classes = true}', ("cases.0.attacks.0.proxy.classes", "True")),
            ('{weights = "x"}', ("cases.0.attacks.0.proxy.name", "add it")),
            ("3", ("cases.0.attacks.0.proxy", "3")),
            ('"lenet", public = "digts"', ("cases.0.attacks.0.public", "did you mean 'digits'?")),
        ],
    )
    def test_mistakes_are_one_line(self, proxy: str, words: tuple[str, ...]) -> None:
        refused(with_proxy(proxy), *words)

    def test_weights_that_are_not_there(self) -> None:
        table = '{name = "lenet", weights = "gone.safetensors"}'
        refused(with_proxy(table), "gone.safetensors", kind=lg.ModelError)

    def test_a_whole_audit(self, tmp_path: Path) -> None:
        text = with_proxy('"lenet", public = {name = "digits"}')
        run = execute(plan_from(Source(text, ("attacks.batchnorm=0.5",), 0)), out=tmp_path / "run")
        (record,) = run.cells
        written = record.attack.repr
        assert "\n" not in written
        assert "proxy=LeNet[" in written
        assert "public=Tensor[" in written
        assert record.status in ("unconverged", "converged")
