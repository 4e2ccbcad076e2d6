"""What Flask itself can do: one route that returns a constant, on the same web server."""

from flask import Flask
from flask.typing import ResponseReturnValue

app = Flask(__name__)


@app.get("/")
def constant() -> ResponseReturnValue:
    """Answer."""
    return {"status": "ok"}
