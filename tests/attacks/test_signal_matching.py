"""Signal matching: its simulated gradient, its conditions, and that the hidden layers do not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import images, mlp, psnr, refusal, sigmoid_cnn
from torch import nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.defenses import Chain, GaussianNoise, LayerPruning, LocalLayers, Precode
from leakgauge.federated.layers.dropout import with_forward
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.inversion.variables.signals import Signals, concealed_parameters, find_split, sever

Observe = Callable[..., lg.Observation]


class TestSplit:
    def test_is_where_the_first_hidden_layer_reads(self, observe: Observe) -> None:
        seen = observe(sigmoid_cnn(), images(2), under=LocalLayers(last=1))
        assert concealed_parameters(seen) == {"5.weight", "5.bias"}
        assert find_split(seen) == ("5", 128)
        seen = observe(mlp(), images(2), under=Chain(defenses=(GaussianNoise(), Precode(latent=6))))
        assert find_split(seen) == ("5.precode.encoder", 48)

    @pytest.mark.parametrize(
        ("under", "words"),
        [
            (LayerPruning(fraction=0.5), "hides no layer"),
            (LocalLayers(first=1, last=0), "runs after a hidden one"),
            (LocalLayers(first=1, last=1), "runs after a hidden one"),
        ],
    )
    def test_otherwise_it_says_why(self, observe: Observe, under: lg.Defense, words: str) -> None:
        reason = refusal(lg.attacks.SignalMatching(), observe(mlp(), images(2), under=under))
        assert reason is not None
        assert words in reason

    def test_needs_to_know_the_defense(self, observe: Observe) -> None:
        with pytest.raises(lg.KnowledgeError, match="defense"):
            lg.attacks.SignalMatching().plan(observe(mlp(), images(2)))

    def test_needs_one_gradient(self, observe: Observe) -> None:
        training = lg.FedAvg(epochs=2)
        seen = observe(mlp(), images(2), under=LocalLayers(last=1), training=training)
        reason = refusal(lg.attacks.SignalMatching(), seen)
        assert reason is not None
        assert "one gradient" in reason


class TestMatching:
    def test_the_true_signal_gives_the_true_gradient(self, observe: Observe) -> None:
        model, batch = sigmoid_cnn(), images(3)
        seen = observe(model, batch, under=LocalLayers(last=1))
        features = nn.Sequential(*list(model)[:5])(batch.inputs)  # type: ignore[call-overload]
        features = features.detach().requires_grad_()
        loss = functional.cross_entropy(model[5](features), batch.targets, reduction="sum")  # type: ignore[index]
        (signal,) = torch.autograd.grad(loss, features)
        layout = Signals((1, 8, 8), 128, scale=2.0)
        wide = layout.joined(batch.inputs, signal / 2.0)
        simulated = simulator(sever(seen, "5", layout), create_graph=False)(
            wide, torch.zeros(3, dtype=torch.long)
        )
        for name, tensor in seen.update.tensors.items():
            assert torch.allclose(simulated[name], tensor, atol=1e-6)

    def test_an_image_is_read_whatever_is_behind(self, observe: Observe) -> None:
        """The example is before a bottleneck. Another head in the adversary's copy must change nothing."""
        batch = images(1)
        seen = observe(sigmoid_cnn(), batch, under=Precode(latent=6))
        attack = lg.attacks.SignalMatching(attack=lg.attacks.VanishingPrior(steps=300))
        found = attack(seen, seeds=lg.Seeds(0))
        plain = lg.attacks.VanishingPrior(steps=300)(seen, seeds=lg.Seeds(0))
        assert float(psnr(batch.inputs, found.inputs).min()) > 10 + float(
            psnr(batch.inputs, plain.inputs).min()
        )
        other = with_forward(seen.model, lambda forward: forward)
        with torch.no_grad():
            for name, parameter in other.named_parameters():
                if name in concealed_parameters(seen):
                    parameter.mul_(-3.0)
        again = attack(replace(seen, model=other), seeds=lg.Seeds(0))
        assert torch.equal(found.inputs, again.inputs)
