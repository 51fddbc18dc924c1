"""Sentences read exactly: DAGER on GPT-2, MiniLM and a small LLaMA, whole, with LoRA, and on altered updates.

Sentences are from CoLA and SST-2, of at most 32 tokens. Their labels are withheld. GPT-2 has its
architecture and random weights, and BERT's vocabulary of 30,522 pieces. MiniLM and the LLaMA
(stories260K) have their own weights and a random head. The control is the most frequent token of
other sentences at each position. ROUGE is that of the package rouge-score.

Quick: MiniLM at batch 1.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from itertools import groupby
from statistics import mean

import torch
from common import Options, Row, run_jobs, table
from text_cells import frequent, network_of, scores, sentences, tune
from torch.nn.functional import cross_entropy

import leakgauge as lg

NAME = "text_exact"
ALTERED = (
    *(f"noise {std:g}" for std in (1e-5, 1e-4, 1e-3, 1e-2)),
    *(f"DP-SGD {multiplier:g}" for multiplier in (0.01, 0.1, 1)),
    *(f"pruning {share:g}" for share in (0.9, 0.99, 0.999)),
    *(f"epochs {count}" for count in (5, 10, 20)),
)
"""Changes of the update. Noise has this standard deviation, relative to the gradient's rms. DP-SGD has this
noise multiplier, and the norm 1. Pruning drops this share of entries. Epochs are local ones."""


@dataclass(frozen=True)
class Job:
    """One batch of sentences and its update."""

    network: str
    data: str
    size: int
    draw: int
    lora: int | None = None
    tuned: bool = False
    altered: str = "none"


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs, draw by draw, the goals of most weight first."""
    if given.quick:
        return [Job("minilm", "cola", 1, 0)]
    listed = list[Job]()
    for draw in range(3):
        listed += [Job("gpt2", "cola", size, draw) for size in (1, 2, 4, 8)]
        listed += [Job("minilm", "cola", size, draw) for size in (1, 2, 4)]
        listed += [Job("stories", "cola", size, draw) for size in (1, 2, 4)]
        if not draw:
            listed += [Job("gpt2", "cola", size, 0) for size in (16, 32)]
            listed += [Job("gpt2", "sst2", size, 0) for size in (1, 2, 4, 8, 16, 32)]
            for rank in (8, 64):
                for tuned in (False, True):
                    listed += [Job("gpt2", "cola", n, 0, rank, tuned) for n in (1, 4, 8)]
                    listed += [Job("stories", "cola", n, 0, rank, tuned) for n in (1, 4, 8)]
        listed += [Job("gpt2 small", "cola", 2, draw, altered=altered) for altered in ALTERED]
    return listed


def run(job: Job, given: Options) -> Row:
    """Measure one job."""
    data = sentences(job.data, job.network)
    assert isinstance(data.domain, lg.TextDomain)
    seed = 1000 * given.seed + job.draw
    order = torch.randperm(len(data), generator=lg.Seeds(seed).generator("batch"))
    held = order[: job.size]
    model = network_of(job.network, data.domain, seed, lora=job.lora)
    if job.tuned:
        tune(model, data, seed)
    seen = observed(job, data, held, model, seed)
    clock, cpu = time.perf_counter(), time.process_time()
    guess = lg.attacks.DAGER()(seen, seeds=lg.Seeds(seed))
    spent = {"seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        **vars(job),
        "seed": seed,
        "tokens": int(data.domain.lengths(data.inputs[held]).sum()),
        "status": guess.status,
        "message": guess.message,
        "notes": list(guess.notes),
        "residual": guess.residual,
        **scores(data, held, guess.inputs),
        "control": scores(data, held, frequent(data, held)),
        **spent,
        "peak_gib": peak,
    }


def observed(
    job: Job, data: lg.Dataset, held: torch.Tensor, model: torch.nn.Module, seed: int
) -> lg.Observation:
    """Return the server's view of the update. Labels are withheld."""
    kind, _, value = job.altered.partition(" ")
    training: lg.LocalTraining = lg.FedSGD()
    if kind == "epochs":
        training = lg.FedAvg(epochs=int(value), learning_rate=1e-3)
    batch = lg.Batch(data.inputs[held], data.targets[held])
    server = lg.Server(labels=False)

    def view(defense: lg.Defense | None) -> lg.Observation:
        client = lg.Client(
            model=model,
            loss=cross_entropy,
            domain=data.domain,
            classes=2,
            training=training,
            defense=defense,
        )
        return server.observe(client, batch, seeds=lg.Seeds(seed))

    if kind == "noise":
        tensors = view(None).update.tensors.values()
        entries = sum(t.numel() for t in tensors)
        rms = (sum(float(t.double().square().sum()) for t in tensors) / entries) ** 0.5
        return view(lg.defenses.GaussianNoise(std=float(value) * rms))
    if kind == "DP-SGD":
        return view(lg.defenses.DPSGD(max_norm=1.0, noise_multiplier=float(value)))
    if kind == "pruning":
        return view(lg.defenses.TopK(sparsity=float(value)))
    return view(None)


def main() -> None:
    """Run the jobs and print the table."""
    rows = run_jobs(NAME, __doc__, jobs_of, run, data="CoLA and SST-2")
    lines = []
    for key, group in groupby(sorted(rows, key=key_of), key_of):
        every = list(group)

        def average(name: str, every: list[Row] = every) -> str:
            return f"{mean(v for row in every for v in row[name]):.1f}"

        blind = mean(v for row in every for v in row["control"]["rouge1"])
        network, data, lora, tuned, altered, size = key
        adapters = f"LoRA {lora}{', tuned' if tuned else ''}" if lora else "all weights"
        lines.append(
            [
                network, data, adapters, altered, size, sum(row["size"] for row in every),
                average("rouge1"), average("rouge2"), average("exact"), f"{blind:.1f}",
                f"{mean(row['cpu_seconds'] for row in every):.0f}",
                f"{max(row['peak_gib'] for row in every):.1f}",
            ]
        )  # fmt: skip
    heads = [
        "network",
        "data",
        "trained",
        "altered",
        "batch",
        "n",
        "ROUGE-1",
        "ROUGE-2",
        "exact, %",
    ]
    table([*heads, "control ROUGE-1", "CPU s", "GiB"], lines)


def key_of(row: Row) -> tuple[str, str, int, bool, str, int]:
    """Return what rows of one line share."""
    return (
        row["network"], row["data"], row["lora"] or 0, row["tuned"], row["altered"], row["size"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
