"""The headline of each benchmark as predicates on its jobs: a quick run holds a job for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Predicate = Callable[[Any], bool]


def job(**wanted: object) -> Predicate:
    """Return a predicate: whether the fields of a job have these values."""
    return lambda one: all(getattr(one, field) == value for field, value in wanted.items())


def item(*wanted: object) -> Predicate:
    """Return a predicate: whether a job, or one of its parts, is one of these values."""
    return lambda one: any(
        one == value or (isinstance(one, tuple) and value in one) for value in wanted
    )


EVERY: Predicate = lambda one: True  # noqa: E731
"""For benchmarks whose jobs differ in nothing but a number: each of them runs the method."""

HEADLINES: dict[str, tuple[Predicate, ...]] = {
    "april": (job(attack="attention"), job(attack="embedding"), job(attack="matching")),
    "batches": (
        job(method="second order", equal=False),
        job(method="second order", equal=True),
        job(method="softmax unmixing"),
    ),
    "batchnorm": (job(how="withheld"), job(how="shared"), job(how="outsider, shared")),
    "cocktail_party": (
        job(part="mlp", method="cocktail party"),
        job(part="features", method="feature inversion"),
    ),
    "color": (EVERY,),
    "convolution_defenses": (job(part="leak", defense="none"),),
    "convolutions": (
        job(part="span", altered="none"),
        job(part="images", network="resnet18", size=1),
    ),
    "data_defenses": (
        job(defense="none"),
        job(defense="ats 43-18-18"),
        job(defense="pixel_dropout 0.3"),
        job(defense="patch_dropout 0.3"),
    ),
    "decentralized": (job(width=32, hops=2), job(width=0)),
    "dlg_convergence": (
        item("DLG, as in the paper (label unknown)"),
        item("iDLG, as in the paper"),
        item("BalancedDLG, label read as in iDLG"),
    ),
    "dlg_defenses": (
        item("GaussianNoise(std=0.01)"),
        item("GaussianNoise(std=0.01), ended early"),
        item("Quantization(format='fp16')"),
        item("TopK(sparsity=0.5), unknown"),
        item("TopK(sparsity=0.5)"),
    ),
    "dp_sgd": (job(kind="naive"), job(kind="adaptive"), job(kind="accuracy")),
    "dropout": (job(how="joint"), job(how="joint, second order"), job(how="known masks")),
    "exact_attacks": (
        job(part="beside", cell="MLP, batch 16, equal", attack="SPEAR"),
        job(part="beside", cell="MLP, batch 16, equal", attack="signed Adam 1000"),
        job(part="defended", attack="SPEAR"),
    ),
    "fedavg": (
        job(size=4, minibatch=0, rate=1e-3, epochs=1, how="corrected", draw=0),
        job(size=4, minibatch=0, rate=1e-3, epochs=20, how="ignored", draw=0),
        job(size=4, minibatch=0, rate=1e-3, epochs=20, how="corrected", draw=0),
    ),
    "frontier": (
        job(setting="none", kind="adaptive"),
        job(setting="none", kind="accuracy"),
        job(setting="top-k 0.5", kind="naive"),
        job(setting="top-k 0.5", kind="adaptive"),
        job(setting="top-k 0.5", kind="accuracy"),
        job(setting="Gaussian 0.1", kind="adaptive"),
        job(setting="Gaussian 0.1", kind="accuracy"),
    ),
    "fuzz": tuple(
        item(kind)
        for kind in ("specification", "archive", "images", "update", "weights", "records")
    ),
    "grad_inversion": (
        job(recipe="gradient"),
        job(recipe="+ registered group"),
        job(recipe="ours: smoothed"),
    ),
    "gradvit": (
        job(network="ViT", attack="+ registered group"),
        job(network="ViT", attack="closed form", size=1),
        job(network="CNN", attack="gradient"),
    ),
    "homomorphic": (job(part="cost"), job(part="mean"), job(part="ciphertext")),
    "import_time": (EVERY,),
    "inspection": (job(network="ResNet-20"), job(network="LeNet")),
    "inverting_gradients": (
        job(network="lenet", state="trained", method="ours"),
        job(network="resnet20", state="trained", method="ours"),
    ),
    "label_counts": (job(labels="drawn", size=64), job(labels="equal", size=64)),
    "label_limits": (job(network="lenet untrained", size=64),),
    "linear_layer": (job(kind="image", size=1), job(kind="image", size=16), job(kind="table")),
    "prior_knowledge": (item("mlp_l2"), item("tv_sweep")),
    "priors": (job(prior="none"), job(prior="anisotropic TV"), job(prior="deep image prior")),
    "published_claims": (
        job(setting="Gaussian 0.01", adversary="adaptive"),
        job(setting="precision fp16", adversary="adaptive"),
        job(setting="sparsity 0.5", adversary="adaptive"),
        job(setting="dropout 0.25", adversary="adaptive"),
        job(setting="local steps 5", adversary="adaptive"),
    ),
    "near_images": (job(network="resnet18", state="untrained"),),
    "r_gap": (
        job(architecture="CNN6", rows="balanced"),
        job(architecture="CNN6", rows="plain"),
        job(part="architectures"),
    ),
    "repeatability": (job(workers=2, seed_offset=0), job(seed_offset=1)),
    "repeated_labels": tuple(
        job(equal=equal, method=method)
        for equal in (0, 4)
        for method in ("softmax unmixing", "second order")
    ),
    "robustness": (job(environment="as is"), job(environment="1 ulp, signs 1")),
    "secure_aggregation": (
        job(part="aggregate", width=256, attack="linear_layer", clients=16),
        job(part="aggregate", width=0, clients=16),
        job(part="masked", width=256, attack="linear_layer"),
    ),
    "spear": (
        job(attack="spear", size=16, defense="none"),
        job(attack="spear_plus_plus", size=16),
        job(attack="spear", defense="noise 0.0001"),
    ),
    "step_cost": (job(trials=False, fuse=True), job(trials=True, fuse=True)),
    "text_exact": (job(network="minilm", size=1),),
    "text_matching": (
        job(network="bert", attack="TIGER"),
        job(network="bert", attack="LAMP"),
        job(network="masked"),
    ),
    "time_to_quality": (
        job(known=True, method="second order"),
        job(known=True, method="L-BFGS (iDLG)"),
        job(known=False, method="second order, label read first"),
    ),
    "time_to_quality_relu": (
        job(model="resnet20", method="smoothed matching"),
        job(model="resnet20", method="signed Adam, eager"),
        job(model="convnet", method="peeling"),
    ),
    "unmixing": (job(labels="equal", size=4), job(labels="distinct", size=4)),
    "zoo": (job(module="mlp"), job(module="lstm")),
}
"""By the benchmark's name. Each predicate must hold for a job of the quick run."""
