"""Label recovery: methods that recover the number of examples of each class from an update."""

from leakgauge.analytic.label_recovery.base import LabelMethod, LabelRecovery, Reading
from leakgauge.analytic.label_recovery.bounds import Bounds
from leakgauge.analytic.label_recovery.default import BestLabels, recover_labels
from leakgauge.analytic.label_recovery.fedavg import FedAvgCounts
from leakgauge.analytic.label_recovery.grad_inversion import GradInversionRule
from leakgauge.analytic.label_recovery.idlg import Idlg
from leakgauge.analytic.label_recovery.ilrg import Ilrg
from leakgauge.analytic.label_recovery.llg import Llg, LlgPlus, LlgStar
from leakgauge.analytic.label_recovery.one_label import LabelOfOne
from leakgauge.analytic.label_recovery.rlg import Rlg
from leakgauge.analytic.label_recovery.stand_ins import Auxiliary
from leakgauge.analytic.label_recovery.tilting import Tilting

__all__ = [
    "Auxiliary",
    "BestLabels",
    "Bounds",
    "FedAvgCounts",
    "GradInversionRule",
    "Idlg",
    "Ilrg",
    "LabelMethod",
    "LabelOfOne",
    "LabelRecovery",
    "Llg",
    "LlgPlus",
    "LlgStar",
    "Reading",
    "Rlg",
    "Tilting",
    "recover_labels",
]
