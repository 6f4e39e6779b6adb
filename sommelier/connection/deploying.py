"""DEPLOY, UNDEPLOY and EXPLAIN DEPLOY: what the engine plans, checked against what the runtime has.

Only the connection sees both rooms: the engine plans models, the runtime knows its policies.
"""

from __future__ import annotations

import time
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from sommelier.connection.naming import underlined
from sommelier.deployment_records import Deployment
from sommelier.engine import show_deployments
from sommelier.engine.deployment import DEPLOY_OPTIONS, plan_deployment
from sommelier.engine.options import EXPLAIN_OPTIONS, bind_options
from sommelier.engine.result import ColumnInfo, Report, Table
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.grammar.formatter import format as format_statement
from sommelier.grammar.parser import parse
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection
    from sommelier.connection.statements import Call
    from sommelier.engine.parameters import Parameters
    from sommelier.runtime.deployment import RunningDeployment
    from sommelier.runtime.deployment_state import DeploymentState, ServedState

_STATE_COLUMNS = (
    ColumnInfo("state"),
    ColumnInfo("answered_here", Dimension.COUNT),
    ColumnInfo("refused_here", Dimension.COUNT),
    ColumnInfo("warnings"),
)
_LOOK_S = 0.01  # between two looks at whether a deployment is ready
_WOULD_ANSWER = "DEPLOY lets the models answer samples first where a dataset fits all of them"
_SHARES = frozenset({"headroom", "sla_prob", "reject_below"})  # knobs that may be written 50%
_KINDS = {"float": float, "int": int, "bool": bool, "str | None": str, "str": str}


def planned(statement: nodes.Deploy, db: Connection) -> Deployment:
    """What the statement means by the catalog as it is. Raises BinderError, UnknownNameError."""
    with db.catalog.steady():
        deployment = plan_deployment(statement, db.session, policy_knobs(statement))
    _check_policy(statement, deployment)
    return _of_one_model(deployment) if deployment.policy == "fixed" else deployment


def planned_again(deployment: Deployment, db: Connection) -> Deployment:
    """The same statement by the catalog as it is now."""
    statement = parse(deployment.statement)
    assert isinstance(statement, nodes.Deploy)
    return replace(planned(statement, db), created_at=deployment.created_at)


def _of_one_model(deployment: Deployment) -> Deployment:
    """With the name of the model that always answers, the most accurate where none is said. Who
    wants one model waits for it while it loads: nobody stands in, but the fallback."""
    names = [model.name for model in deployment.models]
    first = next((name for name in names if name != deployment.fallback), names[0])
    return replace(
        deployment,
        knobs={"model": first, **deployment.knobs},
        models=tuple(replace(model, stand_ins=()) for model in deployment.models),
    )


def policy_knobs(statement: nodes.Deploy) -> dict[str, Any]:
    """The kinds of what USING may set about the policy, by name; those of DEPLOY come first.

    Raises UnknownNameError for a policy there is not.
    """
    from sommelier.runtime.policies import DEFAULT, POLICIES, knobs_of, routing_policy

    name = DEFAULT if statement.policy is None else statement.policy.value
    with underlined(None if statement.policy is None else statement.policy.span):
        kinds = {field.name: str(field.type) for field in fields(type(routing_policy(name)))}  # type: ignore[arg-type]  # every policy is a dataclass
    assert name in POLICIES
    known: dict[str, Any] = {knob: _KINDS[kinds[knob]] for knob in knobs_of(name)}
    known |= dict.fromkeys(_SHARES & known.keys(), Dimension.FRACTION)
    return {knob: kind for knob, kind in known.items() if knob not in DEPLOY_OPTIONS}


def _check_policy(statement: nodes.Deploy, deployment: Deployment) -> None:
    """Raises BinderError for a knob out of range, or a policy for what has no choice."""
    from sommelier.runtime.policies import DEFAULT, routing_policy

    if deployment.kind != "models" and statement.policy is not None:
        raise BinderError(
            f"a {deployment.kind} says itself which models run",
            span=statement.policy.span,
            hint="leave out ROUTE BY",
        )
    spans = {option.name.lower(): option.span for option in statement.options}
    with underlined(next((spans[knob] for knob in deployment.knobs if knob in spans), None)):
        routing_policy(deployment.policy or DEFAULT, **deployment.knobs)
    model = deployment.knobs.get("model")
    names = [known.name for known in deployment.models]
    if model is not None and model not in names:
        raise BinderError(
            f"'{model}' is none of the models that are deployed",
            span=spans.get("model"),
            hint=f"they are {', '.join(names)}",
        )


def _check_device(statement: nodes.Deploy, deployment: Deployment) -> None:
    """Raises BinderError for a device on which no model runs here. Only of a statement that is
    written now: one that is kept may have come from a machine that has the device."""
    from sommelier.runtime.sessions import devices, refused_device

    device = deployment.options.device
    why = None if device is None else refused_device(device)
    if why is not None:
        raise BinderError(
            why,
            span=next((o.span for o in statement.options if o.name.lower() == "device"), None),
            hint=f"there is {', '.join(devices())}; without USING device models run on the cpu",
        )


# ---- statements


def deploy(statement: nodes.Deploy, call: Call) -> tuple[str, int, tuple[str, ...]]:
    """(status, how many models, notes): deployed or replaced. What runs here under that name goes
    on as the new statement says. Raises BinderError for a name that is taken."""
    db = call.db
    deployment = planned(statement, db)
    _check_device(statement, deployment)
    taken = statement.name in db.catalog.deployment_names()
    if taken and not statement.or_replace:  # last: what else is wrong is told before
        raise BinderError(
            f"deployment '{statement.name}' exists",
            span=statement.span,
            hint=f"DEPLOY OR REPLACE replaces it, UNDEPLOY {statement.name} ends it",
        )
    if _unmeasured(deployment) and _let_answer(statement, deployment, call):
        deployment = planned(statement, db)
    db.catalog.save_deployment(deployment)
    db.serving.renew(deployment)
    notes = (*summary(deployment), *deployment.notes, *_of_the_pool(db))
    return ("replaced" if taken else "deployed"), len(deployment.models), notes


def _of_the_pool(db: Connection) -> tuple[str, ...]:
    """Which options wait until the pool of this process is made anew."""
    waiting = db.serving.overruled()
    if not waiting:
        return ()
    are = "takes" if len(waiting) == 1 else "take"
    told = f"{', '.join(waiting)} {are} effect once none of the deployments runs in this process"
    return (f"{told} any more, and in other processes: all share the models that are loaded",)


def _unmeasured(deployment: Deployment) -> bool:
    """Whether thresholds are to keep a share of which no sample is known."""
    cascade = deployment.cascade
    if cascade is None or deployment.escalate_at_most is None:
        return False
    return not any(stage.quantiles for stage in cascade.stages)


def _let_answer(statement: nodes.Deploy, deployment: Deployment, call: Call) -> bool:
    """Whether its models answered samples now: of the dataset that is named, or one that fits."""
    from sommelier.connection.cascading import let_answer

    given = call.options(statement.options, {**DEPLOY_OPTIONS, **policy_knobs(statement)})
    models = call.db.catalog.models([model.model_id for model in deployment.models])
    return let_answer(statement, models, given.get("dataset"), call)


def kept_name(statement_or_name: str, db: Connection) -> str:
    """The name of a kept deployment: that of the statement, which is run if it is not kept yet.

    Raises UnknownNameError for a name there is not, BinderError where the name means another
    statement.
    """
    if statement_or_name in db.catalog.deployment_names():
        return statement_or_name
    if not statement_or_name.split(None, 1)[1:]:
        db.catalog.deployment(statement_or_name)  # says which names are near
    statement = parse(statement_or_name)
    if not isinstance(statement, nodes.Deploy):
        raise BinderError(
            "deploy() takes a DEPLOY statement, or the name of a deployment",
            hint="execute() takes every statement",
        )
    kept = db.catalog.deployments(statement.name)
    if not kept or kept[0].statement != format_statement(replace(statement, or_replace=True)):
        db.run(statement, text=statement_or_name)
    return statement.name


def waited_for(running: RunningDeployment, timeout_s: float) -> RunningDeployment:
    """The deployment once it may answer, or none of its models can be loaded, or after so long."""
    end = time.monotonic() + timeout_s
    while not running.ready and time.monotonic() < end:
        if running.status in ("failed", "closed"):  # another thread may close the connection
            break
        time.sleep(_LOOK_S)
    return running


def undeploy(statement: nodes.Undeploy, call: Call) -> tuple[str, tuple[str, ...]]:
    """(status, notes). What runs here answers what it has accepted, then ends."""
    db = call.db
    if statement.if_exists and statement.name not in db.catalog.deployment_names():
        return "absent", ()
    with underlined(statement.span):
        db.catalog.drop_deployment(statement.name)
    left = db.serving.stop(statement.name)
    return "undeployed", (f"{left} requests were cancelled",) if left else ()


def answer(
    statement: nodes.Statement, db: Connection, parameters: Parameters, progress: Any = None
) -> Table | Report:
    """The answer to SIMULATE, EXPLAIN DEPLOY, and to SHOW and DESCRIBE of deployments with what
    runs in this process."""
    if isinstance(statement, nodes.Simulate):
        from sommelier.connection.simulating import simulate

        return simulate(statement, db, parameters, progress)
    if isinstance(statement, nodes.ExplainDeploy):
        options = bind_options(statement.options, EXPLAIN_OPTIONS)
        found = planned(statement.deploy, db)
        _check_device(statement.deploy, found)
        if _unmeasured(found):
            found = replace(found, notes=(*found.notes, _WOULD_ANSWER))
        return show_deployments.explain(found, as_json=options.get("format") == "json")
    table = db.session.read(statement, parameters)
    here = {running.name: running for running in db.deployments()}
    if isinstance(statement, nodes.Describe):
        found_here = here.get(statement.name.name)
        return table if found_here is None else _as_it_runs(table, found_here)
    states = {name: running.state() for name, running in here.items()}
    rows = [(*row, *_state_cells(states.get(str(row[0])))) for row in table.rows]
    return replace(table, columns=(*table.columns, *_STATE_COLUMNS), rows=rows)


def answers(statement: nodes.Statement) -> bool:
    """Whether a statement that only reads is answered here."""
    if isinstance(statement, nodes.Show):
        return statement.what == "deployments"
    if isinstance(statement, nodes.Describe):
        return statement.kind == "deployment"
    return isinstance(statement, nodes.Simulate | nodes.ExplainDeploy)


def _state_cells(state: DeploymentState | None) -> tuple[object, ...]:
    """Of a deployment that does not run here, None but for the state."""
    if state is None:
        return "not running here", None, None, None
    refused = sum(state.rejected.values())
    return state.status, state.answered, refused, "; ".join(state.warnings) or None


def _as_it_runs(table: Table, running: RunningDeployment) -> Table:
    """What DESCRIBE says of a deployment, with what is so here alone."""
    void = running.cascade is not None and running.cascade.overruled
    note = "; not as it runs here, where thresholds were set by hand"
    rows = [(k, f"{v}{note}" if void and k == "proved" else v) for k, v in table.rows]
    return replace(table, rows=[*rows, *_running(running.state())])


def _running(state: DeploymentState) -> list[tuple[object, ...]]:
    told = (
        f"{state.status}; {state.answered} answered, {state.promised} with a deadline"
        f" ({state.late} late), {state.waiting} waiting,"
        f" {sum(state.rejected.values())} refused, {state.failed} failed"
    )
    rows: list[tuple[object, ...]] = [("here", told)]
    for model in state.models:
        why = f": {model.reason}" if model.reason else ""
        told = f"{model.state}{why}; {model.answered} answered{_samples(model)}"
        rows.append((f"{model.name} here", told))
    return [*rows, *(("warning", warning) for warning in state.warnings)]


def _samples(model: ServedState) -> str:
    """How many it answered, where requests had several."""
    return f" ({model.samples} samples)" if model.samples != model.answered else ""


def summary(deployment: Deployment) -> tuple[str, ...]:
    """Who answers, in one line, and how it is started."""
    arrow = " -> " if deployment.kind == "cascade" else ", "
    names = arrow.join(model.name for model in deployment.models)
    word = {"cascade": "cascade", "plan": "executes"}.get(deployment.kind, "answers with")
    return (
        f"{word} {names}",
        f"to run it: sommelier serve, or db.deploy('{deployment.name}').infer(inputs)",
    )
