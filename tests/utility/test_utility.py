"""Federated training under a defense: the partition, the accuracy and the traffic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

import leakgauge as lg
from leakgauge import defenses
from leakgauge.utility import Federation, History, label_skew, sent_bytes

LOCAL = lg.FedAvg(epochs=2, minibatch=16, learning_rate=0.05, momentum=0.9, shuffle=True)
TARGETS = torch.arange(10).repeat_interleave(50)


def digits(part: slice) -> lg.Dataset:
    """Return a part of the digits."""
    data = lg.data.digits()
    return replace(data, inputs=data.inputs[part], targets=data.targets[part])


def client(
    defense: lg.Defense | None = None, training: lg.LocalTraining | None = None
) -> lg.Client:
    """Return a client with an MLP that learns digits in seconds."""
    data = digits(slice(0, 8))
    return lg.Client(
        model=lg.models.build(lg.models.mlp, data.domain, 10, seed=0),
        loss=functional.cross_entropy,
        domain=data.domain,
        classes=10,
        training=training or LOCAL,
        defense=defense,
    )


def trained(
    held: lg.Client, rounds: int = 3, seed: int = 0, examples: int | None = None
) -> History:
    """Run a short federated training."""
    federation = Federation(clients=3, rounds=rounds, alpha=1.0, examples=examples)
    return federation.train(
        held, digits(slice(0, 600)), digits(slice(600, 900)), seeds=lg.Seeds(seed)
    )


class TestLabelSkew:
    def test_every_example_has_one_client(self) -> None:
        parts = label_skew(TARGETS, 5, 0.5, seeds=lg.Seeds(0))
        assert torch.equal(torch.cat(parts).sort().values, torch.arange(500))

    def test_alpha_is_how_alike_they_are(self) -> None:
        def unlike(alpha: float) -> float:
            parts = label_skew(TARGETS, 5, alpha, seeds=lg.Seeds(0))
            counts = torch.stack([torch.bincount(TARGETS[part], minlength=10) for part in parts])
            return float((counts / counts.sum(1, keepdim=True)).std(0).mean())

        assert unlike(0.1) > 2 * unlike(1.0) > 4 * unlike(100.0)

    def test_the_seed_decides(self) -> None:
        first, same, other = (
            label_skew(TARGETS, 4, 0.5, seeds=lg.Seeds(seed)) for seed in (0, 0, 1)
        )
        assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))

    def test_each_has_its_least_or_it_is_told(self) -> None:
        parts = label_skew(TARGETS, 5, 0.3, seeds=lg.Seeds(0), least=40)
        assert min(len(part) for part in parts) >= 40
        with pytest.raises(lg.DataError, match="fewer clients"):
            label_skew(TARGETS[:3], 5, 0.5, seeds=lg.Seeds(0))


class TestTraffic:
    update = lg.Update({"a": torch.tensor([[0.0, 1.0, 0.0, 0.0]] * 64), "b": torch.ones(10)})

    def test_dense_values_take_four_bytes(self) -> None:
        dense = lg.Update({"a": torch.ones(3, 7), "b": torch.ones(1)})
        assert sent_bytes(dense) == 4 * 22

    def test_zeros_are_left_out_where_places_cost_less(self) -> None:
        # Of a, 64 of 256 values are sent, with positions of 8 bits. Of b, all values are sent.
        assert sent_bytes(self.update) == 64 * (32 + 8) // 8 + 40

    def test_short_formats_count(self) -> None:
        int8 = defenses.Quantization(format="int8")
        assert sent_bytes(self.update, int8) == 64 * (8 + 8) // 8 + 10
        chain = defenses.Chain(defenses=(defenses.TopK(), defenses.Quantization(format="fp16")))
        assert sent_bytes(self.update, defenses.Sign()) == 32 + 2  # 256 bits and 10 bits, in bytes.
        assert sent_bytes(self.update, chain) == 64 * (16 + 8) // 8 + 20


class TestFederation:
    def test_learns(self) -> None:
        history = trained(client(), rounds=5)
        assert history.accuracy[0] < 0.3 < 0.7 < history.accuracy[-1]
        assert len(history.accuracy) == 6
        assert len(history.sent) == len(history.seconds) == 5
        assert sum(history.sizes) == 600

    def test_one_gradient_a_round_is_the_gradient_of_all(self) -> None:
        held = client(training=lg.FedSGD())
        history = trained(held, rounds=1)
        data, model = digits(slice(0, 600)), held.global_model(seeds=lg.Seeds(0))
        parts = torch.cat(label_skew(data.targets, 3, 1.0, seeds=lg.Seeds(0)))
        loss = functional.cross_entropy(model(data.inputs[parts]), data.targets[parts])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for after, before, gradient in zip(
            history.model.parameters(), model.parameters(), gradients, strict=True
        ):
            assert torch.allclose(after, before - gradient, atol=1e-6)

    def test_the_seed_decides_and_the_client_is_left(self) -> None:
        held = client(defenses.GaussianNoise(std=1e-3))
        before = [p.clone() for p in held.model.parameters()]
        first, same, other = (trained(held, 2, seed, examples=40) for seed in (0, 0, 1))
        assert first.accuracy == same.accuracy
        assert any(
            not torch.equal(a, b)
            for a, b in zip(first.model.parameters(), other.model.parameters(), strict=True)
        )
        assert all(torch.equal(a, b) for a, b in zip(before, held.model.parameters(), strict=True))

    def test_a_defense_costs_accuracy_or_saves_bytes(self) -> None:
        plain = trained(client())
        noisy = trained(client(defenses.GaussianNoise(std=0.3)))
        sparse = trained(client(defenses.TopK(sparsity=0.9)))
        assert noisy.accuracy[-1] < plain.accuracy[-1] - 0.2
        assert noisy.sent == plain.sent
        assert sum(sparse.sent) < 0.2 * sum(plain.sent)

    def test_one_that_diverges_ends_and_says_so(self) -> None:
        history = trained(client(defenses.GaussianNoise(std=1e18)), rounds=4)
        assert history.diverged
        assert not trained(client(), rounds=1).diverged
        assert len(history.accuracy) == len(history.sent) + 1 < 5

    def test_what_a_round_held_back_comes_later(self) -> None:
        held = client(defenses.DGC(sparsity=0.99, momentum=0.0))
        data, model = digits(slice(0, 20)), held.global_model(seeds=lg.Seeds(0))
        batch = lg.Batch(data.inputs, data.targets)
        raw = client().share(model, batch, seeds=lg.Seeds(0)).tensors
        first, memory = held.share_and_remember(model, batch, {}, seeds=lg.Seeds(0))
        second, left = held.share_and_remember(model, batch, memory, seeds=lg.Seeds(0))
        for name, tensor in raw.items():
            whole = first.tensors[name] + second.tensors[name] + left[f"residual/{name}"]
            assert torch.allclose(whole, 2 * tensor, atol=1e-6)
        alone = held.share(model, batch, seeds=lg.Seeds(0)).tensors
        assert any(not torch.equal(second.tensors[name], t) for name, t in alone.items())

    def test_memories_are_each_client_s_own(self) -> None:
        forgetful = trained(client(defenses.TopK(sparsity=0.9)), rounds=3)
        remembering = trained(client(defenses.DGC(sparsity=0.9, momentum=0.0)), rounds=3)
        # The memory is empty in the first round.
        assert remembering.accuracy[1] == forgetful.accuracy[1]
        assert remembering.accuracy[2:] != forgetful.accuracy[2:]

    def test_tells_its_progress(self) -> None:
        moments: list[lg.core.Moment] = []
        Federation(clients=2, rounds=2).train(
            client(),
            digits(slice(0, 60)),
            digits(slice(60, 80)),
            seeds=lg.Seeds(0),
            progress=moments.append,
        )
        assert [moment.fraction for moment in moments] == [0.5, 1.0]


class TestLocalLayers:
    def test_each_client_keeps_its_own_and_the_server_s_stay(self) -> None:
        """Compare with training by hand: each client keeps its own head, and the rest is averaged."""
        defense = defenses.LocalLayers(last=1)
        held = client(defense, training=lg.FedSGD())
        history = trained(held, rounds=2)
        data, plain = digits(slice(0, 600)), client(training=lg.FedSGD())
        parts = label_skew(data.targets, 3, 1.0, seeds=lg.Seeds(0))
        start = dict(plain.global_model(seeds=lg.Seeds(0)).named_parameters())
        *_, weight, bias = start
        trunk = {n: p.detach().clone() for n, p in start.items()}
        heads = [{n: start[n].detach().clone() for n in (weight, bias)} for _ in parts]
        for _ in range(2):
            total = {n: torch.zeros_like(p) for n, p in trunk.items()}
            for part, head in zip(parts, heads, strict=True):
                model = plain.global_model(seeds=lg.Seeds(0))
                model.load_state_dict({**trunk, **head})
                batch = lg.Batch(data.inputs[part], data.targets[part])
                update = plain.share(model, batch, seeds=lg.Seeds(0)).tensors
                for name, tensor in update.items():
                    if name in head:
                        head[name] -= tensor
                    else:
                        total[name] += len(part) / 600 * tensor
            trunk = {n: p - total[n] for n, p in trunk.items()}
        for name, parameter in history.model.named_parameters():
            assert torch.allclose(parameter, trunk[name], atol=1e-6)
        test, scores = digits(slice(600, 900)), []
        for head in heads:
            model = plain.global_model(seeds=lg.Seeds(0))
            model.load_state_dict({**trunk, **head})
            scores.append(float((model(test.inputs).argmax(1) == test.targets).double().mean()))
        assert history.accuracy[-1] == pytest.approx(sum(scores) / 3, abs=1e-2)

    def test_it_learns_and_no_bytes_of_the_head_are_sent(self) -> None:
        history, plain = trained(client(defenses.LocalLayers(last=1)), 4), trained(client(), 4)
        assert history.accuracy[0] < 0.3 < 0.5 < history.accuracy[-1]
        assert sum(history.sent) < sum(plain.sent)

    def test_what_a_later_defense_does_to_the_update_leaves_them_alone(self) -> None:
        """Noise on the shared update changes neither the client's own head nor the server's."""
        noisy = defenses.Chain(
            defenses=(defenses.LocalLayers(last=1), defenses.GaussianNoise(std=1.0))
        )
        held, batch = client(noisy), digits(slice(0, 20))
        model = held.global_model(seeds=lg.Seeds(0))
        _, memory = held.share_and_remember(
            model, lg.Batch(batch.inputs, batch.targets), {}, seeds=lg.Seeds(0)
        )
        raw = client().share(model, lg.Batch(batch.inputs, batch.targets), seeds=lg.Seeds(0))
        *_, weight, bias = raw.tensors
        own = held.own_model(model, memory, rate=0.5)
        before = dict(model.named_parameters())
        for name, parameter in own.named_parameters():
            change = raw.tensors[name] if name in (weight, bias) else 0
            assert torch.allclose(parameter, before[name] + change)
        history = trained(held, rounds=1)
        after = dict(history.model.named_parameters())
        assert torch.equal(after[weight], before[weight])

    def test_without_local_layers_all_have_the_server_s_model(self) -> None:
        held = client()
        model = held.global_model(seeds=lg.Seeds(0))
        assert held.own_model(model, {"residual/a": torch.ones(1)}, rate=1.0) is model
