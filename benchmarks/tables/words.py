"""Words that several pages share."""

from __future__ import annotations

NETWORKS = {
    "mobilenet": "MobileNetV1",
    "convnet": "ConvNet",
    "resnet20": "ResNet-20",
    "lenet": "LeNet",
}


def network(name: object) -> str:
    """Return the name of a network in results as a page writes it."""
    text = str(name)
    for short, full in NETWORKS.items():
        text = text.replace(short, full)
    return text


METHODS = {
    "idlg": "iDLG",
    "grad_inversion": "GradInversion",
    "rlg (presence)": "RLG",
    "llg": "LLG",
    "llg*": r"LLG\*",
    "llg+": "LLG+",
    "ilrg": "iLRG",
    "tilting, auxiliary": "tilting",
}
"""Methods that count labels, as a page writes them."""
