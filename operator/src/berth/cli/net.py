"""`berth net`: a machine's whole network on one page: its interfaces, what selects it, and what its node really has.

Reads statuses; the node's part comes from the kernel there, by `kubectl exec` into the node's agent.
"""

from __future__ import annotations

import subprocess
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from berth.cli import screen
from berth.cli.cluster import Cluster, connect
from berth.cli.options import Context, Kubeconfig, Name, Namespace
from berth.errors import Refused

Json = dict[str, Any]
AGENTS = "app.kubernetes.io%2Fname%3Dberth%2Capp.kubernetes.io%2Fcomponent%3Dagent"


def net_command(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    node: Annotated[
        bool, typer.Option("--node/--no-node", help="Ask the machine's node what it really has, as cluster admins may.")
    ] = True,
) -> None:
    """Print a machine's whole network state."""
    cluster = connect(namespace, context, kubeconfig)
    vm = cluster.machine(name)
    status = vm.get("status") or {}
    berth = cluster.pod(status["berth"]) if status.get("berth") else None
    screen.out.print(Text(f"{vm['metadata']['namespace']}/{name}  ", style="bold"), _condition(status), sep="")
    screen.out.print(interfaces(vm, status), soft_wrap=False)
    if berth is None:
        screen.out.print("\nIt has no berth, so there is no more to see.")
        return
    labels = berth["metadata"].get("labels") or {}
    _print("Services that select it", services(cluster, labels))
    _print("NetworkPolicies that select it", policies(cluster, labels))
    if node:
        _on_node(cluster, berth)


def _condition(status: Json) -> Text:
    found = next((c for c in status.get("conditions") or () if c["type"] == "NetworkReady"), None)
    if found is None:
        return Text("nothing is known of its network yet", style="yellow")
    good = found["status"] == "True"
    return Text("network ready" if good else f"{found['reason']}: {found['message']}", style="green" if good else "red")


def interfaces(vm: Json, status: Json) -> Table:
    """What was given beside what the guest says."""
    table = Table(box=None, pad_edge=True)
    for column in ("NIC", "ON", "MAC", "GIVEN", "GUEST SAYS", "LINK", "LIMITS"):
        table.add_column(column, overflow="fold")
    wanted = {nic["name"]: nic for nic in vm["spec"].get("nics") or ()}
    for nic in status.get("nics") or ():
        spec = wanted.get(nic["name"], {})
        guest = " ".join([*filter(None, [nic.get("guestName")]), *(nic.get("guestAddresses") or ())])
        given = "\n".join(nic.get("addresses") or ())
        table.add_row(nic["name"], nic["network"], nic["mac"], given, guest, spec.get("link", "Up"), _limits(spec))
    return table


def _limits(nic: Json) -> str:
    bandwidth = nic.get("bandwidth") or {}
    return " ".join(f"{way} {bandwidth[way]['rate']}" for way in ("inbound", "outbound") if bandwidth.get(way))


def services(cluster: Cluster, labels: dict[str, str]) -> list[str]:
    """Those whose selector the berth's labels meet, with their addresses and ports."""
    found = []
    for service in cluster.call("GET", f"/api/v1/namespaces/{cluster.access.namespace}/services")["items"]:
        spec = service["spec"]
        if not spec.get("selector") or not spec["selector"].items() <= labels.items():
            continue
        ports = " ".join(_port(port) for port in spec.get("ports") or ())
        found.append(f"{service['metadata']['name']}  {','.join(spec.get('clusterIPs') or ())}  {ports}".rstrip())
    return found


def _port(port: Json) -> str:
    node = f" (node {port['nodePort']})" if port.get("nodePort") else ""
    return f"{port['port']}→{port.get('targetPort', port['port'])}/{port.get('protocol', 'TCP')}{node}"


def policies(cluster: Cluster, labels: dict[str, str]) -> list[str]:
    """NetworkPolicies whose pod selector the berth's labels meet."""
    path = f"/apis/networking.k8s.io/v1/namespaces/{cluster.access.namespace}/networkpolicies"
    chosen = [
        one for one in cluster.call("GET", path)["items"] if selects(one["spec"].get("podSelector") or {}, labels)
    ]
    return [f"{one['metadata']['name']}  {', '.join(one['spec'].get('policyTypes') or ['Ingress'])}" for one in chosen]


def selects(selector: Json, labels: dict[str, str]) -> bool:
    """Kubernetes' label selector."""
    if not (selector.get("matchLabels") or {}).items() <= labels.items():
        return False
    return all(_expression(one, labels) for one in selector.get("matchExpressions") or ())


def _expression(one: Json, labels: dict[str, str]) -> bool:
    key, values, has = one["key"], one.get("values") or (), one["key"] in labels
    match one["operator"]:
        case "In":
            return has and labels[key] in values
        case "NotIn":
            return not has or labels[key] not in values
        case "Exists":
            return has
        case _:
            return not has


def _print(title: str, lines: list[str]) -> None:
    screen.out.print(Text(f"\n{title}", style="bold"))
    screen.out.print("\n".join(f"  {line}" for line in lines) or "  none", markup=False)


def _on_node(cluster: Cluster, berth: Json) -> None:
    node = berth["spec"].get("nodeName", "")
    screen.out.print(Text(f"\nOn node {node}", style="bold"))
    try:
        selector = f"labelSelector={AGENTS}&fieldSelector=spec.nodeName%3D{node}"
        agents = cluster.call("GET", f"/api/v1/pods?{selector}")["items"]
    except Refused as error:
        screen.out.print(f"  not asked: {error}", markup=False)
        return
    if not agents:
        screen.out.print("  it has no agent pod")
        return
    meta = agents[0]["metadata"]
    words = ["exec", "-n", meta["namespace"], meta["name"], "-c", "agent", "--"]
    words += ["python3", "-m", "berth.agent.netstate", berth["metadata"]["uid"]]
    done = subprocess.run(cluster.access.kubectl(*words), check=False)
    if done.returncode:
        screen.fail(f"the agent {meta['namespace']}/{meta['name']} could not tell; see its log")
