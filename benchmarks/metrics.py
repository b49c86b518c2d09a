"""Reads Prometheus metrics of Berth's own pods, through the API server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client.parser import text_string_to_metric_families

from testbed.kube import SYSTEM, Cluster


def controllers(cluster: Cluster) -> list[str]:
    """The names of the controller pods that are up."""
    selector = "labelSelector=app.kubernetes.io/component%3Dcontroller"
    pods = cluster.items(f"/api/v1/namespaces/{SYSTEM}/pods?{selector}")
    return [p["metadata"]["name"] for p in pods if p["status"]["phase"] == "Running"]


def samples(cluster: Cluster, pod: str, port: int = 8080) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a pod: (name, labels) → value."""
    text = cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{SYSTEM}/pods/{pod}:{port}/proxy/metrics")
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def total(cluster: Cluster, name: str, without: Mapping[str, Sequence[str]] | None = None) -> float:
    """The sum of one counter over all controllers and labels, except where a label has a value of ``without``."""
    found = 0.0
    for pod in controllers(cluster):
        for (metric, labels), value in samples(cluster, pod).items():
            if metric == name and not any(v in (without or {}).get(k, ()) for k, v in labels):
                found += value
    return found
