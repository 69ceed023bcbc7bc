"""A reader of ``/metrics`` for tests, built on Prometheus's own parser."""

import aiohttp
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families


class MetricsPage(Struct, frozen=True):
    """One response of ``/metrics``: its content type, and each sample by name and labels."""

    content_type: str
    samples: dict[str, dict[tuple[str, ...], float]]

    def value(self, name: str, *labels: str) -> float:
        """Return one number; label values are in the order of the label names."""
        return self.samples[f"enricher_{name}"][labels]

    def nonzero(self, name: str) -> dict[str, float]:
        """Return the values of a metric with one label that are not 0, by label."""
        return {label: v for (label,), v in self.samples[f"enricher_{name}"].items() if v}


def parse_metrics(text: str, *, content_type: str = "") -> MetricsPage:
    """Parse the text format; raises AssertionError on a duplicate sample."""
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            series = samples.setdefault(sample.name, {})
            assert labels not in series, f"{sample.name} {labels} is exposed twice"
            series[labels] = sample.value
    return MetricsPage(content_type, samples)


async def scrape(url: str, *, accept: str = "") -> MetricsPage:
    """Return the metrics page of a URL."""
    headers = {"Accept": accept} if accept else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/metrics", headers=headers) as response,
    ):
        assert response.status == 200
        text = await response.text()
        return parse_metrics(text, content_type=response.headers["Content-Type"])
