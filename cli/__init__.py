"""The command-line door: parse, call one function of `pipeline` or publish one task, show the answer."""

from cli.app import main

__all__ = ["main"]
