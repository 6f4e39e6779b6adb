"""Connection: opens a database and answers statements, one at a time, from any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.connection import deploying, listed
from sommelier.connection.background import BackgroundJobs
from sommelier.connection.model import Model
from sommelier.connection.others import OtherDatabases
from sommelier.connection.plotting import Plots
from sommelier.connection.publishing import Publisher
from sommelier.connection.reading import read
from sommelier.connection.relation import Relation, keyword_query
from sommelier.connection.serving import Serving
from sommelier.connection.statements import Call, perform
from sommelier.engine.result import Report, Result, Table
from sommelier.engine.session import Session
from sommelier.errors import BinderError, CancelledError, QueryError, ReadOnlyError, StorageError
from sommelier.grammar import nodes
from sommelier.grammar.builder import QueryBuilder, model_name
from sommelier.grammar.parser import is_read_only, parse
from sommelier.metrics import METRICS
from sommelier.records import Job
from sommelier.storage.artifacts import ArtifactStore
from sommelier.storage.catalog import Catalog
from sommelier.storage.sketches import SketchStore
from sommelier.storage.tasks import TaskQueue

if TYPE_CHECKING:
    from torch import nn

    from sommelier.analysis.links.profiles import Profile
    from sommelier.connection.working_on_ray import RayCluster
    from sommelier.runtime.cascade_runner import RunnableCascade
    from sommelier.runtime.collaborate import CollaborativePlan
    from sommelier.runtime.deployment import RunningDeployment
    from sommelier.storage.resource_index import ResourceIndex

Parameters = Mapping[str, Any] | Sequence[Any] | None
Progress = Callable[[str, int, int | None, str | None], None]
Outcome = Result | Table | Report


class Connection(OtherDatabases):
    """The object users hold. Use it as a context manager, or call close()."""

    def __init__(self, catalog: Catalog, *, workers: str | RayCluster | None = None) -> None:
        self.catalog = catalog
        self.workers = workers
        self.sketches = SketchStore(catalog.directory / "sketches", catalog)
        self._session: Session | None = None
        self._closed = False
        self._lock = threading.RLock()
        self._cancelled = threading.Event()
        self.background = BackgroundJobs(catalog)
        self.serving = Serving(self)
        self._publisher = Publisher(catalog)
        if not catalog.read_only:
            TaskQueue(catalog).interrupt_stale()  # what a killed process left running
            with catalog.alone() as alone:
                if alone:
                    self.artifacts.sweep()  # and half copied
                    self.sketches.sweep()

    def query(
        self, text: str | None = None, params: Parameters = None, **keywords: Any
    ) -> Relation:
        """A lazy SELECT MODELS from text, or from keywords: query(ref='resnet50', memory='< 80%').

        Raises ParserError at once; names and units are checked when the rows are first read.
        """
        if text is None:
            return Relation(self, keyword_query(keywords), params)
        statement = parse(text)
        if not isinstance(statement, nodes.Select):
            raise BinderError(
                "query() takes a SELECT MODELS",
                hint="execute() takes every statement, sql() catalog SQL",
            )
        return Relation(self, QueryBuilder(statement), params, text=text)

    def models(self, *columns: str) -> Relation:
        """A lazy query over all models, to be refined: db.models().corr('resnet50').on(...)."""
        return Relation(self, QueryBuilder().models(*columns))

    def execute(
        self, text: str, params: Parameters = None, *, progress: Progress | None = None
    ) -> Outcome:
        """The outcome of one statement of any kind."""
        started = time.perf_counter()
        statement = parse(text)
        parse_ms = (time.perf_counter() - started) * 1e3
        return self.run(statement, params, progress=progress, parse_ms=parse_ms, text=text)

    def run(
        self,
        statement: nodes.Statement,
        params: Parameters = None,
        *,
        progress: Progress | None = None,
        parse_ms: float = 0.0,
        text: str | None = None,
    ) -> Outcome:
        """The outcome of a parsed statement."""
        with self._lock:
            self._cancelled.clear()
            _ = self.session  # refuses a closed connection before anything is written
            if is_read_only(statement):
                outcome = read(self, statement, params, progress, text)
                if isinstance(outcome, Result):
                    outcome.timing["parse"] = parse_ms
                return outcome
            return self._write(statement, params, progress, text)

    def sql(self, text: str, params: Sequence[Any] = ()) -> Table:
        """Rows of read-only catalog SQL over the views models, ...; params : of the `?` in it."""
        with self._lock:
            self.background.note()
            return self.session.sql(text, list(params))

    def run_select(
        self, select: nodes.Select, params: Parameters = None, *, text: str | None = None
    ) -> Result:
        """The rows of a parsed SELECT MODELS; Relation calls it."""
        with self._lock:
            return self.session.run(select, params, text=text)

    def explain(
        self, query: str | nodes.Select, params: Parameters = None, *, analyze: bool = False
    ) -> Report:
        """The plan of a query; with analyze it runs, with counts and times by stage."""
        if isinstance(query, str):
            return self.query(query, params).explain(analyze=analyze)
        with self._lock:
            return self.session.explain(nodes.Explain(query, analyze=analyze), params)

    def model(self, name: str) -> Model:
        """The model of that name, alias, name@version or id."""
        return Model(self, self.catalog.resolve(*model_name(name)))

    def plan(
        self,
        models: str | Sequence[str],
        *,
        budget: Mapping[str, str] | None = None,
        profile: Profile | None = None,
        threads: int = 1,
        **options: Any,
    ) -> CollaborativePlan:
        """Which of the models to execute within a budget, and which to predict; ready to run.

        models : their names, or the name of a pool or of a saved plan. budget : limits as ON says
        them, {'memory': '5 MB', 'latency': '60%'}. profile : of an earlier plan; its inputs decide
        instead of the samples held out from the links. options : of SELECT PLAN, as objective.
        """
        from sommelier.connection.linking import open_plan, plan_of

        with self._lock:
            chosen = plan_of(self, models, budget or {}, options, profile)
            return open_plan(self, chosen, threads=threads)

    def cascade(self, name: str, *, threads: int = 1) -> RunnableCascade:
        """A kept cascade with its models loaded, ready to run; a context manager.

        Raises UnknownNameError, and BinderError for one that is stale.
        """
        from sommelier.connection.cascading import open_cascade

        with self._lock:
            return open_cascade(self, name, threads=threads)

    # ---- filling

    def import_models(
        self, connector: str, *locations: str, progress: Progress | None = None, **options: Any
    ) -> Table:
        """What IMPORT MODELS FROM connector 'location', ... USING options answers."""
        statement = nodes.Import(connector, tuple(locations), options=_options(options))
        return self._table(statement, progress)

    def register_dataset(self, name: str, path: str | Path, **options: Any) -> Table:
        """What REGISTER DATASET name FROM 'path' USING options answers."""
        statement = nodes.RegisterDataset(name, str(path), options=_options(options))
        return self._table(statement, None)

    def ingest(
        self, module: nn.Module, *, example_inputs: object, name: str, **facts: Any
    ) -> Model:
        """A torch module as a model: exported to ONNX for any batch, and compared with itself.

        example_inputs : a tensor, several, or a dict by name, (n, ...) each. name : 'mine' or
        'mine@2'. facts : task, labels, preprocessing, license ... as REGISTER MODEL takes them.
        Raises RejectedModelError with the reason if it cannot be exported or answers otherwise.
        """
        from sommelier.connection.ingesting import ingest

        with self._lock:
            return Model(self, ingest(self, module, example_inputs, name, facts))

    def analyze(
        self,
        *models: str,
        aspects: tuple[str, ...] = (),
        progress: Progress | None = None,
        **options: Any,
    ) -> Table:
        """What ANALYZE models FOR aspects USING options answers; no model named means all."""
        statement = nodes.Analyze(
            "models" if models else "all",
            models=tuple(nodes.ModelRef(*model_name(name)) for name in models),
            aspects=aspects,
            options=_options(options),
        )
        return self._table(statement, progress)

    # ---- answering requests

    def deploy(self, statement_or_name: str, *, wait_s: float = 60.0) -> RunningDeployment:
        """A deployment that answers requests in this process, by its name or by a DEPLOY statement.

        The statement is kept; the same one again only starts it. It ends with the connection or
        UNDEPLOY. wait_s : for the first model that is loaded; 0 returns at once.
        """
        running = self.serving.start(deploying.kept_name(statement_or_name, self))
        return deploying.waited_for(running, wait_s)

    def deployments(self) -> tuple[RunningDeployment, ...]:
        """The deployments that run in this process; SHOW DEPLOYMENTS lists all that are kept."""
        return self.serving.running()

    @property
    def turn(self) -> AbstractContextManager[object]:
        """Statements take turns; a thread that plans something itself takes one too."""
        return self._lock

    # ---- jobs in the background

    def jobs(self) -> list[Job]:
        """All jobs of the database, the oldest first: state, progress, what is done now."""
        return self.background.jobs()

    def wait(
        self, job_id: int, timeout: float | None = None, *, progress: Progress | None = None
    ) -> Job:
        """The job once it has ended, or as it is after `timeout` seconds; its state says which.

        One that failed is answered like others, with the reason; see BackgroundJobs.wait.
        """
        return self.background.wait(job_id, timeout, progress=progress)

    def cancel_job(self, job_id: int) -> Job:
        """The job after CANCEL JOB. Raises UnknownNameError, BinderError if it does not run."""
        return self.background.cancel(job_id)

    # ---- state

    @property
    def plot(self) -> Plots:
        """Pictures of what the database knows: `db.plot.pareto()`, `db.plot.agreement()`."""
        return Plots(self)

    @property
    def session(self) -> Session:
        """The engine over this catalog's indexes, made on first use."""
        if self._closed:
            raise StorageError(f"the connection to {self.path} is closed", hint="connect again")
        if self._session is None:
            self._session = Session.open(
                self.catalog, self.sketches, path=self._path_of, load=self._load
            )
        return self._session

    @property
    def artifacts(self) -> ArtifactStore:
        """Where the files of models lie."""
        return self.catalog.artifacts

    @property
    def resources(self) -> ResourceIndex:
        """The numbers of all models by column, as questions see them."""
        return self.session.resources

    @property
    def path(self) -> str:
        """The database's file, or its address without a password."""
        return str(self.catalog.path)

    @property
    def read_only(self) -> bool:
        """Whether this connection may only ask."""
        return self.catalog.read_only

    @property
    def notice(self) -> str | None:
        """What the user should know about this connection, such as the age of its snapshot."""
        return self.catalog.notice

    def names(self, kind: str) -> list[str]:
        """Names of one kind, for completion and suggestions.

        kind : as in sommelier.engine.naming, connector, policy, trace; link_option, fusion_option,
        cascade_option (of CREATE, and of ANALYZE FOR LINKS), deploy_option, simulate_option.
        """
        if kind == "metric":
            return list(METRICS)
        if kind in listed.NAMES:
            return listed.NAMES[kind]()
        with self._lock:
            return self.session.names(kind)

    def cancel(self) -> None:
        """Stops the running statement, not background jobs; safe from any thread or handler."""
        self._cancelled.set()
        self.catalog.interrupt()

    @property
    def cancelled(self) -> bool:
        """Whether the running statement was asked to stop."""
        return self._cancelled.is_set()

    def close(self) -> None:
        """Publishes what changed and releases the file. Closing twice is harmless.

        Background jobs are asked to stop and given ten seconds for it: they are 'interrupted'.
        """
        self.background.close()  # before the lock: it does not wait for the statement that runs
        self.serving.close()
        with self._lock:
            self._closed = True
            self.catalog.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            return f"<Connection {self.path} (closed)>"
        mode = "read-only" if self.read_only else "read-write"
        return f"<Connection {self.path} ({mode}, {len(self.catalog.model_names())} models)>"

    # ---- inside

    def _write(
        self,
        statement: nodes.Statement,
        params: Parameters,
        progress: Progress | None,
        text: str | None,
    ) -> Outcome:
        if self.read_only and not isinstance(statement, nodes.CancelJob):  # that says who runs it
            raise ReadOnlyError(
                f"{self.path} is open read-only",
                hint="connect without read_only=True to change it",
            )
        call = Call(self, params, self._publisher.through(progress), self._cancelled.is_set)
        try:
            return perform(statement, call)
        except KeyboardInterrupt:
            raise CancelledError("cancelled", hint="what was finished before is kept") from None
        except QueryError as error:
            error.text = error.text or text
            raise
        finally:
            self.catalog.publish()

    def _table(self, statement: nodes.Statement, progress: Progress | None) -> Table:
        outcome = self.run(statement, progress=progress)
        assert isinstance(outcome, Table)
        return outcome

    def _path_of(self, model_id: str) -> Path | None:
        artifact = self.catalog.model(model_id).artifact
        return None if artifact is None else self.artifacts.path(artifact)

    def _load(self, model_id: str, provider: str | None) -> Any:
        return Model(self, self.catalog.model(model_id)).load(
            provider=provider or "CPUExecutionProvider"
        )


def _options(values: Mapping[str, Any]) -> tuple[nodes.Option, ...]:
    return QueryBuilder().using(**values).query.options if values else ()
