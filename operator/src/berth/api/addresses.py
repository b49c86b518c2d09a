"""IP addresses and ranges as people write them: checked here, and by the API server in CEL.

Pure. Ranges are written as networks ("10.20.0.0/24"); an address never carries a prefix length.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def family(text: str) -> int:
    """4 or 6; 0 for what is no address."""
    try:
        return ipaddress.ip_address(text).version
    except ValueError:
        return 0


def _checked(valid: Any, message: str) -> AfterValidator:
    def check(text: str) -> str:
        if not valid(text):
            raise ValueError(message)
        return text

    return AfterValidator(check)


def _is_address(text: str) -> bool:
    """As the API server's isIP: no zone, no IPv4 inside IPv6."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    return found.version == 4 or ("." not in text and "%" not in text)


def _is_network(text: str) -> bool:
    """As the API server's isCIDR; bits behind the prefix do not matter to it."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text and not ("." in text and ":" in text)


def _is_range(version: int, least: int, most: int) -> Any:
    def check(text: str) -> bool:
        try:
            found = ipaddress.ip_network(text)
        except ValueError:
            return False
        return _is_network(text) and found.version == version and least <= found.prefixlen <= most

    return check


def _range_schema(version: int, least: int, most: int, message: str) -> dict[str, Any]:
    rule = f"isCIDR(self) && cidr(self).ip().family() == {version} && cidr(self) == cidr(self).masked()"
    rule += f" && cidr(self).prefixLength() >= {least} && cidr(self).prefixLength() <= {most}"
    return {"x-berth-rules": [{"cel": rule, "message": message}]}


_ADDRESS: Final = "must be an IP address without a prefix length"
_V4: Final = "must be an IPv4 network such as 10.20.0.0/24, from /8 to /30, with no bits set behind the prefix"
_V6: Final = "must be an IPv6 network such as fd00:20::/64, from /48 to /120, with no bits set behind the prefix"

IpAddress = Annotated[
    str,
    _checked(_is_address, _ADDRESS),
    Field(max_length=45, json_schema_extra={"x-berth-rules": [{"cel": "isIP(self)", "message": _ADDRESS}]}),
]
_EITHER: Final = "must be an IP address or a network such as 10.20.0.0/28"
AddressOrRange = Annotated[
    str,
    _checked(lambda text: _is_address(text) or _is_network(text), _EITHER),
    Field(
        max_length=43, json_schema_extra={"x-berth-rules": [{"cel": "isIP(self) || isCIDR(self)", "message": _EITHER}]}
    ),
]
RangeV4 = Annotated[
    str,
    _checked(_is_range(4, 8, 30), _V4),
    Field(max_length=18, json_schema_extra=_range_schema(4, 8, 30, _V4)),
]
RangeV6 = Annotated[
    str,
    _checked(_is_range(6, 48, 120), _V6),
    Field(max_length=43, json_schema_extra=_range_schema(6, 48, 120, _V6)),
]
