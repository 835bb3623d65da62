"""Seven labels in order, each true, false or unknown; an answer is accepted when nothing it was asked for failed.

Unknown is no pass: code without a single executed check (its syntax by a real parser, or its tests) is not accepted.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum

from sluice_traces.critic import checks
from sluice_traces.critic.candidate import Candidate, Kind
from sluice_traces.critic.runner import HarnessRunner
from sluice_traces.privacy import DetectorName, PrivacyConfig, Redactor
from sluice_traces.rows import ENCODER, TurnRow


class RejectReason(StrEnum):
    """Why an answer is not kept; in the order of the checks."""

    SYNTAX = "syntax"
    """It does not parse."""
    TESTS = "tests"
    """Its tests fail."""
    ENTRY_POINT = "missing_entry_point"
    """It does not define what was asked for."""
    FORMAT = "format"
    """Not the JSON, diff or fenced block that was asked for."""
    INVALID_TOKENS = "invalid_tokens"
    """Markers of a chat template or broken characters are left in it."""
    SECRET = "secret"
    """It holds something that looks like a secret."""
    REPETITION = "repetition"
    """It runs in circles."""
    FILLER = "filler"
    """It excuses itself or leaves the work to the reader."""
    NOT_EXECUTED = "not_executed"
    """Code of which no check could be executed."""
    REPAIR_INCOMPLETE = "repair_incomplete"
    """A repair without the failed output, or without a failed label of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticLabels:
    """The seven labels; None means not applicable, or not known."""

    syntax_pass: bool | None
    """The code parses."""
    tests_pass: bool | None
    """The harness passes."""
    entrypoint_match: bool | None
    """The asked-for name is defined."""
    format_pass: bool | None
    """The form is the asked-for one, and it ends cleanly."""
    no_secret: bool | None
    """Nothing looks like a secret."""
    no_repetition: bool | None
    """Neither repetition nor filler."""
    accepted: bool
    """Every label that is known holds, and code has at least one executed check."""

    def as_dict(self) -> dict[str, bool | None]:
        """The labels by name, in order."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the critic says of one candidate."""

    labels: CriticLabels
    """The seven labels."""
    reasons: tuple[RejectReason, ...]
    """Why it is not accepted; empty when it is."""


_LANGUAGES = {Kind.PYTHON: ("python", "py", "python3"), Kind.TYPESCRIPT: ("typescript", "ts", "tsx")}


class Critic:
    """Judges candidates."""

    def __init__(
        self, runner: HarnessRunner | None = None, *, languages: frozenset[str] = frozenset(_LANGUAGES)
    ) -> None:
        """Prepare to judge.

        Args:
            runner: runs candidates' tests; without one `tests_pass` stays unknown.
            languages: programming languages that are parsed; in others `syntax_pass` stays unknown.
        """
        self._runner = runner
        self._languages = languages
        self._secrets = Redactor(PrivacyConfig(detectors=(DetectorName.SECRET, DetectorName.PRIVATE_KEY)))

    def judge(self, candidate: Candidate) -> Judgement:
        """The labels of one candidate and the reasons against it."""
        reasons: list[RejectReason] = []
        code = checks.code_of(candidate.response, _LANGUAGES[candidate.kind]) if candidate.kind.is_code else None
        parsed = candidate.kind in self._languages
        syntax, names = _parse(candidate.kind, code) if parsed else (None, set())
        tests = self._tests(candidate, code, syntax)
        entry = candidate.entry_point in names if parsed and candidate.entry_point is not None else None
        form = _format(candidate, code)
        clean = not checks.has_invalid_tokens(candidate.response)
        no_secret = not self._secrets.find(candidate.response)
        repetitive, filler = checks.is_repetitive(candidate.response), checks.is_filler(candidate.response)
        verdicts = (
            (syntax, RejectReason.SYNTAX),
            (tests, RejectReason.TESTS),
            (entry, RejectReason.ENTRY_POINT),
            (form, RejectReason.FORMAT),
            (clean, RejectReason.INVALID_TOKENS),
            (no_secret, RejectReason.SECRET),
            (not repetitive, RejectReason.REPETITION),
            (not filler, RejectReason.FILLER),
            (not candidate.kind.is_code or syntax is not None or tests is not None, RejectReason.NOT_EXECUTED),
            (_repair_complete(candidate), RejectReason.REPAIR_INCOMPLETE),
        )
        reasons = [reason for verdict, reason in verdicts if verdict is False]
        labels = CriticLabels(
            syntax_pass=syntax,
            tests_pass=tests,
            entrypoint_match=entry,
            format_pass=form and clean,
            no_secret=no_secret,
            no_repetition=not repetitive and not filler,
            accepted=not reasons,
        )
        return Judgement(labels, tuple(reasons))

    def _tests(self, candidate: Candidate, code: str | None, syntax: bool | None) -> bool | None:
        if candidate.tests is None or not candidate.kind.is_code or self._runner is None:
            return None
        if syntax is False or code is None:
            return False
        return self._runner.run(candidate.kind, code, candidate.tests)


ACCEPTED_REASON = "critic_accepted"
"""`label_reason` of rows that the critic accepted."""


def accepted_row(candidate: Candidate, number: int = 0, reason: str = ACCEPTED_REASON) -> bytes:
    """A candidate as a supervised row, encoded, without line end.

    A repair shows the failed answer and what was wrong with it in the prompt and teaches the correction only.

    Args:
        candidate: the candidate.
        number: its line in its file, from 1; 0 where nobody counts.
        reason: why it is learnt from.
    """
    prompt = candidate.prompt
    if candidate.repair is not None:
        failed = ", ".join(name for name, value in candidate.repair.labels.items() if value is False)
        prompt = f"{prompt}\n\nAn earlier answer failed ({failed}):\n{candidate.repair.failed_output}\n\nCorrect it."
    turns = [TurnRow("human", prompt), TurnRow("gpt", candidate.response)]
    if candidate.system:
        turns.insert(0, TurnRow("system", candidate.system))
    source = "critic" if reason == ACCEPTED_REASON else reason
    metadata: dict[str, str | int] = {"source": source, "run_id": candidate.id, "label": "positive"}
    metadata |= {"label_reason": reason} | ({"step": number} if number else {})
    return ENCODER.encode({"conversations": turns, "metadata": metadata})


def _parse(kind: Kind, code: str | None) -> tuple[bool | None, set[str]]:
    """Whether code parses (None where no parser is at hand, or it is no code), and the names that it defines."""
    if not kind.is_code:
        return None, set()
    if code is None or not code.strip():
        return False, set()
    if kind is Kind.PYTHON:
        tree = checks.python_tree(code)
        return tree is not None, set() if tree is None else checks.python_names(tree)
    try:
        names = checks.typescript_names(code)
    except ImportError:
        return None, set()
    return names is not None, names or set()


def _format(candidate: Candidate, code: str | None) -> bool:
    if candidate.kind is Kind.JSON:
        return checks.is_json(candidate.response, candidate.required_keys)
    if candidate.kind is Kind.DIFF:
        return checks.is_unified_diff(candidate.response)
    if candidate.kind.is_code:
        return code is not None
    return candidate.response.count("```") % 2 == 0


def _repair_complete(candidate: Candidate) -> bool | None:
    if candidate.repair is None:
        return None
    failed = any(value is False for value in candidate.repair.labels.values())
    return bool(candidate.repair.failed_output.strip()) and failed
