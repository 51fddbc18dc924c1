"""GradInversion: gradient, fidelity and group terms."""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.attacks.fidelity import FidelityMatching


@dataclass(frozen=True, kw_only=True, repr=False)
class GradInversion(FidelityMatching):
    r"""Match gradients with image priors and BatchNorm statistics, and pull several restarts toward their mean.

    Use it on image networks with BatchNorm. Labels that are not granted must be distinct. A weight
    of 0 leaves a term out.

    .. math::

        \min_{x_1, \dots, x_S} \; \sum_s \Big( &\gamma \, d(g(x_s, y), g^*) + \lambda \, \mathrm{TV}(x_s)
        + \beta \|x_s\|^2 \\
        &+ \nu \, \mathrm{BN}(x_s) + \kappa \, \|x_s - E(x_1, \dots, x_S)\|^2 \Big)

    Here :math:`x_s` is the batch of restart s, of S restarts. The simulated gradient is
    :math:`g(x_s, y)` and the observed one :math:`g^*`. The weights :math:`\gamma`, :math:`\lambda`,
    :math:`\beta`, :math:`\nu` and :math:`\kappa` are `gradient`, `tv`, `l2`, `batchnorm` and
    `consistency`. BN compares the means and deviations at BatchNorm layers with those of the data.
    The mean of the restarts is :math:`E`. All terms but the first are means over values, so a
    weight has the same effect at any size of image and network.

    Adam has a warm-up, a cosine decay and Langevin noise. Labels that are not granted are the
    classes with the lowest minimum in their row of the last weight's gradient. The BatchNorm term
    compares with the batch's own statistics if they are granted. Otherwise it compares with the
    statistics of `public` images, or with the running statistics of `proxy` or of the model.

    The paper's settings are for ResNet-50 and images of 224 pixels.

    Args:
        steps: Number of steps, at least 1. The default is the paper's.
        lr: Largest step size of Adam, above 0, in units of 0.25 of the range. The default is the
            paper's.
        warmup: Number of steps, at least 1, in which the step size rises. The default is the
            paper's.
        noise: Standard deviation of the Langevin noise, at least 0, in units of the step size. The
            default is the paper's.
        restarts: Number of restarts S, at least 1. The default is the paper's.
        distance: "layers" sums the norm of each tensor's difference, as the paper does. "balanced"
            is the squared distance with a weight for each layer. "cosine" is the cosine distance D,
            and "relative" is log(1 + D / 1e-7). "layers" is absolute, the others are relative to
            the observed gradient.
        gradient: Weight of the distance, at least 0. The default is the paper's.
        tv: Weight of total variation, at least 0. The default is the paper's.
        variation: Name of the total variation: "anisotropic", "isotropic" or "color".
        l2: Weight, at least 0, of the mean squared distance to the middle of the range. The default
            is the paper's.
        batchnorm: Weight of the BatchNorm term, at least 0. The default is the paper's.
        proxy: A network trained on data like the private data. None: the model itself.
        public: Images `(N, *shape)` that the adversary owns, in the domain's units. The term then
            compares the features of the batch with those of the images, at the proxy or the model.
            This network then needs no BatchNorm.
        group: "none", "lazy" or "registered". "lazy" pulls each restart toward the mean of all.
            "registered" first warps each image onto that mean, by optical flow.
        consistency: Weight of group consistency, at least 0. The default is the paper's.
        start: Fraction of the steps, at least 0 and below 1, before group consistency begins. The
            default is the paper's.
        every: Number of steps, at least 1, until the mean of the restarts is computed again. The
            default is the paper's.

    References:
        Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov. See through Gradients: Image Batch Recovery
        via GradInversion. CVPR 2021. arXiv:2104.07586.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=2)
        >>> attack = lg.attacks.GradInversion(steps=20, restarts=2)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([2, 1, 8, 8])
    """
