"""Token ids by remembered words: the same ids as the tokenizer's, without asking it for every text.

A byte-level BPE tokenizer cuts a text at its added tokens, cuts the rest into words by one fixed pattern, and then
encodes each word by itself. Words repeat; remembering them is several times faster than encoding them again. That is
done for the patterns that are known here and for plain ASCII, whose letters, digits and blanks those patterns treat in
a way that can be written down; every other text and every other tokenizer is encoded by the tokenizer itself.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

WORDS_REMEMBERED = 1 << 19
"""Words that one encoder remembers."""
SEGMENTS_REMEMBERED = 1 << 12
"""Texts between added tokens that one encoder remembers whole: the first ones, which every conversation repeats."""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = {_GPT2, f"{_CONTRACTED}{_REST}", f"{_CONTRACTED}{{1,3}}{_REST}"}
_CONTEXTUAL = ("single_word", "lstrip", "rstrip")
_PROBE = 'It\'s 1234 o\'clock:  say "hi"!\n\n  click(12, 345)\n type_text("A b") ... \n'


class WordEncoder:
    """Encodes texts with one tokenizer, without adding special tokens."""

    def __init__(self, tokenizer: Any) -> None:
        """Prepare an encoder for a fast transformers tokenizer."""
        self._backend = tokenizer.backend_tokenizer
        # Left behind by earlier calls; the tokenizer sets both anew with each call.
        self._backend.no_truncation()
        self._backend.no_padding()
        description = json.loads(self._backend.to_str())
        added = sorted((token["content"] for token in description["added_tokens"]), key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, added)) + ")" if added else "((?!))")
        self._segments: dict[str, list[int]] = {
            token["content"]: [token["id"]] for token in description["added_tokens"]
        }
        self._words = _Words()
        pattern = _pattern(description)
        self._find = None if pattern is None else re.compile(_ascii(pattern)).findall
        if self._find is not None and self.encode([_PROBE]) != self._ask([_PROBE]):
            self._find = None

    @property
    def remembers(self) -> bool:
        """Whether words are remembered; otherwise every text goes to the tokenizer."""
        return self._find is not None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        if self._find is None:
            distinct = list(dict.fromkeys(texts))
            return [*map(dict(zip(distinct, self._ask(distinct), strict=True)).__getitem__, texts)]
        cut = [self._cut.split(text) for text in texts]
        known = self._segments
        fresh = [segment for segment in dict.fromkeys(chain.from_iterable(cut)) if segment not in known]
        plain = [segment for segment in fresh if segment.isascii() and segment.replace("\n", "").isprintable()]
        found = self._by_words(plain)
        other = [segment for segment in fresh if segment not in found]
        found.update(zip(other, self._ask(other), strict=True))
        room = SEGMENTS_REMEMBERED - len(known)
        if room > 0:
            known.update(islice(found.items(), room))
        found.update((segment, known[segment]) for segment in set(chain.from_iterable(cut)).difference(found))
        return [list(chain.from_iterable(map(found.__getitem__, segments))) for segments in cut]

    def _by_words(self, segments: Sequence[str]) -> dict[str, list[int]]:
        """Token ids of plain segments; words that were not met before are learnt."""
        words, find = self._words, self._find
        if find is None:
            return {}
        if len(words) > WORDS_REMEMBERED:
            words.clear()
        found, unfinished, misses = dict[str, list[int]](), dict[str, list[str]](), 0
        for segment in segments:
            cut = find(segment)
            found[segment] = list(chain.from_iterable(map(words.__getitem__, cut)))
            if words.misses != misses:
                misses, unfinished[segment] = words.misses, cut
        unknown = words.forget_misses()
        words.update(zip(unknown, self._ask(unknown), strict=True))
        for segment, cut in unfinished.items():
            found[segment] = list(chain.from_iterable(map(words.__getitem__, cut)))
        return found

    def _ask(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]


class _Words(dict[str, list[int]]):
    """Token ids by word; what is asked for and missing is noted, and has no ids until it is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.misses = 0
        self._missing: dict[str, None] = {}

    def __missing__(self, word: str) -> list[int]:
        self.misses += 1
        self._missing[word] = None
        return []

    def forget_misses(self) -> list[str]:
        """The missing words, once."""
        missing, self._missing, self.misses = list(self._missing), {}, 0
        return missing


def _pattern(description: dict[str, Any]) -> str | None:
    """The pattern of words of a tokenizer whose words are independent of each other; None for any other."""
    model, added = description["model"], description["added_tokens"]
    if description["normalizer"] is not None:
        return None
    if model["type"] != "BPE" or model.get("dropout") or model.get("continuing_subword_prefix"):
        return None
    if model.get("end_of_word_suffix") or any(token[name] for token in added for name in _CONTEXTUAL):
        return None
    if len({token["normalized"] for token in added}) > 1:
        return None
    match description["pre_tokenizer"]:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return _GPT2
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if pattern in _PATTERNS:
            return str(pattern)
    return None


def _ascii(pattern: str) -> str:
    """The pattern for texts of printable ASCII and line breaks."""
    return (
        pattern.replace(r"[^\s\p{L}\p{N}]", "[!-/:-@\\[-`{-~]")
        .replace(r"[^\r\n\p{L}\p{N}]", "[ -/:-@\\[-`{-~]")
        .replace(r"\p{L}", "[A-Za-z]")
        .replace(r"\p{N}", "[0-9]")
        .replace(r"\S", "[!-~]")
        .replace(r"\s", "[ \n]")
    )
