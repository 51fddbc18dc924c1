"""Every way to compute a step's value and gradient, against eager double backward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from conftest import mlp, sigmoid_cnn
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.core import LocalTraining, Loss, SingleGradient, Tensors
from leakgauge.inversion import (
    L2,
    BalancedL2,
    Cosine,
    Direct,
    Joint,
    Known,
    Term,
    TotalVariation,
)
from leakgauge.inversion.evaluation import batching, compilation, step
from leakgauge.inversion.evaluation.batching import Loop, batch_restarts, choose_restarts
from leakgauge.inversion.evaluation.compilation import Compiled, NotCompiled
from leakgauge.inversion.evaluation.cost import Path, Work, choose_batched_path, choose_path
from leakgauge.inversion.evaluation.graph import trace
from leakgauge.inversion.evaluation.problem import Problem, Variables
from leakgauge.inversion.evaluation.step import (
    DoubleBackward,
    ForwardOverReverse,
    Step,
    choose,
    mixed_precision,
    tf32,
)
from leakgauge.inversion.simulation.simulator import in_precision

LARGE = Work(
    flops=10**9, operators=200, parameters=10**6, held=10**7, update=10**6, limit=2 * 10**9
)
COSINE = Cosine() + 1e-2 * TotalVariation()
WAYS: dict[str, Callable[[Problem], Step]] = {
    "forward eager": ForwardOverReverse,
    "reverse": lambda problem: Compiled.of(problem, order="reverse"),
    "forward": lambda problem: Compiled.of(problem, order="forward"),
}


def small(channels: int = 1) -> lg.ImageDomain:
    return lg.ImageDomain(channels, 16, 16)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "lenet": lambda: lg.models.lenet(small(), 4),
    "convnet": lambda: lg.models.convnet(small(), 4, width=8),
    "resnet18": lambda: lg.models.resnet18(small(), 4, width=4),
}


def problem_of(
    model: nn.Module,
    batch: int = 3,
    *,
    objective: Term = COSINE,
    joint: bool = False,
    double: bool = False,
    defense: lg.Defense | None = None,
    training: LocalTraining | None = None,
    domain: lg.ImageDomain | None = None,
) -> Problem:
    """Return a problem on random images with labels 0, 1, ..."""
    domain = domain or small()
    generator = torch.Generator().manual_seed(1)
    private = lg.Batch(torch.rand((batch, *domain.shape), generator=generator), torch.arange(batch))
    owner = lg.Client(
        model=model, loss=functional.cross_entropy, domain=domain, classes=4, defense=defense
    )
    seen = lg.Server(labels=True).observe(owner, private, seeds=lg.Seeds(3))
    if training is not None:
        seen = replace(seen, training=training)
    if double:
        seen = in_precision(seen, torch.float64)
    labels = Joint() if joint else Known()
    return Problem(seen, objective, Direct(), labels, None if joint else torch.arange(batch))


def places(problem: Problem, seed: int = 0, restarts: int | None = None) -> Variables:
    """Return random variables of a problem, with a leading axis if there are several restarts."""
    generator = torch.Generator().manual_seed(seed)
    like = next(iter(problem.observation.update.tensors.values()))
    batch, lead = problem.observation.batch_size, () if restarts is None else (restarts,)
    shapes = [(*lead, batch, *problem.observation.domain.shape)]
    if problem.fixed is None:
        shapes.append((*lead, batch, 4))
    return tuple(torch.rand(s, generator=generator, dtype=like.dtype) for s in shapes)


def agree(
    ours: tuple[Tensor, Variables], theirs: tuple[Tensor, Variables], tolerance: float
) -> None:
    """Assert that value and each gradient agree to a relative tolerance, and have no graph."""
    for a, b in zip((ours[0], *ours[1]), (theirs[0], *theirs[1]), strict=True):
        assert not a.requires_grad
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert float((a - b).norm()) <= tolerance * float(b.norm())


def check(problem: Problem, way: str, progress: float = 0.5) -> None:
    double = next(iter(problem.observation.update.tensors.values())).dtype == torch.float64
    at = places(problem)
    expected = DoubleBackward(problem)(at, progress)
    assert all(float(gradient.norm()) > 0 for gradient in expected[1])
    agree(WAYS[way](problem)(at, progress), expected, 1e-5 if double else 1e-3)


class TestEveryWayAgrees:
    @pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("name", MODELS)
    def test_forward_over_reverse(self, name: str, batch: int, double: bool) -> None:
        for objective in (L2(), BalancedL2(), COSINE):
            problem = problem_of(MODELS[name](), batch, objective=objective, double=double)
            check(problem, "forward eager")

    @pytest.mark.parametrize(("name", "batch"), [("lenet", 1), ("convnet", 3), ("resnet18", 1)])
    @pytest.mark.parametrize("way", ["reverse", "forward"])
    def test_graphs(self, way: str, name: str, batch: int) -> None:
        for double in (False, True) if name == "lenet" else (True,):
            check(problem_of(MODELS[name](), batch, double=double), way)

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("objective", [L2(), BalancedL2(), COSINE], ids=repr)
    def test_objectives_with_labels_that_move(self, way: str, objective: Term) -> None:
        check(problem_of(sigmoid_cnn(size=16), joint=True, double=True, objective=objective), way)

    @pytest.mark.parametrize("way", WAYS)
    def test_under_a_known_defense(self, way: str) -> None:
        problem = problem_of(
            sigmoid_cnn(size=16), double=True, defense=lg.defenses.TopK(sparsity=0.7)
        )
        blind = replace(problem.observation.knowledge, defense=None)
        unknown = replace(problem, observation=replace(problem.observation, knowledge=blind))
        assert problem.observation.knowledge.defense is not None
        at = places(problem)
        known, other = (DoubleBackward(p)(at, 0.0)[0] for p in (problem, unknown))
        assert float(known) != pytest.approx(float(other), rel=1e-3)
        check(problem, way)

    @pytest.mark.parametrize("way", WAYS)
    def test_weights_follow_progress(self, way: str) -> None:
        problem = problem_of(
            sigmoid_cnn(size=16),
            objective=L2() + (lambda p: 10 * p) * TotalVariation(),
            double=True,
        )
        made, at = WAYS[way](problem), places(problem)
        for progress in (0.0, 0.3, 1.0):
            agree(made(at, progress), DoubleBackward(problem)(at, progress), 1e-5)

    @pytest.mark.parametrize("way", WAYS)
    def test_train_mode_leaves_the_model_alone(self, way: str) -> None:
        problem = problem_of(MODELS["convnet"](), double=True)
        model = problem.observation.model.train()
        before = copy.deepcopy(model.state_dict())
        check(problem, way)
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())

    def test_dropout_is_drawn_once_for_both_passes(self) -> None:
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(256, 32), nn.Dropout(), nn.Sigmoid(), nn.Linear(32, 4)
        )
        problem = problem_of(model, double=True)
        problem.observation.model.train()
        at, found = places(problem), []
        for way in (DoubleBackward, ForwardOverReverse, WAYS["reverse"]):
            made = way(problem)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(5)
                found.append(made(at, 0.0))
        agree(found[1], found[0], 1e-5)
        agree(found[2], found[0], 1e-5)
        with pytest.raises(NotCompiled, match="random"):
            Compiled.of(problem, order="forward")

    def test_a_layer_without_a_forward_derivative_is_told(self) -> None:
        problem = problem_of(nn.Sequential(nn.Flatten(), nn.Linear(256, 4), Odd()))
        with pytest.raises(lg.ModelError, match="forward over backward"):
            ForwardOverReverse(problem)(places(problem), 0.0)


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 3 * slope * x**2


class Odd(nn.Module):
    """A function that can be differentiated backward any number of times, but not forward."""

    def forward(self, x: Tensor) -> Tensor:
        return _Cube.apply(x)  # type: ignore[no-any-return,no-untyped-call]


class Branching(nn.Module):
    """A network whose Python code reads its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(256, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1))
        return out.sigmoid() if float(out.detach().sum()) > 0 else out.tanh()


class TestGraph:
    def test_a_view_of_another_layout_copies(self) -> None:
        graph = trace(lambda x: (2 * x.view(-1),), torch.zeros(2, 3))
        turned = torch.arange(6.0).reshape(3, 2).t()
        (found,) = graph.module(*graph.constants, turned)
        assert torch.equal(found, 2 * turned.reshape(-1))

    def test_repeats_are_computed_once_and_random_numbers_are_not(self) -> None:
        once = trace(lambda x: (x.sin() + x.detach().sin(),), torch.rand(3))
        assert str(once.module.code).count("sin.default") == 1
        assert not once.draws
        twice = trace(lambda x: (torch.rand_like(x) + torch.rand_like(x),), torch.rand(3))
        assert str(twice.module.code).count("rand_like.default") == 2
        assert twice.draws

    def test_numbers_of_different_types_are_no_repeats(self) -> None:
        found = trace(lambda x: (x + 1, x + 1.0, x + True), torch.arange(3))
        results = found.module(*found.constants, torch.arange(3))
        assert [r.dtype for r in results] == [torch.int64, torch.float32, torch.int64]

    def test_what_is_closed_over_is_an_input(self) -> None:
        held = torch.rand(3)
        found = trace(lambda x: (x * held,), torch.rand(3))
        assert len(found.constants) == 1
        assert torch.equal(found.module(torch.ones(3), torch.ones(3))[0], torch.ones(3))

    def test_changes_in_place_stay_inside(self) -> None:
        def function(x: Tensor) -> tuple[Tensor, ...]:
            y = x.clone()
            before = y.sin()
            y.mul_(2)
            return before, y.sin()

        x = torch.rand(3)
        found = trace(function, x).module(x)
        assert all(torch.equal(a, b) for a, b in zip(found, function(x), strict=True))

    def test_keys_tell_computations_apart_and_nothing_else(self) -> None:
        def key(factor: float, held: Tensor, x: Tensor) -> str:
            return trace(lambda x: (factor * x + held,), x).key

        base = key(2.0, torch.rand(3), torch.rand(3))
        assert base == key(2.0, torch.rand(3), torch.rand(3))
        assert base != key(2.0 + 1e-12, torch.rand(3), torch.rand(3))
        assert base != key(2.0, torch.rand(1), torch.rand(3))
        assert base != key(2.0, torch.rand(3).double(), torch.rand(3))
        assert base != key(2.0, torch.rand(3), torch.rand(2, 3))
        assert base != key(2.0, torch.rand(6)[::2], torch.rand(3))


class TestCompilation:
    def test_one_module_serves_problems_that_differ_in_numbers_alone(self) -> None:
        """This is the only test that generates code, for the smallest model."""
        domain = lg.ImageDomain(1, 4, 4)

        def problem(seed: int, **more: Term) -> Problem:
            model = nn.Sequential(nn.Flatten(), *mlp(16, 6, seed=seed)[1:])  # type: ignore[index]
            return problem_of(model, domain=domain, **more)  # type: ignore[arg-type]

        compilation._compiled.clear()
        weighted = L2() + (lambda p: p) * TotalVariation()
        first, second = (problem(seed, objective=weighted) for seed in (0, 1))
        second = replace(second, fixed=torch.tensor([3, 3, 1]))
        for one in (first, second):
            made, at = Compiled.of(one, fuse=True), places(one)
            for progress in (0.1, 0.9):
                agree(made(at, progress), DoubleBackward(one)(at, progress), 1e-3)
        assert len(compilation._compiled) == 1
        key = next(iter(compilation._compiled))
        other = problem(0, objective=L2() + (lambda p: p) * (L2() + TotalVariation()))
        function = compilation._function(other, _single(other), "reverse")
        assert trace(function, *compilation._examples(other, None)).key != key

    def test_without_a_compiler_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
        monkeypatch.setattr(torch._inductor.config, "fx_graph_cache", False)
        monkeypatch.setattr(
            step, "choose_path", lambda work, planned: Path("reverse", True, "step: compiled")
        )
        problem = problem_of(mlp(256, 5))
        made, note = choose(problem, 10)
        assert isinstance(made, DoubleBackward)
        assert note.startswith("step: eager double backward, since the compiler refused it: ")
        assert "\n" not in note

    def test_faults_of_the_machine_are_not_taken_for_refusals(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: object, **options: object) -> object:
            raise OSError("disk full")

        monkeypatch.setattr(torch, "compile", full)
        with pytest.raises(OSError, match="disk full"):
            Compiled.of(problem_of(mlp(256, 7)), fuse=True)


def _single(problem: Problem) -> SingleGradient:
    training = problem.observation.training
    assert isinstance(training, SingleGradient)
    return training


@dataclass(frozen=True)
class TwoGradients:
    """A protocol whose update is not one gradient."""

    kind = "gradient"

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        one = lg.FedSGD()(model, loss, inputs, targets, create_graph=create_graph)
        return {name: 2 * t for name, t in one.items()}


class TestChoice:
    def test_small_problems_stay_eager_and_say_nothing(self) -> None:
        made, note = choose(problem_of(sigmoid_cnn(size=16)), 300)
        assert isinstance(made, DoubleBackward)
        assert note == ""

    def test_other_protocols_stay_eager(self) -> None:
        problem = problem_of(sigmoid_cnn(size=16), training=TwoGradients())
        made, note = choose(problem, 10**9)
        assert isinstance(made, DoubleBackward)
        assert note == ""
        with pytest.raises(NotCompiled, match="TwoGradients"):
            Compiled.of(problem)
        with pytest.raises(TypeError, match="TwoGradients"):
            ForwardOverReverse(problem)(places(problem), 0.0)

    def test_long_plans_pay_for_a_graph_then_for_code(self) -> None:
        paths = [choose_path(LARGE, planned) for planned in (10, 3_000, 10**6)]
        assert paths[0] is None
        assert paths[1] is not None
        assert (paths[1].order, paths[1].fuse) == ("reverse", False)
        assert paths[2] is not None
        assert (paths[2].order, paths[2].fuse) == ("reverse", True)

    def test_forward_over_reverse_where_memory_ends(self) -> None:
        path = choose_path(replace(LARGE, held=LARGE.limit), 1)
        assert path is not None
        assert path.order == "forward"
        assert "GiB" in path.reason

    def test_work_is_counted_alike_each_time(self) -> None:
        problem = problem_of(MODELS["convnet"]())
        counts = [Work.of(problem, _single(problem)) for _ in range(2)]
        assert counts[0] == counts[1]
        assert counts[0].parameters == problem.observation.update.size
        assert counts[0].flops > 10**6
        assert counts[0].held > 10**5

    @pytest.mark.parametrize("order", ["reverse", "forward"])
    def test_a_model_that_cannot_be_traced_is_run_eagerly(
        self, order: compilation.Order, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            step, "choose_path", lambda work, planned: Path(order, False, "step: traced")
        )
        problem = problem_of(Branching(), double=True)
        made, note = choose(problem, 10)
        assert isinstance(made, DoubleBackward)
        assert note.startswith("step: eager double backward, since its model cannot be traced: ")
        made(places(problem), 0.0)

    def test_what_is_chosen_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            step, "choose_path", lambda work, planned: Path("reverse", False, "step: traced")
        )
        problem = problem_of(sigmoid_cnn(size=16), double=True)
        made, note = choose(problem, 10)
        assert isinstance(made, Compiled)
        assert note == "step: traced"
        agree(made(places(problem), 0.0), DoubleBackward(problem)(places(problem), 0.0), 1e-5)


class TestRestarts:
    @pytest.mark.parametrize("joint", [False, True])
    @pytest.mark.parametrize("name", ["cnn", "lenet", "convnet"])
    def test_together_is_one_by_one(self, name: str, joint: bool) -> None:
        model = sigmoid_cnn(size=16) if name == "cnn" else MODELS[name]()
        problem = problem_of(model, joint=joint, double=True)
        fixed = None if joint else torch.tensor([[0, 1, 2], [3, 3, 3], [2, 0, 1], [1, 1, 0]])
        at = places(problem, restarts=4)
        ours = batch_restarts(problem, fixed, 4)(at, 0.2)
        theirs = Loop(DoubleBackward(problem), fixed)(at, 0.2)
        assert ours[0].shape == (4,)
        agree(ours, theirs, 1e-5)
        assert len({float(v) for v in ours[0]}) == 4

    def test_each_restart_is_its_own_problem(self) -> None:
        problem = problem_of(sigmoid_cnn(size=16), double=True)
        fixed = torch.tensor([[0, 1, 2], [3, 3, 3]])
        at = places(problem, restarts=2)
        values, (gradients,) = Loop(DoubleBackward(problem), fixed)(at, 0.0)
        for s in range(2):
            alone = DoubleBackward(replace(problem, fixed=fixed[s]))((at[0][s],), 0.0)
            agree((values[s], (gradients[s],)), alone, 1e-12)

    def test_small_models_are_batched_over_long_plans(self) -> None:
        problem = problem_of(sigmoid_cnn(size=16))
        fixed = torch.zeros((4, 3), dtype=torch.long)
        restarts, note = choose_restarts(problem, fixed, 4, 20_000)
        assert isinstance(restarts, Compiled)
        assert "4 restarts as one axis" in note
        for count, planned in ((1, 20_000), (4, 1)):
            restarts, note = choose_restarts(problem, fixed[:count], count, planned)
            assert isinstance(restarts, Loop)
            assert note == ""

    def test_large_operators_are_not_batched(self) -> None:
        assert choose_batched_path(LARGE, 8, 10**6) is None
        small = replace(LARGE, flops=10**7)
        assert choose_batched_path(small, 8, 10**4) is not None
        assert choose_batched_path(replace(small, held=LARGE.limit // 9), 8, 10**4) is None

    def test_a_model_that_cannot_be_batched_is_looped_over(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            batching,
            "choose_batched_path",
            lambda work, restarts, planned: Path("reverse", False, "batched"),
        )
        problem = problem_of(MODELS["convnet"](), double=True)
        problem.observation.model.append(nn.Dropout())  # type: ignore[operator]
        problem.observation.model.train()
        fixed = torch.zeros((2, 3), dtype=torch.long)
        restarts, note = choose_restarts(problem, fixed, 2, 10)
        assert isinstance(restarts, Loop)
        assert note.startswith("restarts: one by one, since its model cannot be traced: ")


class TestAcceleration:
    def test_flags_are_put_back_even_after_an_error(self) -> None:
        def flags() -> tuple[str, str]:
            return (
                torch.backends.cuda.matmul.fp32_precision,
                torch.backends.cudnn.conv.fp32_precision,
            )

        before = flags()
        with tf32():
            assert flags() == ("tf32", "tf32")
        assert flags() == before
        with pytest.raises(ZeroDivisionError), tf32():
            raise ZeroDivisionError
        assert flags() == before

    def test_the_last_quarter_is_whole_and_a_cpu_always(self) -> None:
        def conv() -> str:
            return torch.backends.cudnn.conv.fp32_precision

        before = conv()
        with mixed_precision(torch.device("cuda"), 0.5):
            assert conv() == "tf32"
        for place, progress in (("cuda", 0.75), ("cpu", 0.0)):
            with mixed_precision(torch.device(place), progress):
                assert conv() == before
