"""What a log gets to read of work that lasts; bars at a terminal are in tests/e2e/test_asking.py."""

import pytest

from hpcc.cli import terminal
from hpcc.cli.arguments import Command, parse
from hpcc.progress import Progress, Telling


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def lines(*words: str) -> Progress:
    return terminal.terminal(parse(Command("x", "", (), ""), words))


def work(progress: Progress, clock: list[float]) -> None:
    progress.stage("Pulling", 4_000_000)
    layer = progress.part("layer 1 of 1, 0123456789ab", 4_000_000)
    for _ in range(4):
        clock[0] += 20
        layer.advance(1_000_000)
        progress.wrote(1_500_000)
    layer.finish()
    progress.stage("Converting", 6_000_000)
    clock[0] += 40
    progress.part("", 6_000_000).advance(6_000_000)
    progress.close()


def test_lines_of_a_log(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    work(Telling(lines(), lambda _: None), clock)
    assert capsys.readouterr().err.splitlines() == [
        "INFO:    Layer 1 of 1, 0123456789ab: 50 % of 4.0 MB, 0.1 MB/s",
        "INFO:    Layer 1 of 1, 0123456789ab: 100 % of 4.0 MB, 0.1 MB/s",
        "INFO:    Layer 1 of 1, 0123456789ab: 4.0 MB, in 80.0 s",
        "INFO:    Pulling: 80.0 s, 4.0 MB, 0.1 MB/s, 6.0 MB of blocks written",
        "INFO:    Converting: 40.0 s, 6.0 MB, 0.1 MB/s",
    ]


def test_what_is_quick_says_little(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    progress = lines()
    progress.stage("Pulling", 10)
    progress.part("layer 1 of 1, 0123456789ab", 10).finish("converted before")
    progress.stage("Converting")
    progress.close()
    assert capsys.readouterr().err == "INFO:    Layer 1 of 1, 0123456789ab: 0.0 MB, converted before\n"


@pytest.mark.parametrize("word", ["--quiet", "--silent"])
def test_quiet(clock: list[float], capsys: pytest.CaptureFixture[str], word: str) -> None:
    work(lines(word), clock)
    assert capsys.readouterr().err == ""


def test_long_messages_are_indented_at_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hpcc.cli import say

    text = "words " * 30 + "/a/path/that/is/" + "x" * 90
    say("FATAL", text)
    assert capsys.readouterr().err == f"FATAL:   {text}\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    say("FATAL", text)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("FATAL:   words") and all(line.startswith(" " * 9) for line in lines[1:])
    assert all(len(line) <= 80 for line in lines[:-1]) and " ".join(" ".join(lines).split()[1:]) == " ".join(
        text.split()
    )
