"""StringNormalizer, the whole way, against Python's own letters."""

import numpy as np
import pytest

import athanor
from athanor.errors import CompileError

from .execute import one_node
from .test_strings import check, same

WORDS = np.array(
    ["Été", "été", "ΑΒΓ", "the", "The", "", "x1-Y", "Ⱥ", "京都", "ǅ", "The end"], object
)


def expected(words, action, stop, is_sensitive):
    lowered = [word.lower() for word in stop]
    kept = [w for w in words if not (w in stop if is_sensitive else w.lower() in lowered)]
    change = {"LOWER": str.lower, "UPPER": str.upper, "NONE": str}[action]
    return np.array([change(word) for word in kept] or [""], object)


@pytest.mark.parametrize("action", ["NONE", "LOWER", "UPPER"])
@pytest.mark.parametrize("stop", [[], ["the", "", "ÉTÉ"], ["αβγ", "京都", "nowhere"]])
@pytest.mark.parametrize("is_sensitive", [0, 1])
def test_words(action, stop, is_sensitive):
    options = {"stopwords": stop} if stop else {}
    options |= {"case_change_action": action, "is_case_sensitive": is_sensitive}
    wanted = expected(WORDS, action, stop, is_sensitive)
    check("StringNormalizer", [WORDS], [wanted], **options)
    check("StringNormalizer", [WORDS[None]], [wanted[None]], **options)


def test_nothing_is_left():
    options = {"stopwords": ["a"], "case_change_action": "UPPER"}
    empty = np.array([""], object)
    check("StringNormalizer", [np.array(["a", "A"], object)], [empty], **options)
    check("StringNormalizer", [np.array([["A"]], object)], [empty[None]], **options)
    check("StringNormalizer", [np.zeros(0, object)], [empty], **options)


def test_every_letter():
    points = [chr(c) for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
    upper = [c.upper() if len(c.upper()) == 1 else c for c in points]
    text = np.array(["".join(points[i : i + 500]) for i in range(0, len(points), 500)], object)
    wanted = np.array(["".join(upper[i : i + 500]) for i in range(0, len(upper), 500)], object)
    check("StringNormalizer", [text], [wanted], case_change_action="UPPER")


def test_bytes_that_are_no_utf8_stay():
    broken = [
        b"a\xff",
        b"\xc3",
        b"\xe4\xbaz",
        b"\xc0\x80b",
        b"\xf8\x88\x80\x80\x80",
        b"\xf4\x90\x80\x80",
    ]
    model = one_node("StringNormalizer", [np.array(["a"] * 6, object)], case_change_action="UPPER")
    result = athanor.compile(model).load(threads=1).run({"x0": np.array(broken, object)})["y0"]
    wanted = [text.replace(b"a", b"A").replace(b"b", b"B").replace(b"z", b"Z") for text in broken]
    same(result, np.array([w.decode("utf-8", "surrogateescape") for w in wanted], object))


@pytest.mark.parametrize(
    ("shape", "options", "sentence"),
    [
        ((2, 2), {}, r"input \[2, 2\], expected \(C\) or \(1, C\)"),
        ((2,), {"case_change_action": "TITLE"}, "case_change_action='title' is none of"),
        (
            (2,),
            {"locale": "tr_TR", "case_change_action": "UPPER"},
            "has capital letters of its own",
        ),
    ],
)
def test_refusals(shape, options, sentence):
    with pytest.raises(CompileError, match=sentence):
        athanor.compile(one_node("StringNormalizer", [np.full(shape, "a", object)], **options))
