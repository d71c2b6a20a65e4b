"""A command that a user adds to COMMANDS alone, without an entry in FLAGS or without a docstring."""

import pytest

import main


@pytest.fixture
def own_command(monkeypatch):
    """own_command(documented): adds the command `hello`."""

    def add(documented):
        def hello(args):
            print("hello")

        hello.__doc__ = "Say hello.\n\nNothing else." if documented else None
        monkeypatch.setitem(main.COMMANDS, "hello", hello)

    return add


@pytest.mark.parametrize("documented", [True, False])
def test_a_command_needs_neither_flags_nor_a_docstring(documented, own_command, call_main):
    own_command(documented)
    outcome = call_main("hello")
    assert (outcome.code, outcome.out, outcome.err) == (0, "hello\n", "")
    for arguments in (["-h"], ["hello", "-h"], []):
        outcome = call_main(*arguments)
        assert (outcome.code, outcome.err) == (0, "")
        assert ("Say hello." in outcome.out) == documented
        assert "Nothing else." not in outcome.out
    outcome = call_main("hello", "--loud")
    assert (outcome.code, outcome.out) == (2, "")
    assert "unrecognized arguments: --loud" in outcome.err
    assert call_main("tables", "status", "table1", "--pretrained-root", "none").code == 0
