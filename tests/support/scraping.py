"""Reads a server's metrics as Prometheus does."""

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.support.serving import Serving


class Scrape:
    """The samples of a page of metrics."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples: list[Sample] = [sample for family in self.families.values() for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """Returns the sum of the samples of this name with these labels, among others."""
        return sum(
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Returns the samples of this name that are not 0, by the values of these labels."""
        return {
            tuple(sample.labels[label] for label in labels): sample.value
            for sample in self.samples
            if sample.name == name and sample.value
        }


async def scrape(running: Serving) -> Scrape:
    async with httpx.AsyncClient(base_url=running.http) as http:
        return Scrape((await http.get("/metrics")).raise_for_status().text)
