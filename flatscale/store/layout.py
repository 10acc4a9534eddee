"""Where everything lies in a results store: every file name, once."""

from __future__ import annotations

import hashlib
from pathlib import Path

REPORT_PAGE, GLOSSARY = "report.html", "glossary.json"


class Layout:
    """The files and folders of a store by what they hold; nothing is made or opened.

    Args:
        root: the store's folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = root = Path(root).resolve()
        self.study_file = root / "study.yaml"
        """The study, as it was run last."""
        self.records = root / "records"
        """One file a trial: the truth, from which everything else can be made again."""
        self.checksums = root / "records.sha256"
        """What the records held when they were written."""
        self.checkpoints = root / "checkpoints"
        """Weights that were kept, and what a trial needs to resume."""
        self.zoo_table = self.checkpoints / "zoo.parquet"
        """The kept networks as a zoo that others can measure, a row a network."""
        self.report = root / "report"
        self.report_page = self.report / REPORT_PAGE
        self.table_file = root / "table.parquet"
        """One row a network of the study, one column a metric: what `Results.table` gives."""
        self.trials_table = root / "trials.parquet"
        self.measurements_table = root / "measurements.parquet"
        """The records as two flat tables, for other programs."""
        self.glossary = root / GLOSSARY
        """What the metrics mean, for the report, which cannot import them."""
        self.provenance = root / "provenance.json"
        """What the study was run with."""
        self.status_file = root / "status.json"
        """How the current or last run goes."""
        self.id_file = root / "store_id"
        """A name of this store's own, by which its MLflow runs are found."""
        self.lock_file = root / ".lock"
        """Held by the driver that writes."""
        self.deliveries = root / "tracking"
        """What each tracking server has taken."""
        self.mlflow_database = root / "mlflow.db"
        self.mlflow_uri = f"sqlite:///{self.mlflow_database}"
        """The tracking store that is used where none is named."""
        self.mlflow_artifacts = root / "mlartifacts"

    def record_file(self, trial_id: str) -> Path:
        """The record of one trial."""
        return self.records / f"{trial_id}.parquet"

    def weights_file(self, network_id: str) -> Path:
        """The final weights of one network."""
        return self.checkpoints / f"{network_id}.safetensors"

    def partial_folder(self, trial_id: str) -> Path:
        """What a trial that has not ended needs to resume."""
        return self.checkpoints / "partial" / trial_id

    def delivery_journal(self, uri: str) -> Path:
        """What a tracking server took, a line a delivery; only a hash of its URI is written."""
        return self.deliveries / f"{_short_hash(uri)}.journal"

    def delivery_marks(self, uri: str) -> Path:
        """The same as stores had it before the journal: a folder with a file a trial."""
        return self.deliveries / _short_hash(uri)


def training_checkpoint(partial_folder: Path) -> Path:
    """Where training is, in a trial's partial folder."""
    return partial_folder / "training.safetensors"


def snapshot_weights(partial_folder: Path, step: int | str) -> Path:
    """The weights of one snapshot (or, with a pattern, of several) in a trial's partial folder."""
    return partial_folder / f"{step}.safetensors"


def _short_hash(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()[:16]
