"""The nodes of deployments, models that answer requests; import them from nodes.py."""

from __future__ import annotations

from dataclasses import dataclass

from sommelier.grammar.expression_nodes import (
    Expression,
    ModelRef,
    Node,
    Number,
    Parameter,
    Percent,
    Text,
)
from sommelier.grammar.select_nodes import Option, Select, Statement


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DeployedGroup(Node):
    """`POOL p | MODEL a, b`. Either models or pool is set."""

    models: tuple[ModelRef | Parameter, ...] = ()
    pool: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DeployedCascade(Node):
    """CASCADE kept | CASCADE a -> b -> c, [ESCALATE AT MOST 10% | ESCALATE WHEN condition].

    members : one is the name of a cascade that is kept, several are models from the first asked to
    the one that is trusted. at_most : the share of its inputs that a stage may send on.
    when : a condition on a score of an answer, which is then sent on.
    """

    members: tuple[ModelRef | Parameter, ...]
    at_most: Percent | Number | Parameter | None = None
    when: Expression | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DeployedPlan(Node):
    """`PLAN p`."""

    name: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Deploy(Statement):
    """DEPLOY [OR REPLACE] what AS name [UNDER [SLA] limits] [ROUTE BY policy] [FALLBACK TO m]
    [USING ...]. under : what is promised of every answer, or of a share of them (AT p99)."""

    what: DeployedGroup | DeployedCascade | DeployedPlan | Select
    name: str
    or_replace: bool = False
    under: Expression | None = None
    policy: Text | None = None
    fallback: ModelRef | Parameter | None = None
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Undeploy(Statement):
    """`UNDEPLOY [IF EXISTS] name`."""

    name: str
    if_exists: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Simulate(Statement):
    """`SIMULATE name ON TRACE 'burst-v1' [USING ...]`."""

    name: str
    trace: str | Parameter
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ExplainDeploy(Statement):
    """`EXPLAIN [(options)] DEPLOY ...`."""

    deploy: Deploy
    options: tuple[Option, ...] = ()
