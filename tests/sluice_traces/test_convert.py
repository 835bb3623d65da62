"""Judged steps to rows: the seed's shape, every drop reason, and never a negative in it."""

import json

import pytest

from sluice_api.chat import SYSTEM_PROMPT
from sluice_api.contracts.dataset import PreferenceRow, SftRow
from sluice_api.contracts.trace import Label
from sluice_traces.convert import ConvertConfig, DropReason, Screens
from sluice_traces.pipeline import RunRows, TracePipeline
from trace_factory import step, trace

TEXT = ConvertConfig(require_screenshot=False)


def convert(steps, config=TEXT, screens=None, row_format="sft") -> tuple[list[dict], RunRows]:
    pipeline = TracePipeline(config, row_format=row_format)
    found = pipeline.process(json.dumps(trace(steps=steps)).encode(), screens or Screens())
    assert isinstance(found, RunRows)
    return [json.loads(row) for row in found.block.splitlines()], found


def test_a_positive_step_becomes_the_seeds_row():
    rows, _ = convert([step(4)], ConvertConfig(screen_width=800, screen_height=600), Screens("acme/run-1_screens", {4}))
    assert rows == [
        {
            "conversations": [
                {"from": "system", "value": SYSTEM_PROMPT},
                {"from": "human", "value": "<image>\nTask: open listing 4\nScreen size: 800x600 pixels"},
                {"from": "gpt", "value": "The listing opens. It shows a price.\nclick(10, 20)"},
            ],
            "image": "acme/run-1_screens/0004.png",
            "metadata": {
                "source": "labelled_trace",
                "run_id": "run-1",
                "tenant_id": "acme",
                "step": 4,
                "label": "positive",
                "label_reason": "gate_verify_pass",
                "action_type": "click",
            },
        }
    ]
    SftRow.model_validate(rows[0])


def test_without_a_screenshot_there_is_no_placeholder():
    (row,), _ = convert([step(0)])
    assert row["conversations"][1]["value"] == "Task: open listing 0\nScreen size: 1280x720 pixels"
    assert "image" not in row


def test_the_intent_is_capped_and_the_outcome_too():
    (row,), _ = convert([step(0, intent="i" * 900, predicted_outcome="a" * 300 + ". b")])
    _, human, answer = (turn["value"] for turn in row["conversations"])
    assert human.startswith("Task: " + "i" * 500 + "\n")
    assert answer == "a" * 200 + "\nclick(10, 20)"


@pytest.mark.parametrize(
    ("action", "params", "text"),
    [
        ("click", {"x": 1, "y": 2}, "click(1, 2)"),
        ("double_click", {"x": 1, "y": 2}, "double_click(1, 2)"),
        ("type_text", {"text": 'say "hi"'}, 'type_text("say \\"hi\\"")'),
        ("type", {"text": "hi"}, 'type_text("hi")'),
        ("key_press", {"keys": "ctrl+a"}, 'key_press("ctrl+a")'),
        ("scroll", {"direction": "down"}, 'scroll("down", 3)'),
        ("wait", {"seconds": 2}, "wait(2)"),
        ("done", {"summary": 'a "b"'}, 'done("a \\"b\\"")'),
    ],
)
def test_every_action_is_taught_in_the_grammar(action, params, text):
    (row,), _ = convert([step(0, predicted_outcome=None, last_action={"action_type": action, "params": params})])
    assert row["conversations"][2]["value"] == text
    assert row["metadata"]["action_type"] == action


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"last_action": None}, DropReason.NO_ACTION),
        ({"last_action": {"action_type": None, "params": {}}}, DropReason.NO_ACTION),
        ({"last_action": {"action_type": "fly", "params": {}}}, DropReason.ACTION_NOT_IN_GRAMMAR),
        ({"last_action": {"action_type": "type_text", "params": {"text": ""}}}, DropReason.ACTION_NOT_IN_GRAMMAR),
        ({"last_action": {"action_type": "key_press", "params": {"keys": ""}}}, DropReason.ACTION_NOT_IN_GRAMMAR),
        ({"last_action": {"action_type": "click", "params": None}}, DropReason.ACTION_NOT_IN_GRAMMAR),
        ({"success": False}, DropReason.LABEL_NOT_KEPT),
        ({"data": "ok", "observed_outcome": ""}, DropReason.LABEL_NOT_KEPT),
    ],
)
def test_a_step_that_teaches_nothing_is_dropped_and_counted(fields, reason):
    rows, found = convert([step(0, **fields), step(1)])
    assert len(rows) == 1
    assert found.tally.dropped == {reason: 1}


def test_a_missing_screenshot_drops_the_step_unless_it_may_be_missing():
    screens = Screens("acme/run-1_screens", {1})
    rows, found = convert([step(0), step(1)], ConvertConfig(), screens)
    assert [row["metadata"]["step"] for row in rows] == [1]
    assert found.tally.dropped == {DropReason.NO_SCREENSHOT: 1}
    rows, _ = convert([step(0), step(1)], TEXT, screens)
    assert [row.get("image") for row in rows] == [None, "acme/run-1_screens/0001.png"]


def test_negatives_never_take_the_supervised_shape():
    config = ConvertConfig(keep=frozenset(Label), require_screenshot=False)
    rows, _ = convert(
        [step(0, success=False), step(1, data="cloudflare"), step(2, data="", observed_outcome="")], config
    )
    assert [row["metadata"]["label"] for row in rows] == ["neutral"]


def test_rows_are_in_the_order_of_the_steps_whatever_the_order_in_the_file():
    rows, _ = convert([step(3), step(1), step(2)])
    assert [row["metadata"]["step"] for row in rows] == [1, 2, 3]


@pytest.mark.parametrize(
    "fields", [{"keep": frozenset()}, {"screen_width": 0}, {"screen_height": -1}], ids=["no label", "width", "height"]
)
def test_a_senseless_configuration_is_refused(fields):
    with pytest.raises(ValueError, match=r"keep|screen"):
        ConvertConfig(**fields)


def wrong(index, **fields):
    return step(
        index,
        **{
            "intent": "page A",
            "success": False,
            "data": "miss",
            "observed_outcome": "",
            "last_action": {"action_type": "click", "params": {"x": 1, "y": 1}},
            **fields,
        },
    )


def right(index, **fields):
    return step(index, **{"intent": "page A", **fields})


def pairs(steps, screens=None, config=TEXT):
    return convert(steps, config, screens, row_format="preference")


def test_a_retry_that_passed_is_preferred_to_the_failure():
    (row,), found = pairs([wrong(0), right(1)])
    assert row["chosen"] == "The listing opens. It shows a price.\nclick(10, 20)"
    assert row["rejected"] == "The listing opens. It shows a price.\nclick(1, 1)"
    assert row["prompt"][1]["value"] == "Task: page A\nScreen size: 1280x720 pixels"
    assert "conversations" not in row
    metadata = row["metadata"]
    assert (metadata["provenance"], metadata["step"], metadata["rejected_step"]) == ("retry", 1, 0)
    assert (metadata["label"], metadata["rejected_reason"]) == ("positive", "failed_step")
    assert found.tally.dropped == {}
    PreferenceRow.model_validate(row)


@pytest.mark.parametrize(
    ("rejected", "chosen"),
    [
        (wrong(0, data="page_blocked: forbidden"), right(1)),
        (wrong(0), right(1, type="expert")),
    ],
    ids=["after an escalation", "step of the expert"],
)
def test_the_expert_is_named_as_the_source(rejected, chosen):
    (row,), _ = pairs([rejected, chosen])
    assert row["metadata"]["provenance"] == "expert_handover"


def test_two_failures_in_one_state_share_the_correction():
    rows, _ = pairs([wrong(0), wrong(1, last_action={"action_type": "wait", "params": {}}), right(2)])
    assert [(row["metadata"]["rejected_step"], row["metadata"]["step"]) for row in rows] == [(0, 2), (1, 2)]


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([wrong(0)], id="nothing follows"),
        pytest.param([wrong(0), right(1, intent="page B")], id="another task or page"),
        pytest.param([wrong(0), right(1, success=False)], id="the retry failed"),
        pytest.param([wrong(0, observed_outcome="moved"), right(1)], id="the failure changed the page"),
        pytest.param([wrong(0), step(1, intent="page B"), right(2)], id="another step changed the page in between"),
        pytest.param(
            [wrong(0, envelope={"prompt": "P1"}), right(1, envelope={"prompt": "P2"})], id="the model saw another page"
        ),
        pytest.param([wrong(0, last_action=step(0)["last_action"]), right(1)], id="the same answer"),
    ],
)
def test_answers_in_different_states_are_no_preference(steps):
    rows, found = pairs(steps)
    assert rows == []
    assert DropReason.UNPAIRED in found.tally.dropped


def test_the_recorded_request_decides_about_the_state():
    seen = {"prompt": "page A in full"}
    rows, _ = pairs([wrong(0, observed_outcome="blinked", envelope=seen), right(1, envelope=seen)])
    assert len(rows) == 1


def test_a_rolled_back_step_leaves_the_state_as_it_was():
    rows, _ = pairs([wrong(0, observed_outcome="moved", reversed=True), right(1)])
    assert len(rows) == 1


def test_with_screenshots_equal_text_does_not_make_an_equal_state():
    seen, screens = {"prompt": "same text"}, Screens("s", {0, 1})
    moved = [wrong(0, observed_outcome="moved", envelope=seen), right(1, envelope=seen)]
    assert pairs(moved, screens)[0] == []
    still = [wrong(0, envelope=seen), right(1, envelope=seen)]
    assert pairs(still, screens)[0][0]["image"] == "s/0000.png"


def test_a_pair_without_the_screenshot_of_its_state_is_dropped_where_one_is_required():
    rows, found = pairs([wrong(0), right(1)], Screens("s", {1}), ConvertConfig())
    assert rows == []
    assert found.tally.dropped == {DropReason.NO_SCREENSHOT: 1}
