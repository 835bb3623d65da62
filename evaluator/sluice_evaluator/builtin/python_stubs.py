"""Python stubs with tests: a signature and a sentence, judged by what the function returns."""

from sluice_evaluator.reference import BuiltinTask, make

STUBS: tuple[tuple[str, str, str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "clamp", "clamp(value, low, high)", "Limit value to the range from low to high.",
        "def clamp(value, low, high):\n    return max(low, min(high, value))\n",
        (("(5, 0, 3)", "3"), ("(-1, 0, 3)", "0"), ("(2, 0, 3)", "2"), ("(3, 3, 3)", "3")),
    ),
    (
        "run_lengths", "run_lengths(text)", "Return the runs of equal characters as (character, length) pairs.",
        "from itertools import groupby\ndef run_lengths(text):\n"
        "    return [(c, len(list(g))) for c, g in groupby(text)]\n",
        (("('aabccc',)", "[('a', 2), ('b', 1), ('c', 3)]"), ("('',)", "[]"), ("('z',)", "[('z', 1)]")),
    ),
    (
        "merge_intervals", "merge_intervals(intervals)",
        "Merge overlapping or touching [start, end] intervals and return them sorted.",
        "def merge_intervals(intervals):\n    merged = []\n    for start, end in sorted(intervals):\n"
        "        if merged and start <= merged[-1][1]:\n            merged[-1][1] = max(merged[-1][1], end)\n"
        "        else:\n            merged.append([start, end])\n    return merged\n",
        (("([[5, 7], [1, 3], [2, 4]],)", "[[1, 4], [5, 7]]"), ("([[1, 2], [2, 3]],)", "[[1, 3]]"), ("([],)", "[]")),
    ),
    (
        "roman", "roman(number)", "Write a number from 1 to 3999 as a Roman numeral.",
        "def roman(number):\n    signs = [(1000, 'M'), (900, 'CM'), (500, 'D'), (400, 'CD'), (100, 'C'), (90, 'XC'),\n"
        "             (50, 'L'), (40, 'XL'), (10, 'X'), (9, 'IX'), (5, 'V'), (4, 'IV'), (1, 'I')]\n    out = ''\n"
        "    for value, sign in signs:\n        while number >= value:\n            out += sign\n"
        "            number -= value\n    return out\n",
        (("(1994,)", "'MCMXCIV'"), ("(4,)", "'IV'"), ("(3999,)", "'MMMCMXCIX'"), ("(1,)", "'I'")),
    ),
    (
        "balanced", "balanced(text)", "Tell whether the brackets ()[]{} in text are balanced.",
        "def balanced(text):\n    stack, pairs = [], {')': '(', ']': '[', '}': '{'}\n    for c in text:\n"
        "        if c in '([{':\n            stack.append(c)\n        elif c in pairs:\n"
        "            if not stack or stack.pop() != pairs[c]:\n                return False\n    return not stack\n",
        (("('a(b[c]{d})',)", "True"), ("('(]',)", "False"), ("('((',)", "False"), ("('',)", "True")),
    ),
    (
        "transpose", "transpose(rows)", "Transpose a rectangular list of lists.",
        "def transpose(rows):\n    return [list(column) for column in zip(*rows)]\n",
        (("([[1, 2, 3], [4, 5, 6]],)", "[[1, 4], [2, 5], [3, 6]]"), ("([],)", "[]"), ("([[7]],)", "[[7]]")),
    ),
    (
        "word_counts", "word_counts(text)", "Count the words of text, lower-cased, as a dict.",
        "def word_counts(text):\n    counts = {}\n    for word in text.lower().split():\n"
        "        counts[word] = counts.get(word, 0) + 1\n    return counts\n",
        (("('A b a',)", "{'a': 2, 'b': 1}"), ("('',)", "{}")),
    ),
    (
        "median", "median(numbers)", "Return the median of a non-empty list as a float.",
        "def median(numbers):\n    ordered, middle = sorted(numbers), len(numbers) // 2\n"
        "    if len(ordered) % 2:\n        return float(ordered[middle])\n"
        "    return (ordered[middle - 1] + ordered[middle]) / 2\n",
        (("([3, 1, 2],)", "2.0"), ("([4, 1, 2, 3],)", "2.5"), ("([5],)", "5.0")),
    ),
    (
        "rotate", "rotate(items, steps)", "Rotate a list to the right by steps, negative to the left.",
        "def rotate(items, steps):\n    if not items:\n        return []\n    k = steps % len(items)\n"
        "    return items[-k:] + items[:-k] if k else list(items)\n",
        (("([1, 2, 3, 4], 1)", "[4, 1, 2, 3]"), ("([1, 2, 3], -1)", "[2, 3, 1]"), ("([], 5)", "[]")),
    ),
    (
        "to_base", "to_base(number, base)", "Write a non-negative integer in a base from 2 to 16, lower case.",
        "def to_base(number, base):\n    digits = '0123456789abcdef'\n    out = ''\n    while True:\n"
        "        number, digit = divmod(number, base)\n        out = digits[digit] + out\n        if not number:\n"
        "            return out\n",
        (("(255, 16)", "'ff'"), ("(5, 2)", "'101'"), ("(0, 7)", "'0'")),
    ),
)  # fmt: skip
"""Name, signature, sentence, reference solution, and cases as literal arguments and expected value."""


def tasks() -> tuple[BuiltinTask, ...]:
    """Make the tasks."""
    made = []
    for name, signature, sentence, gold, cases in STUBS:
        text = f"Write the Python function `{signature}`. {sentence} Answer with code only."
        operand = {"entry_point": name, "cases": [{"args": args, "expected": expected} for args, expected in cases]}
        made.append(make(f"python/{name}", text, f"```python\n{gold}```", ("python_cases", operand), cluster="python"))
    return tuple(made)
