"""Enrolment: an agent pod's token in, a certificate for the pod's node out. Runs in every replica; main.py starts it.

The token says which pod on which node asks: the API server vouches for it (TokenReview), and the pod is looked up too.
Nothing in the request chooses a name.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web
from pydantic import ValidationError

from berth.api.enroll import EnrollAnswer, EnrollRequest
from berth.api.order import Refusal
from berth.effects import certificates
from berth.effects.certificates import Authority
from berth.effects.kube import Kube, path
from berth.errors import BerthError, Refused, Unavailable

AUDIENCE: Final = "berth-enroll"
BODY_BYTES: Final = 64 * 1024
_NODE: Final = "authentication.kubernetes.io/node-name"
_POD: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """The agent pod that a token proves."""

    pod: str
    pod_uid: str
    node: str


class Enrolment:
    def __init__(self, kube: Kube, authority: Authority, namespace: str, account: str) -> None:
        self._kube = kube
        self._authority = authority
        self._namespace = namespace
        self._user = f"system:serviceaccount:{namespace}:{account}"

    def application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_post("/v1/enroll", self._enroll)
        return app

    async def _enroll(self, request: web.Request) -> web.Response:
        try:
            token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
            asked = EnrollRequest.model_validate_json(await request.read())
            caller = await self._review(token)
            address = await self._address(caller)
            certificate = certificates.sign_node(
                self._authority,
                asked.csr.encode(),
                node=caller.node,
                addresses=[address],
                now=datetime.now(UTC),
            )
        except ValidationError as error:
            return _refuse(400, "RequestInvalid", f"the request is no {{csr: …}}: {error.error_count()} errors")
        except Refused as error:
            _log.warning("enrolment refused: %s", error)
            return _refuse(403, error.reason, str(error))
        except Unavailable as error:
            return _refuse(503, error.reason, str(error))
        except BerthError as error:
            return _refuse(500, error.reason, str(error))
        _log.info("agent enrolled", extra={"node": caller.node, "pod": caller.pod})
        return web.json_response(text=EnrollAnswer(certificate=certificate.decode()).model_dump_json(by_alias=True))

    async def _review(self, token: str) -> Caller:
        if not token:
            raise Refused("there is no bearer token", reason="TokenMissing")
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        where = "/apis/authentication.k8s.io/v1/tokenreviews"
        answer = await self._kube.call("POST", where, body, kind="TokenReview", verb="review")
        return caller(answer.get("status") or {}, self._user)

    async def _address(self, caller: Caller) -> str:
        """The pod is still there, on that node: its host's address goes into the certificate."""
        where = path("/api/v1", "namespaces", self._namespace, "pods", caller.pod)
        pod = await self._kube.call("GET", where)
        if pod["metadata"]["uid"] != caller.pod_uid or pod["spec"].get("nodeName") != caller.node:
            raise Refused(f"the pod {caller.pod} is not the one that the token is for", reason="PodChanged")
        address = (pod.get("status") or {}).get("hostIP")
        if not address:
            raise Unavailable(f"the pod {caller.pod} has no host address yet")
        return str(address)


def caller(status: dict[str, Any], user: str) -> Caller:
    """Who a TokenReview says it is; Refused when it is not an agent pod on a node."""
    if not status.get("authenticated") or AUDIENCE not in (status.get("audiences") or ()):
        raise Refused(f"the token is not valid for {AUDIENCE}: {status.get('error') or 'not authenticated'}")
    found = status.get("user") or {}
    if found.get("username") != user:
        raise Refused(f"only {user} may enroll, not {found.get('username')!r}", reason="NotAnAgent")
    extra = found.get("extra") or {}
    values = [(extra.get(key) or [""])[0] for key in (_POD, _POD_UID, _NODE)]
    if not all(values):
        raise Refused("the token is bound to no pod on a node", reason="TokenUnbound")
    return Caller(*values)


def _refuse(status: int, reason: str, message: str) -> web.Response:
    body = Refusal(reason=reason, message=message)
    return web.json_response(text=body.model_dump_json(by_alias=True), status=status)
