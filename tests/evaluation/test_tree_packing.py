"""Every prediction that was asked for is made once, from its own tokens at their own positions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.evaluation.packing import TARGETS, Group, Scored, batches, plan

CHUNK = 16


@st.composite
def branching_requests(draw) -> list[Scored]:
    """Requests over few tokens, many of which begin with one of few beginnings, some several times."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    beginnings = [rng.integers(0, 3, rng.integers(0, 40)) for _ in range(draw(st.integers(1, 3)))]
    requests = []
    for _ in range(draw(st.integers(1, 60))):
        beginning = beginnings[rng.integers(len(beginnings))]
        rest = rng.integers(0, 3, rng.integers(1, 24))
        tokens = np.concatenate([beginning, rest]).astype(np.int32)
        asked = rng.integers(1, len(tokens) + 1)
        targets = np.append(tokens[1:], rng.integers(0, 9))[-asked:]
        requests.append(Scored(tokens=tokens, targets=targets.astype(np.int32)))
    return requests


def seen_by(batch, prefix: np.ndarray, row: int, place: int) -> list[int]:
    """The tokens that the token at a place sees, itself last, by the rule of `marin.models.trees`."""
    places = [k for k in range(place + 1) if place < batch.ends[row, k]]
    depth = np.concatenate([np.arange(len(prefix)), batch.positions[row, places]])
    assert depth.tolist() == list(range(len(depth))), "positions count what is seen"
    return [*prefix.tolist(), *batch.tokens[row, places].tolist()]


def answered(requests: list[Scored], groups: list[Group], num_rows: int) -> list[list[tuple[list[int], int]]]:
    """(tokens seen, target) of each prediction of each request, as the batches have them."""
    found: list = [None] * len(requests)
    for group in groups:
        for batch in batches(group, requests, num_rows=num_rows, chunk=CHUNK):
            assert batch.tokens.shape == (num_rows, group.row_len)
            assert batch.places.shape[1] % CHUNK == 0 and batch.num_entries <= batch.places.shape[1]
            for request, row, where in batch.answers:
                assert found[request] is None, "once"
                entries, slots = where // TARGETS, where % TARGETS
                assert entries.max() < batch.num_entries
                found[request] = [
                    (seen_by(batch, group.prefix, row, batch.places[row, e]), int(batch.targets[row, e, s]))
                    for e, s in zip(entries, slots, strict=True)
                ]
    return found


@settings(max_examples=25, deadline=None)
@given(branching_requests(), st.sampled_from([64, 256]), st.integers(1, 3))
def test_each_prediction_is_made_from_the_tokens_before_it(requests: list[Scored], row_len: int, num_rows: int):
    groups = plan(requests, row_len=row_len, num_rows=num_rows)
    for request, found in zip(requests, answered(requests, groups, num_rows), strict=True):
        num_tokens, asked = len(request.tokens), len(request.targets)
        expected = [
            (request.tokens[: end + 1].tolist(), int(request.targets[end - num_tokens + asked]))
            for end in range(num_tokens - asked, num_tokens)
        ]
        assert found == expected


@settings(max_examples=15, deadline=None)
@given(branching_requests(), st.randoms(use_true_random=False))
def test_the_order_of_requests_does_not_change_the_rows(requests: list[Scored], random):
    shuffled = list(requests)
    random.shuffle(shuffled)
    one, other = (
        [
            (group.prefix.tolist(), group.reach, [[tree.tokens.tolist() for tree in row] for row in group.rows])
            for group in plan(given, row_len=128, num_rows=1)
        ]
        for given in (requests, shuffled)
    )
    assert one == other


def few_shot(num_questions: int, num_examples: int, rng: np.random.Generator) -> list[Scored]:
    examples = rng.integers(0, 50, num_examples)
    requests = []
    for _ in range(num_questions):
        question = rng.integers(0, 50, 30)
        for answer in range(4):
            tokens = np.concatenate([examples, question, [answer, answer]]).astype(np.int32)
            requests.append(Scored(tokens=tokens, targets=tokens[-2:]))
    return requests


def num_read(groups: list[Group]) -> int:
    return sum(len(g.prefix) for g in groups) + sum(len(t.tokens) for g in groups for row in g.rows for t in row)


def test_a_context_is_read_once_for_its_choices_and_examples_once_for_the_questions():
    requests = few_shot(100, 200, np.random.default_rng(0))
    [group] = plan(requests, row_len=1024, num_rows=1)
    assert len(group.prefix) == 200
    assert group.reach == 64
    assert num_read([group]) == 200 + 100 * (30 + 4 * 2)


def test_few_questions_share_a_tree_and_no_prefix():
    requests = few_shot(5, 200, np.random.default_rng(0))
    [group] = plan(requests, row_len=1024, num_rows=1)
    assert len(group.prefix) == 0
    assert num_read([group]) == 200 + 5 * (30 + 4 * 2)


def test_each_subject_has_the_prefix_of_its_own_examples():
    rng = np.random.default_rng(0)
    requests = [request for _ in range(3) for request in few_shot(60, 150, rng)]
    groups = plan(requests, row_len=1024, num_rows=1)
    assert sorted(len(group.prefix) for group in groups) == [150, 150, 150]


def test_a_prefix_ends_where_predictions_begin():
    rng = np.random.default_rng(0)
    shared = rng.integers(0, 50, 300)  # of which the last 100 are to be predicted, for every request
    requests = []
    for _ in range(200):
        tokens = np.concatenate([shared, rng.integers(0, 50, 20)]).astype(np.int32)
        requests.append(Scored(tokens=tokens, targets=np.append(tokens[1:], 7)[-120:]))
    [group] = plan(requests, row_len=1024, num_rows=1)
    assert len(group.prefix) == 200


def test_single_token_choices_are_one_text_and_one_entry():
    context = np.arange(40, dtype=np.int32)
    requests = [Scored(tokens=context, targets=np.array([choice], np.int32)) for choice in (7, 3, 9, 5, 3)]
    [group] = plan(requests, row_len=64, num_rows=1)
    [batch] = batches(group, requests, num_rows=1, chunk=CHUNK)
    assert batch.num_tokens == 40
    assert batch.num_entries == 1
    assert batch.targets[0, 0].tolist() == [3, 5, 7, 9]


def test_more_targets_than_an_entry_holds_take_several():
    requests = [Scored(tokens=np.zeros(3, np.int32), targets=np.array([t], np.int32)) for t in range(100)]
    groups = plan(requests, row_len=16, num_rows=1)
    assert answered(requests, groups, 1) == [[([0, 0, 0], target)] for target in range(100)]


@pytest.mark.parametrize("num_rows", [1, 4])
def test_rows_are_well_filled(num_rows: int):
    rng = np.random.default_rng(0)
    requests = []
    for _ in range(400):
        tokens = rng.integers(0, 50, rng.integers(20, 60)).astype(np.int32)
        requests.append(Scored(tokens=tokens, targets=tokens[-3:]))
    groups = plan(requests, row_len=1024, num_rows=num_rows)
    made = [batch for group in groups for batch in batches(group, requests, num_rows=num_rows, chunk=CHUNK)]
    assert sum(batch.num_tokens for batch in made) > 0.85 * sum(batch.tokens.size for batch in made)


def test_nothing_asked_is_nothing_planned():
    assert plan([], row_len=64, num_rows=1) == []
