"""The critic: one shape, seven labels in order, unknown is never a pass."""

import json

import pytest

from sluice_api.contracts.dataset import SftRow
from sluice_cli.main import main
from sluice_traces.critic import CandidateError, Critic, IsolatedRunner, Kind, RejectReason, normalise

GOOD_PYTHON = "```python\ndef add(a, b):\n    return a + b\n```"
GOOD_TYPESCRIPT = "```ts\nexport function add(a: number, b: number): number {\n  return a + b;\n}\n```"
GOOD_DIFF = "```diff\n--- a/x.py\n+++ b/x.py\n@@ -1,2 +1,2 @@\n-a = 1\n+a = 2\n b = 3\n```"


def candidate(response, **fields):
    row = {"id": "c", "prompt": "write it", "response": response, **fields}
    return normalise(json.dumps(row).encode(), 1)


def judge(response, runner=None, **fields):
    return Critic(runner).judge(candidate(response, **fields))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": " ask ", "response": " say "},
        {"messages": [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}]},
        {"conversations": [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "say"}]},
        {"text": "<|im_start|>user\nask<|im_end|>\n<|im_start|>assistant\nsay<|im_end|>\n"},
    ],
    ids=["prompt and response", "messages", "conversations", "ChatML"],
)
def test_every_spelling_is_brought_to_one_shape(row):
    found = normalise(json.dumps(row).encode(), 7)
    assert (found.id, found.system, found.prompt, found.response) == ("row-7", "", "ask", "say")


def test_a_system_turn_and_earlier_turns_are_kept():
    turns = [("system", "be brief"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    found = normalise(json.dumps(row).encode(), 1)
    assert (found.system, found.prompt, found.response) == ("be brief", "user: a\n\nassistant: b\n\nuser: c", "d")


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"prompt": "a"}',
        b'{"prompt": "a", "response": " "}',
        b'{"prompt": "", "response": "b"}',
        b'{"messages": []}',
        b'{"messages": [{"role": "user", "content": "a"}]}',
        b'{"messages": [{"role": "wizard", "content": "a"}, {"role": "assistant", "content": "b"}]}',
        b'{"messages": ["a"]}',
        b'{"text": "plain words"}',
        b'{"prompt": "a", "response": "b", "kind": "cobol"}',
    ],
)
def test_what_is_no_candidate_is_refused(raw):
    with pytest.raises(CandidateError):
        normalise(raw, 1)


@pytest.mark.parametrize(
    ("response", "fields"),
    [
        (GOOD_PYTHON, {"kind": "python", "entry_point": "add"}),
        ("class A:\n    def f(self): ...", {"kind": "python", "entry_point": "A.f"}),
        (GOOD_TYPESCRIPT, {"kind": "typescript", "entry_point": "add"}),
        ("class A { f(): void {} }\nconst g = () => 1;", {"kind": "typescript", "entry_point": "A.f"}),
        (GOOD_DIFF, {"kind": "diff"}),
        ('{"name": "open", "arguments": {"id": 3}}', {"kind": "json", "required_keys": ["name", "arguments"]}),
        ("The price is 3 euros.", {}),
    ],
    ids=["python", "python method", "typescript", "typescript method", "diff", "json", "text"],
)
def test_what_is_right_is_accepted(response, fields):
    judgement = judge(response, **fields)
    assert judgement.reasons == ()
    assert judgement.labels.accepted


@pytest.mark.parametrize(
    ("response", "fields", "reasons"),
    [
        ("def f(:", {"kind": "python"}, {"syntax"}),
        ("def f():\n    return 1\n    yield\nreturn 3", {"kind": "python"}, {"syntax"}),
        ("function f( {", {"kind": "typescript"}, {"syntax"}),
        ("```python\ndef f(): ...", {"kind": "python"}, {"syntax", "format"}),
        ("```js\nlet a\n```", {"kind": "python"}, {"syntax", "format"}),
        (GOOD_PYTHON, {"kind": "python", "entry_point": "subtract"}, {"missing_entry_point"}),
        (GOOD_TYPESCRIPT, {"kind": "typescript", "entry_point": "sub"}, {"missing_entry_point"}),
        ("def f(:", {"kind": "python", "entry_point": "f"}, {"syntax", "missing_entry_point"}),
        ("{'a': 1}", {"kind": "json"}, {"format"}),
        ('{"a": 1, "a": 2}', {"kind": "json"}, {"format"}),
        ('{"a": NaN}', {"kind": "json"}, {"format"}),
        ('{"a": 1}', {"kind": "json", "required_keys": ["b"]}, {"format"}),
        ("[1]", {"kind": "json", "required_keys": ["b"]}, {"format"}),
        (GOOD_DIFF.replace("-1,2", "-1,3"), {"kind": "diff"}, {"format"}),
        ("--- a\n+++ b\n", {"kind": "diff"}, {"format"}),
        ("Change a to b.", {"kind": "diff"}, {"format"}),
        ("done<|im_end|>", {}, {"invalid_tokens"}),
        ("a \ufffd b", {}, {"invalid_tokens"}),
        ("a \x07 b", {}, {"invalid_tokens"}),
        ("the password: hunter22x", {}, {"secret"}),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE", {}, {"secret"}),
        ("I said it again.\n" * 6, {}, {"repetition"}),
        ("one two three four five six seven eight nine " * 6, {}, {"repetition"}),
        ("a" * 100, {}, {"repetition"}),
        ("As an AI language model, I cannot.", {}, {"filler"}),
        ("def f():\n    # rest of the code here\n    ...", {"kind": "python"}, {"filler"}),
        ("ok", {"repair": {"failed_output": "", "labels": {"syntax_pass": False}}}, {"repair_incomplete"}),
        ("ok", {"repair": {"failed_output": "bad", "labels": {"syntax_pass": True}}}, {"repair_incomplete"}),
    ],
)
def test_what_is_wrong_is_rejected_with_its_reasons(response, fields, reasons):
    judgement = judge(response, **fields)
    assert {reason.value for reason in judgement.reasons} == reasons
    assert not judgement.labels.accepted


def test_labels_that_do_not_apply_are_unknown():
    labels = judge("The price is 3 euros.").labels.as_dict()
    assert labels == {
        "syntax_pass": None,
        "tests_pass": None,
        "entrypoint_match": None,
        "format_pass": True,
        "no_secret": True,
        "no_repetition": True,
        "accepted": True,
    }


def test_without_a_parser_typescript_is_unknown_and_not_accepted(monkeypatch):
    from sluice_traces.critic import checks

    def missing(code):
        raise ImportError

    monkeypatch.setattr(checks, "typescript_names", missing)
    judgement = judge(GOOD_TYPESCRIPT, kind="typescript")
    assert judgement.labels.syntax_pass is None
    assert judgement.reasons == (RejectReason.NOT_EXECUTED,)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def add(a, b): return a + b", True),
        ("def add(a, b): return a - b", False),
        ("import sys\ndef add(a, b): sys.exit(0)", False),
        ("import os\ndef add(a, b): os._exit(0)", False),
        ("def add(a, b):\n    while True: pass", False),
        ("def add(a, b): return [0] * 10**12", False),
    ],
    ids=["right", "wrong", "exits", "exits hard", "never ends", "asks for all memory"],
)
def test_tests_are_run_and_only_reaching_their_end_passes(code, expected):
    judgement = judge(code, IsolatedRunner(timeout_s=3), kind="python", tests="assert add(1, 2) == 3")
    assert judgement.labels.tests_pass is expected
    assert judgement.labels.accepted is expected


def test_the_tests_see_nothing_of_the_environment(monkeypatch):
    monkeypatch.setenv("SLUICE_TEST_SECRET", "x")
    tests = "import os\nassert 'SLUICE_TEST_SECRET' not in os.environ"
    assert IsolatedRunner().run(Kind.PYTHON, "", tests) is True
    assert IsolatedRunner().run(Kind.TYPESCRIPT, "", tests) is None


def test_a_repair_teaches_the_correction_and_only_shows_the_failure(tmp_path):
    rows = [
        {
            "prompt": "add",
            "response": GOOD_PYTHON,
            "kind": "python",
            "repair": {"failed_output": "def add(:", "labels": {"syntax_pass": False, "no_secret": True}},
        },
        {"prompt": "add", "response": "def add(:", "kind": "python"},
        {"nothing": 1},
    ]
    source, out, labels = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "labels.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert main(["trace", "critic", "--input", str(source), "--output", str(out), "--labels", str(labels)]) == 0
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    SftRow.model_validate(row)
    assert "def add(:" in row["conversations"][0]["value"]
    assert "(syntax_pass)" in row["conversations"][0]["value"]
    assert row["conversations"][1] == {"from": "gpt", "value": GOOD_PYTHON}
    said = [json.loads(line) for line in labels.read_text().splitlines()]
    assert [each["accepted"] for each in said] == [True, False]
    assert said[1]["reasons"] == ["syntax"]


def test_nothing_accepted_exits_2(tmp_path, capsys):
    (tmp_path / "in").write_text('{"prompt": "a", "response": "As an AI, no."}\n')
    assert main(["trace", "critic", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "o"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {"candidates": 1, "filler": 1}
    assert main(["trace", "critic", "--input", str(tmp_path / "no"), "--output", str(tmp_path / "o")]) == 2
