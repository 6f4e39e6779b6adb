"""`db.plot`: pictures of what a database knows. The data come from where statements take theirs;
sommelier.engine.plots draws them. Nothing is imported here that draws, before something is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sommelier.connection.relation import Relation
from sommelier.engine.result import Result
from sommelier.errors import BinderError

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection
    from sommelier.engine.plots.picture import Plot

Question = str | Relation | Result | None


class Plots:
    """Plots of one database; each method returns a Plot, which a notebook shows.

    All raise UnknownNameError for names that are not there, and MissingDependencyError without
    matplotlib.
    """

    def __init__(self, db: Connection) -> None:
        self._db = db

    def pareto(
        self, question: Question = None, *, x: str = "flops", y: str = "accuracy",
        size: str | None = None,
    ) -> Plot:  # fmt: skip
        """Every model by two numbers, the front of those that no other beats as a line, and the
        models that answer the question, and what it compares with, marked and named.

        question : a SELECT MODELS as text, a Relation or a Result; None marks none. x, y, size :
        what a SELECT MODELS may ask for, 'latency AT p99'. Raises BinderError for text.
        """
        from sommelier.engine.plots.of_result import axis, names
        from sommelier.engine.plots.pareto import Models, pareto

        asked = self._asked(question)
        everything = self._db.models("id", "name").result
        notes: dict[str, None] = {}
        across, up = axis(everything, x, notes), axis(everything, y, notes)
        by = None if size is None else axis(everything, size, notes)
        place = {str(id_): i for i, id_ in enumerate(everything.ids)}
        answer = (
            [] if asked is None else [place[id_] for id_ in map(str, asked.ids) if id_ in place]
        )
        compared = None if asked is None else asked.actions.references()
        beside = [] if compared is None else map(str, compared.result.ids)
        return pareto(Models(
            names(everything), across, up, by, answer, about=_in_words(question, asked),
            references=[place[id_] for id_ in beside if id_ in place], notes=tuple(notes),
        ))  # fmt: skip

    def agreement(
        self, *models: str, dataset: str | None = None, cluster: str = "likeness"
    ) -> Plot:
        """How often each two models answer alike, as a matrix.

        models : their names; none takes all that answered the probe set that most answered.
        dataset : whose probes count; None takes the best that each two have in common. cluster :
        'likeness' or 'family' orders the models. Raises BinderError for less than two models.
        """
        from sommelier.connection.plotting_agreement import agreements
        from sommelier.engine.plots.agreement import agreement

        if cluster not in ("likeness", "family"):
            raise BinderError(
                f"models cannot be ordered by '{cluster}'", hint="cluster is likeness or family"
            )
        with self._db.turn:
            return agreement(agreements(self._db, models, dataset), cluster=cluster)

    def cascade(self, name: str) -> Plot:
        """A kept cascade's accuracy against its FLOPs over thresholds, with those that were kept,
        their interval, and each model alone; agreement with the last model where no labels are.

        Raises BinderError for a stale cascade, or where the answers of its models are not kept.
        """
        from sommelier.connection.plotting_cascade import cascade_curve
        from sommelier.engine.plots.cascade import cascade

        with self._db.turn:
            return cascade(cascade_curve(self._db, name))

    def fusion(self, name: str) -> Plot:
        """A fused model: the tree of blocks that its tasks share, and the drop and latency of each
        step of the search that found it, with the step that became the model marked."""
        from sommelier.analysis.fusion.drawing import branches
        from sommelier.engine.explain_fusion import fusions_named
        from sommelier.engine.plots.fusion import FusionStory, fusion

        with self._db.turn:
            found = fusions_named(name, self._db.session)[0]
            tree = () if found.graph is None else branches(found.graph)
            return fusion(FusionStory(found, tree, self._db.catalog.fusion_steps(found.id)))

    def lineage(self, model: str | None = None) -> Plot:
        """What was made of what: fusions, hybrids, students and variants, parents left of children.

        model : only what it comes from and what came of it; None draws all that is known.
        """
        from sommelier.connection.plotting_graphs import family
        from sommelier.engine.plots.lineage import lineage

        with self._db.turn:
            return lineage(family(self._db, model))

    def links(self) -> Plot:
        """Which model predicts which, of the links that may be used; the wider the better."""
        from sommelier.connection.plotting_graphs import usable_links
        from sommelier.engine.plots.links import links

        with self._db.turn:
            return links(usable_links(self._db))

    def deployment(self, name: str) -> Plot:
        """A deployment under its SLA: latency by model with quantiles, shares of answers, what was
        in time, what was refused; of one that does not run here only what earlier runs kept."""
        from sommelier.connection.plotting_served import served
        from sommelier.engine.plots.deployment import deployment

        return deployment(served(self._db, name))

    def segments(self, reference: str, candidate: str) -> Plot:
        """The operators of two models side by side, their common segments as bands, coloured by
        the share of the reference's answers that change with the candidate's weights.

        Raises BinderError where the pair was not analysed (ANALYZE ... FOR SEGMENTS).
        """
        from sommelier.connection.plotting_segments import aligned
        from sommelier.engine.plots.segments import segments

        with self._db.turn:
            return segments(aligned(self._db, reference, candidate))

    def disagreements(
        self, reference: str, candidate: str, *, dataset: str | None = None, limit: int = 10
    ) -> Plot:
        """Images that two models answer differently, those first on which both are sure.

        dataset : whose probes count; None takes the best they have in common. Raises BinderError
        where they answered no common probes, or the dataset is not of images.
        """
        from sommelier.connection.plotting_pictures import differences
        from sommelier.engine.plots.disagreements import disagreements

        with self._db.turn:
            return disagreements(differences(self._db, reference, candidate, dataset, limit))

    def _asked(self, question: Question) -> Result | None:
        if isinstance(question, str):
            return self._db.query(question).result
        return question.result if isinstance(question, Relation) else question


def _in_words(question: Question, asked: Result | None) -> str:
    """The question on one line; '' for none."""
    if asked is None:
        return ""
    text = question if isinstance(question, str) else asked.text
    if text is None and isinstance(question, Relation):
        text = str(question)
    return " ".join((text or "models that were asked for").split())
