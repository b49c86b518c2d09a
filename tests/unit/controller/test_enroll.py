"""Enrolment: who gets a certificate, for which node, and who does not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509

from berth.controller.enroll import Enrolment, caller
from berth.effects import certificates
from berth.errors import Refused
from berth.plan.world import Object
from tests.unit.controller.apiserver import ApiServer, served

USER = "system:serviceaccount:ns:berth-agent"
EXTRA = {
    "authentication.kubernetes.io/node-name": ["node-1"],
    "authentication.kubernetes.io/pod-name": ["agent-x"],
    "authentication.kubernetes.io/pod-uid": ["pod-uid"],
}
GOOD: Object = {"authenticated": True, "audiences": ["berth-enroll"], "user": {"username": USER, "extra": EXTRA}}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({}, "Refused"),
        ({**GOOD, "authenticated": False, "error": "expired"}, "Refused"),
        ({**GOOD, "audiences": ["https://kubernetes.default.svc"]}, "Refused"),
        ({**GOOD, "user": {"username": "system:serviceaccount:ns:default", "extra": EXTRA}}, "NotAnAgent"),
        ({**GOOD, "user": {"username": "system:serviceaccount:other:berth-agent", "extra": EXTRA}}, "NotAnAgent"),
        ({**GOOD, "user": {"username": USER, "extra": {}}}, "TokenUnbound"),
    ],
)
def test_refused(status: Object, reason: str) -> None:
    with pytest.raises(Refused) as error:
        caller(status, USER)
    assert error.value.reason == reason


async def enrol(pod: Object | None, status: Object = GOOD, **request: Any) -> tuple[int, Object]:
    server, authority = ApiServer(), certificates.new_authority(datetime.now(UTC))
    server.reviews = status
    if pod is not None:
        server.objects["/api/v1/namespaces/ns/pods/agent-x"] = pod
    _, csr = certificates.new_request("system:berth:node:somebody-else")
    body = {"csr": csr.decode(), **request}
    async with served(server) as kube:
        app = Enrolment(kube, authority, "ns", "berth-agent").application()
        async with TestClient(TestServer(app)) as client:
            answer = await client.post("/v1/enroll", json=body, headers={"Authorization": "Bearer secret"})
            return answer.status, await answer.json()


POD: Object = {"metadata": {"uid": "pod-uid"}, "spec": {"nodeName": "node-1"}, "status": {"hostIP": "10.0.0.1"}}


async def test_the_certificate_is_for_the_node_of_the_token_whatever_was_asked() -> None:
    status, answer = await enrol(POD)
    assert status == 200
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert certificate.subject.rfc4514_string() == "CN=system:berth:node:node-1"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node-1"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]


@pytest.mark.parametrize(
    ("pod", "status", "request_", "code", "reason"),
    [
        (POD, {**GOOD, "authenticated": False}, {}, 403, "Refused"),
        ({**POD, "metadata": {"uid": "newer"}}, GOOD, {}, 403, "PodChanged"),
        ({**POD, "spec": {"nodeName": "node-2"}}, GOOD, {}, 403, "PodChanged"),
        ({**POD, "status": {}}, GOOD, {}, 503, "Unavailable"),
        (None, GOOD, {}, 403, "NotFound"),
        (POD, GOOD, {"csr": "no request"}, 403, "RequestInvalid"),
        (POD, GOOD, {"csr": 7}, 400, "RequestInvalid"),
    ],
)
async def test_no_certificate(pod: Object | None, status: Object, request_: Object, code: int, reason: str) -> None:
    found, answer = await enrol(pod, status, **request_)
    assert (found, answer["reason"]) == (code, reason)
    assert "secret" not in answer["message"]
