"""The agent's numbers for Prometheus. The reconcile counts, health.py shows them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from berth.api.order import GuestState

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """One registry of its own: two agents in one process, as in the tests, do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.machines = Gauge("berth_agent_machines", "Machines by state.", ["state"], registry=self.registry)
        self.reconcile_seconds = Histogram(
            "berth_agent_reconcile_seconds",
            "Time one look at one machine took.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.start_seconds = Histogram(
            "berth_agent_start_seconds",
            "Time of each step of a machine's first start; Total is from the order to the guest's first instruction.",
            ["step"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.failures = Counter(
            "berth_agent_step_failures", "Steps that failed.", ["step", "reason"], registry=self.registry
        )
        self.hypervisor = Gauge("berth_agent_hypervisor_connected", "Whether libvirtd answers.", registry=self.registry)
        self.listeners = Gauge("berth_agent_report_listeners", "Open streams of reports.", registry=self.registry)
        for state in GuestState:
            self.machines.labels(state.value)

    def count(self, states: list[GuestState]) -> None:
        for state in GuestState:
            self.machines.labels(state.value).set(states.count(state))
