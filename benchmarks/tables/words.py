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
