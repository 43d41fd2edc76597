"""Metrics of the writer and the readers."""

from collections.abc import Iterable

from prometheus_client.registry import Collector

from metamorphd.metrics import Histogram

OPERATIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class StoreMetrics:
    """How long operations wait, and how many are committed together. Each is counted on one thread."""

    def __init__(self) -> None:
        self._write_wait = Histogram("metamorph_write_wait_seconds", "How long writes wait for the writer")
        self._read_wait = Histogram("metamorph_read_wait_seconds", "How long reads wait for a reader")
        self._sizes = Histogram("metamorph_commit_operations", "Writes per commit", bounds=OPERATIONS)
        self._durations = Histogram(
            "metamorph_commit_duration_seconds", "From the beginning of a transaction until it is durable"
        )
        self.write_wait = self._write_wait.of()
        self.read_wait = self._read_wait.of()
        self.commit_operations = self._sizes.of()
        self.commit_seconds = self._durations.of()

    @property
    def collectors(self) -> Iterable[Collector]:
        """Returns all of them."""
        return (self._write_wait, self._read_wait, self._sizes, self._durations)
