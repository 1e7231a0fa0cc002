"""The command line's grammar, as Apptainer's is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcc.cli.arguments import Arguments, Command, Option, help_text, parse
from hpcc.cli.run import COMMANDS, _variables
from hpcc.errors import UsageError

EXEC = COMMANDS["exec"]


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--bind", "/a"], "bind", ["/a"]),
        (["--bind=/a=b"], "bind", ["/a=b"]),
        (["-B", "/a", "-B/b", "-B=/c", "--bind=/d"], "bind", ["/a", "/b", "/c", "/d"]),
        (["-ce"], "cleanenv", True),
        (["-ce"], "contain", True),
        (["-cB", "/a"], "bind", ["/a"]),
        (["-ecH/x:/y"], "home", "/x:/y"),
        (["--compat=true"], "compat", True),
        (["--compat", "--compat=false"], "compat", False),
        (["--pwd", "-x"], "pwd", "-x"),
        (["--pwd="], "pwd", ""),
        (["--home", "a", "--home", "b"], "home", "b"),
    ],
)
def test_options(argv: list[str], key: str, value: object) -> None:
    parsed = parse(EXEC, [*argv, "image", "cmd"])
    assert parsed.options[key] == value and parsed.positional == ["image", "cmd"]


def test_everything_behind_the_image_is_the_payloads() -> None:
    parsed = parse(EXEC, ["-c", "image", "cmd", "--compat", "-B", "--", "-h", "--help"])
    assert parsed.positional == ["image", "cmd", "--compat", "-B", "--", "-h", "--help"] and not parsed.compat
    assert parse(EXEC, ["-c", "--", "-image", "x"]).positional == ["-image", "x"]
    assert parse(EXEC, ["-", "x"]).positional == ["-", "x"]


@pytest.mark.parametrize(
    "argv",
    [["--no-such"], ["-Z"], ["--bind"], ["-B"], ["--compat=maybe"], ["--compat=1"], ["-cZ"], ["--pw", "x"], ["---"]],
)
def test_mistakes(argv: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse(EXEC, argv)
    assert "Usage: hpcc exec" in caught.value.hint


@given(st.lists(st.text(st.sampled_from("-=abcBeHh /:,"), max_size=6), max_size=6))
def test_never_anything_but_a_usage_error(argv: list[str]) -> None:
    try:
        parsed = parse(Command("x", "s", EXEC.options, "e", stops=True), argv)
    except (UsageError, SystemExit):
        return
    assert isinstance(parsed, Arguments) and len(parsed.positional) <= len(argv)


def test_commands_that_do_not_stop() -> None:
    command = Command("pull", "s", (Option(("-F", "--force"), "h"),), "e")
    parsed = parse(command, ["a", "--force", "b"])
    assert parsed.force is True and parsed.positional == ["a", "b"]
    with pytest.raises(AttributeError):
        _ = parsed.nothing


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(COMMANDS[name], ["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0 and text == help_text(COMMANDS[name]) + "\n"
    assert all(len(line) <= 82 for line in text.splitlines() if not line.startswith("  hpcc"))
    assert "Example:" in text and f"Usage: hpcc {name}" in text and "--bind" in text


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("A=1", [("A", "1")]),
        ("A=1,B=2", [("A", "1"), ("B", "2")]),
        ("A=1,2,B=x=y", [("A", "1,2"), ("B", "x=y")]),
        ("A=", [("A", "")]),
        ("A=a,/x=1", [("A", "a,/x=1")]),
    ],
)
def test_env(text: str, pairs: list[tuple[str, str]]) -> None:
    assert _variables(text) == pairs


@pytest.mark.parametrize("text", ["", "A", "=1", "1A=2", "a b=1"])
def test_env_mistakes(text: str) -> None:
    with pytest.raises(UsageError):
        _variables(text)
