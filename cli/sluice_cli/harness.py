"""What a dataset build takes from the evaluator: the sandbox for candidates' tests, and its reading of suites.

Traces and evaluator do not know each other; this is where they meet.
"""

from typing import TYPE_CHECKING, Any

from sluice_api.contracts.jobs import FailureClass, LabelJob, LabelOutput
from sluice_artifacts.reporting import Reporter, WorkerError

if TYPE_CHECKING:
    from sluice_evaluator.sandbox.client import Sandbox

WALL_S = 10.0
"""Seconds for the tests of one candidate."""
MEMORY_BYTES = 1 << 30
"""Address space of one."""
_VERDICT = "sluice_tests_ended"


class SandboxRunner:
    """Runs Python candidates and their tests without network, files of the machine, or processes."""

    def __init__(self, sandbox: "Sandbox") -> None:
        self._sandbox = sandbox

    def run(self, kind: Any, code: str, tests: str) -> bool | None:
        """Whether the tests pass, which they do when the module runs to its end; None for anything but Python."""
        from sluice_evaluator.sandbox.client import Case

        if kind != "python":
            return None
        module = f"{code}\n\n{tests}\n\ndef {_VERDICT}():\n    return True\n"
        return self._sandbox.run_python(module, _VERDICT, [Case(arguments=(), expected=True)]).passed


def suite_texts(uri: str) -> list[str]:
    """Texts of a suite, of every form that an EvalRun may name.

    Raises:
        ValueError: it is none.
        ArtifactError: the storage failed.
    """
    from sluice_api.contracts.suites import is_builtin
    from sluice_artifacts import open_store
    from sluice_evaluator.builtin import texts
    from sluice_evaluator.errors import SuiteError

    try:
        return texts(uri, None if is_builtin(uri) else open_store(uri).read(uri))
    except SuiteError as error:
        raise ValueError("; ".join(error.problems[:3])) from error


def run(job: LabelJob, reporter: Reporter) -> LabelOutput:
    """Build a dataset version; candidates' tests, where they are asked for, run in the sandbox.

    Raises:
        WorkerError: as `sluice_traces.worker.run`; `Infrastructure` when this machine's kernel cannot fence code.
        ArtifactError: the storage failed.
    """
    from sluice_traces.worker import run as build

    if job.critic is None or not job.critic.run_tests:
        return build(job, reporter, suites=suite_texts)
    from sluice_evaluator.sandbox.client import Limits, Sandbox, SandboxUnavailableError

    limits = Limits(wall_s=WALL_S, cpu_s=WALL_S, memory_bytes=MEMORY_BYTES)
    try:
        with Sandbox(servers=1, limits=limits) as sandbox:
            return build(job, reporter, runner=SandboxRunner(sandbox), suites=suite_texts)
    except SandboxUnavailableError as error:
        message = f"candidates' tests cannot be fenced here: {error}. Set critic.runTests to false, or another profile"
        raise WorkerError(FailureClass.INFRASTRUCTURE, message) from error
