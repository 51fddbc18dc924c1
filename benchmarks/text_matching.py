"""Gradient matching on text: DLG, TAG, LAMP and TIGER on encoders, and DLG on a masked language model.

Sentences are from CoLA. Labels, lengths, [CLS] and [SEP] are known, as in the papers. MiniLM has its
own weights and a random head, the small BERT random weights. The control is the most frequent token
of other sentences at each position. The bigrams of other sentences are a prior without a network.

Quick: one sentence on the small BERT.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import torch
from common import Options, Row, run_jobs, table
from text_cells import frequent, network_of, scores, sentences
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import leakgauge as lg
from leakgauge.attacks.text_matching import TextMatching

BEGIN, END, MASK = 101, 102, 103
"""Tokens [CLS], [SEP] and [MASK] of BERT's tokenizer."""
SIZES = (1, 2, 4)
ATTACKS = ("TextDLG", "TAG", "LAMP", "LAMP, bigrams", "TIGER", "TIGER, lengths unknown")
STEPS = {"bert": 500, "minilm": 150}
"""Steps of Adam. The papers take 1000 (TAG) and 2000 (LAMP)."""
METRICS = ("rouge1", "rouge2", "rouge_l", "token_accuracy", "exact")
PAPER = {
    ("TAG", 1): 78.9,
    ("TAG", 2): 68.9,
    ("TAG", 4): 56.3,
    ("LAMP", 1): 89.6,
    ("LAMP", 2): 77.8,
    ("LAMP", 4): 66.2,
}
"""ROUGE-1 on CoLA with a trained BERT of 12 layers, from the paper of LAMP."""


@dataclass(frozen=True)
class Job:
    """One attack on one batch.

    Args:
        network: "minilm", "bert", or "masked" for a small BERT as a masked language model.
        attack: Name of the attack.
        size: Number of sentences.
        number: Number of the batch.
    """

    network: str
    attack: str
    size: int
    number: int


class Bigrams(nn.Module):
    """A language model from the frequencies of pairs of tokens, with the sums of `LanguageModel` as outputs.

    Args:
        tokens: Sentences (N, L) to count.
        vocabulary: Number of tokens.
        pad: Token of the padding.
    """

    def __init__(self, tokens: Tensor, vocabulary: int, pad: int) -> None:
        super().__init__()
        self.vocabulary, self.pad = vocabulary, pad
        held = tokens[:, 1:] != pad
        pairs = (tokens[:, :-1] * vocabulary + tokens[:, 1:])[held]
        self.pairs, self.counts = torch.unique(pairs, return_counts=True)
        self.first = torch.bincount(tokens[:, :-1][held], minlength=vocabulary)
        self.single = torch.bincount(tokens[:, 1:][held], minlength=vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return sums of losses and numbers of tokens (B, 2): nine parts of pairs, one part of single tokens."""
        held = tokens[:, 1:] != self.pad
        pairs = tokens[:, :-1] * self.vocabulary + tokens[:, 1:]
        place = torch.searchsorted(self.pairs, pairs).clamp_max(len(self.pairs) - 1)
        count = torch.where(self.pairs[place] == pairs, self.counts[place], 0)
        both = count / self.first[tokens[:, :-1]].clamp_min(1)
        alone = (self.single[tokens[:, 1:]] + 0.1) / (self.single.sum() + 0.1 * self.vocabulary)
        losses = -(0.9 * both + 0.1 * alone).log() * held
        return torch.stack([losses.sum(1), held.sum(1).to(losses)], 1)


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs, batch by batch, so that a run that is cut holds every size."""
    if given.quick:
        held = [Job("masked", ATTACKS[0], 1, 0)] + [Job("bert", name, 1, 0) for name in ATTACKS]
        return [replace(job, number=given.seed) for job in held]
    held = [Job("masked", ATTACKS[0], 1, number) for number in range(3)]
    for number in range(3):
        for size in SIZES:
            held += [Job("bert", name, size, number) for name in ATTACKS]
            if number < 2:
                held += [Job("minilm", name, size, number) for name in ("TAG", "LAMP", "TIGER")]
    held.append(Job("minilm", ATTACKS[0], 1, 0))
    return [replace(job, number=job.number + given.seed) for job in held]


def attack_of(job: Job, lengths: tuple[int, ...], rest: Tensor) -> TextMatching:
    """Return the attack of a job. It knows [CLS], [SEP] and, unless it says otherwise, the lengths."""
    steps = STEPS.get(job.network, 0)
    domain = sentences("cola", "bert").domain
    assert isinstance(domain, lg.TextDomain)
    lamp = lg.attacks.LAMP(steps=steps, starts=50, tries=20)
    found: Any = {
        "TextDLG": lg.attacks.TextDLG(steps=20, line_search=True),
        "TAG": lg.attacks.TAG(steps=steps),
        "LAMP": lamp,
        "LAMP, bigrams": lamp
        if job.attack != "LAMP, bigrams"
        else replace(lamp, prior=Bigrams(rest, domain.vocabulary, domain.pad or 0)),
        "TIGER": lg.attacks.TIGER(steps=steps),
        "TIGER, lengths unknown": lg.attacks.TIGER(steps=steps),
    }[job.attack]
    known = () if job.attack.endswith("unknown") else lengths
    chosen: TextMatching = replace(found, first=BEGIN, last=END, lengths=known)
    return chosen


def client_of(job: Job, domain: lg.TextDomain, places: tuple[int, ...]) -> lg.Client:
    """Return the client of a job. `places` are those that a masked language model predicts."""
    if job.network != "masked":
        model = network_of(job.network, domain, job.number)
        return lg.Client(model=model, loss=cross_entropy, domain=domain, classes=2)
    model = lg.models.hugging_face_text(
        domain,
        1,
        family="bert",
        task="masked",
        dim=128,
        depth=2,
        heads=4,
        mask=MASK,
        masked=places,
        seed=job.number,
    )
    return lg.Client(model=model, loss=lg.models.token_mean, domain=domain, classes=1)


def run(job: Job, given: Options) -> Row:
    """Attack one batch, and score the sentences beside the blind control."""
    data = sentences("cola", "bert")
    domain = data.domain
    assert isinstance(domain, lg.TextDomain)
    generator = lg.Seeds(job.number).generator("sentences")
    held = torch.randperm(len(data), generator=generator)[: job.size]
    tokens = data.inputs[held]
    lengths = tuple(domain.lengths(tokens).tolist())
    client = client_of(job, domain, (2,))
    targets = data.targets[held] if client.classes == 2 else torch.zeros(job.size).long()
    threat = lg.Server(labels=True, order=True)
    observation = threat.observe(client, lg.Batch(tokens, targets), seeds=lg.Seeds(job.number))
    rest = data.inputs[torch.ones(len(data), dtype=torch.bool).index_fill(0, held, False)]
    attack, clock = attack_of(job, lengths, rest), time.perf_counter()
    found = attack(observation, seeds=lg.Seeds(job.number))
    seconds = time.perf_counter() - clock
    real = tokens != (domain.pad or 0)
    return {
        "network": job.network,
        "attack": job.attack,
        "size": job.size,
        "found": scores(data, held, found.inputs),
        "control": scores(data, held, frequent(data, held)),
        "residual": found.residual,
        "status": str(found.status),
        "evaluations": found.cost.evaluations,
        "seconds": seconds,
        "sentences": [
            [domain.text(a), domain.text(b)] for a, b in zip(tokens, found.inputs, strict=True)
        ],
        "trajectory": [
            [each.evaluations, float(((each.inputs == tokens) & real).sum() / real.sum())]
            for each in found.trajectory
        ],
        "notes": list(found.notes),
    }


def main() -> None:
    """Print one line for each network, attack and batch size."""
    rows = run_jobs("text_matching", __doc__, jobs_of, run, data="CoLA")
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["attack"], row["size"]), []).append(row)

    def average(part: str, metric: str, held: list[Row]) -> str:
        return f"{mean(v for row in held for v in row[part][metric]):.0f}"

    table(
        [
            "network",
            "attack",
            "batch",
            "n",
            *METRICS,
            "control rouge1",
            "paper rouge1",
            "s",
            "evaluations",
        ],
        [
            [
                network,
                attack,
                size,
                sum(row["size"] for row in held),
                *(average("found", metric, held) for metric in METRICS),
                average("control", "rouge1", held),
                PAPER.get((attack, size), ""),
                f"{mean(row['seconds'] for row in held):.0f}",
                f"{mean(row['evaluations'] for row in held):.0f}",
            ]
            for (network, attack, size), held in groups.items()
        ],
    )


if __name__ == "__main__":
    main()
