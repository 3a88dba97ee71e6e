"""Clients of the daemon: one line of JSON out, one line in."""

from __future__ import annotations

from wheeltimer.client.blocking import Client, OutcomeUnknown

__all__ = ["Client", "OutcomeUnknown"]
