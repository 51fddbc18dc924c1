"""Layers that act differently in train mode and in eval mode."""

from __future__ import annotations

from torch import nn


def layers_by_mode(model: nn.Module) -> tuple[str, ...]:
    """Return the kinds of a model's layers that act differently in train mode and in eval mode.

    These are norms with running statistics such as BatchNorm, dropout, and activations with random
    slopes. Modules of a user's own may depend on the mode as well. They are not known.

    Example:
        >>> from torch import nn
        >>> from leakgauge.models.modes import layers_by_mode
        >>> layers_by_mode(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)))
        ('BatchNorm2d', 'Dropout')
    """
    return tuple(sorted({type(m).__name__ for m in model.modules() if _depends_on_mode(m)}))


def _depends_on_mode(module: nn.Module) -> bool:
    """Return whether a module acts differently in train mode and in eval mode."""
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return module.track_running_stats
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    return isinstance(module, nn.RReLU)


def describe_eval_mode(name: str, model: nn.Module, remedy: str) -> str | None:
    """Return one line on a model in eval mode, or None if the mode changes nothing or is train mode.

    Args:
        name: Name of the model.
        model: The model.
        remedy: How to ask for train mode.
    """
    kinds = layers_by_mode(model)
    if model.training or not kinds:
        return None
    verb = "depends" if len(kinds) == 1 else "depend"
    return (
        f"{name} runs in eval mode, whatever its own code sets. {', '.join(kinds)} {verb} on the mode. "
        f"For train mode, {remedy}."
    )
