"""The order of a run: every record once a pass, the same for any number of processes, and from any step on."""

import numpy as np
import pytest

from hip_ext.training.plan import Plan

SIZES = np.random.default_rng(0).integers(2, 30, size=37)


def drawn(plan, first=0, stop=60, world=1):
    """Records of each step, over all processes."""
    found = {}
    for rank in range(world):
        for passage in plan.steps(first, stop, rank, world):
            found.setdefault(passage.step, []).extend(passage.records)
    return {step: sorted(records) for step, records in found.items()}


@pytest.mark.parametrize("bucket", [1, 3])
def test_every_record_comes_once_a_pass(bucket):
    plan = Plan(SIZES, batch=4, seed=7, bucket=bucket)
    seen = np.concatenate([plan.records(step) for step in range(37 * 3)])
    counts = np.bincount(seen, minlength=37)
    assert (counts == 12).all()
    assert plan.records(0) != plan.records(37)


@pytest.mark.parametrize("bucket", [1, 4])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_steps_of_one(bucket, world):
    plan = Plan(SIZES, batch=6, seed=1, bucket=bucket, passes=2, largest=900)
    alone = Plan(SIZES, batch=6, seed=1, bucket=bucket)
    assert drawn(plan, world=world) == drawn(alone)
    ranks = [[p.step for p in plan.steps(0, 40, rank, world)] for rank in range(world)]
    assert all(steps == ranks[0] for steps in ranks)


def test_a_run_that_goes_on_sees_what_an_undisturbed_one_would():
    plan = Plan(SIZES, batch=5, seed=3, bucket=2, passes=2)
    whole = list(plan.steps(0, 30))
    assert whole == list(plan.steps(0, 11)) + list(plan.steps(11, 30))
    assert [p.last for p in whole] == [False, True] * 30


def test_passes_keep_below_the_bound_and_none_is_empty():
    plan = Plan(SIZES, batch=8, seed=2, largest=1000)
    for passage in plan.steps(0, 50):
        assert passage.records
        load = (SIZES[list(passage.records)] ** 2).sum()
        assert load <= 1000 or len(passage.records) == 1


def test_buckets_make_batches_of_similar_size():
    spread = {
        bucket: np.mean([np.ptp(SIZES[plan.records(step)]) for step in range(64)])
        for bucket in (1, 8)
        for plan in [Plan(SIZES, batch=4, seed=5, bucket=bucket)]
    }
    assert spread[8] < 0.5 * spread[1]
