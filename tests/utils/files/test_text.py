"""Text from elsewhere, made fit to be printed."""

import pytest
from hostile import ESCAPES, raw_characters

from utils.errors import shortened
from utils.files.markdown import markdown_text
from utils.files.text import is_number, is_scalar, printable, shown


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_control_character_is_left(escape):
    for text in (printable(escape), shown(escape), shown([escape]), markdown_text(escape)):
        assert text.isprintable()
        assert raw_characters(text) == set()


def test_printable_text_stays_as_it_is():
    assert printable("ResNet20 ± 3 %, é, 数") == "ResNet20 ± 3 %, é, 数"
    assert printable("a\x1b[31m\n\ud800b") == r"a\x1b[31m\n\ud800b"


def test_values_in_messages_are_short():
    deep = []
    for _ in range(5000):
        deep = [deep]
    for value in ("x" * 100_000, deep, list(range(100_000)), {"a": deep}, 10**5000, -(10**5000)):
        assert len(shown(value)) < 300
    assert (shown(3), shown("3"), shown([3])) == ("3", "'3'", "[3]")
    assert (shortened("abcdefgh", 4), shortened("abcd", 4)) == ("ab ... gh", "abcd")


def test_scalars():
    assert all(map(is_scalar, ("", "a", 1, -1.5, True, 2**64 - 1)))
    assert not any(map(is_scalar, (None, [], {}, float("inf"), float("nan"), 2**64, "x" * 100_000)))
    assert not is_number(True)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("a\\", r"a\\"),
        (r"a\|b", r"a\\\|b"),
        ("<b>", r"\<b>"),
        ("[x](y)", r"\[x\](y)"),
        ("`x`", r"\`x\`"),
        ("&lt;", r"\&lt;"),
        ("http://x", r"http:\//x"),
        ("a\r\nb", "a b"),
        ("weight_decay 0.5 ± 1", "weight_decay 0.5 ± 1"),
        ("STE (keep *.downsample.* conv1)", r"STE (keep \*.downsample.\* conv1)"),
        ("**x** *y z*", r"\*\*x\*\* \*y z*"),
        ("2*3*4, a*", r"2\*3\*4, a*"),
        ("~x~ ~~y~~", r"\~x\~ \~\~y\~\~"),
        ("_x_ __y__ g_W_hat _.fc._++a1", r"\_x\_ \_\_y\_\_ g_W_hat \_.fc.\_++a1"),
        ("4.96*, 4.67, 4.76* | 1.0*", r"4.96*, 4.67, 4.76* \| 1.0*"),  # stars after numbers, as in the tables of figs
    ],
)
def test_markdown_shows_a_text_as_it_is(text, escaped):
    assert markdown_text(text) == escaped
