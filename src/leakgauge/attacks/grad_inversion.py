"""GradInversion. Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov: See through Gradients, CVPR 2021.

    minimize over x_1 ... x_S   gradient d(g(x_s, y), g*) + fidelity(x_s) + consistency ||x_s - E(x_1 ... x_S)||^2

with the terms of `fidelity.py`, by Adam with warm-up, cosine decay and Langevin noise, from S seeds; E is their
mean, taken anew as they go, or their mean after each image was carried onto it. The labels, where not granted, are
the classes whose rows of the last weight's gradient have the least minimum. Steps, rate, noise, seeds and weights,
the defaults of `FidelityMatching`, are the paper's, for ResNet-50 at 224 px.
"""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.attacks.fidelity import FidelityMatching


@dataclass(frozen=True, kw_only=True, repr=False)
class GradInversion(FidelityMatching):
    """Gradient, fidelity and group terms, each with its weight; 0 leaves it out.

    `distance` of gradients: the paper's is absolute, the others are relative to the observed one.
    `batchnorm` compares with the batch's own statistics where they are granted, else with the running
    ones of `proxy`, a network trained on data like the private, else with the model's own. Of `public`
    images (N, *shape) that the adversary owns, in the domain's units, it compares what their features are at
    the proxy, or at the model, which then need no BatchNorm. `group` holds the restarts together from the share
    `start` of the steps on, `every` so many steps anew.
    """
