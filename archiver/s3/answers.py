"""What S3 says when it says no, and how: codes, statuses and XML as its clients know them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

XML = "application/xml"
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"

_STATUS = {
    "AccessDenied": 403,
    "InternalError": 500,
    "InvalidAccessKeyId": 403,
    "InvalidArgument": 400,
    "InvalidObjectState": 403,
    "InvalidRange": 416,
    "InvalidRequest": 400,
    "InvalidURI": 400,
    "KeyTooLongError": 400,
    "MethodNotAllowed": 405,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "NotImplemented": 501,
    "PreconditionFailed": 412,
    "RequestTimeTooSkewed": 403,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "SlowDown": 503,
}
_XML_FORBIDS = {code: None for code in range(32) if code not in (9, 10, 13)}


class Refusal(Exception):
    """A request that is not answered as asked: S3's code for it, and a sentence."""

    def __init__(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        return _STATUS[self.code]

    def body(self, resource: str, request_id: str) -> bytes:
        """The XML document; `resource` is the path that was asked for."""
        parts = (("Code", self.code), ("Message", self.message), ("Resource", resource), ("RequestId", request_id))
        return document("Error", ((name, text) for name, text in parts), namespace="")


Node = tuple[str, "str | list[Node]"]


def document(root: str, nodes: Iterator[Node], namespace: str = NAMESPACE) -> bytes:
    """An XML document of elements that hold text or further elements."""
    xmlns = f' xmlns="{namespace}"' if namespace else ""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}{xmlns}>{"".join(map(_element, nodes))}</{root}>'.encode()


def _element(node: Node) -> str:
    name, value = node
    inside = escape(value.translate(_XML_FORBIDS)) if isinstance(value, str) else "".join(map(_element, value))
    return f"<{name}>{inside}</{name}>"
