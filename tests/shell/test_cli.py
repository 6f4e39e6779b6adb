"""The command as a process: exit codes, pipes, signals, what it writes where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sommelier.connection import connect
from tests.factories import nan_model, tiny_classifier
from tests.shell.conftest import COMMAND, Run

HEAVY = (
    "torch", "onnxruntime", "tensorflow", "onnx", "matplotlib", "pandas", "prompt_toolkit", "rich",
)  # fmt: skip


def test_a_question_is_answered_as_tsv_when_piped(run: Run, database: Path) -> None:
    done = run(str(database), "-c", "SELECT MODELS name, params ORDER BY name")
    assert done.stdout == "name\tparams\nalpha\t15\nbeta\t15\ngamma\t15\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_dash_c_may_be_repeated_and_hold_several_statements(run: Run, database: Path) -> None:
    done = run(str(database), "-F", "csv", "-c", ".echo a; b", "-c", "SHOW POOLS; SHOW VIEWS")
    assert done.returncode == 0
    assert done.stdout.startswith("a; b\n")


def test_shell_with_a_file_as_its_input_runs_it(database: Path, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("SELECT MODELS name\n WHERE name = 'beta';")
    with (tmp_path / "q.sql").open() as script:
        done = subprocess.run(
            [*COMMAND, "shell", str(database)], stdin=script, capture_output=True, text=True
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "name\nbeta\n", "")


def test_query_is_the_same_as_dash_c(run: Run, database: Path) -> None:
    text = "SELECT MODELS name ORDER BY name LIMIT 1"
    assert run("query", str(database), text).stdout == run(str(database), "-c", text).stdout


def test_stdin_is_a_script_when_piped(run: Run, database: Path) -> None:
    script = "-- names\nSELECT MODELS name\nORDER BY name LIMIT 1;\n.mode json\nSELECT MODELS name"
    done = run(str(database), stdin=script + " ORDER BY name LIMIT 1")
    assert done.stdout == 'name\nalpha\n[\n  {"name": "alpha"}\n]\n'
    assert done.returncode == 0


def test_a_script_file_is_run(run: Run, database: Path, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("SELECT MODELS name\n WHERE name = 'beta';")
    assert run(str(database), "-f", "q.sql").stdout == "name\nbeta\n"
    assert run(str(database), "-f", "-", stdin="SHOW MODELS LIKE 'be%'").returncode == 0


def test_the_database_is_taken_from_the_environment(
    run: Run, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMMELIER_DB", str(database))
    assert run("-c", "SELECT MODELS name LIMIT 1").returncode == 0


def test_parameters_are_values(run: Run, database: Path) -> None:
    texts = ("-c", "SELECT MODELS name WHERE name = $n", "-c", "SELECT MODELS name LIMIT $k")
    done = run(str(database), *texts, "-p", "n=x' OR 'a' = 'a", "-p", "k=1")
    assert done.stdout.splitlines()[:2] == ["name", "name"]
    assert done.returncode == 0


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv", "tsv", "markdown", "line"])
def test_a_format_can_be_chosen(run: Run, database: Path, form: str) -> None:
    done = run(str(database), "-c", "SELECT MODELS name", "--format", form)
    assert "alpha" in done.stdout
    assert done.returncode == 0


def test_ids_are_what_the_next_command_takes(run: Run, database: Path) -> None:
    ids = run(str(database), "-F", "ids", "-c", "SELECT MODELS WHERE name = 'beta'").stdout.split()
    assert len(ids) == 1
    described = run(str(database), "-F", "json", "-c", f"SELECT MODELS name WHERE id = '{ids[0]}'")
    assert json.loads(described.stdout) == [{"name": "beta"}]


# ---- exit codes


def test_a_wrong_statement_is_1_with_a_caret_on_stderr(run: Run, database: Path) -> None:
    done = run(str(database), "-c", "SELECT MODEL CORR alpha 95% WERE task = 'x'")
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Parser Error: ")
    assert lines[1].startswith("LINE 1: SELECT MODEL")
    assert lines[1][lines[2].index("^") :].startswith("WERE")


def test_a_script_stops_at_its_first_error_unless_told_not_to(run: Run, database: Path) -> None:
    script = ("-c", ".echo one", "-c", "SELECT MODEL nothing", "-c", ".echo two")
    assert run(str(database), *script).stdout == "one\n"
    going_on = run(str(database), "--no-bail", *script)
    assert (going_on.stdout, going_on.returncode) == ("one\ntwo\n", 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--frobnicate",),
        ("-F", "xml", "-c", "SHOW MODELS"),
        ("a", "b", "-c", "SHOW MODELS"),
        ("SELECT MODELS",),
        ("query",),
        ("shell", "-c", "SHOW MODELS"),
        ("-p", "novalue", "-c", "SHOW MODELS"),
        ("-f", "no-such-file.sql"),
        ("--config", "no-such-file.toml", "-c", "SHOW MODELS"),
        ("no-such.sommelier", "-c", "SHOW MODELS"),
        ("--maxrows", "few"),
        ("-o", "no/such/folder/x", "-c", "SHOW MODELS"),
        (".", "-c", "SHOW MODELS"),
    ],
)
def test_wrong_usage_is_2_and_one_sentence(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "Error: " in done.stderr


def test_a_question_creates_no_database(run: Run, tmp_path: Path) -> None:
    run("new.sommelier", "-c", "SHOW MODELS")
    assert not list(tmp_path.glob("new*"))


def test_naming_a_repository_makes_the_database(run: Run, tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    done = run("new.sommelier", "-c", "CREATE REPOSITORY zoo TYPE folder AT './zoo'")
    assert done.returncode == 0
    assert (tmp_path / "new.sommelier").exists()


@pytest.mark.parametrize(
    "text", ["SHOW MODELS FROM folder './zoo'", "EXPLAIN IMPORT MODELS FROM folder './zoo'"]
)
def test_what_asks_a_source_needs_no_database(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "zoo").mkdir()
    tiny_classifier(tmp_path / "zoo" / "tiny.onnx")
    expected = "zoo" if text.startswith("EXPLAIN") else "tiny"
    for done in (run("new.sommelier", "-c", text), run("new.sommelier", stdin=f"{text};")):
        assert (done.returncode, done.stderr.count("Error")) == (0, 0)
        assert expected in done.stdout
    assert not list(tmp_path.glob("new*"))
    mixed = run("new.sommelier", "-c", f"{text}; SHOW MODELS")
    assert (mixed.returncode, mixed.stdout) == (2, "")
    assert "there is no database" in run("new.sommelier", "-c", "SHOW MODELS FROM zoo").stderr


def test_an_import_after_a_look_at_its_source_is_kept(run: Run, tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    tiny_classifier(tmp_path / "zoo" / "tiny.onnx")
    script = "SHOW MODELS FROM folder './zoo';\nIMPORT MODELS FROM folder './zoo';\n"
    assert run("new.sommelier", stdin=script).returncode == 0
    assert "tiny" in run("new.sommelier", "-c", "SHOW MODELS").stdout


def test_a_foreign_file_is_refused_untouched(run: Run, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear reader,\n" * 1000)
    before = (tmp_path / "letter.txt").read_bytes()
    done = run("letter.txt", "-c", "SET confidence = 90%")
    assert done.returncode == 2
    assert "Storage Error" in done.stderr
    assert (tmp_path / "letter.txt").read_bytes() == before


def test_quit_ends_a_script_with_its_code(run: Run, database: Path) -> None:
    done = run(str(database), stdin=".echo a\n.quit 7\n.echo b\n")
    assert (done.stdout, done.returncode) == ("a\n", 7)


def test_an_analyze_of_which_every_task_failed_is_1_and_says_so(run: Run, tmp_path: Path) -> None:
    nan_model(tmp_path / "bad.onnx", classes=3)
    nan_model(tmp_path / "worse.onnx", classes=4)
    tiny_classifier(tmp_path / "good.onnx")
    with connect(tmp_path / "m.sommelier") as db:
        db.import_models("folder", f"{tmp_path}/*.onnx")
    done = run("m.sommelier", "-c", "ANALYZE bad, worse FOR EQUIVALENCE", "-c", ".echo next")
    assert done.returncode == 1
    assert "next" not in done.stdout  # a script stops at its first error
    said = done.stderr.splitlines()
    assert "Analysis Error: ANALYZE had 2 tasks, and every one failed" in said
    assert any(line.endswith("every output is NaN") for line in said)
    everything = "ANALYZE ALL FOR EQUIVALENCE"  # good is done, and the second time was done before
    partly = run("m.sommelier", "-c", everything, "-c", everything)
    assert partly.returncode == 0
    assert "1 done, 2 failed" in partly.stderr
    with connect(tmp_path / "m.sommelier") as db:
        failed = db.sql("SELECT model FROM job_tasks WHERE state = 'failed' ORDER BY ALL").rows
    assert failed == [("bad",)] * 3 + [("worse",)] * 3


def test_readonly_refuses_to_change_anything(run: Run, database: Path) -> None:
    done = run("--readonly", str(database), "-c", "DROP MODEL alpha")
    assert done.returncode == 1
    assert "read-only" in done.stderr


def test_version_and_help_need_no_database(run: Run) -> None:
    import sommelier

    assert run("--version").stdout == f"sommelier {sommelier.__version__}\n"
    assert run("help").stdout == run("--help").stdout
    helped = run("--help")
    assert helped.returncode == 0
    for word in ("examples:", "--format", "SOMMELIER_DB", "130 Ctrl-C", "sommelier demo"):
        assert word in helped.stdout


# ---- pipes and signals


@pytest.fixture
def long_script(database: Path, tmp_path: Path) -> tuple[str, ...]:
    """Arguments of a run that writes far more than a pipe holds."""
    (tmp_path / "long.sql").write_text("SELECT MODELS;\n" * 3000)
    return (*COMMAND, str(database), "-f", "long.sql")


def test_a_reader_that_goes_away_is_141_and_silence(
    long_script: tuple[str, ...], home: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        long_script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"name")
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_ctrl_c_is_130_without_a_traceback(
    long_script: tuple[str, ...], home: Path, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            [*COMMAND, *long_script[len(COMMAND) : -1], "-"],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            text=True,
        )
        time.sleep(1.0)  # it waits for its script
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_ctrl_c_cancels_a_running_statement(database: Path, home: Path, tmp_path: Path) -> None:
    slow = "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b"
    process = subprocess.Popen(
        [*COMMAND, str(database), "-c", f".echo {slow[:6]}", "-c", slow, "-c", ".echo next"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "SELECT\n"
    time.sleep(1.0)  # it computes
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Cancelled" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_is_no_reason_to_fail(
    database: Path, home: Path, tmp_path: Path, closed: str
) -> None:
    line = f"{' '.join(COMMAND)} {database} -c 'SELECT MODELS name' {closed}"
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_one_sentence(database: Path, home: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    line = f"{' '.join(COMMAND)} {database} -c 'SELECT MODELS name' > /dev/full"
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "System Error: no space left on device\n"


def test_a_conversation_over_pipes_is_answered_line_by_line(
    database: Path, home: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [*COMMAND, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(".echo ready\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("SELECT MODELS name WHERE name = 'beta';\n")
    process.stdin.flush()
    assert [process.stdout.readline() for _ in range(2)] == ["name\n", "beta\n"]
    process.stdin.close()
    assert process.wait(60) == 0
    process.stdout.close()


def test_a_program_may_read_while_another_one_writes(
    run: Run, database: Path, tmp_path: Path
) -> None:
    with connect(database):
        done = run(str(database), "-c", "SELECT MODELS name")
        assert done.returncode == 0
        refused = run(str(database), "-c", "SET confidence = 90%")
        assert refused.returncode == 2
        assert "process" in refused.stderr


def test_colours_are_for_terminals_or_on_request(
    run: Run, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = (str(database), "-c", "SELECT MODEL CORR")
    assert "\x1b[" not in run(*wrong).stderr
    assert "\x1b[" in run(*wrong, "--color", "always").stderr
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in run(*wrong).stderr
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in run(*wrong).stderr


# ---- start-up


def loaded_by(code: str, cwd: Path) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted(set(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=cwd, check=True
    )
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_importing_the_package_loads_nothing_heavy(home: Path, tmp_path: Path) -> None:
    assert not loaded_by("import sommelier", tmp_path) & set(HEAVY)


def test_a_question_loads_nothing_heavy(home: Path, database: Path, tmp_path: Path) -> None:
    code = (
        "from sommelier.shell.cli import main\n"
        f"assert main([{str(database)!r}, '-c', 'SELECT MODELS']) == 0"
    )
    assert not loaded_by(code, tmp_path) & set(HEAVY)


def test_the_prompt_loads_no_neural_network_runtime(home: Path, tmp_path: Path) -> None:
    assert not loaded_by("import sommelier.shell.repl", tmp_path) & set(HEAVY[:6])


# ---- a database that is not the one that was meant


def test_a_mistyped_database_is_not_made_by_a_statement_that_needs_models(
    run: Run, tmp_path: Path
) -> None:
    assert run("models.sommelier", "-c", "REGISTER DEVICE d USING memory = 1 GB").returncode == 0
    for text in ("ANALYZE ALL", "DROP MODEL a", "ALTER MODEL a ADD TAG 'b'", "REFRESH POOL p"):
        done = run("modles.sommelier", "-c", text)
        assert (done.returncode, done.stdout) == (2, "")
        assert "there is no database modles.sommelier" in done.stderr
        assert "Did you mean 'models.sommelier'?" in done.stderr
        assert run("modles.sommelier", stdin=f"{text};").returncode == 2
    assert not (tmp_path / "modles.sommelier").exists()


def test_a_new_database_beside_one_of_nearly_its_name_is_pointed_out(
    run: Run, tmp_path: Path
) -> None:
    create = ("-c", "REGISTER DEVICE d USING memory = 1 GB")
    assert run("models.sommelier", *create).stderr.count("is new") == 0
    done = run("modles.sommelier", *create)
    assert done.returncode == 0
    assert "modles.sommelier is new; there is also models.sommelier" in done.stderr
    assert run("modles.sommelier", *create).stderr.count("is new") == 0
    assert run("something-else.sommelier", *create).stderr.count("is new") == 0


def test_a_locked_database_is_said_once_and_with_the_flag_of_the_command_line(
    run: Run, tmp_path: Path
) -> None:
    import sommelier as sm

    with sm.connect(tmp_path / "m.sommelier"):
        done = run("m.sommelier", "-c", "REGISTER DEVICE d USING memory = 1 GB")
        assert done.returncode == 2
        assert done.stderr.count("snapshot of") == 1
        assert "--readonly reads its snapshot of" in done.stderr
        assert "read_only" not in done.stderr
        assert run("m.sommelier", "--readonly", "-c", "SHOW MODELS").returncode == 0
    refused = run("m.sommelier", "--readonly", "-c", "DROP POOL p")
    assert "start without --readonly" in refused.stderr
    assert "read_only" not in refused.stderr


def test_readonly_shows_what_was_committed_last_when_nobody_writes(
    run: Run, tmp_path: Path
) -> None:
    """The writer is killed: what it committed is in the log, in no snapshot."""
    program = (
        "import os, sys, sommelier as sm\n"
        "from sommelier.records import Device\n"
        "db = sm.connect(sys.argv[1])\n"
        "db.catalog.add_device(Device('committed', 1.0, None, None))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "m.sommelier"
    killed = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    for flags in ((), ("--readonly",)):
        done = run(str(path), *flags, "-c", "SHOW DEVICES LIKE 'committed'")
        assert "committed" in done.stdout


# ---- values


def test_a_value_that_no_statement_uses_is_refused_with_the_nearest_name(
    run: Run, database: Path
) -> None:
    text = "SELECT MODELS name LIMIT $limit"
    done = run(str(database), "-c", text, "-p", "limit=1", "-p", "limt=2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no statement uses $limt" in done.stderr
    assert "Did you mean '$limit'?" in done.stderr
    piped = run(str(database), "-p", "limit=1", "-p", "limt=2", stdin=text)
    assert piped.returncode == 2
    assert "no statement uses $limt" in piped.stderr
    others = run(str(database), "-c", text, "-c", "SELECT MODELS LIMIT $n", "-p", "limit=1", "-p",
                 "n=1")  # fmt: skip
    assert others.returncode == 0


@pytest.mark.parametrize(
    ("text", "values", "advice"),
    [
        ("SELECT MODELS LIMIT ?", ("-p", "5"), "write $name in place of ? and -p name='5'"),
        ("SELECT MODELS LIMIT ?", (), "write $name in place of ? and start with -p name=value"),
        ("SELECT MODELS LIMIT $n", (), "start with -p n=value; given: none"),
    ],
)
def test_a_missing_value_says_how_to_give_it_on_the_command_line(
    run: Run, database: Path, text: str, values: tuple[str, ...], advice: str
) -> None:
    done = run(str(database), "-c", text, *values)
    assert done.returncode == (2 if values else 1)
    assert advice in done.stderr
