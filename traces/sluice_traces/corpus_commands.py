"""`sluice trace critic`: commands on rows rather than on traces."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

EXIT_OK = 0
"""Done."""
EXIT_UNJUDGED = 2
"""Bad usage, bad input, or nothing was kept."""


def add_parsers(commands: Any) -> None:
    """Add the commands to `sluice trace`."""
    parser = commands.add_parser("critic", help="judge generated answers by seven labels and keep what can be learnt")
    parser.add_argument("--input", type=Path, required=True, help="JSONL of candidates")
    parser.add_argument("--output", type=Path, required=True, help="JSONL file for the accepted rows")
    parser.add_argument("--labels", type=Path, help="JSONL file for the labels and reasons of every candidate")
    parser.add_argument(
        "--run-tests",
        action="store_true",
        help="run the candidates' Python tests on this machine, in limited processes; they can reach the network",
    )
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for the tests of one candidate")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(handler=run_critic)


def run_critic(arguments: argparse.Namespace) -> int:
    """Judge candidates. 0: some were accepted; 2: none was, or the input cannot be read."""
    from sluice_traces.critic import CandidateError, Critic, IsolatedRunner, normalise
    from sluice_traces.critic.judge import accepted_row
    from sluice_traces.label import write_atomically

    try:
        lines = arguments.input.read_bytes().splitlines()
        runner = IsolatedRunner(timeout_s=arguments.timeout) if arguments.run_tests else None
    except (OSError, ValueError) as error:
        print(f"sluice trace critic: {error}", file=sys.stderr)
        return EXIT_UNJUDGED
    critic, kept, labels = Critic(runner), [], []
    counts: Counter[str] = Counter()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            candidate = normalise(line, number)
        except CandidateError as error:
            counts["not_normalisable"] += 1
            print(f"skipped line {number}: {error}", file=sys.stderr)
            continue
        judgement = critic.judge(candidate)
        if judgement.labels.accepted:
            counts["accepted"] += 1
            kept.append(accepted_row(candidate))
        counts.update(reason.value for reason in judgement.reasons)
        said = {"id": candidate.id, **judgement.labels.as_dict(), "reasons": [r.value for r in judgement.reasons]}
        labels.append(json.dumps(said).encode())
    try:
        write_atomically(arguments.output, b"".join(row + b"\n" for row in kept))
        if arguments.labels is not None:
            write_atomically(arguments.labels, b"".join(row + b"\n" for row in labels))
    except OSError as error:
        print(f"sluice trace critic: {error.filename or arguments.output}: {error.strerror}", file=sys.stderr)
        return EXIT_UNJUDGED
    summary = {"candidates": len(labels) + counts["not_normalisable"], **dict(sorted(counts.items()))}
    print(json.dumps(summary, indent=2) if arguments.json else "   ".join(f"{k} {v}" for k, v in summary.items()))
    return EXIT_OK if kept else EXIT_UNJUDGED
