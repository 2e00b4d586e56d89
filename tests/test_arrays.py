"""Arrays of a message: what is at hand is never encoded unless asked for, and nobody can tell the difference."""

import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.app import ReceivedModel
from fedinverse.arrays import PackedArray, decode, from_record, is_packed, opened, size_of, to_record
from fedinverse.errors import IntegrityError, RefusedReplyError
from fedinverse.messages import read_model
from fedinverse.models import build
from fedinverse.storage import check_finite, to_weights, weights_sha256
from strategies.averaging import weighted_mean

WEIGHTS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.array(3, np.int64)}


def npy(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def test_bytes_are_made_when_they_are_asked_for_and_are_numpys() -> None:
    for name, array in to_record(WEIGHTS).items():
        assert "data" not in array.__dict__
        np.testing.assert_array_equal(array.numpy(), WEIGHTS[name])
        assert "data" not in array.__dict__
        assert array.data == npy(WEIGHTS[name])
        assert array.object_id == Array(WEIGHTS[name]).object_id
        assert type(array).__qualname__ == "Array"


def test_what_is_set_by_somebody_else_counts() -> None:
    array = PackedArray(np.zeros(2, np.float32))
    array.data = npy(np.ones(2, np.float32))
    np.testing.assert_array_equal(array.numpy(), np.ones(2, np.float32))
    np.testing.assert_array_equal(opened(array, "w"), np.ones(2, np.float32))
    assert not is_packed(ArrayRecord({"w": array}))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array)).numpy(), np.ones(2, np.float32))


def test_to_another_process_go_the_values_alone_and_without_a_copy() -> None:
    values = np.arange(50_000, dtype=np.float32)
    buffers: list[pickle.PickleBuffer] = []
    message = pickle.dumps(to_record({"w": values}), protocol=5, buffer_callback=buffers.append)
    assert len(message) < 1000
    assert sum(len(buffer.raw()) for buffer in buffers) == values.nbytes
    received = pickle.loads(message, buffers=buffers)
    assert np.shares_memory(received["w"].numpy(), values)
    assert not received["w"].numpy().flags.writeable
    assert size_of(received["w"]) == values.nbytes


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (PackedArray(np.zeros(3, np.float32)), "says that its shape is"),
        (PackedArray(np.zeros(2, np.int64)), "holds int64; float32 is needed"),
        (PackedArray(np.array(["a", "b"])), "is needed"),
    ],
)
def test_values_at_hand_are_held_against_the_same_schema(array: Array, reason: str) -> None:
    with pytest.raises(RefusedReplyError, match=reason):
        decode(array, "array 'w'", (2,), np.dtype(np.float32))


def test_text_is_no_number_whoever_packed_it() -> None:
    with pytest.raises(RefusedReplyError, match="array 'w' holds <U1, no numbers"):
        opened(PackedArray(np.array(["a", "b"])), "w")


def test_a_model_is_looked_at_once_and_the_next_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    monkeypatch.setattr("clients.app.check_finite", lambda weights, _: looks.append("") or check_finite(weights, "it"))
    network, received = build("lenet5", 10, 0.25, seed=0), ReceivedModel()
    first = to_weights(network)
    second = {name: array + 1 for name, array in first.items()}

    def loaded(record: ArrayRecord) -> dict[str, Any]:
        with torch.no_grad():
            next(network.parameters()).fill_(9)  # a client has trained it
        received.into(network, record, read_model(record, 10**9))
        return to_weights(network)

    records = to_record(first), to_record(second), ArrayRecord({name: Array(array) for name, array in first.items()})
    for record, weights, times in zip(
        [records[0], records[0], records[1], records[0], records[2], records[2]],
        [first, first, second, first, first, first],
        [1, 1, 2, 3, 4, 5],
        strict=True,
    ):
        assert weights_sha256(loaded(record)) == weights_sha256(weights)
        assert len(looks) == times
    broken = first | {"head.bias": np.full_like(first["head.bias"], np.nan)}
    with pytest.raises(IntegrityError, match="holds NaN"):
        loaded(to_record(broken))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=7), st.sampled_from([1, 5, (1 << 18) + 3]), st.integers(0))
def test_the_mean_is_flowers_bit_for_bit(counts: list[int], size: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    contents = [
        RecordDict(
            {
                "arrays": to_record(
                    {
                        "w": generator.normal(size=size).astype(np.float32),
                        "double": generator.normal(size=(2, 3)),
                        "half": generator.normal(size=4).astype(np.float16),
                        "steps": np.array(generator.integers(10**6)),
                    }
                ),
                "metrics": MetricRecord({"num-examples": count}),
            }
        )
        for count in counts
    ]
    ours = weighted_mean([from_record(content["arrays"]) for content in contents], counts)
    flowers = from_record(aggregate_arrayrecords(contents, "num-examples"))
    assert list(ours) == list(flowers)
    for name in ours:
        assert ours[name].tobytes() == flowers[name].tobytes()
        assert (ours[name].dtype, ours[name].shape) == (flowers[name].dtype, flowers[name].shape)
