"""The views catalog SQL reads: stable names and units of their own over the tables of `store`.

Every view here is part of the product's surface: docs/language.md lists them. Numbers are in base
units (bytes, FLOPs, ms, fractions), times are UTC. The views of DuckDB and of PostgreSQL are the
same texts, but for the pieces of dialects.py.
"""

from __future__ import annotations

from sommelier.storage.dialects import DUCKDB, Dialect
from sommelier.storage.versions import CASCADE_STATES, FUSION_STATES, PLAN_STATES, link_states

# best provenance first, then the smallest batch: one number per model and context-free metric
_BEST = """
    SELECT m.model, {columns}
    FROM store.measurements m JOIN store.contexts c ON c.id = m.context
    WHERE c.metric IN ({names})
    GROUP BY m.model"""
_PLAIN = ("params", "size", "flops", "activation_memory", "memory", "layers")


def _ms(moment: str) -> str:
    """Milliseconds since 1970, of a time."""
    return f"CAST(floor(extract(epoch FROM {moment}) * 1000) AS BIGINT)"


VIEWS: dict[str, str] = {
    "models": f"""
    SELECT m.name, m.version, m.task, m.family, m.source, m.revision, m.license, m.tags, m.format,
        m.input, m.output, m.output_kind, l.name AS label_space, m.producer, m.opset,
        {", ".join(f"b.{name}" for name in _PLAIN)},
        m.created, m.added_at, m.graph_hash, m.weight_hash, m.note, m.homepage, m.aliases, m.id
    FROM store.models m
    LEFT JOIN store.label_spaces l ON l.id = m.label_space_id
    LEFT JOIN ({{best}}) b ON b.model = m.number
    WHERE m.proposal IS NULL
    ORDER BY m.number""",
    "profiles": """
    SELECT o.name AS model, o.version, c.metric, m.value, m.low, m.high, c.provenance, c.method,
        c.device, c.batch, c.percentile, c.dataset, c.precision, c.threads, m.count,
        s.source, m.recorded_at, o.id AS model_id
    FROM store.measurements m
    JOIN store.contexts c ON c.id = m.context
    JOIN store.models o ON o.number = m.model
    LEFT JOIN store.sources s ON s.id = m.source""",
    "equivalences": """
    SELECT r.name AS reference, c.name AS candidate,
        CASE WHEN e.samples > 0 THEN e.agreements::DOUBLE PRECISION / e.samples END AS agreement,
        e.agreements, e.samples, e.lower, e.upper, e.confidence, e.method, e.labels, e.difference,
        e.difference_low, e.difference_high, p.name AS probe_set,
        e.reference_id, e.candidate_id, nullif(e.probe_set_id, '') AS probe_set_id
    FROM store.edges e
    LEFT JOIN store.models r ON r.id = e.reference_id
    LEFT JOIN store.models c ON c.id = e.candidate_id
    LEFT JOIN store.probe_sets p ON p.id = e.probe_set_id""",
    "segments": """
    SELECT h.name AS host, d.name AS donor, s.name, s.kind, s.operators, s.identical, s.flops,
        s.donor_flops, s.params, s.donor_params, s.samples,
        s.estimated, s.certified::DOUBLE PRECISION / nullif(s.certified_samples, 0) AS certified,
        s.measured::DOUBLE PRECISION / nullif(s.samples, 0) AS measured,
        (s.host_right - s.hybrid_right)::DOUBLE PRECISION / nullif(s.labelled, 0) AS accuracy_drop,
        y.name AS hybrid, p.name AS probe_set, s.host_entry, s.host_exit, s.donor_entry,
        s.donor_exit, s.note, s.host_id, s.donor_id, s.hybrid_id
    FROM store.segments s
    LEFT JOIN store.models h ON h.id = s.host_id
    LEFT JOIN store.models d ON d.id = s.donor_id
    LEFT JOIN store.models y ON y.id = s.hybrid_id
    LEFT JOIN store.probe_sets p ON p.id = s.probe_set_id""",
    "lineage": """
    SELECT m.name AS model, p.name AS parent, l.relation, l.provenance, l.detail, l.model_id,
        l.parent_id
    FROM store.lineage l
    LEFT JOIN store.models m ON m.id = l.model_id
    LEFT JOIN store.models p ON p.id = l.parent_id""",
    "links": f"""
    SELECT k.name, array_to_string(s.source_names, ', ') AS source, s.target_name AS target,
        CASE WHEN s.stale IS NULL THEN k.state ELSE 'stale' END AS state, k.architecture,
        k.method, k.metric,
        k.performance, k.low, k.high, k.proved, k.value, k.value_low, k.value_high, k.unit,
        k.constant, k.skill, k.screen, coalesce(s.stale, k.reason) AS reason, k.samples,
        k.validation, k.held_out, k.dataset, k.target_dataset, k.seed, k.options, k.params,
        k.flops, k.memory, k.size, k.latency_ms, k.created_at, k.artifact, k.source_ids,
        k.target_id, k.probe_set_id, k.id
    FROM store.links k JOIN ({link_states()}) s ON s.id = k.id
    ORDER BY k.name""",
    "plans": f"""
    SELECT p.name, coalesce(m.models, 0) AS models, coalesce(m.executed, 0) AS executed,
        CASE WHEN s.stale IS NULL THEN 'current' ELSE 'stale' END AS state, p.objective,
        p.accuracy, p.low, p.high,
        p.proved, p.confidence, p.skill, p.upper, p.gap, p.method, p.considered,
        p.budget, p.cost, p.total, s.stale AS reason, p.samples, p.query_text, p.created_at,
        p.probe_set_id
    FROM store.plans p LEFT JOIN (
        SELECT plan, count(*) AS models, count(*) FILTER (WHERE executed) AS executed
        FROM store.plan_models GROUP BY plan) m ON m.plan = p.name
    LEFT JOIN ({PLAN_STATES}) s ON s.plan = p.name
    ORDER BY p.name""",
    "plan_models": """
    SELECT p.plan, coalesce(m.name, p.name) AS model, p.executed,
        (SELECT string_agg(o.name, ', ' ORDER BY o.position) FROM store.plan_models o
         WHERE o.plan = p.plan AND o.model_id = ANY(p.source_ids)) AS predicted_from,
        p.performance, p.low, p.high, p.skill, p.link_ids, p.position, p.model_id
    FROM store.plan_models p LEFT JOIN store.models m ON m.id = p.model_id
    ORDER BY p.plan, p.position""",
    "fusions": f"""
    SELECT coalesce(m.name, f.name) AS name, t.models,
        CASE WHEN s.stale IS NULL THEN f.state ELSE 'stale' END AS state, f.method,
        f.base_latency_ms / nullif(f.latency_ms, 0) AS speedup, t.accuracy_drop,
        t.accuracy_drop_high, f.drop_threshold, f.confidence, coalesce(s.stale, f.reason) AS reason,
        f.latency_ms, f.base_latency_ms, f.flops, f.base_flops, f.memory, f.base_memory, f.params,
        f.base_params, f.device, f.dataset, f.training, f.selection, f.held_out, f.seed,
        f.evaluations, f.elapsed_ms, f.budget_ms, f.options, f.graph, f.created_at, f.job_id,
        f.model_id, f.probe_set_id, f.id
    FROM store.fusions f
    LEFT JOIN store.models m ON m.id = f.model_id
    LEFT JOIN ({FUSION_STATES}) s ON s.fusion_id = f.id
    LEFT JOIN (
        SELECT p.fusion_id,
            string_agg(coalesce(b.name, p.name), ', ' ORDER BY p.position) AS models,
            CASE WHEN count(p.drop) = count(*) THEN max(p.drop) END AS accuracy_drop,
            CASE WHEN count(p.drop_high) = count(*) THEN max(p.drop_high) END
                AS accuracy_drop_high
        FROM store.fusion_tasks p LEFT JOIN store.models b ON b.id = p.model_id
        GROUP BY p.fusion_id) t ON t.fusion_id = f.id
    ORDER BY 1, f.model_id IS NULL, f.created_at DESC""",
    "fusion_tasks": """
    SELECT coalesce(m.name, f.name) AS fusion, coalesce(b.name, t.name) AS model, t.metric,
        t.baseline, t.drop, t.drop_low, t.drop_high, t.proved, f.confidence, t.samples, t.position,
        t.model_id, t.fusion_id
    FROM store.fusion_tasks t JOIN store.fusions f ON f.id = t.fusion_id
    LEFT JOIN store.models m ON m.id = f.model_id
    LEFT JOIN store.models b ON b.id = t.model_id
    ORDER BY 1, t.fusion_id, t.position""",
    "fusion_trace": """
    SELECT coalesce(m.name, f.name) AS fusion, t.step, t.action, t.pair, t.flops, t.latency_ms,
        t.drop_predicted, t.drop_measured, t.epochs, t.elapsed_ms, t.accepted, t.reason, t.fusion_id
    FROM store.fusion_trace t JOIN store.fusions f ON f.id = t.fusion_id
    LEFT JOIN store.models m ON m.id = f.model_id
    ORDER BY 1, t.fusion_id, t.step""",
    "cascades": f"""
    SELECT c.name, t.models, CASE WHEN s.stale IS NULL THEN 'current' ELSE 'stale' END AS state,
        c.promised AS promised_loss, c.at_most, c.confidence, c.samples, c.loss, c.flops,
        c.flops_share, coalesce(s.stale, c.reason) AS reason, c.dataset, c.seed, c.statement,
        c.created_at, c.probe_set_id
    FROM store.cascades c
    LEFT JOIN ({CASCADE_STATES}) s ON s.cascade = c.name
    LEFT JOIN (
        SELECT p.cascade, string_agg(coalesce(m.name, p.name), ', ' ORDER BY p.position) AS models
        FROM store.cascade_stages p LEFT JOIN store.models m ON m.id = p.model_id
        GROUP BY p.cascade) t ON t.cascade = c.name
    ORDER BY c.name""",
    "cascade_stages": """
    SELECT p.cascade, coalesce(m.name, p.name) AS model, p.score, p.threshold, p.temperature,
        p.answered, p.accuracy, p.flops, p.samples, p.position, p.model_id
    FROM store.cascade_stages p LEFT JOIN store.models m ON m.id = p.model_id
    ORDER BY p.cascade, p.position""",
    "deployments": """
    SELECT d.name, d.kind, t.models, d.sla_ms,
        CASE WHEN d.sla_ms IS NOT NULL THEN d.quantile END AS quantile,
        d.min_accuracy, d.policy, d.fallback, d.options, d.knobs, d.plan, d.escalate_at_most,
        d.dataset, d.task, d.statement, d.created_at
    FROM store.deployments d LEFT JOIN (
        SELECT p.deployment, string_agg(coalesce(m.name, p.name), ', ' ORDER BY p.position)
            AS models
        FROM store.deployed_models p LEFT JOIN store.models m ON m.id = p.model_id
        GROUP BY p.deployment) t ON t.deployment = d.name
    ORDER BY d.name""",
    "deployed_models": """
    SELECT p.deployment, coalesce(m.name, p.name) AS model, p.accuracy, p.basis, p.mean_ms,
        p.std_ms, p.stand_ins, p.position, p.model_id
    FROM store.deployed_models p LEFT JOIN store.models m ON m.id = p.model_id
    ORDER BY p.deployment, p.position""",
    "served": """
    SELECT s.deployment, m.name AS model, s.device, s.batch, s.requests, s.mean_ms, s.std_ms,
        s.p50_ms, s.p99_ms, s.queue_ms, s.measured_at, s.model_id
    FROM store.served s LEFT JOIN store.models m ON m.id = s.model_id
    ORDER BY 1, 2, 3, 4""",
    "datasets": """
    SELECT d.name, d.kind, d.samples, d.labelled, d.held_out, d.item_shape, d.dtype,
        l.name AS label_space, d.path, d.options, d.id
    FROM store.datasets d LEFT JOIN store.label_spaces l ON l.id = d.label_space_id
    ORDER BY d.name""",
    "probe_sets": """
    SELECT p.name, p.samples, p.seed, p.synthetic, p.labels IS NOT NULL AS labelled,
        (SELECT count(*) FROM store.sketches s WHERE s.probe_set_id = p.id) AS models,
        p.dataset_id, p.id
    FROM store.probe_sets p""",
    "sketches": """
    SELECT m.name AS model, p.name AS probe_set, s.kind, s.width, s.exact, s.classes, s.failures,
        s.added_at, s.model_id, s.probe_set_id
    FROM store.sketches s
    LEFT JOIN store.models m ON m.id = s.model_id
    LEFT JOIN store.probe_sets p ON p.id = s.probe_set_id""",
    "tasks": """
    SELECT coalesce(t.task, r.task) AS task, coalesce(t.models, 0) AS models, m.name AS reference
    FROM (SELECT task, count(*) AS models FROM store.models
          WHERE task IS NOT NULL AND proposal IS NULL GROUP BY task) t
    FULL JOIN store.task_references r ON r.task = t.task
    LEFT JOIN store.models m ON m.id = r.model_id
    ORDER BY 1""",
    "jobs": f"""
    SELECT j.id, j.statement, j.state, coalesce(t.total, 0) AS total,
        coalesce(t.done, 0) AS done, coalesce(t.failed, 0) AS failed,
        coalesce(t.skipped, 0) AS skipped, j.started_at, j.finished_at,
        coalesce(j.background, false) AS background,
        coalesce(j.progress, (t.done + t.failed + t.skipped)::DOUBLE PRECISION / t.total)
            AS progress,
        coalesce(j.doing, CASE WHEN j.plan IS NOT NULL AND j.state = 'running' THEN
            t.running::VARCHAR || ' at workers, ' || t.pending::VARCHAR || ' waiting' END) AS doing,
        j.reason,
        coalesce({_ms("j.finished_at")}, CASE WHEN j.state = 'running' THEN {_ms("now()")} END)
            - {_ms("j.started_at")} AS elapsed_ms, j.process
    FROM store.jobs j LEFT JOIN (
        SELECT job_id, count(*) AS total, count(*) FILTER (WHERE state = 'done') AS done,
            count(*) FILTER (WHERE state = 'failed') AS failed,
            count(*) FILTER (WHERE state = 'skipped') AS skipped,
            count(*) FILTER (WHERE state = 'running') AS running,
            count(*) FILTER (WHERE state = 'pending') AS pending
        FROM store.tasks GROUP BY job_id) t ON t.job_id = j.id
    ORDER BY j.id""",
    "job_tasks": """
    SELECT t.job_id, t.aspect, m.name AS model, t.state, t.reason, t.attempts, t.parameters,
        t.model_id, t.key, coalesce(w.name, t.holder) AS worker, t.lease_until, t.device, t.log
    FROM store.tasks t LEFT JOIN store.models m ON m.id = t.model_id
    LEFT JOIN store.workers w ON w.id = t.holder
    ORDER BY t.job_id, t.position""",
    "workers": f"""
    SELECT w.name, {_ms("w.seen_until")} > {_ms("now()")} AS alive, w.device, w.host, w.process,
        (SELECT count(*) FROM store.tasks t WHERE t.holder = w.id AND t.state = 'done') AS done,
        (SELECT min(t.aspect || coalesce(' of ' || m.name, '')) FROM store.tasks t
            LEFT JOIN store.models m ON m.id = t.model_id
            WHERE t.holder = w.id AND t.state = 'running') AS doing,
        w.started_at, w.seen_until, w.id
    FROM store.workers w ORDER BY w.started_at, w.id""",
    "pools": """
    SELECT p.name, count(m.model_id) AS models, p.query_text, p.created_at
    FROM store.pools p LEFT JOIN store.pool_members m ON m.pool = p.name
    GROUP BY p.name, p.query_text, p.created_at ORDER BY p.name""",
    "pool_models": """
    SELECT p.pool, m.name AS model, m.version, p.position, p.model_id
    FROM store.pool_members p LEFT JOIN store.models m ON m.id = p.model_id
    ORDER BY p.pool, p.position""",
    "views": "SELECT name, query_text FROM store.saved_views ORDER BY name",
    "repositories": """
    SELECT name, connector, place, options, created_at FROM store.repositories ORDER BY name""",
    "rejections": """
    SELECT source, revision, reason, recorded_at FROM store.rejections ORDER BY recorded_at""",
    "devices": """
    SELECT name, memory_bytes, peak_flops_per_s, bandwidth_bytes_per_s, note
    FROM store.devices ORDER BY name""",
    "labels": "{labels}",
    "operator_costs": """
    SELECT device, "key" AS operator, milliseconds, count FROM store.operator_costs""",
    "settings": "SELECT name, value FROM store.settings ORDER BY name",
}


def view_statements(dialect: Dialect = DUCKDB) -> tuple[str, ...]:
    """The SQL that makes every view anew, and what else can be made anew."""
    drop = dialect.drop_view
    dropped = (drop.format(name=name) for name in VIEWS) if drop else ()
    made = (dialect.make_view.format(name=name, query=_of(dialect, name)) for name in VIEWS)
    return (*dialect.before_views, *dropped, *made)


def _of(dialect: Dialect, view: str) -> str:
    """The query of a view with the dialect's pieces in it."""
    if view == "labels":
        return dialect.labels
    return VIEWS[view].replace("{best}", _best_numbers(dialect))


def _best_numbers(dialect: Dialect) -> str:
    columns = ", ".join(f"{dialect.best.format(name)} AS {name}" for name in _PLAIN)
    return _BEST.format(columns=columns, names=", ".join(f"'{name}'" for name in _PLAIN))
