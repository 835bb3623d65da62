"""Supervised rows of text-only runs, judged and written straight as lines of JSON.

Building and encoding structs costs more than everything else that a row needs. Here all texts of a run are encoded by
one call, and rows are put together from them and from pieces that never change. The bytes are those of `SftRowRecord`,
which stays the one definition of a row, as `sluice_api.ladder`, `sluice_api.chat` and `sluice_api.actions` stay those
of judgement, prompt and action: whatever is not plainly simple is handed to them, and the tests compare both on
generated steps.
"""

from collections.abc import Sequence
from functools import lru_cache

from sluice_api.actions import SCROLL_DIRECTIONS, ActionType, format_action
from sluice_api.chat import INTENT_LIMIT, OUTCOME_LIMIT, render_assistant
from sluice_api.contracts.trace import Label, LabelReason
from sluice_traces.fast import size_line
from sluice_traces.ladder import LABEL_OF, REMEMBERED_ANSWERS, Answer, read_answer
from sluice_traces.records import NO_PARAMS, ParamsRecord, StepRecord
from sluice_traces.rows import ENCODER, SYSTEM_TURN, EncodedRows, MetadataRow, SftRowRecord, TurnRow

_ENCODE = ENCODER.encode
_ENCODE_LINES = ENCODER.encode_lines
_MARK = "\x01"
_KINDS = (*(action.value for action in ActionType), "type")
_BACKSLASH, _BANG, _QUERY = b"\\!?"
_PREPARED = 64
# Members of an enum are slow to look up.
_LADDER = tuple(LabelReason)
_SUCCESSES = _LADDER[2:]
_ESCALATION, _GATE_PASS = Answer.ESCALATION, Answer.GATE_PASS
_CARED_FOR = -1
_NO_ROWS = EncodedRows(b"", 0)


Written = tuple[EncodedRows, dict[LabelReason, int], int, int]
"""The rows of a run in the order of the steps; its steps by ladder rule; among those of a kept label the ones without
an action, and the ones whose action the grammar has no words for."""


class TextRows:
    """Writes the rows of steps that need neither a screenshot nor a scrubber. Holds nothing of the runs."""

    def __init__(self, keep: frozenset[Label], width: int, height: int) -> None:
        """Prepare the pieces.

        Args:
            keep: labels to keep; negative ones never become rows of this shape.
            width: of the screen in pixels, for the prompt.
            height: of the screen in pixels, for the prompt.
        """
        turns = (SYSTEM_TURN, TurnRow("human", _MARK), TurnRow("gpt", _MARK))
        empty = MetadataRow("", "", 0, "", "", "")
        self._head, self._between, _ = _ENCODE(SftRowRecord(turns, empty)).split(_ENCODE(_MARK))
        self._size_line = size_line(width, height)
        self._tails = [_tails_by_kind(keep, reason) for reason in _SUCCESSES]

    def write(self, run_id: str, tenant_id: str, steps: Sequence[StepRecord]) -> Written:
        """Judge the steps of one run and write its rows."""
        size, answer_of = self._size_line, REMEMBERED_ANSWERS.get
        gate_tails, delta_tails, no_delta_tails = self._tails
        kept: list[StepRecord] = []
        humans: list[str] = []
        answers: list[str] = []
        escapes: list[int] = []
        tails: list[bytes] = []
        escalations = failures = passes = deltas = no_deltas = no_action = not_in_grammar = 0
        for step in steps:
            data = step.data or ""
            answer = answer_of(data)
            if answer is None:
                answer = read_answer(data)
            if answer is _ESCALATION:
                escalations += 1
                continue
            if not step.success:
                failures += 1
                continue
            if answer is _GATE_PASS:
                passes += 1
                kinds = gate_tails
            elif step.observed_outcome:
                deltas += 1
                kinds = delta_tails
            else:
                no_deltas += 1
                kinds = no_delta_tails
            if kinds is None:
                continue
            last = step.last_action
            if last is None or not (kind := last.action_type):
                no_action += 1
                continue
            said, text = step.predicted_outcome, None
            if (
                said
                and len(said) <= OUTCOME_LIMIT
                and "  " not in said
                and said.strip() is said
                # The last character ends no sentence that another one follows.
                and (said.count(".", 0, -1) < 2 or said.count(". ") < 2)
            ):
                params = last.params or NO_PARAMS
                if kind == "click" and type(x := params.x) is int and type(y := params.y) is int and x >= 0 and y >= 0:
                    text, expected = f"click({x}, {y})", 1
                else:
                    text, expected = plain_action(kind, params)
            if text is None:
                action, expected = format_action(kind, last.arguments()), _CARED_FOR
                if action is None:
                    not_in_grammar += 1
                    continue
                answers.append(render_assistant(said, action))
            else:
                answers.append(f"{said}\n{text}")
            escapes.append(expected)
            kept.append(step)
            humans.append(f"Task: {(step.intent or '')[:INTENT_LIMIT]}\n{size}")
            place, prepared = step.step_index, kinds[kind]
            tails.append(prepared[place] if 0 <= place < _PREPARED else b"%d%b" % (place, prepared[_PREPARED]))
        reasons = _counted(escalations, failures, passes, deltas, no_deltas)
        rows = self._assemble(run_id, tenant_id, kept, humans, answers, escapes, tails) if kept else _NO_ROWS
        return rows, reasons, no_action, not_in_grammar

    def _assemble(
        self,
        run_id: str,
        tenant_id: str,
        kept: list[StepRecord],
        humans: list[str],
        answers: list[str],
        escapes: list[int],
        tails: list[bytes],
    ) -> EncodedRows:
        encoded = _ENCODE_LINES(answers)
        # Encoded texts hold no line breaks.
        said = encoded.split(b"\n")[:-1]
        # The answers of a run are looked at together first: most hold nothing that wants care.
        if encoded.count(_BACKSLASH) != sum(escapes) or not encoded.isascii() or _BANG in encoded or _QUERY in encoded:
            said = [_checked(*each) for each in zip(said, escapes, kept, strict=True)]
        *prompts, run, tenant, _ = _ENCODE_LINES([*humans, run_id, tenant_id]).split(b"\n")
        run = b'}],"metadata":{"run_id":%b,"tenant_id":%b,"step":' % (run, tenant)
        pieces = [self._head, b"", self._between, b"", run, b""] * len(kept)
        pieces[1::6] = prompts
        pieces[3::6] = said
        pieces[5::6] = tails
        return EncodedRows(b"".join(pieces), len(kept))


@lru_cache(maxsize=64)
def text_rows(keep: frozenset[Label], width: int, height: int) -> TextRows:
    """The one `TextRows` of a configuration: making it costs more than a run's rows."""
    return TextRows(keep, width, height)


def _counted(*counts: int) -> dict[LabelReason, int]:
    """Steps by ladder rule, from counts in the ladder's order."""
    return {reason: count for reason, count in zip(_LADDER, counts, strict=True) if count}


def plain_action(kind: str, params: ParamsRecord) -> tuple[str | None, int]:
    """An action that is most likely plain, and the escapes that the JSON of an answer then has.

    None where the grammar itself must be asked. Whether the answer was plain shows in its JSON: more escapes are
    control characters, quotes or backslashes; other scripts have blanks of their own; `!` and `?` end sentences too.
    """
    if kind == "type_text":
        text = params.text
        if type(text) is str and text:
            return f'type_text("{text}")', 3
    elif kind == "key_press":
        keys = params.keys
        if type(keys) is str and keys:
            return f'key_press("{keys}")', 3
    elif kind == "scroll":
        direction, amount = params.direction, params.amount
        if direction in SCROLL_DIRECTIONS and type(amount) is int and amount > 0:
            return f'scroll("{direction}", {amount})', 3
    elif kind == "done":
        summary = params.summary
        if type(summary) is str:
            return f'done("{summary}")', 3
    return None, _CARED_FOR


def _checked(answer: bytes, escapes: int, step: StepRecord) -> bytes:
    """An encoded answer, by the definitions themselves where it was taken for plain and is not."""
    plain = answer.count(_BACKSLASH) == escapes and answer.isascii() and _BANG not in answer and _QUERY not in answer
    if plain or escapes == _CARED_FOR:
        return answer
    last = step.last_action
    action = format_action(last.action_type or "", last.arguments()) if last is not None else None
    return _ENCODE(render_assistant(step.predicted_outcome, action or ""))


_EMPTY = _ENCODE(MetadataRow("", "", 0, "", "", ""))
_BEFORE_STEP = _EMPTY.index(b'"step":') + len(b'"step":')


def _tails_by_kind(keep: frozenset[Label], reason: LabelReason) -> dict[str, list[bytes]] | None:
    """Rows' ends from the step's index on, for the first indices, and last the end without one; by action type."""
    if LABEL_OF[reason] not in keep:
        return None
    ends = {
        kind: _ENCODE(MetadataRow("", "", 0, LABEL_OF[reason], reason, kind))[_BEFORE_STEP + 1 :] + b"}\n"
        for kind in _KINDS
    }
    return {kind: [*(b"%d%b" % (step, end) for step in range(_PREPARED)), end] for kind, end in ends.items()}
