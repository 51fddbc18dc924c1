"""Train the two networks that `gradvit.py` attacks: a small vision transformer, then a CNN of the same accuracy.

Both learn from 3,000 lossless and 10,000 JPEG images of CIFAR-10 under LEAKGAUGE_DATA, by AdamW
with one cycle of the rate. Another 1,000 lossless images tell when the CNN, which learns faster,
reaches the transformer's accuracy. There it stops. The 120 test images, on which attacks report,
play no part in that.

Each network takes about 8 minutes on a core of its own. The weights go to benchmarks/weights, which
is not under version control.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from common import CIFAR, ROOT
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg

WEIGHTS = ROOT / "weights"
VIT, CNN = "cifar10_vit.safetensors", "cifar10_cnn.safetensors"
JPEG = "cifar10_jpeg75.npz"
HELD = 1000
BATCH = 64
EVERY = 50
"""Number of steps between checks of the CNN's accuracy."""


def vit(domain: lg.Domain) -> nn.Module:
    """Return the transformer: patches of 4 pixels, four blocks of dimension 72.

    APRIL asks for at least as many dimensions as patches.
    """
    return lg.models.build(
        lg.models.vit, domain, 10, seed=0, patch=4, dim=72, depth=4, heads=4, readout="mean"
    )


def cnn(domain: lg.Domain) -> nn.Module:
    """Return ResNet-20, with BatchNorm."""
    return lg.models.build(lg.models.resnet20, domain, 10, seed=0)


def accuracy(model: nn.Module, data: lg.Dataset | lg.Batch) -> float:
    """Return the fraction of examples whose largest output is their class, in eval mode. The mode is restored."""
    mode = model.training
    model.eval()
    with torch.no_grad():
        outputs = torch.cat([model(x) for x in torch.split(data.inputs, 200)])
    model.train(mode)
    return float((outputs.argmax(1) == data.targets).float().mean())


def shuffled(count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield indices of batches, epoch after epoch."""
    while True:
        order = torch.randperm(count, generator=generator)
        yield from torch.split(order, BATCH)[: count // BATCH]


def augmented(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return each image mirrored or not. All are moved by the same offset of up to two pixels."""
    mirror = torch.rand(len(inputs), generator=generator) < 0.5
    inputs = torch.where(mirror[:, None, None, None], inputs.flip(-1), inputs)
    down, right = torch.randint(5, (2,), generator=generator).tolist()
    padded = functional.pad(inputs, (2, 2, 2, 2), mode="reflect")
    return padded[:, :, down : down + inputs.shape[2], right : right + inputs.shape[3]]


def train(
    model: nn.Module,
    data: lg.Batch,
    *,
    steps: int,
    lr: float,
    done: Callable[[], bool] = lambda: False,
) -> int:
    """Train until `done`, checked every EVERY steps, or for `steps` steps. Return the number of steps taken."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    model.train()
    taken = 0
    for taken, chosen in zip(range(1, steps + 1), shuffled(len(data.inputs), generator)):  # noqa: B905
        inputs = augmented(data.inputs[chosen], generator)
        loss = functional.cross_entropy(model(inputs), data.targets[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rate.step()
        if taken % EVERY == 0 and done():
            break
    model.eval()
    return taken


def main() -> None:
    """Train, print accuracies, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS, metavar="FOLDER")
    parser.add_argument(
        "--steps", type=int, default=2600, help="largest number of steps of each network"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    lossless, jpeg = lg.data.npz(CIFAR, split="train"), lg.data.npz(JPEG, split="train")
    test = lg.data.npz(CIFAR, split="test")
    held = lg.Batch(lossless.inputs[:HELD], lossless.targets[:HELD])
    data = lg.Batch(
        torch.cat([lossless.inputs[HELD:], jpeg.inputs]),
        torch.cat([lossless.targets[HELD:], jpeg.targets]),
    )
    given.out.mkdir(parents=True, exist_ok=True)
    goal = 1.0
    for name, build, lr in ((VIT, vit, 1e-3), (CNN, cnn, 1e-3)):
        clock, model = time.perf_counter(), build(test.domain)
        taken = train(
            model,
            data,
            steps=given.steps,
            lr=lr,
            done=lambda model=model, goal=goal: accuracy(model, held) >= goal,  # type: ignore[misc]
        )
        goal = accuracy(model, held)
        save_file(model.state_dict(), given.out / name)
        print(
            f"{name}: {sum(p.numel() for p in model.parameters())} parameters, {taken} steps, "
            f"{goal:.1%} of {HELD} held out, {accuracy(model, test):.1%} of {len(test.inputs)} "
            f"test images, {time.perf_counter() - clock:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
