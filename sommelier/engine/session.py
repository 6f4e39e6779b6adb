"""Session: answers every statement that only reads, over one catalog and its indexes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sommelier.engine import settings
from sommelier.engine.common_answers import AnswerReader
from sommelier.engine.executor import execute, gather
from sommelier.engine.facts import Facts
from sommelier.engine.parameters import Parameters, Supplied, as_parameters
from sommelier.engine.plan import LogicalPlan, ModelReference
from sommelier.engine.planner import bind_query_options, check_contexts, plan
from sommelier.engine.result import Actions, ColumnInfo, Compared, Report, Result, Table
from sommelier.engine.rules import optimize
from sommelier.engine.scope import Scope
from sommelier.engine.state import State
from sommelier.engine.world import World
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.grammar.builder import QueryBuilder

if TYPE_CHECKING:
    from pathlib import Path

    from sommelier.storage.catalog import Catalog
    from sommelier.storage.profile_index import ProfileIndex
    from sommelier.storage.resource_index import ResourceIndex
    from sommelier.storage.semantic_index import SemanticIndex
    from sommelier.storage.sketches import SketchStore


def _no_path(_: str) -> Path | None:
    return None


class Session:
    """What the engine knows between questions. Not thread-safe: the connection takes turns."""

    def __init__(
        self,
        catalog: Catalog,
        resources: ResourceIndex,
        semantics: SemanticIndex,
        profiles: ProfileIndex,
        sketches: SketchStore,
        *,
        path: Callable[[str], Path | None] = _no_path,
        load: Callable[[str, str | None], Any] | None = None,
    ) -> None:
        self.catalog = catalog
        self.sketches = sketches
        self.resources = resources
        self.semantics = semantics
        self.profiles = profiles
        self.answers = AnswerReader(sketches)
        self._world: World | None = None
        self._path = path
        self._load = load

    @classmethod
    def open(
        cls,
        catalog: Catalog,
        sketches: SketchStore,
        *,
        path: Callable[[str], Path | None] = _no_path,
        load: Callable[[str, str | None], Any] | None = None,
    ) -> Session:
        """A session with its own indexes over the catalog."""
        from sommelier.storage.profile_index import ProfileIndex
        from sommelier.storage.resource_index import ResourceIndex
        from sommelier.storage.semantic_index import SemanticIndex

        resources = ResourceIndex(catalog)
        semantics = SemanticIndex(catalog, sketches, resources)
        profiles = ProfileIndex(catalog, resources)
        return cls(catalog, resources, semantics, profiles, sketches, path=path, load=load)

    @property
    def world(self) -> World:
        """The numbers of the catalog as it is now; read anew after every change of it."""
        if self._world is None or not self._world.facts.current:
            facts = Facts(self.catalog, self.resources)
            self._world = World(facts, self.semantics, self.profiles)
        return self._world

    @property
    def facts(self) -> Facts:
        return self.world.facts

    # ---- questions

    def answer(
        self, statement: nodes.Statement, parameters: Supplied = None, *, text: str | None = None
    ) -> Result | Table | Report:
        """The answer to a statement that does not change the database.

        Raises QueryError with `text` and the words at fault underlined.
        """
        with self.located(text):
            if isinstance(statement, nodes.Select):
                return self.run(statement, parameters, text=text)
            if isinstance(statement, nodes.Explain):
                return self.explain(statement, parameters, text=text)
            if isinstance(statement, nodes.ExplainWhy):
                return self.why(statement, parameters, text=text)
            if isinstance(statement, nodes.CatalogSql):
                return self.sql(statement.text, parameters)
            known = as_parameters(parameters)
            with self.catalog.steady():
                if isinstance(statement, nodes.ExplainFusion):
                    answer: Table | Report = self.explain_fusion(statement, known)
                elif isinstance(statement, nodes.ExplainCascade):
                    answer = self.explain_cascade(statement, known)
                else:
                    answer = self.read(statement, known)
            known.check_all_used()
            return answer

    def read(self, statement: nodes.Statement, parameters: Parameters) -> Table:
        """The answer to SHOW, DESCRIBE or the catalog's part of COMPARE."""
        from sommelier.engine.reading import read

        return read(statement, self, parameters)

    def run(
        self,
        select: nodes.Select,
        parameters: Supplied = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        text: str | None = None,
    ) -> Result:
        """The models that answer a SELECT. overrides : settings for this question only."""
        with self._steady(text):
            started = time.perf_counter()
            world = self.world
            bound = self.plan(select, parameters, overrides)
            planned = time.perf_counter()
            state = execute(optimize(bound), world)
            timing = {
                "plan": (planned - started) * 1e3,
                "execute": (time.perf_counter() - planned) * 1e3,
            }
            return self._result(bound, state, world, timing, text)

    def run_bound(self, bound: LogicalPlan) -> Result:
        """The answer to a plan."""
        world = self.world
        return self._result(bound, execute(optimize(bound), world), world, {}, None)

    def model(self, reference: Any, parameters: Parameters) -> ModelReference:
        """The model that a reference or parameter names. Raises UnknownNameError."""
        return self.scope(nodes.Select(), parameters, None).model(reference)

    def scope(
        self,
        select: nodes.Select,
        known: Parameters,
        overrides: Mapping[str, Any] | None = None,
    ) -> Scope:
        """What names mean in a question with the options of `select`. Raises BinderError."""
        chosen = {**self.settings(), **(overrides or {})}
        options = bind_query_options(select.options, known, chosen)
        answer = partial(self._inner_ids, known, overrides)
        scope = Scope(self.facts, known, options, answer)
        check_contexts(select.options, scope)
        return scope

    def plan(
        self,
        select: nodes.Select,
        parameters: Supplied | Parameters = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> LogicalPlan:
        """The bound plan, before the rules. Raises BinderError, also for unused parameters."""
        known = as_parameters(parameters)
        scope = self.scope(select, known, overrides)
        bound = plan(select, scope, self.world)
        if not isinstance(parameters, Parameters):
            known.check_all_used()
        return bound

    def explain(
        self, statement: nodes.Explain, parameters: Supplied = None, *, text: str | None = None
    ) -> Report:
        """The plan in words; with ANALYZE it runs, and counts and times are shown."""
        from sommelier.engine.corr_notes import training_notes
        from sommelier.engine.explain import explain_analyzed, explain_plan
        from sommelier.engine.explain_links import explain_linked
        from sommelier.engine.options import EXPLAIN_OPTIONS, bind_options

        with self._steady(text):
            options = bind_options(statement.options, EXPLAIN_OPTIONS)
            as_json = options.get("format") == "json"
            if not isinstance(statement.select, nodes.Select):
                run = statement.analyze or bool(options.get("analyze"))
                if isinstance(statement.select, nodes.SelectCascades):
                    return self._explain_cascades(statement.select, parameters, run, as_json)
                return explain_linked(
                    statement.select, self, parameters, analyze=run, as_json=as_json
                )
            started = time.perf_counter()
            bound = self.plan(statement.select, parameters)
            optimized = optimize(bound)
            planned = time.perf_counter()
            if not (statement.analyze or options.get("analyze")):
                told = (*bound.notes, *training_notes(bound, self.world))
                return explain_plan(replace(optimized, notes=told), as_json=as_json)
            state = execute(optimized, self.world)
            timing = {
                "plan": (planned - started) * 1e3,
                "execute": (time.perf_counter() - planned) * 1e3,
            }
            told = (*bound.notes, *training_notes(bound, self.world), *state.notes)
            notes = tuple(dict.fromkeys(told))
            return explain_analyzed(optimized, tuple(state.stages), notes, timing, as_json=as_json)

    def why(
        self, statement: nodes.ExplainWhy, parameters: Supplied = None, *, text: str | None = None
    ) -> Report:
        """Every condition of the query with the model's value and verdict."""
        from sommelier.engine.why import why

        with self._steady(text):
            known = as_parameters(parameters)
            bound = self.plan(statement.select, known)
            model = self.scope(statement.select, known, None).model(statement.model)
            known.check_all_used()
            return why(bound, model, self.world, negated=statement.negated)

    def explain_fusion(self, statement: nodes.ExplainFusion, parameters: Parameters) -> Report:
        """What a fused model shares, what its tasks lost, and how it was found."""
        from sommelier.engine.explain_fusion import explain_fusion

        return explain_fusion(statement, self, parameters)

    def explain_cascade(self, statement: nodes.ExplainCascade, parameters: Parameters) -> Report:
        """When each model of a cascade answers, and what was proved."""
        from sommelier.engine.show_cascades import explain_cascade

        return explain_cascade(statement, self, parameters)

    def sql(self, text: str, parameters: Supplied = None) -> Table:
        """Rows of read-only SQL over the catalog's views."""
        result = self.catalog.sql(text, parameters)
        columns = tuple(ColumnInfo(name) for name in result.columns)
        return Table("", columns, list(result.rows))

    # ---- names and settings

    def names(self, kind: str) -> list[str]:
        """Names of one kind, for completion: see sommelier.engine.naming."""
        from sommelier.engine.naming import names

        return names(kind, self.facts)

    def settings(self) -> dict[str, Any]:
        """The engine's settings that were SET, as Python values in base units."""
        return self.facts.settings()

    def set_option(self, statement: nodes.SetOption, parameters: Supplied = None) -> str:
        """Stores a setting; answers its value as it would be written."""
        return settings.store(self.catalog, statement, parameters, self.names)

    def reset_option(self, statement: nodes.ResetOption) -> None:
        """Forgets one setting, or all of them."""
        settings.reset(self.catalog, statement)

    # ---- inside

    def _explain_cascades(
        self, select: nodes.SelectCascades, parameters: Supplied, analyze: bool, as_json: bool
    ) -> Report:
        from sommelier.engine.explain import json_report
        from sommelier.engine.select_cascades import explain_cascades

        known = as_parameters(parameters)
        report = explain_cascades(select, self, known, analyze=analyze)
        known.check_all_used()
        return json_report(report.data) if as_json else report

    def _inner_ids(
        self, known: Parameters, overrides: Mapping[str, Any] | None, select: nodes.Select
    ) -> list[str]:
        """The ids that a query inside another one answers, in order."""
        state = execute(optimize(self.plan(select, known, overrides)), self.world)
        return [str(id_) for id_ in self.facts.ids[state.row_numbers()]]

    def _result(
        self,
        bound: LogicalPlan,
        state: State,
        world: World,
        timing: dict[str, float],
        text: str | None,
    ) -> Result:
        """The answer; its columns are functions over `world`, which does not change any more."""
        rows = state.row_numbers()
        shown = [column.value for column in bound.columns]
        for value in shown:
            world.hold(value)
        columns = [ColumnInfo(c.name, c.value.dimension) for c in bound.columns]

        def references() -> Compared | None:
            if bound.corr is None:
                return None
            at = world.facts.resources.rows([one.id for one in bound.corr.references])
            there = at[at >= 0]
            sources = [partial(gather, value, there, state, world) for value in shown]
            names = [
                one.name for one, row in zip(bound.corr.references, at, strict=True) if row >= 0
            ]
            actions = self._actions(bound, lambda: None)
            rows = Result(columns, sources, world.facts.ids[there], actions=actions)
            return Compared(tuple(names), rows)

        return Result(
            columns,
            [partial(gather, value, rows, state, world) for value in shown],
            world.facts.ids[rows],
            matched=state.matched,
            stages=state.stages,
            notes=tuple(dict.fromkeys((*bound.notes, *state.notes))),
            timing=timing,
            actions=self._actions(bound, references),
            text=text,
        )

    def _actions(self, bound: LogicalPlan, references: Callable[[], Compared | None]) -> Actions:
        def why(model_id: str) -> Report:
            from sommelier.engine.why import why

            record = self.catalog.model(model_id)
            return why(bound, ModelReference(record.id, record.name), self.world, negated=False)

        def misses() -> tuple[tuple[str, ...], str | None]:
            from sommelier.engine.why import smallest_relaxation

            return smallest_relaxation(optimize(bound), self.world)

        def offered() -> Result | None:
            if bound.pick is None and bound.limit is None and not bound.offset:
                return None
            with self._steady(None):
                return self.run_bound(replace(bound, pick=None, limit=None, offset=0))

        supplied: dict[str, Any] = {} if self._load is None else {"load": self._load}
        return Actions(
            record=self.catalog.model,
            measurements=self.catalog.measurements,
            path=self._path,
            why=why,
            misses=misses,
            column=self._column,
            references=references,
            offered=offered,
            **supplied,
        )

    def _column(self, text: str) -> tuple[ColumnInfo, dict[str, Any], tuple[str, ...]]:
        found = self.run(QueryBuilder().models("id", text).query)
        values = zip(found.column("id"), found.column(found.columns[1].name), strict=True)
        return found.columns[1], dict(values), found.notes

    @contextmanager
    def _steady(self, text: str | None) -> Iterator[None]:
        """`located`, and no job in the background changes the numbering of rows meanwhile."""
        with self.located(text), self.catalog.steady():
            yield

    @contextmanager
    def located(self, text: str | None) -> Iterator[None]:
        """Errors from inside carry the text of the statement, so that they can underline it."""
        try:
            yield
        except BinderError as error:
            if error.text is None:
                error.text = text
            raise
