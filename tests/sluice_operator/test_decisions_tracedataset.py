"""Lifecycles of a TraceDataset: builds, schedules, commands, failures and the lineage that a version sets in motion."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from decisionworld import DecisionWorld, digest
from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.jobs import CriticRule, DuplicateRule, FailureClass, LabelOutput, LeakRule, PrivacyRule
from sluice_operator.decisions.base import JobState
from sluice_operator.decisions.tracedataset_checks import next_instant
from sluice_operator.manifests.naming import lineage_name

KIND, NAME = "TraceDataset", "agent"
SPEC = {
    "source": {"uri": "s3://traces/acme/", "tenants": ["acme"]},
    "output": {"uri": "s3://sluice/datasets/agent/"},
    "convert": {"requireScreenshot": False},
}
TRAIN = {"baseModel": {"uri": "file:///models/base"}, "output": "s3://sluice/agent/"}
LINEAGE = {
    "minNewRows": 50,
    "fineTuneRun": TRAIN,
    "evalRun": {
        "suite": {"uri": "s3://suites/a.json"},
        "output": "s3://sluice/agent/",
        "candidate": {"fineTuneRunRef": {"name": "x"}},
    },
    "promotionScorecard": {"output": "s3://sluice/agent/"},
    "shadowRollout": {
        "stable": {"root": "s3://sluice/agent/"},
        "steps": [{"weight": 25}, {"weight": 100}],
        "analysis": {"source": {"uri": "s3://traces/acme/"}},
        "output": "s3://sluice/agent/",
    },
}


MIXTURE = {"rows": 9, "buckets": [{"name": "agent", "weight": 1}]}
TWO_OF_TRACES = [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}]


def output(value: str, *, rows: int = 100, new: int = 100) -> LabelOutput:
    return LabelOutput(
        dataset=ArtifactRef(uri=f"s3://sluice/datasets/agent/{value[7:]}/", digest=value),
        rows=rows,
        holdout_rows=10,
        new_rows=new,
        labels={"positive": rows, "negative": 5},
        traces=40,
        bad_files=2,
    )


@pytest.fixture
def world() -> DecisionWorld:
    world = DecisionWorld()
    world.create(KIND, NAME, SPEC)
    return world


def build(world: DecisionWorld, value: str, **figures: int) -> str:
    world.settle(KIND, NAME)
    job = world.newest_job(KIND, NAME)
    world.succeed(job, output(value, **figures))
    world.settle(KIND, NAME)
    return job


def test_one_version_for_a_spec_and_nothing_after_it(world):
    build(world, digest(1))
    status = world.status(KIND, NAME)
    assert (status["phase"], status["reason"]) == ("Ready", "VersionReady")
    assert "100 rows to train on, 10 held out, 100 new, from 40 traces; 2 files could not be read" in status["message"]
    assert status["latest"]["digest"] == digest(1)
    assert world.condition(KIND, NAME, "Fresh") == ("True", "VersionReady")
    world.pass_time(days=9)
    world.settle(KIND, NAME)
    assert len(world.submissions) == 1


def test_the_job_carries_the_spec_and_the_parent(world):
    build(world, digest(1))
    world.annotate(KIND, NAME, refresh="a")
    world.settle(KIND, NAME)
    first, second = (world.inputs[job] for job in world.submissions)
    assert (first.parent, second.parent) == (None, digest(1))
    assert (second.source_uri, second.tenants, second.require_screenshot) == ("s3://traces/acme/", ["acme"], False)
    assert second.dataset_uri == "s3://sluice/datasets/agent/"


def test_the_job_carries_how_rows_are_cleaned_mixed_and_guarded(world):
    world.profiles["cpu"] = replace(world.profiles["cpu"], max_workers=8)
    world.edit(
        KIND,
        NAME,
        privacy={
            "detectors": ["email"],
            "onFinding": "quarantine",
            "patterns": [{"name": "badge", "pattern": r"B-\d+"}],
        },
        critic={"languages": ["python"], "requireAccepted": False, "runTests": True},
        mixture={
            "rows": 100,
            "maxRepeats": 2,
            "seed": 7,
            "tagWeights": [{"name": "ocr", "weight": 0.1}],
            "buckets": [
                {"name": "agent", "weight": 55},
                {"name": "code", "weight": 45, "source": {"uri": "s3://corpus/code/"}},
            ],
        },
        deduplication={"near": True, "threshold": 0.9},
        leaks={"suites": [{"uri": "s3://suites/b.json"}, {"uri": "builtin:smoke-8"}], "threshold": 0.7},
        maxBadFraction=0.05,
        workers=4,
        onNewVersion=LINEAGE,
    )
    world.settle(KIND, NAME)
    asked = world.inputs[world.newest_job(KIND, NAME)]
    assert asked.privacy == PrivacyRule(detectors=["email"], on_finding="quarantine", patterns={"badge": r"B-\d+"})
    assert asked.critic == CriticRule(languages=["python"], require_accepted=False, run_tests=True)
    assert (asked.mixture.rows, asked.mixture.max_repeats, asked.mixture.seed) == (100, 2, 7)
    assert asked.mixture.tag_weights == {"ocr": 0.1}
    assert [(each.name, each.source_uri) for each in asked.mixture.buckets] == [
        ("agent", None),
        ("code", "s3://corpus/code/"),
    ]
    assert asked.duplicates == DuplicateRule(exact=True, near=True, threshold=0.9, shingle_words=3)
    suites = ["s3://suites/b.json", "builtin:smoke-8", "s3://suites/a.json"]
    assert asked.leaks == LeakRule(suites=suites, threshold=0.7)
    assert (asked.max_bad_fraction, asked.workers) == (0.05, 4)


def test_a_spec_without_them_is_private_and_deduplicated_all_the_same(world):
    world.settle(KIND, NAME)
    asked = world.inputs[world.newest_job(KIND, NAME)]
    assert asked.privacy == PrivacyRule()
    assert asked.duplicates == DuplicateRule(exact=True)
    assert (asked.leaks, asked.mixture, asked.critic, asked.workers) == (LeakRule(), None, None, 1)


def test_counts_of_a_build_are_in_status_and_bounded(world):
    world.settle(KIND, NAME)
    told = output(digest(1)).model_copy(
        update={
            "label_reasons": {"gate_verify_pass": 100},
            "redactions": {"email": 3, "x" * 300: 1},
            "quarantined": 4,
            "duplicates": {"exact_duplicate": 5},
            "leaks": 6,
            "bad_reasons": {"truncated_json": 2},
            "tenants": {f"tenant-{n:03d}": n for n in range(90)},
            "buckets": {"agent": 55},
            "screens": 7,
        }
    )
    world.succeed(world.newest_job(KIND, NAME), told)
    world.settle(KIND, NAME)
    latest = world.status(KIND, NAME)["latest"]
    assert latest["redactions"] == {"email": 3}
    assert (latest["quarantined"], latest["leaks"], latest["screens"]) == (4, 6, 7)
    assert (latest["duplicates"], latest["buckets"]) == ({"exact_duplicate": 5}, {"agent": 55})
    assert (latest["reasons"], latest["badReasons"]) == ({"gate_verify_pass": 100}, {"truncated_json": 2})
    assert len(latest["tenants"]) == 33
    assert "11 rows removed as duplicates or leaks" in world.status(KIND, NAME)["message"]


def test_the_same_digest_is_no_new_version(world):
    build(world, digest(1))
    before = world.status(KIND, NAME)["versions"]
    world.annotate(KIND, NAME, refresh="again")
    world.pass_time(hours=1)
    build(world, digest(1), new=0)
    assert world.status(KIND, NAME)["versions"] == before
    assert world.status(KIND, NAME)["acknowledged"] == {"refresh": "again"}


def test_the_history_is_bounded(world):
    world.edit(KIND, NAME, historyLimit=2)
    for number in range(1, 5):
        world.annotate(KIND, NAME, refresh=str(number))
        build(world, digest(number))
    assert [v["digest"] for v in world.status(KIND, NAME)["versions"]] == [digest(3), digest(4)]


def test_a_refresh_is_acted_on_once_and_may_be_repeated_after_removal(world):
    build(world, digest(1))
    world.annotate(KIND, NAME, refresh="now")
    build(world, digest(2))
    world.settle(KIND, NAME)
    assert len(world.submissions) == 2
    world.annotate(KIND, NAME, refresh=None)
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["acknowledged"] == {}
    world.annotate(KIND, NAME, refresh="now")
    build(world, digest(3))
    assert len(world.submissions) == 3


def test_the_schedule_builds_at_its_instants_and_missed_ones_collapse(world):
    world.edit(KIND, NAME, schedule="0 2 * * *")
    build(world, digest(1))
    assert world.status(KIND, NAME)["nextRefresh"] == "2026-11-22T02:00:00Z"
    assert world.decision(KIND, NAME).requeue_after.total_seconds() == 14 * 3600
    world.pass_time(hours=13, minutes=59)
    world.settle(KIND, NAME)
    assert len(world.submissions) == 1
    world.pass_time(days=3)
    build(world, digest(2))
    assert len(world.submissions) == 2
    assert world.status(KIND, NAME)["nextRefresh"] == "2026-11-25T02:00:00Z"
    assert world.status(KIND, NAME)["attempts"][-1]["key"] == "schedule/2026-11-22T02:00:00Z"


def test_a_changed_or_removed_schedule_counts_from_now(world):
    world.edit(KIND, NAME, schedule="0 2 * * *")
    build(world, digest(1))
    world.edit(KIND, NAME, schedule="30 12 * * *")
    build(world, digest(1))
    assert world.status(KIND, NAME)["nextRefresh"] == "2026-11-21T12:30:00Z"
    world.edit(KIND, NAME, schedule=None)
    build(world, digest(1))
    assert "nextRefresh" not in world.status(KIND, NAME)


def test_next_instant_is_strictly_later_and_in_utc():
    noon = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    assert next_instant("0 12 * * *", noon) == datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    for wrong in ("nonsense", "61 * * * *", "0 0 31 2 *"):
        with pytest.raises(ValueError, match=r"spec\.schedule"):
            next_instant(wrong, noon)


@pytest.mark.parametrize(
    ("edit", "reason", "words"),
    [
        ({"schedule": "every day"}, "InvalidSpec", "spec.schedule"),
        ({"label": {"keep": ["negative"]}}, "InvalidSpec", "spec.label.keep"),
        ({"profile": "moon"}, "ProfileNotFound", "no profile 'moon'"),
        ({"critic": {}}, "InvalidSpec", "spec.critic"),
        ({"mixture": MIXTURE, "convert": {"format": "preference"}}, "InvalidSpec", "spec.mixture needs sft"),
        ({"mixture": {**MIXTURE, "buckets": TWO_OF_TRACES}}, "InvalidSpec", "only one bucket"),
        ({"mixture": MIXTURE, "append": True}, "InvalidSpec", "spec.append"),
        ({"workers": 99}, "ProfileCeiling", "spec.workers is 99"),
        ({"onNewVersion": {"evalRun": {}}}, "InvalidTemplate", "need fineTuneRun"),
        ({"onNewVersion": {"fineTuneRun": {"output": "s3://x/"}}}, "InvalidTemplate", "FineTuneRun spec.baseModel"),
    ],
)
def test_a_bad_spec_stalls_and_recovers(world, edit, reason, words):
    world.edit(KIND, NAME, **edit)
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["reason"] == reason
    assert words in world.status(KIND, NAME)["message"]
    assert not world.submissions
    world.edit(KIND, NAME, **{name: SPEC.get(name) for name in edit})
    build(world, digest(1))
    assert world.status(KIND, NAME)["phase"] == "Ready"


def test_no_rows_stalls_with_the_workers_words_until_the_spec_or_a_refresh(world):
    world.settle(KIND, NAME)
    world.fail(world.newest_job(KIND, NAME), FailureClass.DATA, "no rows: 7 traces gave 9 steps")
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["reason"]) == ("Stalled", "NoRows")
    assert "7 traces gave 9 steps" in status["message"]
    assert world.condition(KIND, NAME, "Ready")[0] == "False"
    world.pass_time(hours=2)
    world.settle(KIND, NAME)
    assert len(world.submissions) == 1
    world.edit(KIND, NAME, source={"uri": "s3://traces/all/"})
    build(world, digest(1))
    assert world.status(KIND, NAME)["phase"] == "Ready"


def test_a_failed_refresh_keeps_the_newest_version(world):
    build(world, digest(1))
    world.annotate(KIND, NAME, refresh="x")
    world.settle(KIND, NAME)
    world.fail(world.newest_job(KIND, NAME), FailureClass.DATA, "5 of 5 trace files cannot be used")
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["latest"]["digest"] == digest(1)
    assert world.condition(KIND, NAME, "Ready") == ("True", "DataRejected")
    assert world.condition(KIND, NAME, "Fresh") == ("False", "DataRejected")
    assert "stays in use" in world.status(KIND, NAME)["message"]


def test_storage_failures_are_retried_and_then_given_up(world):
    for _ in range(3):
        world.settle(KIND, NAME)
        world.fail(world.newest_job(KIND, NAME), FailureClass.STORAGE, "403 from s3://sluice")
        world.settle(KIND, NAME)
        world.pass_time(minutes=6)
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["reason"] == "BackoffLimitExceeded"
    assert len(world.submissions) == 3


def test_a_new_spec_replaces_a_running_build(world):
    world.settle(KIND, NAME)
    job = world.newest_job(KIND, NAME)
    world.job(job, JobState.RUNNING)
    world.settle(KIND, NAME)
    world.edit(KIND, NAME, source={"uri": "s3://traces/other/"})
    world.settle(KIND, NAME)
    assert world.jobs[job].state is JobState.STOPPED
    assert world.inputs[world.newest_job(KIND, NAME)].source_uri == "s3://traces/other/"


def test_a_result_for_an_old_spec_makes_no_version(world):
    world.settle(KIND, NAME)
    job = world.newest_job(KIND, NAME)
    world.succeed(job, output(digest(1)))
    world.edit(KIND, NAME, source={"uri": "s3://traces/other/"})
    world.settle(KIND, NAME)
    assert "latest" not in world.status(KIND, NAME)
    assert len(world.submissions) == 2


def test_suspend_and_resume(world):
    world.settle(KIND, NAME)
    world.edit(KIND, NAME, suspend=True)
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["phase"] == "Suspended"
    world.edit(KIND, NAME, suspend=False)
    build(world, digest(1))
    assert world.status(KIND, NAME)["phase"] == "Ready"


def test_a_version_creates_its_lineage_once(world):
    world.edit(KIND, NAME, onNewVersion=LINEAGE)
    build(world, digest(1))
    name = lineage_name(NAME, digest(1))
    children = {kind for kind, child in world.objects if child == name}
    assert children == {"FineTuneRun", "EvalRun", "PromotionScorecard", "ShadowRollout"}
    run = world.objects["FineTuneRun", name]
    assert run["spec"]["datasetRef"] == {"name": NAME, "digest": digest(1)}
    assert "ownerReferences" not in run["metadata"]
    assert world.objects["EvalRun", name]["spec"]["candidate"] == {"fineTuneRunRef": {"name": name}}
    assert world.objects["PromotionScorecard", name]["spec"]["evalRunRef"] == {"name": name}
    assert world.objects["ShadowRollout", name]["spec"]["scorecardRef"] == {"name": name}
    assert world.status(KIND, NAME)["lineages"] == [digest(1)]
    del world.objects["FineTuneRun", name]
    world.pass_time(days=1)
    world.settle(KIND, NAME)
    assert ("FineTuneRun", name) not in world.objects


@pytest.mark.parametrize("writes", range(6))
def test_dying_while_creating_the_lineage_loses_nothing(world, writes):
    world.edit(KIND, NAME, onNewVersion=LINEAGE)
    world.settle(KIND, NAME)
    world.succeed(world.newest_job(KIND, NAME), output(digest(1)))
    for _ in range(3):
        world.step(KIND, NAME, die_before=writes)
    world.settle(KIND, NAME)
    name = lineage_name(NAME, digest(1))
    assert len([1 for _, child in world.objects if child == name]) == 4


def test_too_few_new_rows_set_nothing_in_motion(world):
    world.edit(KIND, NAME, onNewVersion=LINEAGE)
    build(world, digest(1), new=49)
    assert world.status(KIND, NAME)["lineages"] == [digest(1)]
    assert len(world.objects) == 1
    assert world.status(KIND, NAME)["pendingNewRows"] == 49


def test_new_rows_add_up_until_there_are_enough(world):
    world.edit(KIND, NAME, onNewVersion=LINEAGE)
    for number, (new, children) in enumerate([(49, 0), (1, 4), (49, 4), (1, 8)], start=1):
        world.annotate(KIND, NAME, refresh=f"r{number}")
        build(world, digest(number), new=new)
        assert len(world.objects) == 1 + children
    assert world.status(KIND, NAME)["pendingNewRows"] == 0


def test_deleting_a_dataset_keeps_its_history(world):
    world.edit(KIND, NAME, onNewVersion=LINEAGE)
    build(world, digest(1))
    world.delete(KIND, NAME)
    world.step(KIND, NAME)
    assert (KIND, NAME) not in world.objects
    assert len(world.objects) == 4


def test_status_does_not_tick(world):
    world.settle(KIND, NAME)
    job = world.newest_job(KIND, NAME)
    world.job(job, JobState.RUNNING)
    world.report(job, stage="labelling", step=1, of=1000)
    world.settle(KIND, NAME)
    before = world.status(KIND, NAME)
    for step in range(2, 1000, 100):
        world.pass_time(seconds=30)
        world.report(job, stage="labelling", step=step, of=1000)
        world.settle(KIND, NAME)
    assert world.status(KIND, NAME) == before
