"""Prediction, on a made-up device whose law is known."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from catchweight.errors import CatchweightError
from catchweight.targets import Target
from catchweight.targets.clock.measure import Measurement
from catchweight.targets.latency.block_model import BlockModel
from catchweight.targets.latency.observe import Observation, Observed
from catchweight.targets.latency.predictor import ErrorStatement, LatencyPredictor, expected_latency
from catchweight.targets.latency.table import LatencyTable
from catchweight.targets.tracing.blocks import Signature

CPU = Target.parse("onnxruntime:cpu", threads=1)


def conv(rng: random.Random) -> Signature:
    channels, out, side = rng.choice((16, 24, 32, 64)), rng.choice((16, 32, 48, 96)), rng.randrange(10, 60)
    kernel = rng.choice((1, 3))
    return Signature(
        "conv2d+relu", ((1, channels, side, side),), (1, out, side, side), (kernel, kernel), before="conv", after="conv"
    )


def add(rng: random.Random) -> Signature:
    shape = (1, rng.choice((16, 32, 64)), rng.randrange(10, 60), 32)
    return Signature("add", (shape, shape), shape, before="conv", after="conv")


def law(signature: Signature) -> float:
    """Milliseconds of a block on the made-up device: channels are worked on in packs of 32."""
    padded = -(-signature.output[1] // 32) * 32 / signature.output[1]
    return 0.003 + signature.macs / 2e7 * padded + signature.elements / 4e6


def whole(signatures: list[Signature]) -> float:
    """Convolutions run 20 % faster in company than the profiler says, and a run costs 0.05 ms."""
    factors = {"conv": 0.8, "elementwise": 1.1}
    return 0.05 + sum(factors[signature.group] * law(signature) for signature in signatures)


def network(rng: random.Random) -> list[Signature]:
    return [conv(rng) for _ in range(rng.randrange(4, 20))] + [add(rng) for _ in range(rng.randrange(1, 8))]


def observation(signatures: list[Signature]) -> Observation:
    ms = whole(signatures)
    timed = Measurement(ms, ms, ms, ms, ms, 30, 1, 1, "made up")
    return Observation(tuple(Observed(s, "", law(s)) for s in signatures), 0.0, len(signatures), timed)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    made = LatencyTable(CPU, tmp_path_factory.mktemp("table"))
    rng = random.Random(0)
    for number in range(60):
        made.add(f"network {number}", (64, 64), observation(network(rng)))
    return made


@pytest.fixture(scope="module")
def predictor(table: LatencyTable) -> LatencyPredictor:
    return LatencyPredictor(table)


def test_new_networks_are_predicted_and_the_stated_error_is_true(predictor: LatencyPredictor) -> None:
    rng = random.Random(1)
    fresh = [network(rng) for _ in range(60)]
    predictions = [predictor.signatures(signatures) for signatures in fresh]
    truth = [whole(signatures) for signatures in fresh]
    error = ErrorStatement.of([prediction.ms for prediction in predictions], truth)
    assert error.within10 >= 0.95
    assert error.tau > 0.95
    assert error.rmspe < 2 * predictor.error.rmspe + 0.01
    inside = [p.low_ms <= ms <= p.high_ms for p, ms in zip(predictions, truth, strict=True)]
    assert np.mean(inside) >= 0.8
    assert all(0 <= p.known < 1 for p in predictions)


def test_what_was_measured_is_looked_up_and_composition_is_learnt(
    predictor: LatencyPredictor, table: LatencyTable
) -> None:
    for known in table.networks[:5]:
        prediction = predictor.signatures(known.signatures)
        assert prediction.known == pytest.approx(1)
        assert prediction.ms == pytest.approx(known.whole_ms, rel=0.03)


def test_shares_add_up_to_the_prediction(predictor: LatencyPredictor) -> None:
    signatures = network(random.Random(2))
    shares = predictor.latencies(signatures)
    assert float(shares.sum()) + predictor.constant_ms == pytest.approx(predictor.signatures(signatures).ms)


def test_order_of_blocks_does_not_matter(predictor: LatencyPredictor) -> None:
    signatures = network(random.Random(3))
    assert predictor.signatures(signatures[::-1]).ms == pytest.approx(predictor.signatures(signatures).ms)


def test_too_few_networks_state_nothing(tmp_path: Path) -> None:
    made = LatencyTable(CPU, tmp_path)
    made.add("one", (64, 64), observation(network(random.Random(0))))
    with pytest.raises(CatchweightError, match="knows 1 networks, and 10 are the least"):
        LatencyPredictor(made)


def test_the_block_model_goes_on_growing_beyond_what_it_saw() -> None:
    rng = random.Random(4)
    seen = [conv(rng) for _ in range(300)]
    model = BlockModel(seen, [law(signature) for signature in seen])
    large = Signature("conv2d+relu", ((1, 64, 240, 240),), (1, 96, 240, 240), (3, 3), before="conv", after="conv")
    assert law(large) > 10 * max(law(signature) for signature in seen)
    guess = model([large])
    assert guess.ms[0] == pytest.approx(law(large), rel=0.3)
    assert guess.share[0] > 0


def test_unknown_kinds_are_guessed_not_refused(predictor: LatencyPredictor) -> None:
    strange = Signature("roll", ((1, 16, 30, 30),), (1, 16, 30, 30), before="nowhere")
    prediction = predictor.signatures([*network(random.Random(5)), strange])
    assert np.isfinite(prediction.ms)
    assert prediction.low_ms < prediction.ms < prediction.high_ms


def test_error_statements_against_closed_forms() -> None:
    error = ErrorStatement.of([1.0, 2.4, 2.8, 4.04], [1.0, 2.0, 3.0, 4.0])
    assert error.rmspe == pytest.approx(np.sqrt((0 + 0.04 + (0.2 / 3) ** 2 + 0.0001) / 4))
    assert error.median == pytest.approx((0.01 + 0.2 / 3) / 2)
    assert (error.within5, error.within10, error.tau) == (0.5, 0.75, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 10**6))
def test_one_hot_probabilities_pick_the_entry_exactly(shape: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    latencies = torch.rand(shape, generator=generator, dtype=torch.float64) * 10
    chosen = [int(torch.randint(length, (1,), generator=generator)) for length in shape]
    vectors = [torch.nn.functional.one_hot(torch.tensor(c), n).double() for c, n in zip(chosen, shape, strict=True)]
    assert float(expected_latency(latencies, *vectors)) == float(latencies[tuple(chosen)])


def test_expectation_is_differentiable() -> None:
    latencies = torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=torch.float64)
    logits = [torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    value = expected_latency(latencies, *(entry.softmax(0) for entry in logits))
    assert value.item() == pytest.approx(11 / 4)
    value.backward()
    assert torch.autograd.gradcheck(lambda p, q: expected_latency(latencies, p, q), logits)
    assert logits[0].grad is not None
    assert logits[0].grad[1] > 0 > logits[0].grad[0]
