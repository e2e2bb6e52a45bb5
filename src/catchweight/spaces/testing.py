"""What every search space keeps to, as tests that any space inherits.

    class TestMine(SpaceContract):
        def make(self) -> Space:
            return Mine(classes=4)

pytest finds the inherited tests; nothing here needs it, so they may be called by hand too.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy.stats import chisquare
from torch import Tensor, nn

from ..front import Arch
from ..targets import to_onnx
from ..targets.tracing.blocks import Signature
from .block_map import BlockMap
from .choices import Choice, Kernel
from .elastic import Elastic, named_choices, own_choices, walk
from .space import Space

_ENUMERABLE = 5000


class SpaceContract:
    """Inherit, and say in :meth:`make` which space is meant.

    Attributes:
        sizes: inputs (H, W) that it must take, odd ones among them.
        members: how many random architectures a test looks at.
    """

    sizes: Sequence[tuple[int, int]] = ((32, 48), (31, 45))
    members = 4

    def make(self) -> Space:
        """A new space, small enough for tests."""
        raise NotImplementedError("a contract test needs make(): return the space that is tested")

    def member(self, space: Space, arch: Arch) -> nn.Module:
        """A member as a plain network; say otherwise where members inherit no weights."""
        return space.subnet(arch)

    def trained(self) -> Space:
        """A space whose weights and norms are no longer those that it began with."""
        return trained(self.make(), self.sizes[0])

    def test_a_subnet_computes_what_the_supernet_does(self) -> None:
        space = trained(self.make(), self.sizes[0])
        for arch, size in itertools.product(self._members(space), self.sizes):
            torch.testing.assert_close(*_both(space, arch, image(size)), rtol=1e-5, atol=1e-5)

    def test_no_choice_is_left_in_a_subnet(self) -> None:
        space = self.make()
        for arch in self._members(space):
            net = self.member(space, arch)
            assert not any(isinstance(module, (Elastic, Space)) for module in net.modules())
            assert not any(list(own_choices(module)) for module in net.modules())
            assert not any(isinstance(value, Choice) for module in net.modules() for value in vars(module).values())

    def test_weights_are_copied_drawn_anew_or_left_out(self) -> None:
        space = self.make()
        arch = space.largest()
        inherited, bare = space.subnet(arch), space.subnet(arch, weights="none")
        assert {name: value.shape for name, value in inherited.state_dict().items()} == {
            name: value.shape for name, value in bare.state_dict().items()
        }
        assert all(value.is_meta for value in bare.state_dict().values())
        before = {name: value.clone() for name, value in space.state_dict().items()}
        with torch.no_grad():
            for parameter in inherited.parameters():
                parameter.add_(1.0)
        torch.testing.assert_close(dict(space.state_dict()), before, rtol=0, atol=0)

    def test_gradients_reach_what_is_in_use_and_nothing_else(self) -> None:
        space = self.make().eval()
        for arch in self._members(space):
            space.zero_grad(set_to_none=True)
            net, x = space.subnet(arch), image(self.sizes[0])
            with space.activate(arch):
                live = {id(p) for place in walk(space) if place.live for p in place.module.parameters(recurse=False)}
                space(x).square().mean().backward()
            net(x).square().mean().backward()
            assert all(p.grad is None for p in space.parameters() if id(p) not in live)
            if not any(isinstance(c, Kernel) and c.transform for c in named_choices(space).values()):
                ours, theirs = _gradient(space), _gradient(net)
                assert theirs.numel() > 0
                assert ours.numel() == theirs.numel()
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)

    def test_sampling_is_uniform_over_every_choice_in_use(self) -> None:
        decisions, rng = self.make().decisions(), random.Random(0)
        counts: dict[str, Counter[int]] = {name: Counter() for name in decisions}
        for _ in range(2000):
            indices = decisions.indices(decisions.sample(rng))
            for name, decision in decisions.items():
                if decision.active(indices):
                    counts[name][indices[name]] += 1
        for name, decision in decisions.items():
            seen = [counts[name][index] for index in range(len(decision.options))]
            assert sum(seen) > 0, f"{name} was never in use"
            assert len(seen) == 1 or chisquare(seen).pvalue > 1e-4, f"{name} is drawn unevenly: {seen}"

    def test_the_same_seed_gives_the_same_architectures(self) -> None:
        first, second = (self._walk(self.make(), random.Random(7)) for _ in range(2))
        assert first == second

    def test_an_architecture_survives_json(self) -> None:
        space = self.make()
        schema = space.schema()
        for arch in self._members(space):
            values = json.loads(json.dumps(arch.to_json()))
            assert space.canonical(values) == arch == Arch(**values)
            assert sorted(values) == sorted(schema["required"])
            properties = json.loads(json.dumps(schema["properties"]))
            assert all(value in properties[name]["enum"] for name, value in values.items())

    def test_variations_stay_in_the_space(self) -> None:
        space, rng = self.make(), random.Random(0)
        assert space.size() > 1, "a space has two architectures at least"
        for _ in range(50):
            a, b = space.sample(rng), space.sample(rng)
            mutant, child = space.mutate(a, rng, 0.2), space.crossover(a, b, rng)
            assert mutant != a
            assert space.canonical(mutant) == mutant
            assert space.canonical(child) == child
            assert space.crossover(a, a, rng) == a

    def test_neighbours_differ_in_one_choice(self) -> None:
        space = self.make()
        decisions = space.decisions()
        for arch in self._members(space):
            indices = decisions.indices(arch)
            active = {name: decision for name, decision in decisions.items() if decision.active(indices)}
            neighbours = space.neighbours(arch)
            assert len(set(neighbours)) == len(neighbours) == sum(len(d.options) - 1 for d in active.values())
            assert arch not in neighbours
            for other in neighbours:
                assert any(space.canonical({**arch, name: other[name]}) == other for name in active)

    def test_size_counts_the_architectures(self) -> None:
        space = self.make()
        options = space.choices()
        if math.prod(map(len, options.values())) <= _ENUMERABLE:
            every = (dict(zip(options, values, strict=True)) for values in itertools.product(*options.values()))
            decisions = space.decisions()
            assert space.size() == len({decisions.canonical(values) for values in every})
        assert space.size() <= math.prod(map(len, options.values()))

    def test_the_smallest_and_the_largest_member_bound_all(self) -> None:
        space = self.make()
        assert space.canonical(space.smallest()) == space.smallest()
        assert space.canonical(space.largest()) == space.largest()
        low, high = (_parameters(space.subnet(arch)) for arch in (space.smallest(), space.largest()))
        assert all(low <= _parameters(space.subnet(arch)) <= high for arch in self._members(space))

    def test_one_hot_probabilities_are_a_member(self) -> None:
        space = trained(self.make(), self.sizes[0])
        x = image(self.sizes[1])
        for arch in self._members(space):
            with torch.no_grad(), space.activate(one_hot(space, arch)):
                relaxed = space(x)
            torch.testing.assert_close(relaxed, space.subnet(arch)(x), rtol=1e-5, atol=1e-5)

    def test_probabilities_close_to_one_hot_are_close_to_a_member(self) -> None:
        space = trained(self.make(), self.sizes[0])
        open_ = [name for name, choice in named_choices(space).items() if choice.kind != "resolution"]
        x, arch = image(self.sizes[1]), space.sample(random.Random(3))
        vectors = {k: v * 0.999999 + 0.000001 / len(v) if k in open_ else v for k, v in one_hot(space, arch).items()}
        with torch.no_grad(), space.activate(vectors):
            torch.testing.assert_close(space(x), space.subnet(arch)(x), rtol=1e-2, atol=1e-2)

    def test_relaxed_choices_have_gradients(self) -> None:
        space = trained(self.make(), self.sizes[0])
        logits, generator = space.relax(), torch.Generator().manual_seed(0)
        reached: set[str] = set()
        for values in (logits.softmax(), *(logits.gumbel(generator=generator) for _ in range(8))):
            logits.zero_grad(set_to_none=True)
            with space.activate(values):
                space(image(self.sizes[0])).square().mean().backward()
            pairs = zip(logits.names, logits.logits, strict=True)
            reached |= {name for name, vector in pairs if vector.grad is not None and bool(vector.grad.any())}
        assert reached == {name for name, options in space.choices().items() if len(options) > 1}

    def test_expected_latency_of_a_member_is_its_blocks_own(self) -> None:
        space = self.make()
        found = BlockMap(space, self.sizes[0], checks=self.members)
        latency, logits = found.latency(made_up_ms, 0.5), space.relax()
        for arch in self._members(space):
            signatures = space.signatures(arch, self.sizes[0])
            assert Counter(found.blocks(arch)) == Counter(signatures)
            truth = 0.5 + float(made_up_ms(signatures).sum())
            assert math.isclose(float(latency(one_hot(space, arch))), truth, rel_tol=1e-12)
            assert math.isclose(float(latency(arch)), truth, rel_tol=1e-12)
        latency(logits.softmax()).backward()
        for name, vector in zip(logits.names, logits.logits, strict=True):
            matters = any(name in names for names in found.depends.values())  # not so the size of another input
            assert (vector.grad is not None) == matters
            assert vector.grad is None or bool(vector.grad.isfinite().all())

    def test_export_keeps_what_a_member_computes(self) -> None:
        import onnxruntime  # only here: a space is of use without a runtime

        space = self.trained()
        arch, x = space.sample(random.Random(1)), image(self.sizes[1])[:1]
        net = self.member(space, arch)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            path = to_onnx(net, Path(folder) / "member.onnx", self.sizes[1])
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
            torch.testing.assert_close(torch.from_numpy(logits), net(x), rtol=1e-3, atol=1e-4)

    def test_copies_are_equal_and_independent(self) -> None:
        space = trained(self.make(), self.sizes[0])
        arch, x = space.sample(random.Random(2)), image(self.sizes[0])
        twin = copy.deepcopy(space)
        before = [choice.state for choice in named_choices(space).values()]
        twin.activate(arch)
        assert [choice.state for choice in named_choices(space).values()] == before
        net = space.subnet(arch)
        stored = pickle.loads(pickle.dumps((twin, net)))  # noqa: S301 - our own bytes
        with torch.no_grad():
            for other in (twin, copy.deepcopy(net), *stored):
                torch.testing.assert_close(other(x), net(x), rtol=1e-5, atol=1e-5)
        with space.activate(space.relax().softmax()):  # amid a training step, for a moving average, say
            assert copy.deepcopy(space).choices() == space.choices()

    def _members(self, space: Space) -> list[Arch]:
        rng = random.Random(0)
        return [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(self.members))]

    @staticmethod
    def _walk(space: Space, rng: random.Random) -> list[Arch]:
        """A few samples and what comes of them."""
        found = [space.sample(rng) for _ in range(5)]
        return [*found, space.mutate(found[0], rng), space.crossover(found[1], found[2], rng)]


def image(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Noise (2, 3, H, W)."""
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def trained(space: Space, size: tuple[int, int], steps: int = 3) -> Space:
    """The space in evaluation mode after a few steps on noise, so that weights and norm statistics have moved."""
    rng = random.Random(5)
    optimiser = torch.optim.SGD(space.parameters(), lr=0.01)
    space.train()
    for step, arch in enumerate([space.largest(), space.smallest(), *(space.sample(rng) for _ in range(steps))]):
        with space.activate(arch):
            space(image(size, step)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return space.eval()


def one_hot(space: Space, arch: Arch) -> dict[str, Tensor]:
    """Probabilities that leave no choice."""
    indices = space.decisions().indices(arch)
    return {name: torch.eye(len(options))[indices[name]] for name, options in space.choices().items()}


def made_up_ms(signatures: Sequence[Signature]) -> Tensor:
    """Milliseconds (n,) of a device that knows every block and its neighbours apart."""
    return torch.tensor(
        [1e-3 + s.macs / 1e7 + math.prod(s.output) / 1e6 + len(s.before + s.after) / 1e4 for s in signatures],
        dtype=torch.float64,
    )


def _both(space: Space, arch: Arch, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad(), space.activate(arch):
        supernet = space(x)
    with torch.no_grad():
        return supernet, space.subnet(arch)(x)


def _gradient(net: nn.Module) -> Tensor:
    """All entries of all gradients that are not zero, sorted."""
    entries = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    return entries[entries != 0].sort().values


def _parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


__all__ = ["SpaceContract", "image", "made_up_ms", "one_hot", "trained"]
