"""Asks a role for its figures as Prometheus does, and reads them with Prometheus' own reader."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def scraped(address):
    """All samples at `address`, host:port: a value for each name with its labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def figure(samples, name, **labels):
    """One sample; KeyError if it is not there."""
    return samples[name, frozenset(labels.items())]


def names_of(samples):
    """Which metrics there are, of histograms and counters as docs/metrics.md calls them."""
    found = set()
    for name, _ in samples:
        for end in ("_bucket", "_count", "_sum"):
            name = name.removesuffix(end)
        found.add(name)
    return found
