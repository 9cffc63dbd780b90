"""The MLflow mirror of run folders.

The record on disk is the truth (`biva.records`); MLflow shows it and can give it back. Mirroring is idempotent: what
the store already has is not logged again, so it may be called after every evaluation, after a kill, or years later.

The store is `MLFLOW_TRACKING_URI`, or else `results/mlflow/mlflow.db` below the current folder. An experiment set is
an MLflow experiment; a run folder is a run in it, found by the tag `biva.run_id`, with a child run for its evaluation
and for every anomaly pair, found by the tag `biva.record`; the set's tables and figures are one more run, found by the
tag `biva.summary`. The numbers of a child are those of its parent too, so that one table compares runs.

MLflow and torch are imported inside the functions that need them: training works without MLflow, and records can be
read back from MLflow and verified without torch.
"""

from biva.tracking.mirror import mirror, mirror_or_warn, mirror_reports, mirroring
from biva.tracking.model import mirror_model
from biva.tracking.numbers import finals_of, points_of
from biva.tracking.store import MANIFEST, RECORDS, SUMMARY_NAME, TrackingError, follow_move, is_server
from biva.tracking.stored import StoredRun, comparison_pages, records_from_mlflow, stored_runs
