"""Requests that come at the same time are signed together: one write of the issuance log for all of them.

For a service whose workers are threads, as a gateway's. Nobody waits for company: who comes while nothing is signed is
signed alone; who comes while others are being signed is signed with everybody else who came meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hedgerow.errors import HedgerowError
from hedgerow.identity.issuer import Request


class ManySigner(Protocol):
    """The part of an ``Issuer`` that is needed here."""

    def sign_many(self, requests: Sequence[Request]) -> list[str | HedgerowError]: ...


@dataclass
class _Waiting:
    request: Request
    answer: str | BaseException | None = field(default=None)


class Gathering:
    """Signs by ``issuer``, whose ``sign_many`` runs in one thread at a time. Safe to call from many."""

    def __init__(self, issuer: ManySigner) -> None:
        self._issuer = issuer
        self._arrivals = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: list[_Waiting] = []

    def sign(self, request: Request) -> str:
        """The chain (PEM) for ``request``. Raises as ``Issuer.sign_csr`` does."""
        own = _Waiting(request)
        with self._arrivals:
            self._waiting.append(own)
        with self._turn:
            # Whoever had the turn before may have signed this one, too.
            if own.answer is None:
                with self._arrivals:
                    batch, self._waiting = self._waiting, []
                self._sign(batch)
        if isinstance(own.answer, str):
            return own.answer
        assert own.answer is not None  # noqa: S101 - for the type checker: the turn does not end without answers
        raise own.answer

    def _sign(self, batch: list[_Waiting]) -> None:
        try:
            answers: Sequence[str | BaseException] = self._issuer.sign_many([each.request for each in batch])
        except BaseException as error:  # noqa: BLE001 - it is everybody's, and each raises it in its own thread
            answers = [error] * len(batch)
        for each, answer in zip(batch, answers, strict=True):
            each.answer = answer
