"""A client of the HTTP API, as the tests of its routes use it."""

import io
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any


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

    def send(self, method: str, path: str, data: bytes, headers: dict[str, str]) -> Answer:
        request = urllib.request.Request(self._base + path, data=data, headers=headers, method=method)
        return self._send(request)

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
