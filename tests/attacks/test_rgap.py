"""R-GAP is exact where the rank index says so. Elsewhere it claims nothing, or says why it cannot run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import client, images, mlp, psnr, refusal, shifted, sigmoid_cnn
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.analytic.chain import Chain, chain_of
from leakgauge.analytic.constraints import System, system_of
from leakgauge.analytic.inverses import largest_zero
from leakgauge.analytic.rank_index import LayerRank, carry_open, rank_index
from leakgauge.attacks import RGAP

Observe = Callable[..., lg.Observation]
GRAY = lg.ImageDomain(1, 8, 8)


def cnn(**options: object) -> nn.Module:
    """Return two convolutions of 8 and 16 channels and a linear layer, without biases unless `options` say so."""
    chosen: dict[str, object] = {
        "channels": (8, 16),
        "kernels": (3, 3),
        "strides": (1, 2),
        "paddings": (1, 1),
        "bias": False,
    }
    return lg.models.build(lg.models.cnn, GRAY, 4, **{**chosen, **options})


def ranks(model: nn.Module) -> tuple[LayerRank, ...]:
    """Return the rank of each layer of a model."""
    found = rank_index(model, GRAY, generator=lg.Seeds(0).generator("probe"))
    assert isinstance(found, tuple), found
    return found


@pytest.mark.parametrize("rows", ["balanced", "plain"])
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("label", [0, 3])
def test_exact_without_a_bias(rows: str, activation: str, label: int, observe: Observe) -> None:
    batch = lg.Batch(images(1).inputs, torch.tensor([label]))
    guess = RGAP(rows=rows)(observe(cnn(activation=activation), batch), seeds=lg.Seeds(0))
    assert guess.targets is not None
    assert guess.targets.tolist() == [label]
    least = {"balanced": 60, "plain": 30}[rows]
    assert psnr(batch.inputs, guess.inputs).min() > least
    if rows == "balanced":
        assert guess.status is lg.Status.CERTIFIED


@pytest.mark.parametrize(
    "model",
    [
        mlp(),
        sigmoid_cnn(),
        cnn(activation="relu", channels=(16, 24)),
        cnn(bias=True),
        nn.Sequential(
            cnn().normalize, *list(cnn())[1:-1], nn.Linear(256, 8), nn.Tanh(), nn.Linear(8, 4)
        ),
    ],
    ids=["mlp", "sigmoid", "relu", "bias", "two linear layers"],
)
def test_exact_on_other_chains(model: nn.Module, observe: Observe) -> None:
    batch = images(1)
    guess = RGAP()(observe(model, batch), seeds=lg.Seeds(0))
    assert guess.status is lg.Status.CERTIFIED
    assert psnr(batch.inputs, guess.inputs).min() > 60
    assert guess.targets is not None
    assert guess.targets.tolist() == batch.targets.tolist()


def test_exact_behind_relu_whatever_the_rounding(observe: Observe) -> None:
    """Rounding must not decide which outputs of a ReLU are 0. One wrong output would spoil every layer before it."""
    read = 0
    for draw in range(12):
        model = lg.models.build(
            lg.models.cnn,
            GRAY,
            4,
            seed=draw,
            channels=(16, 24),
            kernels=(3, 3),
            strides=(1, 2),
            paddings=(1, 1),
            bias=False,
            activation="relu",
        )
        batch = images(1, seed=draw)
        guess = RGAP()(shifted(observe(model, batch), seed=draw), seeds=lg.Seeds(0))
        exact = bool(psnr(batch.inputs, guess.inputs).min() > 60)
        assert exact or guess.status is not lg.Status.CERTIFIED
        read += exact and guess.status is lg.Status.CERTIFIED
    assert read >= 11


@pytest.mark.parametrize(
    ("values", "noise", "zero"),
    [
        (
            [0.0, 3e-7, -1e-7, 2e-4, 0.5],
            6e-8,
            3e-7,
        ),  # A zero is beyond twice the most negative value.
        (
            [0.0, 1e-16, 2e-24, 1e-3, 0.2],
            6e-8,
            0.2 * 6e-8,
        ),  # There is no negative value to measure by.
        ([0.0, 1e-3, 0.5, 1.0], 0.0, 0.0),  # The values are exact.
        ([-0.1, 0.0, 0.25, 0.4, 1.0], 6e-8, 0.2),  # The values are blurred, so that no gap decides.
    ],
)
def test_the_zeros_of_a_relu_end_at_the_gap(values: list[float], noise: float, zero: float) -> None:
    assert largest_zero(torch.tensor(values).double(), noise) == pytest.approx(zero)


@pytest.mark.parametrize("label", [0, 1])
def test_one_logit_as_in_the_paper(label: int) -> None:
    """The logistic loss leaves two solutions of the last layer. The update chooses between them."""

    def logistic(output: Tensor, target: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(output.squeeze(1), target.to(output))

    model = lg.models.build(
        lg.models.cnn,
        GRAY,
        1,
        channels=(8, 16),
        kernels=(3, 3),
        strides=(1, 2),
        paddings=(1, 1),
        bias=False,
    )
    owner = lg.Client(model=model, loss=logistic, domain=GRAY, classes=2)
    batch = lg.Batch(images(1).inputs, torch.tensor([label]))
    guess = RGAP()(lg.Server().observe(owner, batch, seeds=lg.Seeds(0)), seeds=lg.Seeds(0))
    assert guess.targets is not None
    assert guess.targets.tolist() == [label]
    assert psnr(batch.inputs, guess.inputs).min() > 60


def test_the_rank_index_predicts_failure(observe: Observe) -> None:
    narrow = cnn(channels=(1, 16), strides=(2, 1))
    assert ranks(narrow)[0].index < 0
    guess = RGAP()(observe(narrow, images(1)), seeds=lg.Seeds(0))
    assert guess.status is not lg.Status.CERTIFIED
    assert "is not determined" in guess.message
    assert psnr(images(1).inputs, guess.inputs).min() < 30
    assert all(layer.index == 0 for layer in ranks(cnn()))


def test_the_ranks_are_those_of_the_matrices() -> None:
    """The reference has K and W column by column, from PyTorch's own convolution and its gradient."""
    chain = chain_of(cnn(strides=(2, 1)).double(), GRAY)
    assert isinstance(chain, Chain)
    layer = chain.layers[0]
    assert isinstance(layer.module, nn.Conv2d)
    delta = torch.randn(layer.output, generator=torch.Generator().manual_seed(0)).double()
    known = torch.ones(layer.output, dtype=torch.bool)
    columns = []
    for unit in torch.eye(64, dtype=torch.float64).reshape(64, 1, 1, 8, 8):
        z = layer.module(unit)
        (dweight,) = torch.autograd.grad((z * delta).sum(), [layer.module.weight])
        columns.append(torch.cat([dweight.flatten(), z.detach().flatten()]))
    matrix = torch.stack(columns, 1)
    system = system_of(layer, delta, known)
    assert system.rank() == int(torch.linalg.matrix_rank(matrix))
    assert system.gradient_rank == int(torch.linalg.matrix_rank(matrix[:72]))
    x = torch.rand(64, generator=torch.Generator().manual_seed(1)).double()
    right = matrix @ x
    solved = solve(system, right, layer.output)
    torch.testing.assert_close(solved.flatten(), x)


def solve(system: System, right: Tensor, output: tuple[int, ...]) -> Tensor:
    """Return the layer input that solves a system, from its joint right side."""
    dweight, z = right[:72].reshape(8, 1, 3, 3), right[72:].reshape(output)
    return system.solve(dweight, z, noise=0.0, balanced=True)


def test_a_layer_that_nothing_reaches_has_no_equations() -> None:
    """If all units of a ReLU are dead, there is no gradient and no known output."""
    chain = chain_of(cnn(activation="relu").double(), GRAY)
    assert isinstance(chain, Chain)
    layer = chain.layers[0]
    nothing = torch.zeros(layer.output, dtype=torch.float64)
    system = system_of(layer, nothing, nothing.bool())
    assert system.rank() == 0
    solved = system.solve(torch.zeros(8, 1, 3, 3).double(), nothing, noise=1e-7, balanced=True)
    assert not solved.any()


def test_deficits_are_carried_and_surpluses_make_up() -> None:
    layers = [LayerRank("a", 10, 9, 3, 10), LayerRank("b", 10, 6, 1, 7), LayerRank("c", 5, 5, 5, 5)]
    assert [layer.open for layer in carry_open(layers)] == [1, 3, 0]
    assert [layer.index for layer in layers] == [0, -3, 0]
    assert "index -3" in layers[1].line


def test_a_narrow_second_layer_of_cnn6_leaves_its_input_open() -> None:
    domain = lg.ImageDomain(3, 16, 16)
    for second, short in ((12, False), (8, True)):
        model = lg.models.build(lg.models.cnn6, domain, 10, second=second)
        found = rank_index(model, domain, generator=lg.Seeds(0).generator("probe"))
        assert isinstance(found, tuple)
        assert any(layer.index < 0 for layer in found) == short


class Skip(nn.Module):
    """A convolution with a skip connection, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.last((x + self.first(x)).flatten(1))
        return output


def wrapped(layer: nn.Module) -> nn.Module:
    """Return a layer followed by a linear layer."""
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(256, 4))


def conv(*layers: nn.Module, bias: bool = False) -> nn.Module:
    """Return a convolution, these layers, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), *layers, nn.Flatten(), nn.Linear(256, 4, bias=bias)
    )


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Skip(), "skip connections"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4)), "no equation has"),
        (conv(nn.GELU()), "no way back is known"),
        (conv(nn.Dropout(0.5)).train(), "mask"),
        (conv(nn.BatchNorm2d(4)).train(), "statistics"),
        (nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 4, 4), nn.Flatten()), "invertible affine map"),
        (nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), "is a convolution"),
        (wrapped(nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")), "pads with values other than 0"),
    ],
)  # fmt: skip
def test_says_why_it_does_not_apply(model: nn.Module, reason: str, observe: Observe) -> None:
    found = refusal(RGAP(), observe(model, images(1)))
    assert found is not None
    assert reason in found


def test_a_batch_normalization_in_eval_mode_is_undone(observe: Observe) -> None:
    norm = nn.BatchNorm2d(4).eval()
    with torch.no_grad():
        assert norm.running_mean is not None
        norm.running_mean.fill_(0.3)
        norm.weight.fill_(1.7)
    guess = RGAP()(observe(conv(norm, nn.ELU(), bias=True), images(1)), seeds=lg.Seeds(0))
    assert psnr(images(1).inputs, guess.inputs).min() > 60


def test_layers_too_large_and_batches_are_told(observe: Observe) -> None:
    domain = lg.ImageDomain(3, 64, 64)
    model = lg.models.build(lg.models.cnn, domain, 4)
    owner = lg.Client(model=model, loss=functional.cross_entropy, domain=domain, classes=4)
    batch = lg.Batch(
        torch.rand(1, 3, 64, 64, generator=lg.Seeds(0).generator("x")), torch.tensor([0])
    )
    seen = lg.Server().observe(owner, batch, seeds=lg.Seeds(0))
    assert "unknowns" in (refusal(RGAP(), seen) or "")
    assert "the batch has 2" in (refusal(RGAP(), observe(cnn(), images(2))) or "")


def test_the_bias_is_not_needed_where_the_loss_is_known_and_needed_where_not() -> None:
    def regression(output: Tensor, target: Tensor) -> Tensor:
        return (output.squeeze(1) - target).square().mean()

    batch = lg.Batch(images(1).inputs, torch.tensor([0.3]))
    for bias in (False, True):
        model = lg.models.build(
            lg.models.cnn,
            GRAY,
            1,
            channels=(8,),
            kernels=(3,),
            strides=(1,),
            paddings=(1,),
            bias=bias,
        )
        owner = lg.Client(model=model, loss=regression, domain=GRAY, classes=None)
        seen = lg.Server().observe(owner, batch, seeds=lg.Seeds(0))
        reason = refusal(RGAP(), seen)
        if bias:
            guess = RGAP()(seen, seeds=lg.Seeds(0))
            assert psnr(batch.inputs, guess.inputs).min() > 60
            assert guess.status is lg.Status.UNCONVERGED
        else:
            assert "classification" in (reason or "")


def test_noise_costs_quality_and_the_certificate(observe: Observe) -> None:
    noisy = observe(cnn(), images(1), under=lg.defenses.GaussianNoise(std=1e-2))
    guess = RGAP()(noisy, seeds=lg.Seeds(0))
    assert guess.status is lg.Status.UNCONVERGED
    assert psnr(images(1).inputs, guess.inputs).min() < 40


def test_a_zero_update_is_no_guess() -> None:
    owner = client(cnn())
    seen = lg.Server().observe(owner, images(1), seeds=lg.Seeds(0))
    zero = seen.update.map(torch.zeros_like)
    guess = RGAP()(lg.core.Observation(**{**vars(seen), "update": zero}), seeds=lg.Seeds(0))
    assert not guess.found.any()
