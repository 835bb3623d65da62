"""Mixtures: quotas add up, repeats are capped, an empty bucket is an error, and the plan decides everything."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_cli.main import main
from sluice_traces.mixture import Bucket, MixtureConfig, MixtureError, RowInfo, largest_remainder, plan_mixture

CODE_MODEL = Path(__file__).parents[2] / "traces" / "mixtures" / "code-model.yaml"


def rows(count, tags=()) -> list[RowInfo]:
    return [RowInfo(bytes([i % 256, i // 256]), tuple(tags)) for i in range(count)]


def config(total, weights, **fields) -> MixtureConfig:
    buckets = tuple(Bucket(name=name, weight=weight) for name, weight in weights.items())
    return MixtureConfig(rows=total, buckets=buckets, **fields)


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [
        (100, [45, 20, 15, 10, 10], [45, 20, 15, 10, 10]),
        (1000, [45, 20, 15, 10, 10], [450, 200, 150, 100, 100]),
        (7, [45, 20, 15, 10, 10], [3, 1, 1, 1, 1]),
        (10, [1, 1, 1], [4, 3, 3]),
        (1, [1, 1], [1, 0]),
        (5, [1, 0], [5, 0]),
    ],
)
def test_quotas_by_largest_remainder(total, weights, expected):
    assert largest_remainder(total, weights) == expected


@settings(deadline=None)
@given(st.integers(0, 10_000), st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
def test_quotas_add_up_and_are_within_one_row(total, weights):
    counts = largest_remainder(total, weights)
    assert sum(counts) == total
    assert all(abs(n - total * w / sum(weights)) < 1 + 1e-6 for n, w in zip(counts, weights, strict=True))


@settings(deadline=None, max_examples=60)
@given(st.integers(5, 60), st.integers(1, 5), st.data())
def test_rows_share_a_quota_within_their_bounds(at_hand, repeats, data):
    quota = data.draw(st.integers(1, at_hand * repeats))
    plan = plan_mixture(config(quota, {"a": 1}, max_repeats=repeats), {"a": rows(at_hand)})
    used = Counter(row for _, row in plan.order)
    assert used.total() == quota
    assert max(used.values()) <= repeats
    assert max(used.values()) - min(used.get(i, 0) for i in range(at_hand)) <= 1


def test_a_down_weighted_tag_makes_rows_rarer():
    listed = [*rows(100, ["ocr"]), *rows(100)]
    plan = plan_mixture(config(110, {"a": 1}, tag_weights={"ocr": 0.1}), {"a": listed})
    assert sum(row < 100 for _, row in plan.order) == 10


def test_weight_zero_leaves_rows_out():
    listed = [*rows(5, ["ocr"]), *rows(5)]
    plan = plan_mixture(config(20, {"a": 1}, tag_weights={"ocr": 0.0}), {"a": listed})
    assert {row for _, row in plan.order} == set(range(5, 10))


def test_a_plan_is_a_pure_function_of_its_input():
    weights, at_hand = {"a": 45, "b": 55}, {"a": rows(50), "b": rows(60)}
    first = plan_mixture(config(100, weights, seed=3), at_hand)
    assert plan_mixture(config(100, weights, seed=3), at_hand).digest() == first.digest()
    assert plan_mixture(config(100, weights, seed=4), at_hand).digest() != first.digest()
    changed = {**at_hand, "b": [*rows(59), RowInfo(b"other")]}
    assert plan_mixture(config(100, weights, seed=3), changed).digest() != first.digest()
    assert json.loads(first.encode())["buckets"][0]["quota"] == 45


@pytest.mark.parametrize(
    ("total", "weights", "at_hand", "message"),
    [
        (100, {"a": 1, "b": 1}, {"a": rows(50)}, "bucket b: no rows"),
        (100, {"a": 1}, {"a": rows(5, ["x"])}, "bucket a: no rows"),
        (100, {"a": 1}, {"a": rows(24)}, "bucket a: 100 rows from 24 need 5 repeats and 4 are allowed"),
        (10, {"a": 55, "b": 45}, {"a": rows(9), "b": rows(9)}, "ask for more rows"),
        (100, {"a": 999, "b": 1}, {"a": rows(99), "b": rows(9)}, "ask for more rows"),
    ],
)
def test_a_mixture_that_cannot_be_made_says_what_to_change(total, weights, at_hand, message):
    with pytest.raises(MixtureError, match=message):
        plan_mixture(config(total, weights, tag_weights={"x": 0.0}), at_hand)


@pytest.mark.parametrize(
    "fields",
    [
        {"total": 0, "weights": {"a": 1}},
        {"total": 1, "weights": {}},
        {"total": 1, "weights": {"a": 0}},
        {"total": 1, "weights": {"a": 1}, "max_repeats": 0},
        {"total": 1, "weights": {"a": 1}, "tag_weights": {"t": 2.0}},
    ],
)
def test_a_senseless_configuration_is_refused(fields):
    with pytest.raises(MixtureError):
        config(**fields)


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        document = yaml.safe_load(CODE_MODEL.read_text()) | {"rows": 200}
        (tmp_path / "mix.yaml").write_text(yaml.safe_dump(document))
        (tmp_path / "rows").mkdir()
        for bucket in document["buckets"]:
            lines = [json.dumps({"bucket": bucket["name"], "n": n}) for n in range(30)]
            (tmp_path / bucket["path"]).write_text("\n".join(lines) + "\n\n")
        return tmp_path

    def mix(self, folder, output="out.jsonl") -> int:
        files = ["--output", str(folder / output), "--plan", str(folder / "plan.json")]
        return main(["trace", "mix", "--config", str(folder / "mix.yaml"), *files, "--json"])

    def test_the_shipped_example_mixes_45_20_15_10_10(self, folder, capsys):
        assert self.mix(folder) == 0
        summary = json.loads(capsys.readouterr().out)
        found = Counter(json.loads(line)["bucket"] for line in (folder / "out.jsonl").read_text().splitlines())
        assert sorted(found.values()) == [20, 20, 30, 40, 90]
        assert found["executable-code"] == summary["buckets"]["executable-code"]["quota"] == 90
        assert self.mix(folder, "again.jsonl") == 0
        assert (folder / "again.jsonl").read_bytes() == (folder / "out.jsonl").read_bytes()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("rows: 10", "missing required field `buckets`"),
            ("rows: many\nbuckets: []", "got `str` - at `$.rows`"),
            ("rows: 10\nbuckets: [{name: a, weight: 1, path: no.jsonl}]", "No such file"),
            ("rows: 10\nbukets: []", "unknown field `bukets`"),
            ("rows: [", "not YAML"),
            ("- 3", "mix.yaml"),
        ],
    )
    def test_a_bad_configuration_exits_2_and_writes_nothing(self, folder, capsys, text, message):
        (folder / "mix.yaml").write_text(text)
        assert self.mix(folder) == 2
        assert message in capsys.readouterr().err
        assert not (folder / "out.jsonl").exists()

    def test_a_line_that_is_no_row_is_named(self, folder, capsys):
        (folder / "rows" / "edits.jsonl").write_text("{}\n{\n")
        assert self.mix(folder) == 2
        assert "edits.jsonl: line 2 is no row" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mix.yaml: Expected `object`, got `null`"),
        ("rows: 4\nbuckets: [{name: a, weight: .inf, path: a.jsonl}]", "bucket a: weight is inf"),
        ("rows: 4\nbuckets: [{name: a, weight: 1.0e+308, path: a}, {name: b, weight: 1.0e+308, path: a}]", "bucket a"),
        ("rows: 4\nseed: -1\nbuckets: [{name: a, weight: 1, path: a.jsonl}]", "seed is -1"),
        ("rows: four\nbuckets: []", "got `str` - at `$.rows`"),
        ("rows: 4\nbuckets: [{name: a, weight: 1}]", "missing required field `path` - at `$.buckets[0]`"),
        ("rows: 4\nrepeats: 3\nbuckets: []", "unknown field `repeats`"),
    ],
)
def test_a_mixture_that_cannot_be_names_its_field(tmp_path, capsys, text, message):
    (tmp_path / "mix.yaml").write_text(text)
    output = ["--output", str(tmp_path / "o.jsonl"), "--plan", str(tmp_path / "p.json")]
    assert main(["trace", "mix", "--config", str(tmp_path / "mix.yaml"), *output]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()
