"""A made subset in the public benchmarks' own formats: the stubs, written as HumanEval and as MBPP rows.

It is not those benchmarks, and its score is not theirs; it shows that their files are read and judged as they should
be.
"""

import json

from sluice_evaluator.builtin.python_stubs import STUBS
from sluice_evaluator.formats import read_humaneval, read_mbpp
from sluice_evaluator.reference import BuiltinTask


def humaneval_rows() -> bytes:
    """Write the stubs as HumanEval rows."""
    rows = []
    for number, (name, signature, sentence, gold, cases) in enumerate(STUBS):
        head, body = gold.split(f"def {signature}:\n", 1)
        checks = "".join(f"    assert candidate{_call(args)} == {expected}\n" for args, expected in cases)
        rows.append(
            {
                "task_id": f"Made/{number}",
                "prompt": f'{head}def {signature}:\n    """{sentence}"""\n',
                "entry_point": name,
                "canonical_solution": body,
                "test": f"def check(candidate):\n{checks}",
            }
        )
    return "\n".join(map(json.dumps, rows)).encode()


def mbpp_rows() -> bytes:
    """Write the stubs as MBPP rows."""
    rows = [
        {
            "task_id": number,
            "text": f"Write the function {signature}. {sentence}",
            "code": gold,
            "test_list": [f"assert {name}{_call(args)} == {expected}" for args, expected in cases],
        }
        for number, (name, signature, sentence, gold, cases) in enumerate(STUBS)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


def _call(args: str) -> str:
    """Write a tuple of literals as a call's arguments."""
    return args.removesuffix(",)") + ")" if args.endswith(",)") else args


def humaneval_tasks() -> tuple[BuiltinTask, ...]:
    """Read them back."""
    return tuple(read_humaneval(humaneval_rows(), "builtin:humaneval-format"))


def mbpp_tasks() -> tuple[BuiltinTask, ...]:
    """Read them back."""
    return tuple(read_mbpp(mbpp_rows(), "builtin:mbpp-format"))
