"""Duplicates and leaks: against plain sets and brute force, so that the fast path can only be fast."""

import json
import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_cli.main import main
from sluice_traces.dedup import Deduplicator, DuplicateKind, LeakIndex, NearConfig
from sluice_traces.dedup.minhash import estimate, signatures
from sluice_traces.dedup.search import jaccard
from sluice_traces.dedup.shingles import shingle_batch, words_of


def plain_shingles(text, size=3) -> set[tuple[str, ...]]:
    words = words_of(text)
    if not words:
        return set()
    return {tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}


def plain_jaccard(a, b, size=3) -> float:
    first, second = plain_shingles(a, size), plain_shingles(b, size)
    return len(first & second) / len(first | second) if first and second else 0.0


def vocabulary(rng, count=5000) -> list[str]:
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randrange(2, 9))) for _ in range(count)]


def corpus(seed, documents=150) -> list[str]:
    """Texts of which a part repeats others, whole or with a few words changed."""
    rng = random.Random(seed)
    words, texts = vocabulary(rng), []
    while len(texts) < documents:
        text = rng.choices(words, k=rng.randrange(20, 120))
        texts.append(" ".join(text))
        for _ in range(rng.choice([0, 0, 1, 2])):
            copy = list(text)
            for _ in range(rng.randrange(0, 8)):
                copy[rng.randrange(len(copy))] = rng.choice(words)
            texts.append(" ".join(copy))
    rng.shuffle(texts)
    return texts


texts_strategy = st.lists(st.text("ab cé9,\n\x00", max_size=25), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(texts_strategy, st.integers(1, 5))
def test_batched_shingles_are_those_of_plain_sets(texts, size):
    hashes, bounds = shingle_batch(texts, size)
    found = [hashes[bounds[i] : bounds[i + 1]] for i in range(len(texts))]
    expected = [plain_shingles(text, size) for text in texts]
    assert [len(np.unique(each)) for each in found] == [len(each) for each in expected]
    for a, b in combinations(range(len(texts)), 2):
        shared = len(np.intersect1d(found[a], found[b]))
        # A text shorter than a shingle has one of its own length: the sets must still agree.
        assert shared == len(expected[a] & expected[b])


def test_words_are_runs_of_letters_and_digits_in_lower_case():
    assert words_of("Add to CART, 3x: größe!") == ["add", "to", "cart", "3x", "größe"]


def test_the_batch_does_not_matter():
    texts = corpus(1, 50)
    together, bounds = shingle_batch(texts, 3)
    for index, text in enumerate(texts):
        alone, _ = shingle_batch([text], 3)
        assert np.array_equal(alone, together[bounds[index] : bounds[index + 1]])


def test_signatures_estimate_the_similarity_without_bias():
    rng = random.Random(0)
    words, errors = vocabulary(rng), []
    for _ in range(300):
        text = rng.choices(words, k=60)
        copy = list(text)
        for _ in range(rng.randrange(0, 12)):
            copy[rng.randrange(60)] = rng.choice(words)
        pair = [" ".join(text), " ".join(copy)]
        hashes, bounds = shingle_batch(pair, 3)
        table = signatures(hashes, bounds, 128)
        errors.append(estimate(table[0], table[1]) - plain_jaccard(*pair))
    # 300 pairs with a standard deviation of at most .08 each: the mean's is below .005.
    assert abs(float(np.mean(errors))) < 0.02
    assert float(np.std(errors)) < 0.12


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_equal_brute_force(seed):
    texts = corpus(seed)
    found = Deduplicator().find(texts)
    sets = [plain_shingles(text) for text in texts]
    removed: dict[int, int] = {}
    for later in range(len(texts)):
        for earlier in range(later):
            if earlier in removed or later in removed:
                continue
            shared = len(sets[earlier] & sets[later])
            if shared >= 0.8 * (len(sets[earlier]) + len(sets[later]) - shared):
                removed[later] = earlier
    assert set(found) <= set(removed), "a text was removed that repeats nothing"
    assert len(found) >= 0.97 * len(removed)


def test_short_texts_meet_too():
    rng = random.Random(3)
    words = vocabulary(rng)
    texts = [" ".join(rng.choices(words, k=12)) for _ in range(200)]
    copies = [f"{text}, {rng.choice(words)}" for text in texts]
    found = Deduplicator().find([*texts, *copies])
    assert sum(found.get(200 + i, (None, -1))[1] == i for i in range(200)) >= 194


def test_the_first_of_equal_texts_stays():
    texts = ["a b c d", "x y z w", "a b c d", "A b, c d!", "a b c d"]
    assert Deduplicator().find(texts) == {
        2: (DuplicateKind.EXACT, 0),
        3: (DuplicateKind.NEAR, 0),
        4: (DuplicateKind.EXACT, 0),
    }
    assert set(Deduplicator(near=False).find(texts)) == {2, 4}


def test_texts_without_words_are_only_exact_duplicates():
    assert set(Deduplicator().find(["!!", "??", "!!", ""])) == {2}


@pytest.mark.parametrize("texts", [[], ["one"], [""]])
def test_too_few_texts_have_no_duplicates(texts):
    assert Deduplicator().find(texts) == {}


def test_a_thousand_copies_are_found_without_comparing_all_with_all():
    text = " ".join(map(str, range(50)))
    texts = [f"{text} {number}" for number in range(1000)]
    assert len(Deduplicator().find(texts)) == 999


@pytest.mark.parametrize(
    "fields", [{"threshold": 0.0}, {"threshold": 1.1}, {"shingle_words": 0}, {"bins": 100}, {"bands": 40, "rows": 4}]
)
def test_a_senseless_configuration_is_refused(fields):
    with pytest.raises(ValueError, match=r"is|fit"):
        NearConfig(**fields)


def test_similarity_of_nothing_is_none():
    empty = np.array([], dtype=np.uint64)
    assert jaccard(empty, np.array([0, 0]), np.array([[0, 1]])).tolist() == [0.0]
    assert jaccard(empty, np.array([0]), np.empty((0, 2), dtype=np.int64)).tolist() == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 12), max_size=6), min_size=2, max_size=6),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=5),
)
def test_similarities_of_many_pairs_are_those_of_plain_sets(sets, pairs):
    elements = np.array([element for each in sets for element in sorted(each)], dtype=np.uint64)
    found = jaccard(elements, np.array([len(each) for each in sets]), np.array(pairs, dtype=np.int64).reshape(-1, 2))
    both = [(sets[a], sets[b]) for a, b in pairs]
    assert found.tolist() == [len(a & b) / len(a | b) if a | b else 0.0 for a, b in both]


class TestLeaks:
    TASKS = ("open the third listing and report its price", "log out", "leave the photo gallery, then go home")

    @pytest.mark.parametrize(
        ("row", "leaks"),
        [
            ("Task: Open the third listing and report its price\nScreen size: 1x1", True),
            ("Task: open the third listing and then leave now", False),
            ("please LOG OUT now", True),
            ("log in, then get out", False),
            ("leave the photo gallery then go home", True),
            ("leave the shop", False),
            ("", False),
        ],
    )
    def test_a_row_that_contains_a_task_is_a_leak(self, row, leaks):
        assert LeakIndex(self.TASKS).leaks([row]) == [leaks]

    def test_most_of_a_task_is_a_leak_by_the_threshold(self):
        row = "open the third listing and report its colour"
        assert LeakIndex(self.TASKS, threshold=0.8).leaks([row]) == [True]
        assert LeakIndex(self.TASKS, threshold=0.9).leaks([row]) == [False]

    def test_no_tasks_and_no_rows(self):
        assert LeakIndex([]).leaks(["a"]) == [False]
        assert LeakIndex(["a"]).leaks([]) == []

    def test_a_senseless_threshold_is_refused(self):
        with pytest.raises(ValueError, match="threshold"):
            LeakIndex([], threshold=0.0)


class TestCommand:
    def row(self, human, answer="click(1, 2)") -> str:
        turns = [("system", "You operate a screen."), ("human", human), ("gpt", answer)]
        return json.dumps({"conversations": [{"from": role, "value": value} for role, value in turns]})

    def dedup(self, tmp_path, *arguments) -> int:
        files = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
        return main(["trace", "dedup", *files, "--json", *arguments])

    def test_duplicates_and_leaks_are_removed_and_counted(self, tmp_path, capsys):
        rows = [self.row("open the first listing now"), self.row("open the first listing now"), self.row("log out")]
        (tmp_path / "in.jsonl").write_text("\n".join([*rows, "", self.row("write to the seller")]))
        (tmp_path / "suite.json").write_text(json.dumps({"tasks": [{"task_id": "t", "task_text": "Log out!"}]}))
        assert self.dedup(tmp_path, "--against", str(tmp_path / "suite.json")) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary == {"rows": 4, "kept": 2, "leaks": 1, "exact_duplicate": 1, "near_duplicate": 0}
        assert (tmp_path / "out.jsonl").read_text().splitlines() == [rows[0], self.row("write to the seller")]

    @pytest.mark.parametrize(
        ("rows", "suite", "arguments"),
        [
            ("{", "[]", []),
            ('{"prompt": [3]}', "[]", []),
            ("{}", "3", []),
            ("{}", '{"tasks": [{}]}', []),
            ("{}", "[]", ["--threshold", "2"]),
            ("", "[]", []),
        ],
    )
    def test_bad_input_exits_2(self, tmp_path, rows, suite, arguments):
        (tmp_path / "in.jsonl").write_text(rows)
        (tmp_path / "suite.json").write_text(suite)
        assert self.dedup(tmp_path, "--against", str(tmp_path / "suite.json"), *arguments) == 2

    def test_a_missing_file_exits_2(self, tmp_path):
        assert self.dedup(tmp_path) == 2
