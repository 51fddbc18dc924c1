"""Values that pass between rooms: seeds, domains, updates, knowledge, and errors of one line."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from conftest import client, mlp
from hypothesis import given, settings
from hypothesis import strategies as st

import leakgauge as lg
from leakgauge import attacks, inversion
from leakgauge.core import UserError, check_knowledge, errors, image_grid, lines, trainable
from leakgauge.threats import observed

USER_ERRORS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, UserError) and kind is not UserError
]


def gradient(seed: int = 0) -> lg.Update:
    """Return a gradient of random tensors with the shapes of the parameters of `mlp()`."""
    generator = torch.Generator().manual_seed(seed)
    return lg.Update(
        {n: torch.randn(p.shape, generator=generator) for n, p in trainable(mlp()).items()}
    )


def one_line(error: BaseException, *words: str) -> None:
    """Assert that the message of an error is one line and holds all the words."""
    assert "\n" not in str(error)
    for word in words:
        assert word in str(error)


class TestSeeds:
    def test_same_name_same_draws(self) -> None:
        first, second = (
            torch.rand(5, generator=lg.Seeds(3).child("a").generator("b")) for _ in range(2)
        )
        assert torch.equal(first, second)

    def test_each_root_path_and_name_has_its_own_stream(self) -> None:
        trees = [lg.Seeds(r).child(c) for r in (0, 1, 10) for c in ("a", "b", "a/b")]
        found = [tree.integer(name) for tree in trees for name in ("x", "y", "trial/0", "trial/1")]
        assert len(set(found)) == len(found)

    def test_a_path_is_its_steps(self) -> None:
        assert lg.Seeds(4).child("a").child("b") == lg.Seeds(4).child("a/b")
        assert lg.Seeds(4).child("a").integer("b") == lg.Seeds(4).integer("a/b")

    def test_generators_are_fresh(self) -> None:
        seeds = lg.Seeds(0)
        used = seeds.generator("x")
        first = torch.rand(3, generator=used)
        assert not torch.equal(first, torch.rand(3, generator=used))
        assert torch.equal(first, torch.rand(3, generator=seeds.generator("x")))

    def test_the_global_generator_is_untouched(self) -> None:
        before = torch.random.get_rng_state()
        torch.rand(9, generator=lg.Seeds(0).child("client").generator("batch"))
        assert torch.equal(before, torch.random.get_rng_state())

    @given(st.integers(0, 2**200), st.text(max_size=20))
    @settings(max_examples=50, deadline=None, derandomize=True)
    def test_every_name_gives_a_seed_that_torch_takes(self, root: int, name: str) -> None:
        number = lg.Seeds(root).integer(name)
        assert 0 <= number < 2**63
        assert lg.Seeds(root).generator(name).initial_seed() == number


@dataclass(frozen=True)
class Scans:
    """A user's own domain of examples (3, 4, 4) with values in [0, 255]. `grid` says whether they are images."""

    grid: tuple[int, int, int] | None
    kind = "scan"
    shape = (3, 4, 4)

    def to_unit(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs / 255

    def from_unit(self, unit: torch.Tensor) -> torch.Tensor:
        return unit * 255


class TestDomains:
    def test_images_are_their_own_unit(self) -> None:
        domain = lg.ImageDomain(3, 4, 5)
        x = torch.rand(2, 3, 4, 5)
        assert domain.shape == (3, 4, 5)
        assert domain.kind == "image"
        assert torch.equal(domain.to_unit(x), x)
        assert torch.equal(domain.from_unit(x), x)

    @pytest.mark.parametrize("grid", [(3, 4, 4), None])
    def test_own_domains_are_images_if_they_have_a_grid(
        self, grid: tuple[int, int, int] | None
    ) -> None:
        domain = Scans(grid)
        assert image_grid(domain) == grid
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        own = replace(client(model, classes=2), domain=domain)
        batch = lg.Batch(torch.rand(1, 3, 4, 4), torch.tensor([0]))
        observation = observed(lg.Server(), own, batch, seeds=lg.Seeds(0))
        prior = inversion.TotalVariation().inapplicable(observation)
        assert prior == (
            None if grid else "total variation is a prior on images, not on a scan: set tv = 0"
        )

    @given(
        st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)), min_size=1, max_size=6),
        st.integers(0, 2**31),
    )
    @settings(max_examples=60, deadline=None, derandomize=True)
    def test_tables_to_unit_and_back(self, ranges: list[tuple[float, float]], seed: int) -> None:
        lows, highs = [low for low, _ in ranges], [low + span for low, span in ranges]
        domain = lg.TableDomain.from_ranges([str(i) for i in range(len(ranges))], lows, highs)
        generator = torch.Generator().manual_seed(seed)
        unit = torch.rand((4, len(ranges)), generator=generator, dtype=torch.float64)
        values = domain.from_unit(unit)
        # If the lower end is far larger than the width, their sum loses digits of the width.
        scale = max(1 + abs(low) / span for low, span in ranges)
        assert torch.allclose(domain.to_unit(values), unit, rtol=0, atol=1e-14 * scale)
        assert bool((values >= torch.tensor(lows) - 1e-6 * scale).all())
        assert domain.shape == (len(ranges),)

    def test_a_table_s_ends_are_zero_and_one(self) -> None:
        domain = lg.TableDomain.from_ranges(["age", "pressure"], [18, 40], [100, 180])
        ends = torch.tensor([[18.0, 40.0], [100.0, 180.0], [59.0, 110.0]])
        assert domain.to_unit(ends).tolist() == [[0, 0], [1, 1], [0.5, 0.5]]
        assert domain.kind == "table"

    def test_from_unit_is_differentiable(self) -> None:
        domain = lg.TableDomain.from_ranges(["a", "b"], [-1, 0], [1, 10])
        unit = torch.full((1, 2), 0.5, requires_grad=True)
        domain.from_unit(unit).sum().backward()
        assert unit.grad is not None
        assert unit.grad.tolist() == [[2.0, 10.0]]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_table_keeps_the_dtype(self, dtype: torch.dtype) -> None:
        domain = lg.TableDomain.from_ranges(["a"], [0], [3])
        unit = torch.rand(2, 1, dtype=dtype)
        assert domain.from_unit(unit).dtype == domain.to_unit(unit).dtype == dtype

    @pytest.mark.parametrize(
        ("low", "high"),
        [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.nan), (0.0, math.inf), (-math.inf, 0)],
    )
    def test_a_range_that_is_none_is_refused(self, low: float, high: float) -> None:
        with pytest.raises(lg.DataError) as caught:
            lg.Column("age", low, high)
        one_line(caught.value, "'age'", "a finite low below a finite high", str(low))

    def test_all_domains_keep_the_protocol(self) -> None:
        assert isinstance(lg.ImageDomain(1, 2, 2), lg.Domain)
        assert isinstance(lg.TableDomain((lg.Column("a", 0, 1),)), lg.Domain)


class TestUpdate:
    @pytest.mark.parametrize("kind", ["gradient", "delta"])
    def test_round_trip_through_a_file(self, tmp_path: Path, kind: str) -> None:
        update = lg.Update(gradient().tensors, kind)  # type: ignore[arg-type]
        update.save(tmp_path / "u.safetensors")
        loaded = lg.Update.load(tmp_path / "u.safetensors")
        assert loaded.kind == kind
        assert loaded.tensors.keys() == update.tensors.keys()
        assert all(torch.equal(loaded.tensors[n], t) for n, t in update.tensors.items())

    def test_views_and_graphs_can_be_saved(self, tmp_path: Path) -> None:
        whole = torch.rand(4, 4, requires_grad=True)
        shared = lg.Update({"a": whole.t(), "b": whole * 2, "c": whole})
        shared.save(tmp_path / "u.safetensors")
        loaded = lg.Update.load(tmp_path / "u.safetensors").tensors
        assert torch.equal(loaded["a"], whole.detach().t())
        assert torch.equal(loaded["b"], whole.detach() * 2)

    def test_a_pickle_is_refused_unread(self, tmp_path: Path) -> None:
        path, proof = tmp_path / "evil.safetensors", tmp_path / "ran"
        path.write_bytes(pickle.dumps(_Evil(str(proof))))
        with pytest.raises(lg.UpdateError) as caught:
            lg.Update.load(path)
        one_line(caught.value, "evil.safetensors", "a readable .safetensors file", "save updates")
        assert not proof.exists()

    @pytest.mark.parametrize("content", [None, b"", b"\x00" * 20, b"{}" * 10, "folder"])
    def test_what_is_no_update_is_refused(
        self, tmp_path: Path, content: bytes | str | None
    ) -> None:
        path = tmp_path / "u.safetensors"
        if content == "folder":
            path.mkdir()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        with pytest.raises(lg.UpdateError) as caught:
            lg.Update.load(path)
        one_line(caught.value, "u.safetensors")

    def test_a_torch_checkpoint_is_refused(self, tmp_path: Path) -> None:
        torch.save(gradient().tensors, tmp_path / "u.pt")
        with pytest.raises(lg.UpdateError):
            lg.Update.load(tmp_path / "u.pt")

    def test_check_accepts_its_own_model(self) -> None:
        gradient().check(trainable(mlp()))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda t: t.pop("1.bias"), ("missing ['1.bias']",)),
            (lambda t: t.update(extra=torch.zeros(1)), ("unknown ['extra']",)),
            (lambda t: t.update({"1.bias": torch.zeros(7)}), ("'1.bias'", "(48,)", "(7,)")),
            (lambda t: t["1.bias"].__setitem__(3, math.nan), ("'1.bias'", "1 NaN or infinite")),
            (lambda t: t["1.bias"].fill_(-math.inf), ("'1.bias'", "48 NaN or infinite")),
        ],
    )
    def test_check_names_what_is_wrong(self, change: object, words: tuple[str, ...]) -> None:
        update = gradient()
        assert callable(change)
        change(update.tensors)
        with pytest.raises(lg.UpdateError) as caught:
            update.check(trainable(mlp()))
        one_line(caught.value, *words)

    def test_detached_shares_neither_memory_nor_graph(self) -> None:
        source = torch.ones(3, requires_grad=True)
        update = lg.Update({"a": source * 2, "b": source.detach()})
        copied = update.detached()
        assert not copied.tensors["a"].requires_grad
        copied.tensors["b"].zero_()
        assert source.tolist() == [1, 1, 1]

    def test_size_counts_scalars(self) -> None:
        assert gradient().size == sum(p.numel() for p in mlp().parameters())

    def test_frozen_parameters_are_not_trainable(self) -> None:
        model = mlp()
        next(model.parameters()).requires_grad_(False)
        assert list(trainable(model)) == ["1.bias", "3.weight", "3.bias", "5.weight", "5.bias"]


class _Evil:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (self.path, "w"))


class TestErrors:
    def test_the_tree_is_the_documented_one(self) -> None:
        documented = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
        defined = {
            name
            for name, kind in vars(errors).items()
            if inspect.isclass(kind) and kind is not lg.LeakGaugeError
        }
        assert documented == defined
        assert all(issubclass(getattr(lg, name), lg.LeakGaugeError) for name in defined)

    @pytest.mark.parametrize("kind", USER_ERRORS)
    def test_one_line_with_what_where_and_remedy(self, kind: type[UserError]) -> None:
        error = kind(
            "cases.0", expected="a\nname", found="line\r\n one\ttwo", remedy="correct\n\nit"
        )
        assert str(error) == "cases.0: expected a name; found line one two; correct it"

    @pytest.mark.parametrize("kind", USER_ERRORS)
    def test_survives_the_way_between_processes(self, kind: type[UserError]) -> None:
        error = kind("here", expected="this", found="that", remedy="do so")
        for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert type(again) is kind
            assert str(again) == str(error)
            assert (again.where, again.expected, again.found, again.remedy) == (
                "here",
                "this",
                "that",
                "do so",
            )


class TestKnowledge:
    def test_granted_is_what_is_not_none(self) -> None:
        assert lg.Knowledge().granted() == frozenset()
        known = lg.Knowledge(batch_size=2, labels=torch.tensor([0, 1]))
        assert known.granted() == {"batch_size", "labels"}
        assert known.granted() < lg.Knowledge.names()

    def test_missing_knowledge_is_named_with_its_remedy(self) -> None:
        with pytest.raises(lg.KnowledgeError) as caught:
            check_knowledge(attacks.DLG(), frozenset({"labels", "defense"}))
        one_line(
            caught.value,
            "DLG",
            "knowledge of batch_size",
            "grants defense, labels",
            "[threat] batch_size = true",
        )

    def test_nothing_granted_is_told_as_nothing(self) -> None:
        with pytest.raises(lg.KnowledgeError, match="grants nothing"):
            check_knowledge(attacks.DLG(), frozenset())

    def test_what_is_granted_passes(self) -> None:
        check_knowledge(attacks.DLG(), frozenset({"batch_size"}))


class TestLines:
    """Foreign text, made safe for one line of a terminal."""

    @given(st.text())
    @settings(max_examples=200, deadline=None, derandomize=True)
    def test_any_text_becomes_one_printable_line(self, text: str) -> None:
        line = lines.one_line(text, 100)
        assert line.isprintable()
        assert len(line) <= 100
        assert line.encode() or not text.strip()

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("a\n  b\tc", "a b c"),
            ("\x1b[2J", "\\x1b[2J"),
            ("\u202egnp.a", "\\u202egnp.a"),
            ("\udc80", "\\udc80"),
            ("größer, 大", "größer, 大"),
            ("[/x]", "[/x]"),
        ],
    )
    def test_examples(self, text: str, line: str) -> None:
        assert lines.one_line(text, 100) == line

    def test_a_long_text_keeps_both_ends(self) -> None:
        line = lines.one_line("begin" + "x" * 10**6 + "end", 60)
        assert len(line) <= 60
        assert line.startswith("begin")
        assert line.endswith("end")

    def test_a_message_of_megabytes_is_shortened(self) -> None:
        error = lg.DataError("x" * 10**6, expected="y" * 10**6, found="z\x1b" * 10**6, remedy="w")
        assert len(str(error)) < 3500
        assert str(error).isprintable()
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
