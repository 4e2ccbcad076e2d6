"""The HTTP door on a real port, and a client that speaks to it."""

import io
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.orm import Session
from werkzeug.serving import make_server

from api import create_app
from pipeline.database import transaction
from pipeline.projects import ensure_project
from pipeline.tokens import create_token, ensure_first_token
from schemas.enums import UserRole
from schemas.reference import Profile


@dataclass
class Answer:
    status: int
    body: dict[str, Any]


@dataclass
class Download:
    headers: dict[str, str]
    data: bytes


class Client:
    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self.token: str | None = None

    def get(self, path: str) -> Answer:
        return self._send(urllib.request.Request(self._base + path))

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        return self._send(urllib.request.Request(self._base + path, data=data, headers=headers))

    def download(self, path: str) -> Download:
        request = urllib.request.Request(self._base + path)
        request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request) as response:
            return Download(dict(response.headers), response.read())

    def delete(self, path: str) -> Answer:
        return self._send(urllib.request.Request(self._base + path, method="DELETE"))

    def upload(self, path: str, fields: dict[str, str], file: bytes | None) -> Answer:
        boundary, body = "frontier", io.BytesIO()
        for name, value in fields.items():
            part = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            body.write(part.encode())
        if file is not None:
            disposition = 'Content-Disposition: form-data; name="file"; filename="batch.csv"'
            body.write(f"--{boundary}\r\n{disposition}\r\n\r\n".encode() + file + b"\r\n")
        body.write(f"--{boundary}--\r\n".encode())
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return self._send(urllib.request.Request(self._base + path, data=body.getvalue(), headers=headers))

    def _send(self, request: urllib.request.Request) -> Answer:
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return Answer(answer.status, json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, json.load(error))


@pytest.fixture(scope="module")
def port(servers: None) -> Iterator[int]:  # noqa: ARG001 - it must run
    server = make_server("127.0.0.1", 0, create_app(), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(port: int, session: Session) -> Client:  # noqa: ARG001 - an empty database
    return Client(port)


@pytest.fixture
def admin(client: Client) -> Client:
    with transaction() as session:
        client.token = ensure_first_token(session)
    return client


@pytest.fixture
def project_id(session: Session) -> str:
    project = ensure_project(session, "demo")
    session.commit()
    return project.id


@pytest.fixture
def sign_in(port: int, session: Session) -> Callable[[str, UserRole], Client]:
    """Make a user of a role, and a client with a token of theirs."""

    def _sign_in(email: str, role: UserRole) -> Client:
        made = Client(port)
        session.add(Profile(id=uuid4(), email=email, role=role))
        session.flush()
        made.token = create_token(session, email=email, name="t")
        session.commit()
        return made

    return _sign_in
