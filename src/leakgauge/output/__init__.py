"""The end of a model: the layer that gives its output, the reduction of the loss, and the label of one example."""

from leakgauge.output.contribution import Contribution, UnevenWeights, contribution_of
from leakgauge.output.head import Finish, Head, SharedHead, head_of, shared_head
from leakgauge.output.one_label import OneLabel, label_of_one, slope_of
from leakgauge.output.precision import loss_in
from leakgauge.output.reduction import Reduction, reduction_of

__all__ = [
    "Contribution",
    "Finish",
    "Head",
    "OneLabel",
    "Reduction",
    "SharedHead",
    "UnevenWeights",
    "contribution_of",
    "head_of",
    "label_of_one",
    "loss_in",
    "reduction_of",
    "shared_head",
    "slope_of",
]
