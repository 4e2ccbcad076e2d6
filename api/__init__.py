"""The HTTP door: parse, authorize, call one function of `pipeline` or publish one task, answer."""

from api.app import create_app

__all__ = ["create_app"]
