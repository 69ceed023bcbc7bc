"""How is an exposition read? By Prometheus's own parser, into numbers by name and labels."""

import aiohttp
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families


class MetricsPage(Struct, frozen=True):
    """One answer of ``/metrics``: its type, and each sample by its name and its labels."""

    content_type: str
    samples: dict[str, dict[tuple[str, ...], float]]

    def value(self, name: str, *labels: str) -> float:
        """Give one number; labels are given by value, in the order of their names."""
        return self.samples[f"enricher_{name}"][labels]

    def nonzero(self, name: str) -> dict[str, float]:
        """Give what is not 0 of a metric with one label."""
        return {label: v for (label,), v in self.samples[f"enricher_{name}"].items() if v}


def parse_metrics(text: str, *, content_type: str = "") -> MetricsPage:
    """Read the text format."""
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            series = samples.setdefault(sample.name, {})
            assert labels not in series, f"{sample.name} {labels} is told twice"
            series[labels] = sample.value
    return MetricsPage(content_type, samples)


async def scrape(url: str, *, accept: str = "") -> MetricsPage:
    """Ask for ``/metrics`` below an address."""
    headers = {"Accept": accept} if accept else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/metrics", headers=headers) as response,
    ):
        assert response.status == 200
        text = await response.text()
        return parse_metrics(text, content_type=response.headers["Content-Type"])
