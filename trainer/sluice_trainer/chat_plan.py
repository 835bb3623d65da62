"""Chat templates that only copy what is said, rendered without the template.

Most templates put literal text around each turn's content and never look at it. Such a template is rendered once for
each sequence of roles, with placeholders, and later conversations are joined from what was between them. A template is
taken for such a one only if

- it renders with contents that object to being looked at (compared, searched, measured, cut, ...),
- it has no construct in which text could lose that guard or be read past it (captured blocks, macros, `~`, `%`,
  filters that convert, calls of anything but harmless functions, methods that are given more than literals, a search
  for a content in something else), and
- hostile and harmless contents give the same literals.

Whether a content is empty may be asked: conversations with a blank turn are not rendered here. Everything else is
rendered by the template itself, conversation by conversation.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

_LOSES_GUARD = (
    jinja2.nodes.AssignBlock,
    jinja2.nodes.Block,
    jinja2.nodes.CallBlock,
    jinja2.nodes.Concat,
    jinja2.nodes.FilterBlock,
    jinja2.nodes.Macro,
)
_LIKE_CALLS = (jinja2.nodes.Call, jinja2.nodes.Filter, jinja2.nodes.Test)
_FUNCTIONS = {"dict", "namespace", "raise_exception", "range", "strftime_now"}
_FILTERS = {"trim", "default", "d", "length", "count", "string", "list", "selectattr", "rejectattr"}
_PLACEHOLDER = re.compile("( \t\n \t)?\x02(\\d+)[^\x03]*\x03( \t\n \t)?")
_HARMLESS = "\x02{}\x03"
_HOSTILE = " \t\n \t\x02{}</think> <tool_call>'\"\\&< [INST] {{%{{#\n\n\x03 \t\n \t"
_COPIES = {"strip", "__add__", "__str__", "__new__", "__init__", "__class__", "__getattribute__", "__repr__"}
_HARMLESS_METHODS = {"__doc__", "__setattr__", "__delattr__", "__dir__", "__init_subclass__", "__subclasshook__"}


class Slot(NamedTuple):
    """Where the content of a turn goes."""

    turn: int
    """Index of the turn."""
    stripped: bool
    """Whether blanks around it are removed."""


Parts = list[str | Slot]
"""A rendered text: literals, never two in a row nor empty, and slots."""


class _LookedAtError(Exception):
    """A template looked at a content."""


class _Guarded(str):
    """A text that can be copied and stripped, and nothing else."""

    __slots__ = ()

    def strip(self, chars: str | None = None, /) -> "_Guarded":
        if chars is not None:
            raise _LookedAtError
        return _Guarded(str.strip(self))

    def __add__(self, other: str) -> "_Guarded":
        return _Guarded(str.__add__(self, other))

    def __radd__(self, other: str) -> "_Guarded":
        return _Guarded(str.__add__(other, self))

    def __str__(self) -> "_Guarded":
        return self

    def __bool__(self) -> bool:
        return True


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise _LookedAtError


for _name in set(dir(str)) - _COPIES - _HARMLESS_METHODS:
    setattr(_Guarded, _name, _refuse)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant says and writes nothing itself."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 reads it from the class

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class ChatPlan:
    """Renders conversations of one template by joining literals and contents."""

    def __init__(self, template: str, variables: Mapping[str, Any]) -> None:
        """Prepare a template.

        Args:
            template: a chat template in Jinja.
            variables: what it sees besides the messages, the special tokens for instance.
        """
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.globals["raise_exception"] = _refuse
        self._variables = dict(variables)
        self._template: jinja2.Template | None = None
        try:
            if _keeps_guard(environment.parse(template)):
                self._template = environment.from_string(template)
        except (jinja2.TemplateError, RecursionError):
            # The tokenizer's own renderer knows more than this one, or says what is wrong.
            self._template = None
        self._known: dict[tuple[str, ...], list[tuple[Parts, bool]] | None] = {}

    def pieces(self, roles: tuple[str, ...]) -> list[tuple[Parts, bool]] | None:
        """Pieces of a conversation of these roles, in order, each with whether the assistant has to produce it.

        None where only the template itself can tell.
        """
        if roles not in self._known:
            self._known[roles] = self._pieces(roles)
        return self._known[roles]

    def _pieces(self, roles: tuple[str, ...]) -> list[tuple[Parts, bool]] | None:
        pieces: list[tuple[Parts, bool]] = []
        done: Parts = []
        for index, role in enumerate(roles):
            if role != "assistant":
                continue
            prompt = self._parts(roles[:index], generation=True)
            answered = self._parts(roles[: index + 1], generation=False)
            if prompt is None or answered is None:
                return None
            asked, said = _beyond(prompt, done), _beyond(answered, prompt)
            if asked is None or said is None:
                return None
            pieces += [(asked, False), (said, True)]
            done = answered
        return [piece for piece in pieces if piece[0]]

    def _parts(self, roles: Sequence[str], *, generation: bool) -> Parts | None:
        hostile = self._render(roles, _HOSTILE, generation)
        harmless = self._render(roles, _HARMLESS, generation)
        if hostile is None or harmless is None:
            return None
        places = [(part.turn, "") if isinstance(part, Slot) else part for part in hostile]
        same = places == [(part.turn, "") if isinstance(part, Slot) else part for part in harmless]
        return hostile if same else None

    def _render(self, roles: Sequence[str], content: str, generation: bool) -> Parts | None:
        if self._template is None:
            return None
        contents = [content.format(turn) for turn in range(len(roles))]
        messages = [{"role": role, "content": _Guarded(text)} for role, text in zip(roles, contents, strict=True)]
        try:
            text = self._template.render(messages=messages, add_generation_prompt=generation, **self._variables)
        except (
            _LookedAtError,
            jinja2.TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ):
            # What a template raises is the tokenizer's own renderer's to say.
            return None
        return _split(text, contents)


def _keeps_guard(template: jinja2.nodes.Template) -> bool:
    """Whether no text can lose its guard in a template, or be read past it."""
    if next(template.find_all(_LOSES_GUARD), None) is not None:
        return False
    if any(found.name not in _FILTERS for found in template.find_all(jinja2.nodes.Filter)):
        return False
    if any(name.ctx != "load" and name.name in _FUNCTIONS for name in template.find_all(jinja2.nodes.Name)):
        return False
    if not all(map(_is_harmless, template.find_all(_LIKE_CALLS))):
        return False
    # `'%s' % content` copies; `loop.index0 % 2` is what it usually stands for.
    if not all(isinstance(found.right, jinja2.nodes.Const) for found in template.find_all(jinja2.nodes.Mod)):
        return False
    return all(
        operand.op not in {"in", "notin"} or _is_no_content(compared.expr)
        for compared in template.find_all(jinja2.nodes.Compare)
        for operand in compared.ops
    )


def _is_harmless(found: jinja2.nodes.Expr) -> bool:
    """Whether a call, filter or test cannot copy a content into a plain text (`''.join([content])`), or search it."""
    assert isinstance(found, _LIKE_CALLS)
    given = [*found.args, *(pair.value for pair in found.kwargs)]
    literal = not found.dyn_args and not found.dyn_kwargs and all(isinstance(e, jinja2.nodes.Const) for e in given)
    if isinstance(found, jinja2.nodes.Call):
        return literal or (isinstance(found.node, jinja2.nodes.Name) and found.node.name in _FUNCTIONS)
    names = {each.value for each in given if isinstance(each, jinja2.nodes.Const)}
    if isinstance(found, jinja2.nodes.Test):
        return literal and found.name != "in"
    return found.name not in {"selectattr", "rejectattr"} or (literal and "in" not in names)


def _is_no_content(expression: jinja2.nodes.Expr) -> bool:
    if isinstance(expression, jinja2.nodes.Getitem) and isinstance(expression.arg, jinja2.nodes.Const):
        return bool(expression.arg.value == "role")
    if isinstance(expression, jinja2.nodes.Getattr):
        return expression.attr == "role"
    return isinstance(expression, jinja2.nodes.Const)


def fill(parts: Parts, contents: Sequence[str]) -> str:
    """The text of a piece with the contents of its conversation's turns."""
    return "".join(
        part if isinstance(part, str) else contents[part.turn].strip() if part.stripped else contents[part.turn]
        for part in parts
    )


def _split(text: str, contents: Sequence[str]) -> Parts | None:
    """A rendering as literals and slots; None when a content was changed on its way."""
    parts: Parts = []
    end = 0
    for found in _PLACEHOLDER.finditer(text):
        turn = int(found[2])
        if turn >= len(contents) or found[0] not in (contents[turn], contents[turn].strip()):
            return None
        parts += [text[end : found.start()], Slot(turn, found[0] != contents[turn])]
        end = found.end()
    parts.append(text[end:])
    literals = [part for part in parts if isinstance(part, str)]
    return (
        None if any("\x02" in part or "\x03" in part for part in literals) else [part for part in parts if part != ""]
    )


def _beyond(whole: Parts, start: Parts) -> Parts | None:
    """What a rendering has beyond its start; None when it does not start so whatever the contents are."""
    if not start:
        return whole
    head, last = start[:-1], start[-1]
    if len(whole) < len(start) or whole[: len(head)] != head:
        return None
    met = whole[len(head)]
    if isinstance(last, str) and isinstance(met, str) and met.startswith(last):
        rest = met[len(last) :]
        return [rest, *whole[len(start) :]] if rest else whole[len(start) :]
    return whole[len(start) :] if met == last else None
