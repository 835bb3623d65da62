"""Shell commands, judged by what they print in the sandbox."""

from sluice_evaluator.reference import BuiltinTask, make

_LOG = "GET /a 200\nGET /b 500\nPOST /a 200\nGET /a 404\nGET /c 500\n"
_TASKS: tuple[tuple[str, str, dict[str, str], str, str], ...] = (
    ("count-lines", "Print the number of lines in access.log, the number alone.", {"access.log": _LOG}, "5",
     "wc -l < access.log | tr -d ' '"),
    ("errors", "Print the paths in access.log that answered 500, sorted.", {"access.log": _LOG}, "/b\n/c",
     "awk '$3 == 500 {print $2}' access.log | sort"),
    ("most-frequent", "Print the most frequent path in access.log.", {"access.log": _LOG}, "/a",
     "awk '{print $2}' access.log | sort | uniq -c | sort -rn | head -1 | awk '{print $2}'"),
    ("sum", "Print the sum of the numbers in numbers.txt, one a line.", {"numbers.txt": "3\n4\n5\n"}, "12",
     "awk '{s += $1} END {print s}' numbers.txt"),
    ("find", "Print the .txt files below the current folder, sorted, as ./path.",
     {"a/one.txt": "", "b/two.md": "", "three.txt": ""}, "./a/one.txt\n./three.txt", "find . -name '*.txt' | sort"),
    ("replace", "Print greeting.txt with every `world` replaced by `moon`.", {"greeting.txt": "hello world\nworld\n"},
     "hello moon\nmoon", "sed 's/world/moon/g' greeting.txt"),
)  # fmt: skip


def tasks() -> tuple[BuiltinTask, ...]:
    """Make the tasks."""
    return tuple(
        make(
            f"shell/{name}",
            f"Answer with one POSIX shell command only. {request}",
            f"```sh\n{gold}\n```",
            ("shell_output", {"files": files, "stdout": stdout}),
            cluster="shell",
        )
        for name, request, files, stdout, gold in _TASKS
    )
