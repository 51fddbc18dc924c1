"""What `leakgauge inspect` foretells, beside what the gradients of real images give.

Three counts are compared for each network, in float64 and with all labels equal. The span of a
convolution is read if the null vectors of its row space contain the true inputs, to 1e-5. A layer is
determined from above if the true signals make equations of full rank. The last layer is unmixed if its
gradient has the rank of the batch. The batch that is read is searched up to two above the foretold one.

Quick: LeNet and the small ResNets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from common import Options, Row, run_jobs, table
from inspection_networks import SUBJECTS, Subject, examples
from problems import images
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import leakgauge as lg
from leakgauge.analytic.convolutions.counting import Reader, solved
from leakgauge.analytic.convolutions.operations import root_of
from leakgauge.analytic.convolutions.span import Consistency, row_space, span_of
from leakgauge.inspection.counted import Counted, counted
from leakgauge.inspection.domains import domain_of
from leakgauge.inspection.layers import Layer

NAME = "inspection"
EXACT = 1e-5
"""Largest relative error of an input that counts as read."""
FULL = 1e-13
"""Relative size of a singular value that counts as 0, in float64."""
ABOVE = 12
"""Largest batch whose equations from above are measured. Their matrix grows with its square."""
QUICK = ("ResNet-20", "ResNet-32", "LeNet", "LeNet, ReLU")


@dataclass(frozen=True)
class Job:
    """One network."""

    network: str


def jobs_of(given: Options) -> list[Job]:
    """Return all networks."""
    return [Job(name) for name in (QUICK if given.quick else SUBJECTS)]


@dataclass
class Measured:
    """Inputs, signals and gradients of a network's layers, for batches of real examples.

    Args:
        model: The network, in float64.
        inputs: Examples to draw from.
    """

    model: nn.Module
    inputs: Tensor

    def __post_init__(self) -> None:
        """Start without gradients."""
        self.kept: tuple[int, torch.dtype, dict[str, tuple[Tensor, Tensor, Tensor]]] | None = None

    def layers(
        self, batch: int, dtype: torch.dtype = torch.float64
    ) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Return the input, the signal and the weight's gradient of each layer, by name."""
        if self.kept is not None and self.kept[:2] == (batch, dtype):
            return self.kept[2]
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def note(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
                output.retain_grad()
                found[name] = (given[0].detach().double(), output)

            return hook

        model = self.model.to(dtype)
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
        named = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}
        hooks = [m.register_forward_hook(note(name)) for name, m in named.items()]
        state = {name: t.clone() for name, t in model.state_dict().items()}
        model.zero_grad()
        output = model(self.inputs[:batch].to(dtype))
        loss = cross_entropy(output, torch.zeros(batch, dtype=torch.long))
        torch.autograd.backward(loss)
        for hook in hooks:
            hook.remove()
        model.load_state_dict(state)
        layers = {}
        for name, (given, z) in found.items():
            weight, signal = named[name].weight.grad, z.grad
            assert weight is not None, "expected gradients"
            assert signal is not None, "expected gradients"
            layers[name] = (given, signal.double(), weight.detach().double())
        self.model.double()
        self.kept = (batch, dtype, layers)
        return layers


def span_error(data: Measured, layer: Layer, batch: int, dtype: torch.dtype) -> float:
    """Return the largest relative part of an example's input that the span of the layer lacks."""
    reader = layer.reader
    assert reader is not None, "expected a convolution"
    given, _, weight = data.layers(batch, dtype)[layer.name]
    rounding = torch.finfo(dtype).eps
    channels, rows = reader.channels // reader.groups, len(weight) // reader.groups
    centered = bool(reader.shared) or reader.signal < reader.positions
    space = row_space(weight[:rows], error=rounding)
    if space.rank + centered < batch * reader.signal:
        # Some patches of the true inputs are not in the row space.
        return 1.0
    operator = Consistency(space, reader.geometry, channels, centered)
    count = min(batch, channels * reader.geometry.places - 1)
    span = span_of(operator, count, generator=torch.Generator().manual_seed(0))
    basis = span.basis.flatten(1)
    true = given.flatten(2)[:, :channels].flatten(1)
    left = true - true @ basis.T @ basis
    return float((left.norm(dim=1) / true.norm(dim=1)).max())


def is_determined(data: Measured, readers: list[Layer], batch: int) -> bool:
    """Return whether the true signals of layers that share an input determine it."""
    blocks = []
    for layer in readers:
        reader = layer.reader
        assert reader is not None, "expected a layer with equations"
        geometry = reader.geometry
        signal = data.layers(batch)[layer.name][1].flatten(2)[:, : signal_rows(layer)]
        signal = signal.transpose(0, 1).contiguous()
        signal = signal / signal.norm()
        block = signal.new_zeros(len(signal), geometry.taps, batch, geometry.places + 1)
        for tap in range(geometry.taps):
            block[:, tap].index_add_(2, geometry.sees[:, tap], signal)
        blocks.append(block[..., : geometry.places].reshape(len(signal) * geometry.taps, -1))
    matrix = torch.cat(blocks)
    if matrix.shape[0] < matrix.shape[1]:
        return False
    sizes = torch.linalg.svdvals(matrix)
    return bool(sizes[-1] > FULL * sizes[0])


def signal_rows(layer: Layer) -> int:
    """Return the number of rows of the gradient that see one group of channels."""
    assert layer.reader is not None, "expected a layer with equations"
    return layer.outputs // layer.reader.groups


def searched(holds: Callable[[int], bool], foretold: int, most: int) -> int:
    """Return the largest batch near the foretold one at which a condition holds, or 0.

    Two batches above it are tried, then the foretold one. Below it, the interval is halved.
    """
    for batch in (foretold + 2, foretold + 1, foretold):
        if 1 <= batch <= most and holds(batch):
            return batch
    low, high = 0, min(foretold, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def spans(counts: Counted) -> list[Layer]:
    """Return two convolutions with a span, and the one without that comes nearest to one."""
    convolutions = [
        layer
        for layer in counts.layers
        if layer.kind == "convolution" and layer.reader is not None and layer.trained
    ]
    read = [x for x in convolutions if x.reader is not None and x.reader.span()]
    unread = [x for x in convolutions if x not in read]
    near = sorted(unread, key=lambda x: x.reader.positions / x.reader.rows if x.reader else 0.0)
    return [*dict.fromkeys([*read[:1], *read[-1:]]), *near[:1]]


def groups_above(counts: Counted) -> list[list[Layer]]:
    """Return up to three groups of convolutions that share an input, with a count that can be measured."""
    groups: dict[Any, list[Layer]] = {}
    for layer in counts.layers:
        if layer.kind == "convolution" and layer.reader is not None:
            groups.setdefault(root_of(layer.source), []).append(layer)
    sized = [
        (solved([x.reader for x in group if x.reader is not None]), group)
        for group in groups.values()
    ]
    fitting = [(n, group) for n, group in sized if 1 <= n <= ABOVE]
    return [group for _, group in (*fitting[:2], *fitting[-1:])][:3]


def compared(counts: Counted, data: Measured) -> Iterator[Row]:
    """Yield the foretold and the read batch of each compared count."""
    most = len(data.inputs)
    for layer in spans(counts):
        assert isinstance(layer.reader, Reader), "expected a convolution"
        foretold = layer.reader.span()

        def fits(batch: int, layer: Layer = layer) -> bool:
            return span_error(data, layer, batch, torch.float64) < EXACT

        read = searched(fits, foretold, most)
        row: Row = {"layer": layer.name, "count": "span", "foretold": foretold, "read": read}
        if foretold:
            row["error32"] = span_error(data, layer, min(foretold, most), torch.float32)
        yield row
    for group in {tuple(g): g for g in groups_above(counts)}.values():
        foretold = solved([x.reader for x in group if x.reader is not None])
        read = searched(lambda b, g=group: is_determined(data, g, b), foretold, most)  # type: ignore[misc]
        yield {"layer": group[0].name, "count": "above", "foretold": foretold, "read": read}
    last = counts.layers[-1]

    def unmixed(batch: int) -> bool:
        sizes = torch.linalg.svdvals(data.layers(batch)[last.name][2])
        return int((sizes > FULL * sizes[0]).sum()) == batch

    foretold = counts.owns[last.node].batch
    yield {
        "layer": last.name,
        "count": "last",
        "foretold": foretold,
        "read": searched(unmixed, foretold, most),
    }


def run(job: Job, given: Options) -> Row:
    """Inspect one network, and measure on real examples."""
    subject: Subject = SUBJECTS[job.network]
    model = subject.model(given.seed)
    clock = time.perf_counter()
    counts = counted(model, domain_of(subject.shape, None), steps=1, clients=1)
    seconds = time.perf_counter() - clock
    found = lg.inspect(model, subject.shape)
    inputs = examples(images(given.data).inputs, subject.shape)
    rows = list(compared(counts, Measured(model, inputs)))
    kept: Row = {"network": job.network, "seconds": seconds, "exact": found.exact}
    kept["by_attack"] = found.read
    return kept | {"verdict": found.verdict, "features": found.features, "counts": rows}


def main() -> None:
    """Run all networks, and print each count."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    flat = [(row["network"], each) for row in rows for each in row["counts"]]
    keys = ("layer", "count", "foretold", "read", "error32")
    table(("network", *keys), [(name, *(each.get(k, "") for k in keys)) for name, each in flat])
    right = sum(each["foretold"] == each["read"] for _, each in flat)
    print(f"{right} of {len(flat)} counts are what is read")


if __name__ == "__main__":
    main()
