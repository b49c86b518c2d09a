"""One machine on one node, again and again: gather → desire → plan → apply → report. Called by node.py's workers.

Level-based: it never asks which event rang. It may be interrupted anywhere; what it remembers may be lost at any time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from berth.agent import gather
from berth.agent.apply import Applier, StepFailed
from berth.agent.berthwatch import BerthWatch
from berth.agent.handovers import Handovers
from berth.agent.keeping import Keeping
from berth.agent.machines import Machine, Machines
from berth.agent.metrics import Metrics
from berth.agent.reports import Hub
from berth.agent.saving import Savings
from berth.agent.snapshots import Snapshots
from berth.agent.surveys import Surveys
from berth.agent.world import World
from berth.api.order import GuestState, NodeFacts, Report
from berth.errors import BerthError, HypervisorDown, InvalidSpec, Unavailable
from berth.plan import backoff, gathered, report, steps
from berth.plan import machine as planner
from berth.plan.gathered import Gathered
from berth.plan.report import Failure, Progress
from berth.plan.steps import Awaited, Plan, Step

ROUNDS: Final = 8
"""A plan that still wants to act after so many rounds is looked at again later: others have their turn."""
AGAIN_SECONDS: Final = 0.5
SOON_SECONDS: Final = 0.05
QUIET_SECONDS: Final = 60.0
"""Every machine is looked at this often though no bell rings."""
HOPELESS_SECONDS: Final = 30.0
"""A step that only a changed file or spec can help is tried again this often."""
KEEP_FATE_SECONDS: Final = 600.0
"""How long the fate of a guest is kept for a controller that does not listen."""
NO_BERTH_SECONDS: Final = 3600.0
"""An order whose berth never came is forgotten after this; a controller that still wants it sends it again."""

_NOTABLE: Final = (GuestState.STOPPING, GuestState.ENDED)

_log = logging.getLogger(__name__)


class Reconciler:
    def __init__(
        self,
        world: World,
        machines: Machines,
        hub: Hub,
        ring: Callable[..., None],
        watch: BerthWatch,
        metrics: Metrics,
        handovers: Handovers,
        savings: Savings,
        snapshots: Snapshots,
        surveys: Surveys | None = None,
    ) -> None:
        self._surveys = surveys
        self._handovers = handovers
        self._savings = savings
        self._snapshots = snapshots
        self._world = world
        self._machines = machines
        self._hub = hub
        self._ring = ring
        self._watch = watch
        self._metrics = metrics
        self._applier = Applier(world, machines, ring, handovers, Keeping(world, savings, snapshots, ring))

    async def reconcile(self, uid: str) -> None:
        machine = self._machines.get(uid)
        if machine is None:
            return
        for _ in range(ROUNDS):
            if self._surveys is not None:
                self._surveys.look(machine)
            g = await gather.gather(self._world, machine, self._facts, self._handovers, self._savings, self._snapshots)
            plan = planner.plan(g)
            acted = plan.acts and not self._held_back(machine, plan) and await self._apply(machine, g, plan)
            self._tell(machine, g, plan)
            if not acted:
                break
        self._settle(machine, g, plan, AGAIN_SECONDS if acted else None)

    def first_report(self, uid: str) -> Report:
        """What an order is answered with: the report so far, or one that says that it is waited for."""
        machine = self._machines.get(uid)
        if machine is None or machine.order is None:
            raise LookupError(uid)  # it is called for an order that was just kept
        known = self._hub.report(uid)
        if known is not None and known.epoch == machine.order.epoch:
            return known
        if known is None or (machine.guest is None and machine.record is None):
            fresh = report.report(Gathered(uid, order=machine.order), Progress())
            assert fresh is not None  # an order names its machine
            self._hub.publish(fresh)
            return fresh
        return known

    def _held_back(self, machine: Machine, plan: Plan) -> bool:
        """Whether the plan holds the step that failed last, and it is too early to try that again."""
        if machine.failure is None:
            return False
        if not any(type(step) is type(machine.failure.step) for step in plan.steps):
            machine.failure, machine.failures = None, 0
            return False
        return machine.retry_at > self._time()

    async def _apply(self, machine: Machine, g: Gathered, plan: Plan) -> bool:
        """Whether all steps were taken."""

        def doing(step: Step) -> None:
            self._tell(machine, g, plan, step)

        for step in plan.steps:
            _log.debug("step", extra=_names(machine, step=type(step).__name__, reason=step.reason))
        try:
            await self._applier.apply(machine, g, plan.steps, self._facts, doing)
        except StepFailed as failed:
            self._failed(machine, failed)
            return False
        machine.failure, machine.failures = None, 0
        if any(isinstance(step, steps.Resume) for step in plan.steps) and g.record is None:
            self._started(machine)
        return True

    def _failed(self, machine: Machine, failed: StepFailed) -> None:
        cause = failed.cause
        if isinstance(cause, HypervisorDown):
            machine.retry_at = self._time()
            return  # no fault of the machine's: what is gathered next says that nothing is known
        known = isinstance(cause, BerthError)
        reason = cause.reason if isinstance(cause, BerthError) else "InternalError"
        before, machine.failures = machine.failure, machine.failures + 1
        machine.failure = Failure(failed.step, reason, str(cause) or type(cause).__name__)
        machine.retry_at = self._time() + _retry(cause, machine.failures)
        extra = _names(machine, step=type(failed.step).__name__, reason=reason, error=str(cause))
        level = logging.DEBUG if before == machine.failure else logging.WARNING  # the same again is no news
        _log.log(level, "step failed", extra=extra, exc_info=None if known else cause)
        self._metrics.failures.labels(type(failed.step).__name__, reason).inc()

    def _started(self, machine: Machine) -> None:
        """The breakdown of a start, for people and for the benchmark."""
        seconds = {**machine.phases, "Total": self._time() - machine.ordered_at}
        if machine.ordered_at == 0.0:
            return  # a start that another agent began: nobody knows how long it took
        shown = {f"{name}_ms": round(value * 1000, 1) for name, value in seconds.items()}
        _log.info("started", extra=_names(machine, **shown))
        for name, value in seconds.items():
            self._metrics.start_seconds.labels(name).observe(value)
        machine.phases = {}

    def _tell(self, machine: Machine, g: Gathered, plan: Plan, doing: Step | None = None) -> None:
        if gathered.gone(g):
            return  # what was said last, of a guest that ended, stays said until the machine is forgotten
        pod = gathered.pod(g)
        place = machine.places.get(pod) if pod is not None else None
        before = self._hub.report(machine.uid)
        progress = Progress(
            plan=plan,
            doing=doing,
            failure=machine.failure,
            files_ready=place is not None and place.files is not None,
            guest=machine.info,
            guest_nics=machine.nics,
            pause_ms=machine.pause_ms,
            connections=machine.connections,
            save_failure=self._savings.save_failure(machine),
            transfer=machine.transfer,
            before=before,
        )
        told = report.report(g, progress)
        if told is not None and self._hub.publish(told):
            machine.told = False
            if before is None or before.state is not told.state:
                _log_state(machine, told)

    def _settle(self, machine: Machine, g: Gathered, plan: Plan, delay: float | None) -> None:
        """When to look again, and whether the machine can be forgotten."""
        waits = next((step for step in plan.steps if isinstance(step, steps.WaitFor)), None)
        if gathered.gone(g):
            self._leave(machine)
        elif delay is not None:
            self._ring(machine.uid, delay)
        elif machine.failure is not None or plan.acts:
            self._ring(machine.uid, max(machine.retry_at - self._time(), SOON_SECONDS))
        elif waits is not None and waits.what is Awaited.BERTH and machine.order is not None:
            self._await_berth(machine, waits.seconds)
        else:
            quiet = gather.SURE_SECONDS if _unsure(g) else QUIET_SECONDS
            self._ring(machine.uid, min(waits.seconds, quiet) if waits is not None else quiet)

    def _await_berth(self, machine: Machine, seconds: float) -> None:
        order = machine.order
        assert order is not None  # the caller's condition
        if self._time() - machine.ordered_at > NO_BERTH_SECONDS:
            _log.warning("the berth never came: the order is forgotten", extra=_names(machine))
            machine.order = None
            self._ring(machine.uid)
            return
        self._watch.wait_for(order.berth.pod_uid, machine.uid)
        self._ring(machine.uid, seconds)

    def _leave(self, machine: Machine) -> None:
        """Nothing is left here. A fate that nobody has heard of is kept for a while."""
        now = self._time()
        machine.left_at = now if machine.left_at is None else machine.left_at
        last = self._hub.report(machine.uid)
        unheard = last is not None and last.fate is not None and not machine.told
        if unheard and now - machine.left_at < KEEP_FATE_SECONDS:
            self._ring(machine.uid, KEEP_FATE_SECONDS - (now - machine.left_at))
            return
        for place in machine.places.values():
            place.close()
        self._watch.forget(machine.uid)
        self._machines.drop(machine.uid)
        self._hub.gone(machine.uid)
        _log.info("gone", extra=_names(machine))

    @property
    def _facts(self) -> NodeFacts:
        return self._hub.facts

    @staticmethod
    def _time() -> float:
        return asyncio.get_running_loop().time()


def _log_state(machine: Machine, told: Report) -> None:
    level = logging.INFO if told.state in _NOTABLE else logging.DEBUG
    fate = {"reason": told.fate.reason.value, "error": told.fate.message} if told.fate is not None else {}
    _log.log(level, "state", extra=_names(machine, state=told.state.value, **fate))


def _unsure(g: Gathered) -> bool:
    """Whether the berth of a guest was missed, and not for long enough to be called lost."""
    proven = {g.guest.order.berth.pod_uid} if g.guest is not None else set()
    proven |= {g.record.pod_uid} if g.record is not None else set()
    return g.hypervisor and bool(proven - g.present - g.lost)


def _retry(cause: Exception, failures: int) -> float:
    if isinstance(cause, InvalidSpec):
        return HOPELESS_SECONDS
    first = 0.05 if isinstance(cause, Unavailable) else 0.2
    return backoff.retry_seconds(failures, first=first, longest=HOPELESS_SECONDS)


def _names(machine: Machine, **more: object) -> dict[str, object]:
    order = machine.order if machine.order is not None else (machine.guest.order if machine.guest else None)
    named = {"vm": f"{order.namespace}/{order.name}", "epoch": order.epoch} if order is not None else {}
    return {"uid": machine.uid, **named, **more}
