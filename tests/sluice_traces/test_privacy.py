"""No private text leaves: measured on a seeded corpus, and searched for in everything that a build writes or says."""

import json
import logging
import random
from collections import Counter

import pytest

from private_corpus import Sample, harmless_samples, private_samples
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import Reporter, WorkerError, run_worker
from sluice_cli.main import main
from sluice_traces.convert import NO_SCREENS, ConvertConfig, PrivateTextError
from sluice_traces.pipeline import SkipReason, TracePipeline
from sluice_traces.privacy import DetectorName, PrivacyConfig, Redactor, redact
from sluice_traces.privacy.gates import Searched
from sluice_traces.worker import run
from storefront.stages import stages_of
from storefront.tasks import make_task
from trace_factory import label_job, step, trace, write_trace
from versions import plain_text

RECALL = 0.99
PRECISION = 0.99
EACH = 150
WAIT = {"action_type": "wait", "params": {}}


def covers(sample: Sample, found) -> bool:
    start = sample.text.index(sample.private)
    return any(first <= start and start + len(sample.private) <= last for first, last, _ in found)


def test_recall_and_precision_on_the_seeded_corpus(capsys):
    redactor = Redactor(PrivacyConfig())
    asked, hit = Counter(), Counter()
    for sample in private_samples(seed=11, each=EACH):
        asked[sample.detector] += 1
        hit[sample.detector] += covers(sample, redactor.find(sample.text))
    harmless = list(harmless_samples(seed=12, each=EACH))
    false = [sample.text for sample in harmless if redactor.find(sample.text)]
    precision = hit.total() / (hit.total() + len(false))
    with capsys.disabled():
        rates = "  ".join(f"{name.value} {hit[name]}/{asked[name]}" for name in DetectorName)
        print(
            f"\nprivacy recall: {rates}; precision {precision:.4f} ({len(false)} of {len(harmless)} harmless texts hit)"
        )
    for name in DetectorName:
        assert hit[name] >= RECALL * asked[name], name
    assert precision >= PRECISION, false[:5]


@pytest.mark.parametrize("around", ["", "Straße ", "a\nb\n"], ids=["alone", "other script", "among lines"])
def test_no_gate_is_closed_to_what_its_detector_finds(around):
    samples = [*private_samples(seed=13, each=EACH), *harmless_samples(seed=14, each=EACH)]
    found = Counter()
    for sample in samples:
        text = f"{around}{sample.text}\n{around}"
        for name, find, gate in redact.DETECTORS:
            if any(find(text)):
                assert gate is not None and gate(Searched(text)), (name, text)
                found[find.__name__] += 1
    assert len(found) == len(redact.DETECTORS)


@pytest.mark.parametrize("on_finding", ["redact", "quarantine"])
def test_runs_without_findings_are_not_searched_and_say_the_same(monkeypatch, on_finding):
    config = PrivacyConfig(on_finding=on_finding)
    rng = random.Random(15)
    texts = [sample.text for sample in (*private_samples(seed=16, each=3), *harmless_samples(seed=17, each=20))]
    documents = []
    for number in range(60):
        said = rng.choices(texts, k=3) if number % 3 else ["press the button", "It opens.", "done"]
        action = {"action_type": "type_text", "params": {"text": said[2]}}
        steps = [step(0, intent=said[0], predicted_outcome=said[1], last_action=action)]
        documents.append(json.dumps(trace(f"run-{number}", steps=steps)).encode())
    pipeline = TracePipeline(ConvertConfig(require_screenshot=False), redactor=Redactor(config))
    shortened = [pipeline.process(raw, NO_SCREENS) for raw in documents]
    monkeypatch.setattr(Redactor, "clean", lambda self, texts: False)
    assert [pipeline.process(raw, NO_SCREENS) for raw in documents] == shortened
    assert any(found.redactions for found in shortened if not isinstance(found, SkipReason)) or on_finding != "redact"


def test_pages_of_the_storefront_are_left_as_they_are():
    redactor = Redactor(PrivacyConfig())
    for seed in range(300):
        task = make_task(seed)
        for stage in stages_of(task):
            assert redactor.find(f"{task.text}\n{stage.page.render()}") == []


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("mail a@example.com or b@example.com or a@example.com", "mail [EMAIL_1] or [EMAIL_2] or [EMAIL_1]"),
        ("12 4111 1111 1111 1111 7", "12 [CARD_1] 7"),
        ("pay 4111111111111111", "pay [CARD_1]"),
        ("4111111111111112 is no card", "4111111111111112 is no card"),
        ("IBAN DE89 3704 0044 0532 0130 00 THANKS", "IBAN [IBAN_1] THANKS"),
        ("DE88370400440532013000 is none", "DE88370400440532013000 is none"),
        ("from 10.1.2.3 to 127.0.0.1", "from [IP_1] to 127.0.0.1"),
        ("at 2001:db8::1, 12:30:45", "at [IP_1], 12:30:45"),
        ("password: hunter22", "password: [SECRET_1]"),
        ("password: required", "password: required"),
        ("ftp://joe:abc@host/x", "ftp://joe:[SECRET_1]@host/x"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\nabc", "[PRIVATE_KEY_1]"),
        ("call (415) 555-2671 now", "call [PHONE_1] now"),
        ("order 4155552671", "order 4155552671"),
    ],
)
def test_findings_get_stable_placeholders(text, cleaned):
    redactor = Redactor(PrivacyConfig()).run()
    assert redactor.scrub(text) == cleaned
    assert redactor.scrub(cleaned) == cleaned


def test_the_same_text_is_the_same_placeholder_within_a_run_and_counted_once():
    redactor = Redactor(PrivacyConfig()).run()
    assert redactor.scrub("x@example.com") == redactor.scrub("x@example.com") == "[EMAIL_1]"
    assert redactor.counts == {"email": 1}


def test_overlapping_findings_are_one():
    redactor = Redactor(PrivacyConfig(patterns={"host": r"example\.\w+"})).run()
    assert redactor.scrub("jo@example.com") == "[HOST_1]"


def test_patterns_of_the_user_are_found():
    redactor = Redactor(PrivacyConfig(detectors=(), patterns={"badge": r"B-\d{4}"})).run()
    assert redactor.scrub("badge B-1234, a@example.com") == "badge [BADGE_1], a@example.com"


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"x": "("}, "privacy.patterns.x"),
        ({"x": "a*"}, "matches the empty text"),
        ({"email": "a"}, "no free name"),
        ({"1": "a"}, "no free name"),
        ({"x": "a" * 501}, "longer than"),
    ],
)
def test_a_bad_pattern_is_refused(patterns, message):
    with pytest.raises(ValueError, match=message):
        PrivacyConfig(patterns=patterns)


def test_a_detector_that_fails_keeps_the_text_back(monkeypatch):
    def broken(text):
        raise RuntimeError(text)

    monkeypatch.setattr(redact, "DETECTORS", (redact.Look("email", broken),))
    redactor = Redactor(PrivacyConfig()).run()
    with pytest.raises(PrivateTextError) as caught:
        redactor.scrub("harmless words")
    assert "harmless" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert redactor.counts == {"detectorFailed": 1}


def test_what_would_remain_after_redaction_is_kept_back():
    redactor = Redactor(PrivacyConfig(patterns={"loop": r"LOOP|mark"})).run()
    with pytest.raises(PrivateTextError):
        redactor.scrub("a mark here")


def poisoned(root, samples) -> None:
    """A run a sample, with its text in every field that a trace has for text."""
    for number, sample in enumerate(samples):
        poison = sample.text
        steps = [
            step(
                0,
                intent=poison,
                predicted_outcome=f"Sees {poison}.",
                observed_outcome=poison,
                data=f"gate:PASS {poison}",
                reasoning=poison,
                envelope={"prompt": poison},
                last_action={"action_type": "type_text", "params": {"text": poison}},
            ),
            step(1, last_action={"action_type": "done", "params": {"summary": poison}}),
            step(2, intent=poison, success=False, observed_outcome="", envelope={"prompt": poison}, last_action=WAIT),
            step(3, intent=poison, envelope={"prompt": poison}),
        ]
        write_trace(root, trace(f"run-{number:04d}", f"t{number % 3}", steps, session_name=poison))


def everything_below(folder) -> str:
    return plain_text(folder)


@pytest.mark.parametrize("on_finding", ["redact", "quarantine"])
@pytest.mark.parametrize("row_format", ["sft", "preference"])
def test_no_private_text_appears_in_anything_that_a_build_writes_or_says(
    tmp_path, caplog, capfd, on_finding, row_format
):
    caplog.set_level(logging.DEBUG)
    redactor = Redactor(PrivacyConfig())
    samples = [sample for sample in private_samples(seed=5, each=12) if covers(sample, redactor.find(sample.text))]
    poisoned(tmp_path / "s", samples)
    write_trace(tmp_path / "s", trace("mail-joe@example.com"))
    (tmp_path / "s" / "kim@example.com").mkdir()
    (tmp_path / "s" / "kim@example.com" / "bad.json").write_text('{"run_id": "pat@example.com"')
    failed = step(0, intent="p", success=False, observed_outcome="", last_action=WAIT)
    for name in ("plain", "plain-2"):
        write_trace(tmp_path / "s", trace(name, steps=[failed, step(1, intent="p")]))
    job = label_job(tmp_path / "s", tmp_path / "out", format=row_format, privacy={"on_finding": on_finding})
    assert run_worker(job, run) == 0
    said = everything_below(tmp_path / "out") + caplog.text + "".join(capfd.readouterr())
    result = json.loads((tmp_path / "out" / "attempts" / "1" / "result.json").read_text())
    assert result["failure"] is None
    escaped = [json.dumps(sample.private)[1:-1] for sample in samples]
    for private in [*(sample.private for sample in samples), *escaped, "joe@example", "kim@example", "pat@example"]:
        assert private not in said
    counts = result["output"]["redactions"]
    assert set(counts) == {name.value for name in DetectorName}
    if on_finding == "redact" and row_format == "sft":
        assert "[EMAIL_1]" in said


def test_switched_off_nothing_is_replaced(tmp_path):
    poisoned(tmp_path / "s", list(private_samples(seed=5, each=1)))
    job = label_job(tmp_path / "s", tmp_path / "out", privacy={"detectors": []})
    assert run(job, Reporter(job)).redactions == {}
    assert "@" in everything_below(tmp_path / "out" / "datasets")


@pytest.mark.parametrize(
    "privacy", [{"detectors": ["nose"]}, {"patterns": {"x": "("}}], ids=["unknown detector", "bad pattern"]
)
def test_a_policy_that_cannot_be_is_a_user_error(tmp_path, privacy):
    job = label_job(tmp_path, tmp_path / "out", privacy=privacy)
    with pytest.raises(WorkerError, match="privacy") as caught:
        run(job, Reporter(job))
    assert caught.value.failure_class is FailureClass.USER_ERROR


def test_convert_by_hand_redacts_too(tmp_path, capsys):
    poisoned(tmp_path / "s", list(private_samples(seed=5, each=1)))
    main(["trace", "label", str(tmp_path / "s"), "-o", str(tmp_path / "l")])
    arguments = ["trace", "convert", "--traces", str(tmp_path / "l"), "--no-require-screenshot", "--json"]
    for mode, present in (("redact", False), ("off", True)):
        out = tmp_path / f"{mode}.jsonl"
        capsys.readouterr()
        assert main([*arguments, "--output", str(out), "--privacy", mode]) == 0
        assert ("@" in out.read_text()) is present
        assert bool(json.loads(capsys.readouterr().out)["redactions"]) is not present
