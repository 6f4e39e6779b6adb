"""The views catalog SQL reads: stable names and units of their own over the tables of `store`.

Every view here is part of the product's surface: docs/language.md lists them. Numbers are in base
units (bytes, FLOPs, ms, fractions), times are UTC.
"""

from __future__ import annotations

from sommelier.storage.versions import CASCADE_STATES, FUSION_STATES, PLAN_STATES, link_states

# best provenance first, then the smallest batch: one number per model and context-free metric
_BEST = """
    SELECT m.model, {columns}
    FROM store.measurements m JOIN store.contexts c ON c.id = m.context
    WHERE c.metric IN ({names})
    GROUP BY m.model"""
_RANK = """struct_pack(
        p := CASE c.provenance WHEN 'measured' THEN 0 WHEN 'estimated' THEN 1 ELSE 2 END,
        b := coalesce(c.batch, 0), c := c.id)"""
_PLAIN = ("params", "size", "flops", "activation_memory", "memory", "layers")


def _best_numbers() -> str:
    columns = ", ".join(
        f"arg_min(m.value, {_RANK}) FILTER (c.metric = '{name}') AS {name}" for name in _PLAIN
    )
    return _BEST.format(columns=columns, names=", ".join(f"'{name}'" for name in _PLAIN))


VIEWS: dict[str, str] = {
    "models": f"""
    SELECT m.name, m.version, m.task, m.family, m.source, m.revision, m.license, m.tags, m.format,
        m.input, m.output, m.output_kind, l.name AS label_space, m.producer, m.opset,
        {", ".join(f"b.{name}" for name in _PLAIN)},
        m.created, m.added_at, m.graph_hash, m.weight_hash, m.note, m.homepage, m.aliases, m.id
    FROM store.models m
    LEFT JOIN store.label_spaces l ON l.id = m.label_space_id
    LEFT JOIN ({_best_numbers()}) b ON b.model = m.number
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
        CASE WHEN e.samples > 0 THEN e.agreements / e.samples END AS agreement,
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
        s.estimated, s.certified / nullif(s.certified_samples, 0) AS certified,
        s.measured / nullif(s.samples, 0) AS measured,
        (s.host_right - s.hybrid_right) / nullif(s.labelled, 0) AS accuracy_drop,
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
        if(s.stale IS NULL, k.state, 'stale') AS state, k.architecture, k.method, k.metric,
        k.performance, k.low, k.high, k.proved, k.value, k.value_low, k.value_high, k.unit,
        k.constant, k.skill, k.screen, coalesce(s.stale, k.reason) AS reason, k.samples,
        k.validation, k.held_out, k.dataset, k.target_dataset, k.seed, k.options, k.params,
        k.flops, k.memory, k.size, k.latency_ms, k.created_at, k.artifact, k.source_ids,
        k.target_id, k.probe_set_id, k.id
    FROM store.links k JOIN ({link_states()}) s ON s.id = k.id
    ORDER BY k.name""",
    "plans": f"""
    SELECT p.name, count(m.plan) AS models, count(*) FILTER (m.executed) AS executed,
        if(s.stale IS NULL, 'current', 'stale') AS state, p.objective, p.accuracy, p.low, p.high,
        p.proved, p.confidence, p.skill, p.upper, p.gap, p.method, p.considered,
        p.budget, p.cost, p.total, s.stale AS reason, p.samples, p.query_text, p.created_at,
        p.probe_set_id
    FROM store.plans p LEFT JOIN store.plan_models m ON m.plan = p.name
    LEFT JOIN ({PLAN_STATES}) s ON s.plan = p.name
    GROUP BY ALL ORDER BY p.name""",
    "plan_models": """
    SELECT p.plan, coalesce(m.name, p.name) AS model, p.executed,
        (SELECT string_agg(o.name, ', ' ORDER BY o.position) FROM store.plan_models o
         WHERE o.plan = p.plan AND list_contains(p.source_ids, o.model_id)) AS predicted_from,
        p.performance, p.low, p.high, p.skill, p.link_ids, p.position, p.model_id
    FROM store.plan_models p LEFT JOIN store.models m ON m.id = p.model_id
    ORDER BY p.plan, p.position""",
    "fusions": f"""
    SELECT coalesce(m.name, f.name) AS name, t.models,
        if(s.stale IS NULL, f.state, 'stale') AS state, f.method,
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
            if(count(p.drop) = count(*), max(p.drop), NULL) AS accuracy_drop,
            if(count(p.drop_high) = count(*), max(p.drop_high), NULL) AS accuracy_drop_high
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
    SELECT c.name, t.models, if(s.stale IS NULL, 'current', 'stale') AS state,
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
    SELECT d.name, d.kind, t.models, d.sla_ms, if(d.sla_ms IS NULL, NULL, d.quantile) AS quantile,
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
    "jobs": """
    SELECT j.id, j.statement, j.state, coalesce(t.total, 0) AS total,
        coalesce(t.done, 0) AS done, coalesce(t.failed, 0) AS failed,
        coalesce(t.skipped, 0) AS skipped, j.started_at, j.finished_at,
        coalesce(j.background, false) AS background,
        coalesce(j.progress, (t.done + t.failed + t.skipped) / t.total) AS progress,
        j.doing, j.reason,
        coalesce(epoch_ms(j.finished_at), if(j.state = 'running', epoch_ms(now()), NULL))
            - epoch_ms(j.started_at) AS elapsed_ms, j.process
    FROM store.jobs j LEFT JOIN (
        SELECT job_id, count(*) AS total, count(*) FILTER (state = 'done') AS done,
            count(*) FILTER (state = 'failed') AS failed,
            count(*) FILTER (state = 'skipped') AS skipped
        FROM store.tasks GROUP BY job_id) t ON t.job_id = j.id
    ORDER BY j.id""",
    "job_tasks": """
    SELECT t.job_id, t.aspect, m.name AS model, t.state, t.reason, t.attempts, t.parameters,
        t.model_id, t.key
    FROM store.tasks t LEFT JOIN store.models m ON m.id = t.model_id
    ORDER BY t.job_id, t.position""",
    "pools": """
    SELECT p.name, count(m.model_id) AS models, p.query_text, p.created_at
    FROM store.pools p LEFT JOIN store.pool_members m ON m.pool = p.name
    GROUP BY ALL ORDER BY p.name""",
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
    "labels": """
    SELECT name AS label_space, position - 1 AS position, words[position] AS label, id
    FROM (SELECT id, name, words, unnest(range(1, len(words) + 1)) AS position
          FROM (SELECT id, name, labels::JSON::VARCHAR[] AS words FROM store.label_spaces))
    ORDER BY id, position""",
    "operator_costs": """
    SELECT device, "key" AS operator, milliseconds, count FROM store.operator_costs""",
    "settings": "SELECT name, value FROM store.settings ORDER BY name",
}


def view_statements() -> tuple[str, ...]:
    """The SQL that makes every view anew."""
    return tuple(f"CREATE OR REPLACE VIEW main.{name} AS {query}" for name, query in VIEWS.items())
