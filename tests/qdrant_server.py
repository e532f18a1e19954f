"""A Qdrant server for tests: the REST calls that bgetune makes, answered by qdrant-client's local mode; with faults.

A real server needs an engine that no test can start. What travels is the same: paths, bodies and answers are the
client's own models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, TypeAdapter
from qdrant_client import QdrantClient, models

from tests.http_server import LocalHandler, LocalServer


@dataclass(frozen=True)
class Fault:
    """Instead of an answer: a status; or, without one, the connection is reset."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    """The request is carried out first, and only its answer is lost."""
    message: str = "no"


CUT, LOST = Fault(), Fault(after=True)


def busy(status: int, **headers: str) -> Fault:
    return Fault(status, headers)


class QdrantServer(LocalServer):
    """A context: `with QdrantServer() as server: ... server.url`.

    Args:
        faults: for the requests that change something or look at points, in their order; None: a true answer.
        refuse: (number, method, path) -> the fault for a request, asked for every one.
        key: without it every request is refused.
    """

    def __init__(
        self,
        faults: Sequence[Fault | None] = (),
        refuse: Callable[[int, str, str], Fault | None] = lambda number, method, path: None,
        key: str | None = None,
        keeps_metadata: bool = True,
        status: Callable[[], str] = lambda: "green",
    ) -> None:
        super().__init__(_handler(self))
        self.refuse, self.key, self.keeps_metadata, self.status = refuse, key, keeps_metadata, status
        self.faults = list(faults)
        self.requests: list[str] = []
        """METHOD /path of each, those refused included."""
        self.bodies: list[Any] = []
        self.written = 0
        """Points in all upserts that were carried out."""
        self.local = QdrantClient(":memory:")

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.local.close()

    def answer(self, method: str, path: str, body: Any, key: str | None) -> tuple[Fault | None, int, Any]:
        """A fault or None, the status, and what is sent."""
        if path == "/":
            return None, 200, {"title": "qdrant - vector search engine", "version": version("qdrant-client")}
        if self.key is not None and key != self.key:
            return None, 401, {"status": {"error": f"Must provide an API key, got {key}"}}
        with self._lock:
            number = len(self.requests)
            self.requests.append(f"{method} {path}")
            self.bodies.append(body)
            fault = self.refuse(number, method, path)
            if fault is None and self.faults and path not in ("/collections", "/aliases"):
                fault = self.faults.pop(0)
            if fault is not None and not fault.after:
                return fault, fault.status or 0, {"status": {"error": fault.message}}
            try:
                result = self._carried_out(method, path.strip("/").split("/"), body)
            except ValueError as error:
                status = 409 if "already exists" in str(error) else 404 if "not found" in str(error) else 400
                return None, status, {"status": {"error": str(error)}}
            return fault, 200, {"result": _plain(result), "status": "ok", "time": 0.0}

    def _carried_out(self, method: str, parts: list[str], body: Any) -> Any:
        client, name = self.local, parts[1] if len(parts) > 1 else ""
        match (method, *parts):
            case ("GET", "collections"):
                return client.get_collections()
            case ("GET", "aliases"):
                return client.get_aliases()
            case ("POST", "collections", "aliases"):
                asked = models.ChangeAliasesOperation(**body)
                return client.update_collection_aliases(asked.actions)
            case ("GET", "collections", _, "exists"):
                return {"exists": client.collection_exists(name)}
            case ("GET", "collections", _):
                info = client.get_collection(name)
                info.status = models.CollectionStatus(self.status())
                return info
            case ("PUT", "collections", _):
                return self._create(name, models.CreateCollection(**body))
            case ("PATCH", "collections", _):
                changed = models.UpdateCollection(**body)
                return client.update_collection(name, metadata=changed.metadata)
            case ("DELETE", "collections", _):
                return client.delete_collection(name)
            case (_, "collections", _, "points", *rest):
                return self._points(method, name, "/".join(rest), body)
        raise ValueError(f"the test's server does not know {method} {parts}")

    def _create(self, name: str, asked: models.CreateCollection) -> bool:
        metadata = asked.metadata if self.keeps_metadata else None
        vectors, sparse = asked.vectors, asked.sparse_vectors
        return self.local.create_collection(
            name, vectors_config=vectors, sparse_vectors_config=sparse, metadata=metadata
        )

    def _points(self, method: str, name: str, rest: str, body: Any) -> Any:
        client = self.local
        match (method, rest):
            case ("PUT", ""):
                points = models.PointsList(**body).points
                self.written += len(points)
                return client.upsert(name, points)
            case ("POST", ""):
                asked = models.PointRequest(**body)
                return client.retrieve(
                    name,
                    ids=asked.ids,
                    with_payload=asked.with_payload or False,
                    with_vectors=asked.with_vector or False,
                )
            case ("POST", "count"):
                return client.count(name, exact=True)
            case ("POST", "query"):
                query = TypeAdapter(models.QueryRequest).validate_python(body)
                return client._client.query_points(
                    name,
                    query=query.query,
                    using=query.using,
                    prefetch=query.prefetch,
                    limit=query.limit or 10,
                    with_payload=query.with_payload or False,
                )
        raise ValueError(f"the test's server does not know {method} points/{rest}")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _handler(server: QdrantServer) -> type[LocalHandler]:
    class Handler(LocalHandler):
        def _any(self) -> None:
            carried, path = self.body(), self.path.partition("?")[0]
            body = json.loads(carried) if carried else None
            fault, status, sent = server.answer(self.command, path, body, self.headers.get("api-key"))
            if fault is None:
                return self.send(status, json.dumps(sent).encode(), {})
            if fault.status is None:
                return self.reset()
            return self.send(fault.status, json.dumps(sent).encode(), fault.headers)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

    return Handler
