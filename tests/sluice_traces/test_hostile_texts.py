"""Texts made to slip past detectors, or to keep them busy for ever."""

import base64
import json
import random
import time

import pytest

from sluice_cli.main import main
from sluice_traces.convert import PrivateTextError
from sluice_traces.critic import CandidateError, checks, normalise
from sluice_traces.privacy import PrivacyConfig, Redactor
from sluice_traces.privacy import redact as redact_module
from sluice_traces.privacy.folding import fold

LONG = base64.b64encode(random.Random(3).randbytes(900)).decode()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("call +1\u00a0212\u00a0555\u20110187 now", "call [PHONE_1] now"),
        ("card 4111\u20091111\u20091111\u20091111.", "card [CARD_1]."),
        ("mail ｊｏｅ＠ｅｘａｍｐｌｅ．ｃｏｍ now", "mail [EMAIL_1] now"),
        ("mail joe@exam\u200bple.com now", "mail [EMAIL_1] now"),
        ("mail j\u00adoe@example.com\u200b now", "mail [EMAIL_1]\u200b now"),
        ("key AKIAIOSFOD\u2060NN7EXAMPLE é", "key [SECRET_1] é"),
        (f"x {LONG} y", "x [HIGH_ENTROPY_1] y"),
    ],
)
def test_what_only_looks_different_is_found(text, left):
    assert len(LONG) > 1000
    assert Redactor(PrivacyConfig()).run().scrub(text) == left


def test_folding_keeps_places():
    folded = fold("é\u200ba\u00a0\u200bb\u200b")
    assert folded.text == "éa b"
    assert folded.span(1, 4) == (2, 6)
    assert fold("plain").places is None


@pytest.mark.parametrize("text", ["X7", "an X7 here"])
def test_a_pattern_finds_short_texts_too(text):
    assert "X7" not in Redactor(PrivacyConfig(patterns={"code": r"X\d"})).run().scrub(text)


def test_a_pattern_guards_run_ids_tenants_and_paths():
    redactor = Redactor(PrivacyConfig(patterns={"customer": r"CUST-\d+"}))
    assert redactor.private_identity("run-of-CUST-17")
    assert redactor.mask("acme/CUST-17.json") == "acme/[CUSTOMER].json"


def test_a_pattern_that_takes_for_ever_keeps_its_text_back(monkeypatch):
    monkeypatch.setattr(redact_module, "PATTERN_TIMEOUT_S", 0.05)
    run = Redactor(PrivacyConfig(patterns={"slow": "(x|xx)+$"})).run()
    with pytest.raises(PrivateTextError):
        run.scrub("x" * 64 + "!")
    assert run.counts == {"detectorFailed": 1}


def seconds(work) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@pytest.mark.parametrize("text", ["1 2", "4111-", "+1 555 123 456 "])
def test_detectors_take_time_in_proportion_to_the_text(text):
    def search(size: int) -> float:
        return seconds(lambda: Redactor(PrivacyConfig()).find(text * (size // len(text))))

    search(1_000)
    # A factor of eight in size is one of sixty-four in time for whoever looks at all pairs.
    assert search(32_000) < 30 * max(search(4_000), 0.02)


@pytest.mark.parametrize("text", ["```a\nb\n" * 20_000, "```\n" * 20_001])
def test_fences_without_end_are_read_once(text):
    assert seconds(lambda: checks.code_of(text, ("python",))) < 2


@pytest.mark.parametrize("text", ["<|im_start|>user\n" * 10_000, "<|im_end|>" + "<|im_start|>user\n" * 10_000])
def test_chat_markers_without_end_are_read_once(text):
    def refuse() -> None:
        with pytest.raises(CandidateError, match="not ChatML"):
            normalise(json.dumps({"text": text}).encode(), 1)

    assert seconds(refuse) < 2


def test_chat_markup_is_read_as_before():
    text = "\n<|im_start|>user\nhi\n<|im_end|>\n\n<|im_start|>assistant\n```py\nx\n```<|im_end|>\n"
    candidate = normalise(json.dumps({"text": text}).encode(), 1)
    assert (candidate.prompt, candidate.response) == ("hi", "```py\nx\n```")
    assert checks.code_of(candidate.response + "\n", ("py",)) == "x\n"
    assert checks.code_of("a\n```js\nx\n```\nb\n```\ny\n``` \n", ("py",)) == "y\n"
    assert checks.code_of("```py\nx\n", ("py",)) is None


@pytest.mark.parametrize(("privacy", "kept"), [("redact", 2), ("quarantine", 1), ("off", 2)])
def test_rows_that_a_critic_accepts_hold_no_private_text(tmp_path, capsys, privacy, kept):
    repair = {"failed_output": "ask joe@example.com", "labels": {"kim@example.com said no": False}}
    told = {"id": "of joe@example.com", "prompt": "mail joe@example.com", "response": "It is done.", "repair": repair}
    lines = [told, {"prompt": "say hello", "response": "Hello there."}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = [f"--{name}={tmp_path / name}" for name in ("output", "labels")]
    assert main(["trace", "critic", "--input", str(tmp_path / "in.jsonl"), *files, "--privacy", privacy]) == 0
    said = (tmp_path / "output").read_text() + (tmp_path / "labels").read_text() + capsys.readouterr().out
    assert len((tmp_path / "output").read_text().splitlines()) == kept
    assert ("example.com" in said) is (privacy == "off")
