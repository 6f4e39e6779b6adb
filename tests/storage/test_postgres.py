"""A catalog on a real PostgreSQL server: reaching it, sharing it, losing it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sommelier.errors import (
    DatabaseCorruptError,
    ReadOnlyError,
    StorageError,
)
from sommelier.records import AnalysisTask
from sommelier.storage.catalog import Catalog
from sommelier.storage.database import GROUPS
from sommelier.storage.tasks import TaskQueue
from tests.over_postgres import Databases
from tests.storage.catalog_factories import number, plain_model, start

SECRET = "s3cr%et/pw"  # never to be seen in a message


def execute(url: str, *statements: str) -> None:
    """What somebody else does to the database."""
    import psycopg

    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def end_connections(url: str) -> None:
    """What a restart of the server, or a broken network, does to all clients."""
    execute(
        url,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


# ---- reaching it


def with_user(url: str, user: str, password: str) -> str:
    from urllib.parse import quote

    scheme, _, rest = url.partition("://")
    return f"{scheme}://{user}:{quote(password, safe='')}@{rest.rpartition('@')[2]}"


@pytest.mark.parametrize(
    ("change", "said", "hint"),
    [
        (lambda url: with_user(url, "postgres", SECRET), "password authentication failed", "check"),
        (lambda url: with_user(url, "nobody", SECRET), "authentication failed", "check the user"),
        (lambda url: url.rpartition("/")[0] + "/absent", '"absent" does not exist', "createdb"),
        (lambda url: "postgresql://u:s3cr@127.0.0.1:1/x", "refused", "is the server running"),
        (lambda url: "postgresql://u:s3cr@nohost.invalid/x", "nohost", "check the host"),
        (lambda url: "postgresql://u:s3cr@[half/x", "cannot be read", "postgresql+psycopg://"),
        (lambda url: "postgresql://u:p@s3cr@h/x", "cannot be read", "%40"),
        (lambda url: "postgresql://u:s3/s3cr@h/x", "cannot be read", "%2F"),
        (lambda url: "postgresql://u:s3cr@h/x?nonsense=1", "cannot be read", "?option=value"),
        (lambda url: "mysql://u:s3cr@h/x", "mysql://...", "a file's path"),
    ],
)  # fmt: skip
def test_who_cannot_be_reached_is_told_with_what_to_do_and_without_the_password(
    url: str, tmp_path: Path, change: object, said: str, hint: str
) -> None:
    with pytest.raises(StorageError) as caught:
        Catalog.open(change(url), folder=tmp_path)  # type: ignore[operator]
    told = f"{caught.value} {caught.value.hint}"
    assert said in told
    assert hint in told
    assert "s3cr" not in told
    assert caught.value.__cause__ is None, "a traceback would show it"


def test_the_files_need_a_folder_which_the_catalog_remembers(
    databases: Databases, tmp_path: Path
) -> None:
    url = databases.fresh(tmp_path / "empty")
    execute(url, "DROP SCHEMA store CASCADE", "DROP SCHEMA main CASCADE")
    with pytest.raises(StorageError, match="needs a folder for its files"):
        Catalog.open(url)
    with pytest.raises(StorageError, match="no folder"):
        Catalog.open(url, folder=tmp_path / "not" / "there")
    with Catalog.open(url, folder=tmp_path / "files") as catalog:
        assert catalog.directory == tmp_path / "files"
    with Catalog.open(url, read_only=True) as catalog:
        assert catalog.directory == tmp_path / "files"
    (tmp_path / "files").rmdir()
    with (
        Catalog.open(url, folder=tmp_path) as catalog,  # mounted elsewhere
        pytest.raises(StorageError, match="no folder") as caught,
    ):
        Catalog.open(url, read_only=True)
    assert "--folder" in str(caught.value.hint)


def test_a_catalog_is_called_by_its_url_without_the_password(url: str, tmp_path: Path) -> None:
    with Catalog.open(url, folder=tmp_path) as catalog:
        assert str(catalog.path).startswith("postgresql://postgres@127.0.0.1:")
        assert url.split(":")[2].split("@")[0] not in str(catalog.path)


def test_a_newer_catalog_and_one_of_another_program_are_left_alone(
    url: str, tmp_path: Path
) -> None:
    execute(url, "UPDATE store.meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(StorageError, match="schema version 99"):
        Catalog.open(url, folder=tmp_path)
    execute(url, "DELETE FROM store.meta WHERE key = 'application_id'")
    with pytest.raises(DatabaseCorruptError, match="another program's"):
        Catalog.open(url, folder=tmp_path)


def test_two_clients_that_find_an_empty_database_make_one_catalog(
    databases: Databases, tmp_path: Path
) -> None:
    url = databases.fresh(tmp_path / "empty")
    execute(url, "DROP SCHEMA store CASCADE", "DROP SCHEMA main CASCADE")
    with pytest.raises(StorageError, match="holds no catalog"):
        Catalog.open(url, folder=tmp_path, read_only=True)
    versions: list[str] = []

    def open_it() -> None:
        with Catalog.open(url, folder=tmp_path) as catalog:
            versions.append(catalog.version)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(versions) == 4
    assert len(set(versions)) == 1


# ---- sharing it


def test_a_client_notices_what_another_one_committed(both: tuple[Catalog, Catalog]) -> None:
    one, other = both
    before = {group: other.generation_of(group) for group in GROUPS}
    added = one.add_model(plain_model("first")).record
    assert other.resolve("first") == added
    assert list(other.model_ids()) == [added.id]
    assert other.generation == one.generation
    assert other.generation_of("models") > before["models"]
    assert other.generation_of("links") == before["links"]
    one.drop_model(added.id)
    assert list(other.model_ids()) == []


def test_a_question_sees_one_moment_while_others_change_the_catalog(
    both: tuple[Catalog, Catalog],
) -> None:
    one, other = both
    one.add_model(plain_model("first"))
    with other.steady():
        assert other.model_names() == ["first"]
        generation = other.generation
        one.add_model(plain_model("second"))
        assert other.model_names() == ["first"]
        assert len(other.models()) == 1
        assert other.generation == generation
    assert other.model_names() == ["first", "second"]
    assert other.generation > generation


def test_a_change_inside_a_steady_block_is_of_the_newest_state(
    both: tuple[Catalog, Catalog],
) -> None:
    one, other = both
    with other.steady():
        assert other.model_names() == []
        one.add_model(plain_model("first"))
        other.add_model(plain_model("second"))
        assert other.model_names() == ["first", "second"]


def test_what_clients_read_and_then_change_nobody_changes_in_between(
    url: str, tmp_path: Path
) -> None:
    """Each gives its models the next free number and the next free version of one name."""

    def ingest(client: int) -> None:
        with Catalog.open(url, folder=tmp_path) as catalog:
            for i in range(15):
                with catalog.transaction():
                    model = catalog.add_model(plain_model("same", f"{client}-{i}")).record
                    catalog.add_measurements([number(model.id, "params", client * 100 + i)])

    threads = [threading.Thread(target=ingest, args=(client,)) for client in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    with Catalog.open(url, folder=tmp_path) as catalog:
        models = catalog.models()
        assert sorted(int(model.version) for model in models) == list(range(1, 61))
        values = catalog.measurement_columns()
        assert sorted(values["value"]) == sorted(c * 100 + i for c in range(4) for i in range(15))
        assert len(set(values["model_id"])) == 60
        assert set(values["context"]) == {1}


def test_a_client_that_only_reads_changes_nothing_and_sees_everything(
    url: str, tmp_path: Path
) -> None:
    with (
        Catalog.open(url, folder=tmp_path) as writer,
        Catalog.open(url, folder=tmp_path, read_only=True) as reader,
    ):
        writer.add_model(plain_model("first"))
        assert reader.model_names() == ["first"]
        assert reader.notice is None
        with pytest.raises(ReadOnlyError, match="read-only"):
            reader.add_model(plain_model("second"))


def test_only_the_first_client_may_remove_what_others_left(url: str, tmp_path: Path) -> None:
    with Catalog.open(url, folder=tmp_path) as one:
        with one.alone() as alone:
            assert alone
        with Catalog.open(url, folder=tmp_path) as other, other.alone() as alone:
            assert not alone
    with Catalog.open(url, folder=tmp_path) as one, one.alone() as alone:
        assert alone, "the others have gone"


# ---- jobs


def test_jobs_of_living_clients_go_on_and_those_of_killed_ones_are_interrupted(
    url: str, tmp_path: Path
) -> None:
    killed = start(
        "import sys, time\n"
        "from sommelier.storage.catalog import Catalog\n"
        "from sommelier.storage.tasks import TaskQueue\n"
        "queue = TaskQueue(Catalog.open(sys.argv[1], folder=sys.argv[2]))\n"
        "print(queue.start_job('KILLED', []).id, flush=True)\ntime.sleep(600)\n",
        url, tmp_path,
    )  # fmt: skip
    assert killed.stdout is not None
    number_of_killed = int(killed.stdout.readline())
    with (
        Catalog.open(url, folder=tmp_path) as one,
        Catalog.open(url, folder=tmp_path) as other,
    ):
        model = one.add_model(plain_model("first")).record
        job = TaskQueue(one).start_job("ANALYZE", [AnalysisTask("k", 0, "x", model.id, {})])
        assert TaskQueue(other).interrupt_stale() == 0
        killed.kill()
        killed.communicate()
        queue = TaskQueue(other)
        assert poll(queue.interrupt_stale) == 1
        states = {job.id: (job.state, job.reason) for job in queue.jobs()}
        assert states[job.id][0] == "running"
        assert states[number_of_killed] == (
            "interrupted", f"process {killed.pid} ended while it ran"
        )  # fmt: skip
        end_connections(url)
        one.model_names()  # connects anew, and shows again that its job lives
        assert queue.interrupt_stale() == 0
        TaskQueue(one).finish_job(job.id)
        assert other.database.living_jobs() == frozenset()


def poll(ask: object) -> int:
    """The first answer that is not 0, within ten seconds: a server takes a moment to see that a
    client is dead."""
    import time

    for _ in range(200):
        if found := ask():  # type: ignore[operator]
            return int(found)
        time.sleep(0.05)
    return 0


def test_a_job_that_was_not_kept_is_not_shown_to_live(both: tuple[Catalog, Catalog]) -> None:
    one, other = both

    def fail() -> None:
        with one.transaction():
            TaskQueue(one).start_job("ANALYZE", [])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert other.database.living_jobs() == frozenset()


# ---- losing it


def test_a_connection_that_was_lost_between_two_questions_is_made_anew(
    both: tuple[Catalog, Catalog], url: str
) -> None:
    one, other = both
    one.add_model(plain_model("first"))
    for use in (
        one.model_names,
        one.model_ids,
        lambda: one.sql("SELECT 1"),
        lambda: one.add_model(plain_model("second")),
        lambda: one.generation,
    ):
        end_connections(url)
        use()  # type: ignore[operator]
    assert other.model_names() == ["first", "second"]


def test_a_change_whose_connection_is_lost_is_undone_and_says_so(
    both: tuple[Catalog, Catalog], url: str
) -> None:
    one, other = both

    def lose() -> None:
        with one.transaction():
            one.add_model(plain_model("first"))
            end_connections(url)
            one.add_model(plain_model("second"))

    with pytest.raises(StorageError, match="was lost") as caught:
        lose()
    assert "nothing of this change was kept" in str(caught.value.hint)
    assert one.model_names() == other.model_names() == []
    one.add_model(plain_model("third"))
    assert other.model_names() == ["third"]


def test_an_answer_whose_connection_is_lost_half_way_says_so(
    both: tuple[Catalog, Catalog], url: str
) -> None:
    one, _ = both

    def lose() -> None:
        with one.steady():
            one.model_names()
            end_connections(url)
            one.model_names()

    with pytest.raises(StorageError, match="was lost"):
        lose()
    assert one.model_names() == []


def test_a_closed_catalog_is_not_connected_again(url: str, tmp_path: Path) -> None:
    catalog = Catalog.open(url, folder=tmp_path)
    catalog.close()
    catalog.close()
    with pytest.raises(StorageError, match="closed"):
        catalog.model_names()
