"""What tests ask a server over HTTP, and how they read a stream of events."""

from __future__ import annotations

import json

import httpx

CHAT = "/v1/chat/completions"
COMPLETE = "/v1/completions"
INFER = "/v2/models/add/infer"
HELLO = [{"role": "user", "content": "hello"}]
ROW = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}


def events(response: httpx.Response) -> list[object]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
