"""What an inspection counts for whole networks, and its mistakes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leakgauge as lg
from leakgauge.inspection import Inspection, Row

COLOR = lg.ImageDomain(3, 32, 32)


def rows(found: Inspection) -> dict[str, Row]:
    """Return the rows by the name of their layer."""
    return {row.layer: row for row in found.rows}


def chain(*layers: nn.Module) -> nn.Sequential:
    """Return layers in sequence, with weights from a seed."""
    with lg.Seeds(0).isolated("weights"):
        made = nn.Sequential(*layers)
        for module in made.modules():
            if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Conv3d | nn.Linear):
                module.reset_parameters()
    return made


class Language(nn.Module):
    """An embedding, one attention and a head. The head's weight may be that of the embedding."""

    def __init__(self, tie: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.position = nn.Parameter(torch.zeros(6, 32))
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 50, bias=False)
        if tie:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        logits: Tensor = self.head(x)
        return logits


class TestConvolutions:
    def test_resnet18_reads_as_the_finding_says(self) -> None:
        model = lg.models.build(lg.models.resnet18, COLOR, 10)
        found = lg.inspect(model, (3, 32, 32))
        by = rows(found)
        assert found.exact in (29, 30, 31, 32)  # Some channels are dead on noise.
        assert by["layer4.1.conv2"].own in (28, 29, 30, 31, 32)
        assert by["layer4.1.conv2"].attack == "shift consistency"
        assert by["layer3.1.conv2"].own in (3, 4)
        assert by["layer2.1.conv2"].own == 0
        assert "channels for 256 positions" in by["layer2.1.conv2"].note
        # Layers below layer4 are reached from above.
        assert by["layer3.0.conv2"].batch == found.exact
        assert (by["layer2.0.conv2"].batch or 0) >= 1
        assert by["layer1.1.conv2"].batch == 0
        assert (by["fc"].own, by["fc"].attack) == (9, "softmax_unmixing")
        assert found.features == found.exact
        assert found.examples == 0
        assert "through layer3.0.conv2" in found.verdict

    def test_fewer_channels_than_positions_give_the_head_alone(self) -> None:
        model = lg.models.build(lg.models.resnet20, COLOR, 10)
        found = lg.inspect(model, (3, 32, 32))
        own = {row.layer for row in found.rows if row.own}
        assert own == {
            "layer3.2.conv2",
            "linear",
        }  # The masks of the pooled head tell the convolution.
        assert "masks" in rows(found)["layer3.2.conv2"].note
        model.layer3[2].bn2.bias.requires_grad_(False)
        bare = lg.inspect(model, (3, 32, 32))
        assert {row.layer for row in bare.rows if row.own} == {"linear"}

    @pytest.mark.parametrize("norm", ["batch", "instance", "none"])
    def test_normalizations_hardly_matter(self, norm: str) -> None:
        norms = {
            "batch": nn.BatchNorm2d(64),
            "instance": nn.InstanceNorm2d(64),
            "none": nn.Identity(),
        }
        model = chain(
            nn.Conv2d(8, 64, 3, padding=1),
            norms[norm],
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1024, 10),
        ).train()
        (conv, _) = lg.inspect(model, (8, 4, 4)).rows
        assert conv.own in (3, 4)

    def test_a_mean_right_behind_a_convolution_hides_its_positions(self) -> None:
        end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
        flat = lg.inspect(chain(nn.Conv2d(8, 64, 3, padding=1), *end), (8, 4, 4))
        assert flat.rows[0].own == 0
        assert "rank 1 for 16 positions" in flat.rows[0].note
        bent = lg.inspect(chain(nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), *end), (8, 4, 4))
        assert bent.rows[0].own == 3

    @pytest.mark.parametrize("axes", [1, 3])
    def test_signals_and_volumes(self, axes: int) -> None:
        conv = {1: nn.Conv1d, 3: nn.Conv3d}[axes]
        pool = {1: nn.AdaptiveAvgPool1d, 3: nn.AdaptiveAvgPool3d}[axes]
        model = chain(conv(4, 40, 3, padding=1), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(40, 5))
        found = lg.inspect(model, (4, *(2 for _ in range(axes))))
        assert (found.rows[0].own or 0) >= 3
        assert found.examples == found.rows[0].batch

    def test_not_counted_is_said(self) -> None:
        model = chain(
            nn.ConvTranspose2d(3, 4, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
        )
        assert lg.inspect(model, (3, 4, 4)).rows[0].note == "not counted"

    def test_active_dropout_is_traced(self) -> None:
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(), nn.Flatten(), nn.Linear(144, 10))
        assert lg.inspect(model.train(), (1, 8, 8)).rows


def small(activation: type[nn.Module]) -> nn.Module:
    """Return two convolutions and a pooled head for 8x8 images."""
    convolutions = (nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.Conv2d(16, 64, 3, padding=1))
    first, second = convolutions
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return chain(first, activation(), second, activation(), *pool).eval()


class TestReadByAttacks:
    """What an attack reads stands beside what the algebra determines, and the attack agrees."""

    def test_relu_is_read_as_far_as_the_algebra_goes(self) -> None:
        found = lg.inspect(small(nn.ReLU), (1, 8, 8))
        assert [row.read for row in found.rows] == [row.batch for row in found.rows]
        assert found.read == found.exact
        assert found.verdict.endswith(
            "By counting for generic data, attacks of LeakGauge read all of it."
        )

    @pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU6, nn.GELU])
    def test_other_activations_are_read_for_one_example(self, activation: type[nn.Module]) -> None:
        found = rows(lg.inspect(small(activation), (1, 8, 8)))
        assert (found["2"].own or 0) > 1
        assert found["2"].read == 1
        for batch in (1, 2):
            seen = lg.examples.observation(batch_size=batch, model=small(activation))
            plan = lg.attacks.ShiftConsistency().plan(seen)
            assert isinstance(plan, lg.Plan) is (batch == 1)

    def test_what_no_attack_reads_is_said(self) -> None:
        found = lg.inspect(small(nn.Tanh), (1, 8, 8), batch=4)
        assert rows(found)["0"].attack == "from above, algebra only"
        assert rows(found)["0"].read == 0
        assert "The algebra alone determines the rest." in found.verdict

    def test_an_end_without_a_linear_layer_is_algebra_alone(self) -> None:
        model = chain(nn.Conv2d(4, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 5, 2), nn.Flatten())
        found = lg.inspect(model, (4, 2, 2))
        assert (found.exact or 0) > 0
        assert found.read == 0
        assert "No attack of LeakGauge reads it yet" in found.verdict

    def test_steps_are_not_read(self) -> None:
        found = lg.inspect(small(nn.ReLU), (1, 8, 8), steps=2)
        assert rows(found)["2"].own == 1
        assert rows(found)["2"].read == 0


class Joined(nn.Module):
    """Two convolutions whose outputs are appended to their inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, padding=1)
        self.one, self.two = nn.Conv2d(40, 16, 3, padding=1), nn.Conv2d(56, 16, 3, padding=1)
        self.head = nn.Linear(72, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = torch.cat([x, self.one(x).relu()], 1)
        x = torch.cat([x, self.two(x).relu()], 1)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Residual(nn.Module):
    """A bottleneck as the last block of a ResNet-50, whose shortcut goes around all three convolutions."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.one, self.two = nn.Conv2d(32, 64, 1), nn.Conv2d(64, 64, 3, padding=1, groups=groups)
        self.three, self.head = nn.Conv2d(64, 32, 1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.three(self.two(self.one(x).relu()).relu())).relu()
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def built(kind: type[nn.Module], *arguments: Any) -> nn.Module:
    """Return a network in eval mode, with weights from a seed."""
    with lg.Seeds(0).isolated("weights"):
        return kind(*arguments).eval()


class TestAttackPlans:
    """What is read follows the plan of the attack, for each kind of network that it begins in."""

    def test_columns_of_layers_that_read_several_outputs(self) -> None:
        found = lg.inspect(built(Joined), (3, 4, 4))
        by = rows(found)
        assert "by its columns: 56 input channels" in by["two"].note
        assert (by["one"].read or 0) >= 1
        assert (by["two"].read or 0) >= (by["one"].read or 0)
        assert "may tell shift_consistency more than is counted" in found.verdict

    def test_groups_are_read_at_one_example(self) -> None:
        by = rows(lg.inspect(built(Residual, 2), (3, 2, 2)))
        assert (by["two"].own or 0) > 1
        assert by["two"].read == 1

    def test_a_last_block_behind_a_shortcut(self) -> None:
        by = rows(lg.inspect(built(Residual, 1), (3, 4, 4)))
        assert by["two"].read == by["two"].own
        assert (by["two"].read or 0) > 1
        # The shortcut's signal follows from the masks at the end of the block.
        assert (by["one"].read or 0) >= 1

    def test_max_pools_are_passed(self) -> None:
        model = chain(
            nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(48, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10),
        )  # fmt: skip
        by = rows(lg.inspect(model.eval(), (3, 8, 8)))
        assert (by["6"].read or 0) > 1
        assert (by["3"].read or 0) >= 1

    def test_a_plan_without_a_count_is_said(self) -> None:
        model = built(Joined)
        with torch.no_grad():
            model.stem.bias.fill_(-100.0)  # type: ignore[union-attr, operator]
        found = lg.inspect(model, (3, 4, 4))
        assert rows(found)["two"].read == 0
        assert "0 of 40 input channels live on noise" in rows(found)["one"].note
        assert "may read more than is counted" in found.verdict


class TestBatches:
    """Signals of a whole batch are measured."""

    def test_saturated_outputs_have_one_signal(self) -> None:
        """If all outputs are large, the derivatives of the loss of equal labels are equal."""
        model = small(nn.ReLU)
        head = model[-1]
        assert isinstance(head, nn.Linear)
        assert lg.inspect(model, (1, 8, 8)).rows[-1].own == 9
        with torch.no_grad():
            head.weight.mul_(1e6)
        last = lg.inspect(model, (1, 8, 8)).rows[-1]
        assert last.own == 1
        assert "dependent" in last.note


class TestLinear:
    def test_a_relu_mlp_is_exact_down_to_the_example(self) -> None:
        found = lg.inspect(lg.models.build(lg.models.mlp, COLOR, 10, width=64), (3, 32, 32))
        first = found.rows[0]
        assert (first.own, first.attack) == (25, "spear")
        assert found.examples == 25
        assert (found.rows[-1].own, found.rows[-1].batch) == (9, 25)

    def test_without_relu_or_bias(self) -> None:
        smooth = chain(nn.Linear(20, 30), nn.GELU(), nn.Linear(30, 3))
        assert (lg.inspect(smooth, (20,)).rows[0].own, smooth[0].out_features) == (1, 30)
        bare = chain(nn.Linear(20, 30, bias=False), nn.GELU(), nn.Linear(30, 3))
        assert "no bias" in lg.inspect(bare, (20,)).rows[0].note

    def test_vision_transformer(self) -> None:
        model = lg.models.build(lg.models.vit, COLOR, 10)
        found = lg.inspect(model, (3, 32, 32))
        assert (found.rows[0].attack, found.rows[0].own, found.examples) == ("april", 1, 1)
        assert found.exact == 9

    def test_tokens(self) -> None:
        found = rows(lg.inspect(Language(), (6,), vocabulary=50))
        assert (found["embed"].own, found["embed"].attack) == (None, "token_bag")
        attention = found["attention.in_proj_weight"]
        assert (attention.own, attention.attack) == (31 // 6, "dager")
        assert attention.read == 31 // 6
        tied = lg.inspect(Language(tie=True), (6,), vocabulary=50)
        assert "tied" in tied.rows[0].note
        assert tied.rows[0].own == 0


class TestProtocol:
    def test_frozen_layers_give_nothing(self) -> None:
        model = lg.models.build(lg.models.resnet18, COLOR, 10)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(("layer4", "fc")))
        found = lg.inspect(model, (3, 32, 32))
        assert rows(found)["layer4.1.conv2"].own == 0
        assert "frozen" in rows(found)["fc"].note
        assert found.exact in (3, 4)

    def test_steps_and_clients_divide_the_batch(self) -> None:
        model = lg.models.build(lg.models.resnet18, COLOR, 10)
        steps = rows(lg.inspect(model, (3, 32, 32), steps=4))
        assert steps["layer4.1.conv2"].own in (7, 8)
        assert steps["fc"].own == 0
        assert steps["layer3.0.conv1"].batch == 0
        clients = lg.inspect(model, (3, 32, 32), clients=4)
        assert clients.exact in (7, 8)

    def test_a_batch_gets_a_verdict_of_its_own(self) -> None:
        model = lg.models.build(lg.models.resnet18, COLOR, 10)
        small, large = (lg.inspect(model, (3, 32, 32), batch=b).verdict for b in (8, 64))
        assert small.startswith("Batch 8: exact through layer3.0.conv1")
        assert "no layer's input is exact" in large

    def test_advice_is_counted(self) -> None:
        model = lg.models.build(lg.models.resnet18, COLOR, 10)
        found = lg.inspect(model, (3, 32, 32))
        texts = {each.change: each.exact for each in found.advice}
        assert all((exact or 0) < (found.exact or 0) for exact in texts.values())
        assert texts[f"sum the updates of {(found.exact or 0) + 1} clients or more"] == 0
        (narrow,) = (exact for text, exact in texts.items() if text.startswith("fewer channels"))
        assert narrow == 9  # The last layer remains.


class TestMistakes:
    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"shape": (3, 40, 32)}, "one tensor, for examples of shape (3, 40, 32)"),
            ({"shape": (3, 0, 32)}, "shape: expected the shape of one example"),
            ({"shape": (10**6, 10**6)}, "shape: expected the shape of one example"),
            ({"shape": 8}, "shape: expected a sequence"),
            ({"shape": None}, "shape: expected a sequence"),
            ({"batch": 0}, "batch: expected"),
            ({"steps": -1}, "steps: expected"),
            ({"clients": 0}, "clients: expected"),
            ({"vocabulary": 0}, "vocabulary: expected"),
            ({"model": "resnet18"}, "model: expected"),
            ({"model": nn.ReLU()}, "a network with trained parameters"),
            ({"model": nn.LSTM(4, 4), "shape": (3, 4)}, "not one tensor"),
        ],
    )
    def test_one_line(self, given: dict[str, Any], words: str) -> None:
        model = lg.models.build(lg.models.lenet, COLOR, 10)
        arguments = {"model": model, "shape": (3, 32, 32)} | given
        with pytest.raises(lg.UserError) as caught:
            lg.inspect(**arguments)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_model_that_reads_its_values_cannot_be_traced(self) -> None:
        class Choosing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(4, 2)

            def forward(self, x: Tensor) -> Tensor:
                scale = 2.0 if float(x.sum()) > 0 else 1.0
                logits: Tensor = self.linear(x * scale)
                return logits

        with pytest.raises(lg.ModelError, match="cannot be traced"):
            lg.inspect(Choosing(), (4,))


def test_no_trace_is_left_and_counts_repeat() -> None:
    model = lg.models.build(lg.models.resnet20, COLOR, 10).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.random.get_rng_state()
    first, second = (lg.inspect(model, (3, 32, 32)) for _ in range(2))
    assert first == second
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    json.dumps(first.as_json(), allow_nan=False)
