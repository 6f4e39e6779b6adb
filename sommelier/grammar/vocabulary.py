"""Word lists: what is reserved where, and the words that tell what a mistake was meant to be."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RESERVED_COLUMNS = _words(
    "ALL CONFIDENCE CORR FALSE FITS FROM INCLUDING LIMIT NOT NULL OF ON ORDER PICK SLA TRUE USING"
    " WHERE WITHIN"
)
"""Keywords that could stand where a column, alias, function or option is named."""

RESERVED_NAMES = _words(
    "ALL ANY CASCADE DATASET DEPLOYMENT DEVICE FALSE FROM IF LINK METRIC MODEL MODELS NULL OR PLAN"
    " POOL REPOSITORY TASK TRUE VIEW"
)
"""Keywords that could stand where a model, pool, dataset ... is named."""

NAME_KEYWORDS = _words(
    "TASK ANY ALL POOL VIEW METRIC DATASET DEVICE IF FITS LINK PLAN CASCADE DEPLOYMENT REPOSITORY"
)
"""Keywords that people also give to models and columns."""

LATER = _words("""DRAIN FILE FORMAT PER PREDICT QUANTIZE QUANTIZED SERVE STATISTICS""")
"""Words of the language's design whose statements and clauses have not joined it yet."""

STARTERS = _words(
    """SELECT SHOW DESCRIBE DESC EXPLAIN IMPORT EXPORT REGISTER ANALYZE CREATE ALTER DROP REFRESH
    COMPARE DIFF SET RESET CANCEL WITH DEPLOY UNDEPLOY SIMULATE"""
)
"""What a statement begins with."""

CATALOG_VIEWS = _words(
    """models profiles equivalences datasets probe_sets sketches tasks jobs job_tasks workers pools
    pool_models views rejections devices labels operator_costs settings segments lineage links
    plans plan_models fusions fusion_tasks fusion_trace cascades cascade_stages
    deployments deployed_models served repositories"""
)
"""What catalog SQL reads; storage/views.py makes them."""

SQL_ONLY = _words("GROUP HAVING JOIN UNION INTERSECT EXCEPT LEFT INNER CROSS OUTER")
SQL_AFTER_COLUMN = _words("FROM AS AND OR WHERE GROUP ORDER HAVING LIMIT UNION IS IN")
PICKERS = _words("MOST SMALLEST LIGHTEST FASTEST CHEAPEST RANDOM PARETO")
VALUES = _words("PERCENT QUANTITY NUMBER INT TIMES")
"""Terminals of numbers, with and without unit."""

LESS = _words("less lower smaller fewer faster cheaper below under")
MORE = _words("more higher larger bigger greater above over")
SMART_QUOTES = "‘’‚‛“”„‟«»`´"
COUNTS = {"one": 1, "two": 2, "three": 3, "five": 5, "ten": 10, "twenty": 20, "hundred": 100}
LONG_UNITS = {
    **{"byte": "B", "kilobyte": "kB", "megabyte": "MB", "gigabyte": "GB", "meg": "MB", "gig": "GB"},
    **{"millisecond": "ms", "msec": "ms", "second": "s", "minute": "min", "hour": "h"},
    **{"thousand": "K", "million": "M", "billion": "B", "joule": "J"},
}
