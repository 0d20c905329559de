"""The slot cache under a graph in plain numpy, and what its packed rows copy."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fungible.artifacts.model_config import ModelConfig
from fungible.engine.runtimes.base import RuntimeLimits
from fungible.engine.runtimes.graph_step import GraphStep
from fungible.engine.runtimes.packed_rows import PackedRows
from fungible.engine.runtimes.slot_cache import SlotCache
from support.tiny_model import CONFIG

SLOTS, CONTEXT = 6, 200
SHAPE = (2 * CONFIG.layers, SLOTS, CONFIG.kv_heads, CONTEXT, CONFIG.head_dim)


def run_graph(step: GraphStep) -> None:
    """Keys that name their token and place; logits that name every key that the mask lets pass."""
    rows, new = step.ids.shape
    for row in range(rows):
        key = step.ids[row] * 1000 + step.positions[row]
        step.added[:, row] = key[:, None]
        seen = np.concatenate([step.past[-1, row, -1, :, -1], key])
        for at in range(new):
            hits = np.flatnonzero(step.wanted == row * new + at)
            allowed = step.mask[row, 0, at]
            step.logits[hits] = [np.sum(seen * allowed), np.sum(allowed), step.ids[row, at]]


def expect(tokens: list[int]) -> list[float]:
    keys = np.array(tokens) * 1000 + np.arange(len(tokens))
    return [float(np.float32(keys.sum())), float(len(tokens)), float(tokens[-1])]


def small_cache(config: ModelConfig = CONFIG, *, steady: bool = False) -> SlotCache:
    limits = RuntimeLimits(slots=SLOTS, context=CONTEXT, vocab=3)
    return SlotCache(config, limits, run_graph, steady=steady)


def random_keys() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("steady", [False, True])
def test_slots_come_and_go_in_any_order(seed: int, steady: bool) -> None:
    """After any calls, a decode step sees each slot's own tokens and no others."""
    rng = np.random.default_rng(seed)
    cache = small_cache(steady=steady)
    held: dict[int, list[int]] = {}
    for _ in range(150):
        slot, other = (int(one) for one in rng.choice(SLOTS, 2, replace=False))
        action = rng.integers(5)
        if action == 0 and len(held.get(slot, [])) < CONTEXT - 60:
            tokens = rng.integers(1, 9, int(rng.integers(1, 50)))
            logits = cache.prefill(slot, tokens)
            held[slot] = held.get(slot, []) + tokens.tolist()
            assert logits.tolist() == expect(held[slot])
        elif action == 1 and slot in held:
            cache.release(slot)
            del held[slot]
        elif action == 2 and slot in held and other not in held:
            length = int(rng.integers(1, len(held[slot]) + 1))
            cache.fork(slot, other, length)
            held[other] = held[slot][:length]
        elif action == 3 and slot in held:
            length = int(rng.integers(1, len(held[slot]) + 1))
            cache.truncate(slot, length)
            held[slot] = held[slot][:length]
        batch = [one for one in held if len(held[one]) < CONTEXT and rng.random() < 0.8]
        rng.shuffle(batch)
        if batch:
            tokens = rng.integers(1, 9, len(batch))
            logits = cache.decode(batch, tokens)
            for row, one in enumerate(batch):
                held[one].append(int(tokens[row]))
                assert logits[row].tolist() == expect(held[one])


def test_who_joins_or_leaves_costs_one_row() -> None:
    rows = PackedRows(random_keys(), 3)
    lengths = [100, 30, 50, 20, 60, 10]

    def step(*slots: int) -> int:
        """Tokens copied by one step of these slots."""
        before = rows.copied
        prepared = rows.prepare(slots, lengths)
        assert sorted(rows.slots) == sorted(slots)
        assert all(past.flags.c_contiguous for past in prepared.past)
        rows.append()
        for slot in slots:
            lengths[slot] += 1
        return rows.copied - before

    assert step(0, 1, 2) == 180
    assert step(2, 0, 1) == 0
    assert step(0, 1, 2, 3) == 20  # joins
    assert step(0, 1, 2) == 0  # the last row leaves
    assert step(0, 1, 2, 3) == 21
    assert step(0, 2, 3) == 22  # a hole: the last row moves there
    assert step(0, 2, 4) == 60  # joins where another leaves
    assert step(0, 2, 4, 1) == 35
    assert step(0, 2, 4, 1, 5) == 10
    assert step(0, 2, 4, 1, 5, 3) == 23


def test_rows_hold_what_the_slots_hold() -> None:
    cache = random_keys()
    rows = PackedRows(cache, 3)
    rows.prepare([0, 1, 2], [70, 3, 9, 0, 0, 0])
    step = rows.prepare([2, 0], [70, 3, 9, 0, 0, 0])
    for row, (slot, length) in enumerate(zip(rows.slots, [70, 9], strict=True)):
        assert (step.mask[row, 0, 0, :-1].sum(), step.positions[row, 0]) == (length, length)
        np.testing.assert_array_equal(step.past[:, row, :, :length], cache[:, slot, :, :length])
    step.added[:] = 5
    rows.append()
    assert (cache[:, 0, :, 70] == 5).all()
    assert (cache[:, 2, :, 9] == 5).all()
    assert (step.past[:, 0, :, 70] == 5).all()


def test_buffers_stay_bound_while_the_room_stays() -> None:
    rows = PackedRows(random_keys(), 3)
    three = rows.prepare([0, 1, 2], [9] * SLOTS)
    two = rows.prepare([0, 1], [9] * SLOTS)
    assert three is not two
    assert rows.prepare([4, 3, 5], [20] * SLOTS) is three
    assert rows.prepare([4, 3, 5], [64] * SLOTS) is not three  # 64 and one more need more room


def test_room_grows_at_once_and_shrinks_when_padding_has_cost_a_copy() -> None:
    rows = PackedRows(random_keys(), 3)
    rows.prepare([0, 1], [150, 10, 0, 0, 0, 0])
    assert rows.room == 192
    steps = 0
    while rows.room == 192:
        rows.prepare([1, 2], [150, 100, 100, 0, 0, 0])
        steps += 1
        assert steps < 50
    # 64 tokens of padding in each of two rows: after two steps more than the 200 tokens held.
    assert (rows.room, steps) == (128, 3)
    rows.prepare([0], [199, 0, 0, 0, 0, 0])
    assert rows.room == CONTEXT  # never beyond what a slot can hold
    before = rows.copied
    for _ in range(20):
        rows.prepare([0], [199, 0, 0, 0, 0, 0])
    assert rows.copied == before


def test_rows_that_are_kept_idle_until_they_have_cost_a_change() -> None:
    rows = PackedRows(random_keys(), 3, steady=True)
    lengths = [9] * SLOTS
    assert len(rows.prepare(range(SLOTS), lengths).ids) == SLOTS
    counts = [len(rows.prepare([0, 1], lengths).ids) for _ in range(6)]
    assert counts == [6, 6, 6, 6, 2, 2]  # four idle rows a step; sixteen are as dear as a change
    step = rows.prepare([0, 1, 2], lengths)
    assert len(step.ids) == 3
    step = rows.prepare([2], lengths)
    assert step.mask[:, 0, 0].sum(axis=1).tolist() == [10, 1, 1]


def test_steps_have_few_lengths_where_shapes_are_kept() -> None:
    seen: list[tuple[int, ...]] = []

    def run(step: GraphStep) -> None:
        seen.append(step.ids.shape)
        run_graph(step)

    limits = RuntimeLimits(slots=SLOTS, context=CONTEXT, vocab=3)
    cache = SlotCache(CONFIG, limits, run, steady=True)
    for slot, count in enumerate((1, 15, 16, 17)):
        tokens = np.arange(1, count + 1)
        assert cache.prefill(slot, tokens).tolist() == expect(tokens.tolist())
    assert seen == [(1, 16), (1, 16), (1, 16), (1, 32)]
    cache.prefill(5, np.full(CONTEXT - 3, 2))  # padding reaches beyond the last position
    assert cache.prefill(5, np.array([1, 2, 3]))[1] == CONTEXT
