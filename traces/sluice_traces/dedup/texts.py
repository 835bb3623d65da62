"""The text of a row and of a suite's task that comparisons are made on."""

from typing import Any

import msgspec

from sluice_traces.reader import MALFORMED, explain


class _Turn(msgspec.Struct, gc=False):
    value: str
    role: str = msgspec.field(default="", name="from")


class _Row(msgspec.Struct, gc=False):
    conversations: tuple[_Turn, ...] = ()
    prompt: Any = None
    chosen: str = ""
    rejected: str = ""
    response: str = ""


_ROW = msgspec.json.Decoder(_Row)


class _Task(msgspec.Struct, gc=False):
    task_text: str


_SUITE = msgspec.json.Decoder(list[_Task] | dict[str, Any])


def row_text(row: bytes) -> str:
    """What is said in a row, without its system turn, which all rows share.

    Raises:
        ValueError: the line is no row.
    """
    try:
        found = _ROW.decode(row)
        turns = found.conversations
        if not turns and isinstance(found.prompt, list):
            turns = msgspec.convert(found.prompt, tuple[_Turn, ...])
    except MALFORMED as error:
        raise ValueError(f"is no row: {explain(error)}") from None
    said = [turn.value for turn in turns if turn.role != "system"]
    if isinstance(found.prompt, str):
        said.append(found.prompt)
    return "\n".join([*said, *filter(None, (found.chosen, found.rejected, found.response))])


def task_texts(suite: bytes) -> list[str]:
    """Texts of a suite's tasks; a suite is a list of tasks or an object with one under `tasks`.

    Raises:
        ValueError: it is no suite.
    """
    try:
        document = _SUITE.decode(suite)
        tasks = msgspec.convert(document.get("tasks"), list[_Task]) if isinstance(document, dict) else document
    except MALFORMED as error:
        raise ValueError(f"not a suite of tasks: {explain(error)}") from None
    return [task.task_text for task in tasks]
