"""Small modules of usual kinds. An image has 64 values, and a row of the table 36."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from zoo.goals import CLASSES


def mlp(
    inputs: int = 64, outputs: int = CLASSES, *, act: type[nn.Module] = nn.ReLU, bias: bool = True
) -> nn.Sequential:
    """Return two linear layers with an activation between them."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 24, bias=bias), act(), nn.Linear(24, outputs, bias=bias)
    )


def cnn(*after: nn.Module, channels: int = 4, act: nn.Module | None = None) -> nn.Sequential:
    """Return a convolution to `(channels, 4, 4)`, other modules, an activation and a linear layer."""
    middle = nn.Conv2d(1, channels, 3, stride=2, padding=1)
    return nn.Sequential(
        middle, *after, act or nn.Tanh(), nn.Flatten(), nn.Linear(channels * 16, CLASSES)
    )


class Recurrent(nn.Module):
    """A recurrent layer over 12 steps of 3 columns."""

    def __init__(self, kind: type[nn.RNNBase], **options: bool) -> None:
        super().__init__()
        self.body = kind(3, 8, batch_first=True, **options)
        self.head = nn.Linear(8 * (2 if options.get("bidirectional") else 1), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.view(-1, 12, 3))[0][:, -1])


class Attending(nn.Module):
    """Self-attention over 12 tokens."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.enter = nn.Linear(3, 8)
        if kind == "multihead":
            self.body: nn.Module = nn.MultiheadAttention(8, 2, batch_first=True)
        elif kind == "encoder":
            self.body = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        else:
            self.body = nn.Linear(8, 24)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        z = self.enter(x.reshape(-1, 12, 3))
        if self.kind == "multihead":
            z = self.body(z, z, z)[0]
        elif self.kind == "encoder":
            z = self.body(z)
        else:
            z = F.scaled_dot_product_attention(*self.body(z).chunk(3, -1))
        return self.head(z.mean(1))


class Patches(nn.Module):
    """A vision transformer of four patches, with a positional embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, 8, 4, stride=4)
        self.position = nn.Parameter(0.1 * torch.randn(1, 4, 8))
        self.body = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.cut(x).flatten(2).mT + self.position
        return self.head(self.body(tokens).mean(1))


class Applied(nn.Module):
    """A module made of the function `before`, a hidden layer, the function `inside` and a head."""

    def __init__(
        self,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        inside: Callable[[Tensor], Tensor] = torch.tanh,
        inputs: int = 64,
        outputs: int = CLASSES,
    ) -> None:
        super().__init__()
        self.before, self.inside = before, inside
        self.one, self.two = nn.Linear(inputs, 24), nn.Linear(24, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.inside(self.one(self.before(x).flatten(1))))


class Embedded(nn.Module):
    """A network that quantizes columns to 16 levels and embeds each level."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(16, 4), nn.Linear(36 * 4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        levels = (x.clamp(-4, 4) * 2 + 7).long().clamp(0, 15)
        return self.head(self.table(levels).flatten(1))


class Tied(nn.Module):
    """An encoder with a weight that a second encoder shares."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(36, 12), nn.Linear(12, 36)
        self.two.weight = nn.Parameter(self.one.weight.detach().T.clone())
        self.two = self.two
        self.back, self.head = nn.Linear(36, 12), nn.Linear(12, CLASSES)
        self.back.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.one(x))
        return self.head(torch.tanh(self.back(torch.tanh(self.two(hidden)))))


class Shared(nn.Module):
    """A network that calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(36, 36), nn.Linear(36, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.one(torch.tanh(self.one(x)))))


class Unused(nn.Module):
    """A network whose last registered layer is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.spare = mlp(), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


Pair = namedtuple("Pair", ["logits", "auxiliary"])


class Heads(nn.Module):
    """A network with two heads. It returns a tuple, a named tuple or a dictionary."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.body, self.one, self.two = (
            nn.Linear(64, 24),
            nn.Linear(24, CLASSES),
            nn.Linear(24, CLASSES),
        )

    def forward(self, x: Tensor) -> object:
        z = torch.tanh(self.body(x.flatten(1)))
        found = (self.one(z), self.two(z))
        if self.kind == "tuple":
            return found
        return Pair(*found) if self.kind == "named" else dict(zip(Pair._fields, found, strict=True))


class Auxiliary(nn.Module):
    """A network with an auxiliary head, registered last, which adds a detached term to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aside = (
            nn.Linear(64, 24),
            nn.Linear(24, CLASSES),
            nn.Linear(24, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        z = torch.relu(self.body(x.flatten(1)))
        return self.head(z) + 0.1 * self.aside(z).detach()


class Mixed(nn.Module):
    """A float32 network with a float64 layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (
            nn.Linear(64, 24),
            nn.Linear(24, 24).double(),
            nn.Linear(24, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.one(x.flatten(1)))
        return self.three(torch.tanh(self.two(z.double())).float())


def frozen() -> nn.Module:
    """Return a network whose first layer is not trained."""
    model = mlp()
    model[1].requires_grad_(False)
    return model


def initialized() -> nn.Module:
    """Return a network with lazy layers, initialized by one call."""
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(24), nn.Tanh(), nn.LazyLinear(CLASSES))
    model(torch.zeros(1, 1, 8, 8))
    return model


def normalized(how: Callable[[nn.Module], nn.Module], *, steps: bool = False) -> nn.Module:
    """Return a network whose first linear layer is normalized by a parametrization or a hook."""
    model = nn.Sequential(nn.Flatten(), how(nn.Linear(64, 24)), nn.ReLU(), nn.Linear(24, CLASSES))
    return model.train(steps)


class Checkpointed(nn.Module):
    """A network that computes activations again in its backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant, self.one, self.two = reentrant, nn.Linear(64, 24), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        def body(z: Tensor) -> Tensor:
            return torch.tanh(self.one(z))

        z = x.flatten(1)
        if self.reentrant and not z.requires_grad:
            z = z.requires_grad_()
        return self.two(checkpoint(body, z, use_reentrant=self.reentrant))


class Cube(torch.autograd.Function):
    """The function z^3 with its own backward pass."""

    @staticmethod
    def forward(ctx: object, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z**3

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return 3 * z**2 * slope


class CubeOnce(torch.autograd.Function):
    """The function z^3 with a backward pass that cannot be differentiated."""

    @staticmethod
    def forward(ctx: object, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, slope: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return 3 * z**2 * slope


def detached(z: Tensor) -> Tensor:
    """Return z times a number that NumPy computes from z."""
    return z * float(np.tanh(np.abs(z.detach().float().numpy()).mean()))


def through_numpy(z: Tensor) -> Tensor:
    """Return tanh(z) plus a NumPy function of z, which is a constant to PyTorch."""
    return torch.tanh(z) + 0.1 * torch.from_numpy(np.sin(z.detach().numpy())).to(z)


def scaled_in_place(x: Tensor) -> Tensor:
    """Return the input itself, doubled in place."""
    return x.mul_(2)


def shifted_in_place(x: Tensor) -> Tensor:
    """Return the input itself, minus 0.5 in place."""
    x -= 0.5
    return x


def checked(kind: str) -> Callable[[Tensor], Tensor]:
    """Return an identity that asserts a property of its input."""

    def check(x: Tensor) -> Tensor:
        if kind == "shape":
            assert tuple(x.shape[1:]) == (1, 8, 8), f"images of 1x8x8, not {tuple(x.shape[1:])}"
        elif kind == "range":
            assert float(x.min()) >= 0 and float(x.max()) <= 1, "pixels in [0, 1]"  # noqa: PT018
        elif kind == "dtype":
            assert x.dtype == torch.float32, f"float32 pixels, not {x.dtype}"
        elif kind == "varied":
            assert x.flatten(1).std(1).min() > 1e-3, "an image that is not flat"
        elif kind == "alone":
            assert len(x) <= 2, "one or two examples"
        elif kind == "single" and x.dtype == torch.float64:
            raise TypeError("no float64, please")
        return x

    return check


def branching(x: Tensor) -> Tensor:
    """Return x or 1 - x, depending on the mean of x."""
    return x if x.mean() > 0.5 else 1 - x


class Caching(nn.Module):
    """A network that keeps a mask, built for the shape of the last batch."""

    def __init__(self) -> None:
        super().__init__()
        self.mask: Tensor | None = None
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        if self.mask is None or self.mask.shape != x.shape:
            self.mask = torch.ones(x.shape)
        return self.body((x * self.mask).to(next(self.parameters()).dtype))


class Counting(nn.Module):
    """A network whose output depends on the number of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.body = 0, mlp()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.body(x) * (1 + 0.1 * (self.calls % 3))


class Listed(nn.Module):
    """A network with its weights in a ParameterList."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            [nn.Parameter(0.2 * torch.randn(64, 24)), nn.Parameter(0.2 * torch.randn(24, CLASSES))]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) @ self.weights[0]) @ self.weights[1]


class Called(nn.Module):
    """A network with its own `__call__`, which runs no hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def __call__(self, x: Tensor) -> Tensor:
        return self.body(x)


class Optional(nn.Module):
    """A network with a second argument, which has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.body(x) * scale


class Odd(nn.Module):
    """A network whose first parameters have no elements, or no axes."""

    def __init__(self) -> None:
        super().__init__()
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.scale + self.empty.sum()


class Spectral(nn.Module):
    """A network with complex parameters between two Fourier transforms."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(8, 5, dtype=torch.complex64))
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.fft.rfft2(x[:, 0]) * self.filter
        return self.head(torch.fft.irfft2(seen, s=(8, 8)).flatten(1))


class Fourier(nn.Module):
    """A network with real parameters and a Fourier transform."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(40, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((torch.fft.rfft2(x[:, 0]).abs() + 1e-3).log().flatten(1))


class OneD(nn.Module):
    """A network with a convolution over one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 4, 5, stride=2), nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x.unsqueeze(1))).flatten(1))


class ThreeD(nn.Module):
    """A network with a convolution over three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(1, 4, (1, 3, 3), stride=2), nn.Linear(36, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x.unsqueeze(2))).flatten(1))


class Residual(nn.Module):
    """A network with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Linear(64, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        z = torch.relu(self.one(x))
        return self.head(F.avg_pool2d(torch.relu(z + self.two(z)), 2).flatten(1))


class Functional(nn.Module):
    """A network made of functions, with weights as plain parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(0.2 * torch.randn(24, 64)), nn.Parameter(torch.zeros(24))
        self.v = nn.Parameter(0.2 * torch.randn(CLASSES, 24))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x.flatten(1), self.w, self.b)), self.v)


class Looping(nn.Module):
    """A network that runs each example of the batch in a Python loop."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.body(one.unsqueeze(0)) for one in x])


def scripted() -> nn.Module:
    """Return a network compiled by TorchScript."""
    return torch.jit.script(mlp())


def traced() -> nn.Module:
    """Return a network traced by TorchScript."""
    return torch.jit.trace(mlp(), torch.rand(2, 1, 8, 8))


def segmenter() -> nn.Module:
    """Return a network that gives class scores for each pixel."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, CLASSES, 1))


def plain(act: nn.Module) -> Callable[[], nn.Module]:
    """Return a function that builds a convolution, this activation and a linear layer."""
    return lambda: cnn(act=act)
