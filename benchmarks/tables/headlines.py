"""The headline results, computed from the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tables import figures
from tables.documents import Document, Row

Results = Mapping[str, Document]
"""The results of each benchmark, by name."""


def some(results: Results, name: str, **wanted: object) -> list[Row]:
    """Return the rows of a benchmark whose fields have these values."""
    rows = results[name].rows
    found = [row for row in rows if all(row.get(field) == value for field, value in wanted.items())]
    assert found, f"{name}: no rows with {wanted}"
    return found


def decibels(rows: Iterable[Row], figure: Callable[[str], figures.Figure], prefix: str = "") -> str:
    """Return a PSNR with its control and the number of images, in words."""
    listed = list(rows)
    own, blind = figure(f"{prefix}psnr")(listed), figure(f"{prefix}control_psnr")(listed)
    count = figures.count(f"{prefix}psnr")(listed)
    return f"{own:.1f} dB (control {blind:.1f}, n = {count:.0f})"


def told_exactly(rows: list[Row]) -> str:
    """Return how many images are exact, in words."""
    right, count = figures.above("psnr", figures.EXACT)(rows), figures.count("psnr")(rows)
    return f"{right:.0f} of {count:.0f} images exact"


def one_image(results: Results) -> str:
    """Return what one image gives away, by network."""
    lenet = some(results, "inverting_gradients", network="lenet", state="trained", method="ours")
    resnet = some(
        results, "inverting_gradients", network="resnet20", state="trained", method="ours"
    )
    return (
        "**One image: it depends on the network.** "
        f"From a trained LeNet, gradient matching reconstructs an image with {decibels(lenet, figures.mean)}. "
        f"From a trained ResNet-20: {decibels(resnet, figures.mean)}."
    )


def whole_batch(results: Results) -> str:
    """Return what an exact attack reads beside gradient matching."""
    cell = "MLP, batch 16, equal"
    exact = some(results, "exact_attacks", part="beside", cell=cell, attack="SPEAR")
    names = {row["attack"] for row in some(results, "exact_attacks", part="beside", cell=cell)}
    adam = some(
        results,
        "exact_attacks",
        part="beside",
        cell=cell,
        attack=next(n for n in sorted(names) if "Adam" in n),
    )
    return (
        "**Exact attacks recover whole batches.** "
        f"SPEAR on a ReLU MLP, batches of 16 images of one label: {told_exactly(exact)}, "
        f"{decibels(exact, figures.median)}, in {figures.seconds(exact):.1f} s. "
        f"Gradient matching on the same updates: {decibels(adam, figures.median)}, "
        f"in {figures.seconds(adam):.0f} s."
    )


def residual_network(results: Results) -> str:
    """Return what algebra reads through residual networks beside gradient matching."""
    name, shown = "convolutions", {"network": "resnet18", "state": "untrained", "size": 8}
    batch = some(results, name, part="images", **shown, labels="equal", method="shift consistency")
    adam = some(results, name, part="images", **shown, labels="equal", method="signed Adam")
    trained = some(results, name, part="images", network="resnet20", state="trained", size=1)
    return (
        "**Algebra reads batches through a residual network.** "
        f"Untrained ResNet-18, batches of 8 images of one label: {told_exactly(batch)}, "
        f"{decibels(batch, figures.median)}, in {figures.seconds(batch):.0f} s on one core. "
        f"Inverting Gradients on one of these batches, labels granted: {decibels(adam, figures.median)}. "
        f"One image from a trained ResNet-20: {decibels(trained, figures.median)}."
    )


def local_steps(results: Results) -> str:
    """Return what local steps of FedAvg hide."""
    setting = {"size": 4, "minibatch": 0, "rate": 1e-3, "draw": 0}
    one = some(results, "fedavg", **setting, epochs=1, how="corrected")
    naive = some(results, "fedavg", **setting, epochs=20, how="ignored")
    adaptive = some(results, "fedavg", **setting, epochs=20, how="corrected")
    return (
        "**FedAvg's local steps hide less from an adversary that simulates them.** "
        "LeNet, batch of 4, full-batch steps at rate 1e-3, labels granted. "
        f"One step: {decibels(one, figures.median)}. "
        f"20 steps taken for one gradient: {decibels(naive, figures.median)}. "
        f"20 steps corrected for: {decibels(adaptive, figures.median)}."
    )


def aggregation(results: Results) -> str:
    """Return what a secure sum of 16 clients still gives away."""
    name, closed = "secure_aggregation", {"network": "mlp 256", "attack": "linear_layer"}
    mlp = some(results, name, part="aggregate", clients=16, **closed)
    lenet = some(results, name, part="aggregate", network="lenet", clients=16)
    masked = some(results, name, part="masked", **closed)
    return (
        "**Secure aggregation hides clients, but the sum can leak.** 16 clients with an image each. "
        f"MLP of width 256: {told_exactly(mlp)}, {decibels(mlp, figures.mean)}. "
        f"LeNet: {decibels(lenet, figures.mean)}. "
        f"One masked update alone scores as its control: {decibels(masked, figures.mean)}."
    )


def defenses(results: Results) -> str:
    """Return which defense holds against an adaptive adversary, and at what price."""

    def reads(setting: str, kind: str = "adaptive") -> str:
        return decibels(some(results, "frontier", setting=setting, kind=kind), figures.mean)

    def accuracy(setting: str) -> str:
        rows = some(results, "frontier", setting=setting, kind="accuracy", draw=0)
        return f"accuracy {100 * rows[0]['accuracy']:.0f}%"

    noise, sparse = "Gaussian 0.1", "top-k 0.5"
    return (
        "**Noise holds against an adversary that knows it, sparsity does not.** "
        "Untrained LeNet, one batch of 4. "
        f"No defense: {reads('none')}, {accuracy('none')}. "
        f"Half of the entries sent: naive {reads(sparse, 'naive')}, adaptive {reads(sparse)}, "
        f"{accuracy(sparse)}. "
        f"Gaussian noise of std 0.1: adaptive {reads(noise)}, {accuracy(noise)}."
    )


def text(results: Results) -> str:
    """Return which sentences are read from text models."""
    name, plain = "text_exact", {"data": "cola", "altered": "none", "lora": None}
    batch = some(results, name, network="gpt2", size=8, **plain)
    large = some(results, name, network="gpt2", size=32, **plain)
    encoder = some(results, name, network="minilm", size=4, **plain)
    return (
        "**Sentences are read word for word.** "
        f"DAGER on GPT-2 of 12 layers, labels withheld, batch 8: {told_whole(batch)}, in "
        f"{figures.seconds(batch):.0f} s on one core. Batch 32: {told_whole(large)}. "
        f"MiniLM, batch 4: {told_whole(encoder)}."
    )


def told_whole(rows: list[Row]) -> str:
    """Return how many sentences are read whole, with the control's ROUGE-1, in words."""
    right, count = figures.above("exact", 100)(rows), figures.count("exact")(rows)
    blind = figures.mean("control.rouge1")(rows)
    return f"{right:.0f} of {count:.0f} exact (control {blind:.0f}% ROUGE-1)"


HEADLINES = {
    "inverting_gradients": one_image,
    "exact_attacks": whole_batch,
    "convolutions": residual_network,
    "text_exact": text,
    "fedavg": local_steps,
    "secure_aggregation": aggregation,
    "frontier": defenses,
}


def headlines(results: Results, folder: str = "") -> str:
    """Return the headline results as a list in Markdown. `folder` leads to the pages."""
    return "\n".join(
        f"- {told(results)} [More]({folder}{name}.md)" for name, told in HEADLINES.items()
    )
