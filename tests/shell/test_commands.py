"""Dot and backslash commands on a session over a real database."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from sommelier.shell.commands import COMMANDS, CommandError, find_command, run_command
from sommelier.shell.config import ConfigError
from sommelier.shell.scripts import read_script
from sommelier.shell.session import LeaveShell, ShellSession


@pytest.fixture
def said(tmp_path: Path):
    """What the session wrote: said() is stdout, said('err') stderr."""

    def read(stream: str = "out") -> str:
        return (tmp_path / f"{stream}.txt").read_text(encoding="utf-8")

    return read


REQUIRED = (
    "help mode timer read output once maxrows pager history edit schema open log bail echo quit"
    " watch save run d"
)


@pytest.mark.parametrize("name", REQUIRED.split())
@pytest.mark.parametrize("mark", [".", "\\"])
def test_every_command_of_the_design_has_both_spellings(name: str, mark: str) -> None:
    assert name in find_command(mark + name).names


def test_no_name_means_two_commands() -> None:
    names = [name for command in COMMANDS for name in command.names]
    assert len(names) == len(set(names))


def test_an_unknown_command_suggests_the_nearest() -> None:
    with pytest.raises(CommandError) as caught:
        find_command(".tiemr")
    assert caught.value.suggestions == (".timer",)


def test_an_unambiguous_prefix_is_enough_and_an_ambiguous_one_is_not() -> None:
    assert find_command(".maxr").names[0] == "maxrows"
    with pytest.raises(CommandError):
        find_command(".on_top")


def test_help_lists_every_command(session: ShellSession, said) -> None:
    run_command(session, ".help")
    text = said()
    for command in COMMANDS:
        assert f".{command.usage}" in text
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize("topic", ["select", "SELECT", "import", "analyze;", "show", "explain"])
def test_help_explains_statements_from_the_grammar(session: ShellSession, said, topic: str) -> None:
    run_command(session, f".help {topic}")
    assert topic.strip(";").upper() in said()


def test_help_explains_a_command(session: ShellSession, said) -> None:
    run_command(session, "\\help .watch")
    assert "repeats it until Ctrl-C" in said()


def test_help_on_nothing_known_says_so(session: ShellSession) -> None:
    with pytest.raises(CommandError, match="there is no help on 'frobnicate'"):
        run_command(session, ".help frobnicate")


@pytest.mark.parametrize("form", ["csv", "json", "ids", "table"])
def test_mode_changes_the_format_of_what_follows(session: ShellSession, said, form: str) -> None:
    run_command(session, f".mode {form}")
    run_command(session, ".once " + str(Path(session.console.out.name).with_name("direct")))
    session.statement("SELECT MODELS name")
    assert session.format == form


def test_an_unknown_format_is_refused_with_the_nearest(session: ShellSession) -> None:
    with pytest.raises(CommandError) as caught:
        run_command(session, ".mode jsn")
    assert caught.value.suggestions == ("json",)


def test_expanded_switches_to_lines_and_back(session: ShellSession) -> None:
    run_command(session, "\\x")
    assert session.format == "line"
    run_command(session, "\\x")
    assert session.format == "tsv"


def test_timer_switches_the_time_in_the_footer(session: ShellSession, said) -> None:
    run_command(session, ".mode table")
    run_command(session, ".timer off")
    session.statement("SELECT MODELS name")
    assert "3 rows\n" in said("err")
    run_command(session, "\\timing on")
    session.statement("SELECT MODELS name")
    assert "3 rows (" in said("err")


def test_a_switch_takes_on_or_off_only(session: ShellSession) -> None:
    with pytest.raises(ConfigError, match="on or off"):
        run_command(session, ".timer perhaps")


def test_maxrows_takes_a_number(session: ShellSession) -> None:
    run_command(session, ".maxrows 7")
    assert session.config.maxrows == 7
    with pytest.raises(CommandError):
        run_command(session, ".maxrows few")


def test_output_goes_to_a_file_until_it_is_taken_back(
    session: ShellSession, said, tmp_path: Path
) -> None:
    target = tmp_path / "with space.tsv"
    run_command(session, f".output '{target}'")
    session.statement("SELECT MODELS name ORDER BY name")
    run_command(session, ".output")
    session.statement("SELECT MODELS name LIMIT 1")
    assert target.read_text().split() == ["name", "alpha", "beta", "gamma"]
    assert said().splitlines()[0] == "name"
    assert len(said().splitlines()) == 2


def test_once_sends_only_the_next_answer_to_a_file(
    session: ShellSession, said, tmp_path: Path
) -> None:
    run_command(session, f".once {tmp_path}/one.json")
    run_command(session, ".mode json")
    session.statement("SELECT MODELS name ORDER BY name LIMIT 1")
    session.statement("SELECT MODELS name ORDER BY name LIMIT 2")
    assert json.loads((tmp_path / "one.json").read_text()) == [{"name": "alpha"}]
    assert [row["name"] for row in json.loads(said())] == ["alpha", "beta"]


def test_the_log_has_statements_answers_and_messages(session: ShellSession, tmp_path: Path) -> None:
    log = tmp_path / "all.log"
    run_command(session, f".log {log}")
    session.run(read_script("SELECT MODELS name LIMIT 1; SELECT MODEL CORR;"))
    run_command(session, ".log off")
    session.statement("SHOW MODELS")
    text = log.read_text()
    assert "> SELECT MODELS name LIMIT 1" in text
    assert "alpha" in text
    assert "Error:" in text
    assert "SHOW MODELS" not in text


def test_read_runs_a_file_and_stops_at_its_first_error(
    session: ShellSession, said, tmp_path: Path
) -> None:
    script = tmp_path / "q.sql"
    script.write_text(".echo one\nSELECT MODELS name LIMIT;\n.echo two\n")
    assert not session.run(read_script(f".read {script}"))
    assert said() == "one\n"
    assert f"{script}:2:" in said("err")


def test_without_bail_a_file_goes_on(session: ShellSession, said, tmp_path: Path) -> None:
    script = tmp_path / "q.sql"
    script.write_text("SELECT MODELS LIMIT;\n.echo two\n")
    session.run(read_script(f".bail off\n.read {script}"))
    assert said() == "two\n"


def test_reading_a_file_that_is_not_there_is_one_sentence(session: ShellSession, said) -> None:
    assert not session.run(read_script(".read none.sql"))
    assert "none.sql: no such file" in said("err")


def test_describe_and_the_views_for_sql(session: ShellSession, said) -> None:
    run_command(session, "\\d alpha")
    assert "alpha" in said()
    run_command(session, "\\d")
    assert "models" in said()


def test_saved_statements_are_kept_privately_and_run_by_name(
    session: ShellSession, said, home: Path
) -> None:
    run_command(session, ".save first SELECT MODELS name ORDER BY name LIMIT 1")
    assert stat.S_IMODE(session.saved_queries.stat().st_mode) == 0o600
    assert home in session.saved_queries.parents
    run_command(session, "\\n first")
    assert said().split() == ["name", "alpha"]
    with pytest.raises(CommandError) as caught:
        run_command(session, ".run frist")
    assert caught.value.suggestions == ("first",)


def test_save_without_a_statement_keeps_the_last_one(session: ShellSession, said) -> None:
    session.statement("SELECT MODELS name ORDER BY name DESC LIMIT 1")
    run_command(session, ".save newest")
    run_command(session, ".run newest")
    assert said().split() == ["name", "gamma"] * 2


def test_watch_repeats_a_statement(session: ShellSession, said) -> None:
    run_command(session, ".watch 0.01 3 SELECT MODELS name ORDER BY name LIMIT 1;")
    assert said().split() == ["name", "alpha"] * 3


def test_edit_needs_a_person(session: ShellSession) -> None:
    with pytest.raises(CommandError, match="person"):
        run_command(session, ".edit")


def test_edit_leaves_the_changed_statement_for_the_prompt(
    session: ShellSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", "sed -i s/gamma/beta/")
    session.interactive = True
    session.last_statement = "DESCRIBE gamma"
    run_command(session, ".edit")
    assert session.next_input == "DESCRIBE beta;"


def test_open_changes_the_database(session: ShellSession, tmp_path: Path) -> None:
    run_command(session, f".open {tmp_path}/other.sommelier")
    assert session.connection.names("model") == []


def test_a_database_that_cannot_be_opened_leaves_the_old_one(
    session: ShellSession, said, tmp_path: Path
) -> None:
    (tmp_path / "foreign.db").write_bytes(b"not a database" * 100)
    assert not session.run(read_script(f".open {tmp_path}/foreign.db"))
    assert "Storage Error" in said("err")
    assert len(session.connection.names("model")) == 3


@pytest.mark.parametrize("line", [".quit", "\\q", ".exit 3"])
def test_quit_leaves_with_a_code(session: ShellSession, line: str) -> None:
    with pytest.raises(LeaveShell) as caught:
        session.run(read_script(line))
    assert caught.value.code == (3 if "3" in line else 0)
