"""What every test of an exercise's checker asserts: its verdict, and the one line it prints."""

# answers that no exercise asks for; a checker turns them down and never raises
NONSENSE = [
    None,
    "a text",
    lambda: 1,
    lambda *given: None,
    lambda *given: [1, 2, 3],
    lambda *given: 1 / 0,
]


def accepted(check, answer, capsys):
    """The answer passes."""
    assert check(answer) is True
    assert capsys.readouterr().out == "right\n"


def rejected(check, answer, capsys, hint=""):
    """The answer fails without raising, and the one line that says so holds the hint."""
    assert check(answer) is False
    out = capsys.readouterr().out
    assert out.startswith("not yet: ") and hint in out and out.count("\n") == 1
