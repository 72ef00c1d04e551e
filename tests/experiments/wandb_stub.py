"""A W&B server on loopback, as far as runs, their files and artifacts go: what it was sent, it holds and gives back."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

ENTITY = "somebody"
CREATED = "2026-01-01T00:00:00"
PROJECT = {"id": "project", "entity": {"id": "entity", "name": ENTITY}}


@dataclass
class HeldRun:
    """What one run was told. `used`, `logged`: the names of artifacts that it read and made."""

    project: str
    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: str = "{}"
    files: dict[str, bytes] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        """The values of the run's config, without W&B's own."""
        held = json.loads(self.fields.get("config") or "{}")
        return {key: item["value"] for key, item in held.items() if not key.startswith("_")}

    def column(self, name: str) -> list[Any]:
        """The values of a name in the order in which they were logged."""
        rows = (row for _, row in sorted(self.history.items()))
        return [row[name] for row in rows if name in row]


@dataclass
class Held:
    """All that was sent: runs by (project, id), artifacts and views by id, and what nobody answers to."""

    base: str = ""
    runs: dict[tuple[str, str], HeldRun] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, variables: dict[str, Any]) -> HeldRun:
        """The run that variables name, made where there is none."""
        project = variables.get("project") or variables.get("projectName") or "uncategorized"
        name = variables.get("name") or variables.get("run") or variables.get("runName") or ""
        return self.runs.setdefault((project, name), HeldRun(project, name))

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data that an operation of GraphQL asks for."""
        if operation not in ANSWERS:
            self.unknown.append(operation)
            return {}
        return ANSWERS[operation](self, given.get("input") or given)

    def _viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "viewer", "entity": ENTITY, "username": ENTITY, "email": "", "admin": False, "flags": "{}"}
        return {"viewer": viewer | {"teams": {"edges": []}, "name": ENTITY, "apiKeys": {"edges": []}}}

    def _features(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _organisation(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"entity": None}

    def _resumed(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get((given["project"], given["name"]))
        return {"model": {"name": given["project"], **PROJECT, "bucket": None if run is None else self._node(run)}}

    def _upserted(self, given: dict[str, Any]) -> dict[str, Any]:
        inserted = (given["project"], given["name"]) not in self.runs
        run = self.run(given)
        run.fields |= {key: value for key, value in given.items() if value is not None}
        return {"upsertBucket": {"bucket": self._node(run), "inserted": inserted}}

    def _node(self, run: HeldRun) -> dict[str, Any]:
        rows = [json.dumps(row) for _, row in sorted(run.history.items())]
        return {
            "id": f"{run.project}/{run.name}",
            "name": run.name,
            "displayName": run.fields.get("displayName"),
            "jobType": run.fields.get("jobType"),
            "config": run.fields.get("config", "{}"),
            "tags": run.fields.get("tags", []),
            "group": run.fields.get("groupName"),
            "project": {"name": run.project, **PROJECT},
            "projectId": "1",
            "state": "finished",
            "summaryMetrics": run.summary,
            "historyLineCount": len(rows),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps(rows[-1:]),
            "eventsTail": "[]",
            "wandbConfig": json.dumps({"t": 1}),
            "user": {"name": ENTITY, "username": ENTITY},
            "createdAt": CREATED,
        }

    def _run_files(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.run(given)
        files = [{"name": name, "uploadUrl": self._url(run, name)} for name in given["files"]]
        return {"createRunFiles": {"runID": run.name, "uploadHeaders": [], "files": files}}

    def _artifact_type(self, given: dict[str, Any]) -> dict[str, Any]:
        found = [one for one in self.artifacts.values() if one["name"] == given["name"].partition(":")[0]]
        return {"project": {"artifact": {"artifactType": {"name": found[0]["type"]}} if found else None}}

    def _made(self, given: dict[str, Any]) -> dict[str, Any]:
        name, project = given["artifactCollectionName"], given["projectName"]
        kept = {"name": name, "type": given["artifactTypeName"], "project": project, "digest": given["digest"]}
        identity = f"{project}/{name}"
        self.artifacts[identity] = kept | {"metadata": given.get("metadata") or "{}"}
        if given.get("runName"):
            self.runs[project, given["runName"]].logged.append(name)
        return {"createArtifact": {"artifact": self._artifact(identity)}}

    def _artifact(self, identity: str) -> dict[str, Any]:
        held = self.artifacts[identity]
        project = {"id": "1", "internalId": "1", "name": held["project"], "entity": {"name": ENTITY}}
        collection = {"__typename": "ArtifactSequence", "id": identity, "name": held["name"], "project": project}
        return {
            "__typename": "Artifact",
            "id": identity,
            "state": "COMMITTED",  # as if its files were there, so that W&B sends none
            "digest": held["digest"],
            "digestAlgorithm": "MANIFEST_MD5",
            "versionIndex": 0,
            "version": "v0",
            "artifactType": {"name": held["type"]},
            "artifactSequence": {**collection, "latestArtifact": {"id": identity, "versionIndex": 0}},
            "metadata": held["metadata"],
            **dict.fromkeys(("description", "historyStep", "updatedAt", "commitHash")),
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "size": 1,
            "fileCount": 1,
            "tags": [],
            "aliases": [],
            "createdAt": CREATED,
        }

    def _membership(self, given: dict[str, Any]) -> dict[str, Any]:
        identity = f"{given['project']}/{given['name'].partition(':')[0]}"
        if identity not in self.artifacts:
            return {"project": {"artifactCollectionMembership": None}}
        artifact = self._artifact(identity)
        found = {"id": identity, "versionIndex": 0, "aliases": [], "createdAt": CREATED, "artifact": artifact}
        found |= {"__typename": "ArtifactCollectionMembership", "artifactCollection": artifact["artifactSequence"]}
        return {"project": {"artifactCollectionMembership": found}}

    def _use(self, given: dict[str, Any]) -> dict[str, Any]:
        self.runs[given["projectName"], given["runName"]].used.append(self.artifacts[given["artifactID"]]["name"])
        return {"useArtifact": {"artifact": self._artifact(given["artifactID"])}}

    def _listed(self, given: dict[str, Any]) -> dict[str, Any]:
        runs = [run for (project, _), run in self.runs.items() if project == given["project"]]
        if not runs:
            return {"project": None}
        page = {"edges": [{"node": self._node(run), "cursor": run.name} for run in runs]}
        page |= {"pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "1", "runCount": len(runs), "readOnly": False, "runs": page}}

    def _files(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.run(given)
        found = [name for name in run.files if name in given["fileNames"]]
        nodes = [
            {
                "id": name,
                "name": name,
                "url": self._url(run, name),
                "directUrl": self._url(run, name),
                "sizeBytes": len(run.files[name]),
                "mimetype": "application/json",
                "updatedAt": None,
                "md5": "",
            }
            for name in found
        ]
        edges = [{"node": node, "cursor": node["name"]} for node in nodes]
        page = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "1", "run": {"fileCount": len(found), "files": page}}}

    def _viewed(self, given: dict[str, Any]) -> dict[str, Any]:
        """A workspace or report: written over where an id is given, else new."""
        identity = given.get("id") or f"view{len(self.views)}"
        inserted = identity not in self.views
        self.views[identity] = given | {"id": identity}
        return {"upsertView": {"view": self._view(identity), "inserted": inserted}}

    def _view(self, identity: str) -> dict[str, Any]:
        told = self.views[identity]
        names = ("id", "name", "type", "displayName", "description", "spec")
        project = {"id": "1", "name": told["projectName"], "entityName": told["entityName"]}
        times = {"createdAt": CREATED, "updatedAt": CREATED}
        return {name: told.get(name) for name in names} | {"project": project, "user": {"username": ENTITY}} | times

    def _views(self, given: dict[str, Any]) -> dict[str, Any]:
        kind, name = given.get("viewType", "runs"), given.get("viewName")
        found = [key for key, one in self.views.items() if one["type"] == kind and name in (None, one["name"])]
        page = {"edges": [{"node": self._view(key), "cursor": key} for key in found]}
        return {"project": {"allViews": page | {"pageInfo": {"endCursor": None, "hasNextPage": False}}}}

    def _projects(self, given: dict[str, Any]) -> dict[str, Any]:
        names = sorted({project for project, _ in self.runs})
        same = {"id": "1", "entityName": ENTITY, "createdAt": CREATED, "isBenchmark": False, "user": None}
        edges = [{"node": {"name": name, **same}, "cursor": name} for name in names]
        return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def _project(self, given: dict[str, Any]) -> dict[str, Any]:
        is_there = given["projectName"] in {project for project, _ in self.runs}
        return {"project": {"id": "1", "internalId": "1"} if is_there else None}

    def _url(self, run: HeldRun, name: str) -> str:
        return f"{self.base}/held/{run.project}/{run.name}/{quote(name, safe='')}"


ANSWERS: dict[str, Callable[[Held, dict[str, Any]], dict[str, Any]]] = {
    "Viewer": Held._viewer,
    "ServerFeaturesQuery": Held._features,
    "OrganizationCoreWeaveOrganizationID": Held._organisation,
    "RunResumeStatus": Held._resumed,
    "UpsertBucket": Held._upserted,
    "CreateRunFiles": Held._run_files,
    "ArtifactType": Held._artifact_type,
    "CreateArtifact": Held._made,
    "GetViewer": Held._viewer,
    "GetDefaultEntity": Held._viewer,
    "Runs": Held._listed,
    "RunFiles": Held._files,
    "ArtifactMembershipByName": Held._membership,
    "UseArtifact": Held._use,
    "UpsertView2": Held._viewed,
    "upsertView": Held._viewed,
    "View": Held._views,
    "ProjectViews": Held._views,
    "GetProjects": Held._projects,
    "Projects": Held._projects,
    "ProjectInternalId": Held._project,
}
"""What answers to which operation."""


class _Handler(BaseHTTPRequestHandler):
    held: Held

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""

    def _reply(self, content: bytes, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(sent) if self.headers.get("Content-Encoding") == "gzip" else sent

    def do_POST(self) -> None:
        body = self._body()
        if self.path != "/graphql" and not self.path.endswith("/file_stream"):  # what W&B tells of itself
            self._reply(b"{}")
            return
        sent = json.loads(body)
        with self.held.lock:
            if self.path == "/graphql":
                operation = sent.get("operationName") or sent["query"].split("(")[0].split("{")[0].split()[-1]
                reply = {"data": self.held.answer(operation, sent.get("variables") or {})}
            else:
                reply = self._stream(sent)
        self._reply(json.dumps(reply).encode())

    def _stream(self, sent: dict[str, Any]) -> dict[str, Any]:
        """Lines of the run's history, from an offset on, and its summary."""
        *_, project, name, _ = self.path.split("/")
        run = self.held.run({"project": project, "name": name})
        for file, part in (sent.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                run.history |= {part["offset"] + i: json.loads(line) for i, line in enumerate(part["content"])}
            elif file == "wandb-summary.json":
                run.summary = part["content"][-1]
        return {"exitcode": None, "limits": {}}

    def do_PUT(self) -> None:
        content, (kind, *names) = self._body(), [unquote(part) for part in self.path.strip("/").split("/")]
        with self.held.lock:
            if kind == "held":
                self.held.runs[names[0], names[1]].files[names[2]] = content
        self._reply(b"{}")

    def do_GET(self) -> None:
        kind, *names = [unquote(part) for part in self.path.strip("/").split("/")]
        self._reply(self.held.runs[names[0], names[1]].files[names[2]] if kind == "held" else b"{}")


@contextmanager
def server() -> Iterator[Held]:
    """A running server; what it holds, and under `base` where it is."""
    held = Held()
    handler = type("Handler", (_Handler,), {"held": held})
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    held.base = f"http://127.0.0.1:{listening.server_address[1]}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        listening.shutdown()
        listening.server_close()
