from hypothesis import given
from hypothesis import strategies as st

from fungible.engine.runtimes.xla_shapes import ShapePlan, StepShape


@given(st.integers(1, 64), st.integers(1, 700), st.data())
def test_chunks_append_every_token_and_stay_inside_the_cache(
    slots: int, context: int, data: st.DataObject
) -> None:
    plan = ShapePlan(slots, context)
    start = data.draw(st.integers(0, context - 1))
    count = data.draw(st.integers(1, context - start))
    position, left = start, count
    for length in plan.chunks(start, count):
        assert left > 0
        assert position + length <= context
        taken = min(length, left)
        shape = plan.fit(1, length, position + taken)
        assert shape in plan.all()
        assert shape.window >= position + taken
        position, left = position + taken, left - taken
    assert left == 0


@given(st.integers(1, 64), st.integers(1, 5000))
def test_every_batch_and_length_has_a_size_within_limits(slots: int, context: int) -> None:
    plan = ShapePlan(slots, context)
    for rows in range(1, slots + 1):
        shape = plan.fit(rows, 1, context)
        assert rows <= shape.rows <= slots
        assert shape.window == context
    assert len(plan.all()) == len(set(plan.all()))
    assert set(plan.first()) <= set(plan.all())


def test_a_common_prompt_takes_few_steps() -> None:
    plan = ShapePlan(8, 1024)
    assert plan.chunks(0, 60) == [64]
    assert plan.chunks(0, 70) == [64, 16] or plan.chunks(0, 70) == [16, 64]
    assert sorted(plan.chunks(0, 300)) == [64, 128, 128]
    assert plan.chunks(1020, 4) == [1, 1, 1, 1]


def test_covers_compares_every_side() -> None:
    shape = StepShape(4, 1, 256)
    assert shape.covers(shape)
    assert StepShape(8, 1, 512).covers(shape)
    assert not StepShape(1, 1, 512).covers(shape)
    assert not StepShape(8, 1, 128).covers(shape)
    assert not StepShape(8, 16, 512).covers(shape)
