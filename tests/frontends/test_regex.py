"""RegexFullMatch: the automata against Python's re where the syntaxes agree, and the whole way."""

import random
import re

import numpy as np
import pytest

import athanor
from athanor.errors import CompileError
from athanor.frontends.onnx.regex import compile_regex
from athanor.frontends.onnx.regex_syntax import RegexError

from .execute import one_node
from .test_strings import check


def matches(automaton, text):
    state = 0
    for byte in text.encode():
        state = automaton.next[state, automaton.classes[byte]]
    return bool(automaton.matches[state])


ATOMS = ["a", "b", "_", "1", " ", "é", "京", r"\.", "-", ".", "[ab]", "[^a]", "[a-c京]", "[^é-京]"]
ATOMS += [r"\w", r"\W", r"\d", r"\D", r"\b", r"\B", "^", "$", r"[\w-]", r"[^\W1]", "[]a]", r"[a\]]"]
COUNTS = ["*", "+", "?", "*?", "{2}", "{1,3}", "{0,2}", "{1,}"]


def pattern_of(rng, depth):
    kind = rng.randrange(6) if depth else 0
    if kind == 0:
        return rng.choice(ATOMS)
    parts = [pattern_of(rng, depth - 1) for _ in range(2)]
    if kind == 1:
        return f"(?:{parts[0]}|{parts[1]})"
    if kind == 2:
        return f"(?P<name{rng.randrange(10**9)}>{parts[0]}|)"
    if kind == 3:
        return f"(?:{parts[0]}){rng.choice(COUNTS)}"
    return parts[0] + parts[1]


@pytest.mark.parametrize("seed", range(4))
def test_random_patterns(seed):
    rng = random.Random(seed)
    found = 0
    for _ in range(300):
        pattern = pattern_of(rng, 4)
        automaton = compile_regex(pattern)
        # RE2's $ is the end alone
        other = re.compile(pattern.replace("$", r"\Z"), re.ASCII)
        for _ in range(30):
            text = "".join(rng.choice("ab_1 é京.-\n") for _ in range(rng.randrange(6)))
            if not text and r"\B" in pattern:
                continue  # Python 3.13 and older say that nothing is in nothing
            expected = other.fullmatch(text) is not None
            assert matches(automaton, text) == expected, (pattern, text)
            found += expected
    assert found > 100


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("", ["", ""], ["a"]),
        (r"\Aa\z", ["a"], ["a\n"]),
        (r"[[:alpha:]_]+[[:^digit:]]", ["ab", "_é"], ["a1", "é1"]),
        (r"\s*", [" \t\f\r\n"], ["\v", "\u00a0"]),
        (r"\x41\x{4eac}", ["A京"], ["A"]),
        (r"a{,2}", ["a{,2}"], ["aa"]),
        (r"[\x{800}-\x{10000}]", ["\u0800", "\uffff", "\U00010000"], ["\u07ff", "\U00010001"]),
        (r"x.y", ["x🂡y"], ["x\ny", "xy"]),
    ],
)
def test_syntax_of_re2(pattern, yes, no):
    automaton = compile_regex(pattern)
    assert [matches(automaton, text) for text in yes] == [True] * len(yes)
    assert [matches(automaton, text) for text in no] == [False] * len(no)


@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "[a", "*", "a**", "a{3,2}", "a{1001}", r"\p{L}", r"\1", "(?i)a", "(?=a)", "(?<=a)",
     "[b-a]", "[[:what:]]", "\\", r"\x{110000}", "(a|b)*a(a|b){12}", "((a{999}){999}){999}"],
)  # fmt: skip
def test_refused(pattern):
    with pytest.raises(RegexError):
        compile_regex(pattern)
    model = one_node("RegexFullMatch", [np.array(["a"], object)], pattern=pattern)
    with pytest.raises(CompileError, match=r"RegexFullMatch 'node' .*: pattern="):
        athanor.compile(model)


def test_the_whole_way():
    x = np.array([["a@b.de", "ä@b", ""], ["@b.c", "a@b.c ", "ü" * 500 + "@京.jp"]], object)
    expected = np.array([[True, False, False], [False, False, True]])
    check("RegexFullMatch", [x], [expected], pattern=r"\S+@[^@\s]+\.[a-z]{1,3}")
