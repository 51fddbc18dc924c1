"""A network with all that is counted about it, and the counts again after a change of some layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import fx, nn

from leakgauge.analytic.convolutions.counting import MANY, Reader
from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.problem import Outline
from leakgauge.analytic.convolutions.tracing import trace
from leakgauge.analytic.patch_embedding import patch_equations
from leakgauge.core import Domain, Inapplicable, ModelError, ProbeError, dtype_of, unit_shape
from leakgauge.core.references import guard_user_code
from leakgauge.federated.isolation.probing import single, spread
from leakgauge.federated.isolation.untouched import output_of
from leakgauge.inspection.batches import limits_of
from leakgauge.inspection.beginnings import Planned, planned
from leakgauge.inspection.layers import Layer, layers_of
from leakgauge.inspection.outline import masked_layer, outline_of
from leakgauge.inspection.own import Own, Place, own
from leakgauge.inspection.pools import Pool, pools_of
from leakgauge.inspection.probe import PROBED, Signal, signals_of
from leakgauge.inspection.reach import Reach

EXPECTED = "a network that can be called and traced, and that returns one tensor,"
REMEDY = "correct the shape, or wrap the network so that it takes one tensor"
Change = Callable[[Layer], Layer]
"""A function that returns a layer as it would be after a change of the network."""


@dataclass(frozen=True, eq=False)
class Counted:
    """A network and its counts.

    Args:
        network: The traced network.
        layers: Its layers, with the ranks of their signals.
        place: Where a layer stands, by its node.
        numbers: Numbers of one example.
        steps: Number of local steps.
        clients: Number of clients in a sum.
        owns: What each layer's own gradient determines, by its node.
        reach: What is known of each node.
        outline: The network as `shift_consistency` sees it, or None if that does not apply.
        planned: Where that attack may begin.
        pools: Max pools by the node of the convolution in front.
    """

    network: Network
    layers: tuple[Layer, ...]
    place: Mapping[fx.Node, Place]
    numbers: int
    steps: int
    clients: int
    owns: Mapping[fx.Node, Own] = field(default_factory=dict)
    reach: Reach | None = None
    outline: Outline | None = None
    planned: Planned = field(default_factory=Planned)
    pools: Mapping[fx.Node, Pool] = field(default_factory=dict)

    def count(self) -> Counted:
        """Return the same network with its counts."""
        owns = {layer.node: own(layer, self.place[layer.node]) for layer in self.layers}
        entry = max((o.batch for o in owns.values() if o.attack == "april"), default=0)
        batches = {
            node: 0 if o.attack in ("token_bag", "dager") else o.batch for node, o in owns.items()
        }
        found = replace(self, owns=owns)
        masks, sent = found.told()
        chained = self.steps == 1
        reach = Reach(
            self.network, self.layers, batches, chained, entry, self.pools, masks, sent
        ).spread()
        return replace(found, reach=reach)

    def told(self) -> tuple[dict[fx.Node, int], dict[fx.Node, int]]:
        """Return the batches of masks and of signals that the last block tells by its shortcut, by node."""
        masks, sent = dict[fx.Node, int](), dict[fx.Node, int]()
        if self.outline is None or self.steps > 1:
            return masks, sent
        for block, most in self.planned.blocks:
            node = block.layer.node
            spans = [x.reader.span() for x in self.layers if x.node is node and x.reader]
            batch = min(most, self.owns[node].batch, *spans)
            masks[block.relu] = max(batch, masks.get(block.relu, 0))
            sent[self.outline.features] = masks[block.relu]
        return masks, sent

    def changed(self, change: Change) -> Counted:
        """Return the counts of the network after a change of its layers."""
        return replace(self, layers=tuple(map(change, self.layers))).count()

    def batch(self, layer: Layer) -> int:
        """Return the largest batch of a client at which a layer's input is read exactly. MANY for any."""
        assert self.reach is not None, "expected counts"
        return self.shared(max(self.reach.values[layer.source], self.owns[layer.node].batch))

    @property
    def entry(self) -> int:
        """Largest batch of a client at which the examples themselves are read exactly."""
        assert self.reach is not None, "expected counts"
        return self.shared(self.reach.values[self.network.entry])

    def shared(self, batch: int) -> int:
        """Return the batch of each client in a batch of all."""
        return batch if batch >= MANY else batch // self.clients


def counted(model: nn.Module, domain: Domain, *, steps: int, clients: int) -> Counted:
    """Return the counts of a model.

    Raises:
        ModelError: The model fails on examples of the domain, or cannot be traced.
    """
    network = _trace(model, domain)
    fixed = _fixed(network)
    # An initial state, or a learned token, is the same for every example.
    layers = [layer for layer in layers_of(network, model) if layer.source not in fixed]
    try:
        with guard_user_code("model", EXPECTED, remedy=REMEDY, error=ModelError):
            signals = signals_of(model, domain, network, layers)
            patches = _patches(model, domain, layers)
            outline = outline_of(network, layers, model, domain)
    except ProbeError as error:
        raise ModelError("model", expected=EXPECTED, found=str(error), remedy=REMEDY) from error
    drifting = _drifting(network, model)
    found, places = [], {}
    for layer in layers:
        first = layer.source not in drifting
        copies = 1 if first else steps
        found.append(
            replace(layer, reader=_measured(layer.reader, signals.get(layer.node), copies))
        )
        tokens = not dtype_of(domain).is_floating_point
        masked = masked_layer(outline)
        places[layer.node] = Place(network.end, fixed, tokens, first, patches, masked)
    with guard_user_code("model", EXPECTED, remedy=REMEDY, error=ModelError):
        found = limits_of(model, domain, network, found)
    size = 1
    for each in unit_shape(domain):
        size *= each
    return Counted(
        network,
        tuple(found),
        places,
        size,
        steps,
        clients,
        outline=outline,
        planned=planned(outline),
        pools=pools_of(network),
    ).count()


def _measured(reader: Reader | None, signal: Signal | None, copies: int) -> Reader | None:
    """Return a layer's equations with the rank of its signal."""
    if reader is None or signal is None:
        return reader
    # A unit of a linear layer that is silent for three examples is active for others of a batch.
    outputs = (
        signal.outputs if reader.groups == 1 and max(reader.geometry.kernel) > 1 else reader.outputs
    )
    return replace(
        reader,
        outputs=outputs,
        rank=signal.rank,
        shared=signal.shared,
        copies=copies,
        varying=signal.varying,
    )


def _trace(model: nn.Module, domain: Domain) -> Network:
    """Return the traced model. Raise ModelError if it fails."""
    shape = tuple(domain.shape)
    expected = f"{EXPECTED} for examples of shape {shape}"
    remedy = REMEDY
    if len(shape) == 2:
        size = f"{shape[0]},{shape[1]}"
        remedy = f"images need the number of channels in front, as in 1,{size} or 3,{size}; else {REMEDY}"
    try:
        with guard_user_code("model", expected, remedy=remedy, error=ModelError):
            weight = next((p for p in model.parameters()), None)
            if weight is None or not any(p.requires_grad for p in model.parameters()):
                raise ModelError(
                    "model",
                    expected="a network with trained parameters",
                    found="none",
                    remedy="let some parameter require a gradient",
                )
            unit = spread(unit_shape(domain), PROBED, weight.detach().cpu())
            single(output_of(model, domain.from_unit(unit).to(weight.device)))
            found = trace(model, domain)
    except ProbeError as error:
        raise ModelError("model", expected=expected, found=str(error), remedy=remedy) from error
    if isinstance(found, Inapplicable):
        raise ModelError("model", expected=expected, found=found.reason, remedy=remedy)
    return found


def _fixed(network: Network) -> set[fx.Node]:
    """Return the nodes that do not depend on the input."""
    fixed = set()
    for node in network.graph.nodes:
        inputs = node.all_input_nodes
        if node is not network.entry and all(n in fixed for n in inputs):
            fixed.add(node)
    return fixed


def _drifting(network: Network, model: nn.Module) -> set[fx.Node]:
    """Return the nodes that depend on a trained parameter. Local steps change their values."""
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    drifting = {node for node, name in network.names.items() if name in learned}
    for node in network.graph.nodes:
        if any(n in drifting for n in node.all_input_nodes):
            drifting.add(node)
    return drifting


def _patches(model: nn.Module, domain: Domain, layers: Sequence[Layer]) -> str:
    """Return the name of the layer whose input a positional embedding's gradient gives, or an empty text."""
    embeds = [
        layer.name
        for layer in layers
        if layer.kind == "convolution"
        and layer.reader is not None
        and int(layer.reader.geometry.reads.max()) == 1
        and layer.reader.positions <= layer.reader.outputs
    ]
    if not embeds or len(domain.shape) != 3:
        return ""
    found = patch_equations(model, domain)
    return (
        "" if isinstance(found, Inapplicable) or found.embedding not in embeds else found.embedding
    )
