"""What the operations of a network do to values and to signals, by their names in its graph."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

VIEWS = frozenset(
    {
        "_to_copy",
        "_unsafe_view",
        "alias",
        "clone",
        "constant_pad_nd",
        "detach",
        "expand",
        "permute",
        "reshape",
        "squeeze",
        "t",
        "transpose",
        "unsqueeze",
        "view",
    }
)
"""Operations that move numbers and lose none."""
MEANS = frozenset(
    {
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "adaptive_avg_pool1d",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "mean",
    }
)
"""Operations that take means over places."""
LINEAR = MEANS | frozenset(
    {
        "add",
        "cat",
        "chunk",
        "getitem",
        "index_select",
        "neg",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "stack",
        "sub",
        "sum",
        "unbind",
        "upsample_bilinear2d",
        "upsample_nearest2d",
    }
)
"""Other operations whose derivative needs no values."""
RECTIFIERS = frozenset(("relu", "hardtanh", "threshold", "clamp_min"))
"""Activations that are 0 for a part of their inputs."""
INVERTIBLE = frozenset(("sigmoid", "tanh", "leaky_relu", "elu"))
"""Activations whose output determines the input."""
ARITHMETIC = frozenset(("add", "sub", "mul", "div"))
POOLS = frozenset(("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"))
RANDOM = frozenset(
    ("bernoulli", "native_dropout", "rand", "rand_like", "randn", "randn_like", "normal")
)
"""Operations whose values the adversary does not know."""


def name_of(node: fx.Node) -> str:
    """Return the name of a node's operation, for example "convolution". In-place operations have the plain name."""
    target = str(node.target)
    if node.op != "call_function":
        return node.op
    if not target.startswith("aten."):
        return "getitem" if "getitem" in target else target
    name = target.split(".")[1]
    return name.rstrip("_") if name != "_" else name


def batch_norm_of(node: fx.Node) -> fx.Node | None:
    """Return the BatchNorm that a node is or takes the first output from, or None if it is neither."""
    if name_of(node) == "getitem" and node.args[1] == 0 and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node if "batch_norm" in name_of(node) else None


def trains(node: fx.Node) -> bool:
    """Return whether a BatchNorm uses the statistics of the batch."""
    training = node.args[5] if len(node.args) > 5 else True
    return name_of(node) != "_native_batch_norm_legit_no_training" and bool(training)


def is_affine(node: fx.Node, fixed: set[fx.Node]) -> bool:
    """Return whether a node is an invertible affine map of one input, number by number.

    Args:
        node: The operation.
        fixed: Nodes that do not depend on the network's input.
    """
    name, norm = name_of(node), batch_norm_of(node)
    if norm is not None:
        return not trains(norm)
    if name in ARITHMETIC:
        return sum(each not in fixed for each in node.all_input_nodes) == 1
    return name in VIEWS or name == "neg"


def activation_after(node: fx.Node, fixed: set[fx.Node]) -> fx.Node | None:
    """Return the rectifier that follows a node through affine maps alone, or None if another operation follows."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if name_of(node) in RECTIFIERS:
            return node
        if not is_affine(node, fixed):
            return None
    return None


def is_rectified(node: fx.Node) -> bool:
    """Return whether values are outputs of a rectifier, perhaps pooled or moved. They are nonnegative, with zeros."""
    while True:
        name = name_of(node)
        if name in RECTIFIERS:
            return True
        moved = name in VIEWS or name in POOLS or "avg_pool" in name or name in ("mean", "getitem")
        if not moved or not isinstance(node.args[0], fx.Node):
            return False
        node = node.args[0]


def is_max_of_rectified(node: fx.Node) -> bool:
    """Return whether a node is the output of a max pool behind a rectifier."""
    source = node.args[0] if name_of(node) == "getitem" else None
    return isinstance(source, fx.Node) and name_of(source) in POOLS and is_rectified(source)


def root_of(node: fx.Node, also: Collection[str] = ()) -> fx.Node:
    """Return the node whose values a node holds in another layout.

    Args:
        node: The node.
        also: Names of further operations that count as another layout, such as "slice".
    """
    moves = VIEWS - {"constant_pad_nd"} | set(also)
    while name_of(node) in moves and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node
