"""Which models a host serves, and since when it is up, without anything installed."""

from __future__ import annotations

from typing import Any

from pyinfra.api import FactBase

MODELS = "/var/lib/hedgerow/models"


class Serving(FactBase[dict[str, Any]]):
    """``{"uptime_s": int | None, "models": {name: version}}``; the links are those that activation writes."""

    def command(self) -> str:
        # The age of process 1, since a container shares the machine's /proc/uptime.
        return (
            "ps -o etimes= -p 1;"
            f' for link in {MODELS}/*/current; do [ -L "$link" ] && printf "%s %s\\n" "$link" "$(readlink "$link")";'
            " done; true"
        )

    def process(self, output: list[str]) -> dict[str, Any]:
        uptime: int | None = None
        models: dict[str, str] = {}
        for line in output:
            words = line.split()
            if len(words) == 1 and words[0].isdigit():
                uptime = int(words[0])
            elif len(words) == 2 and words[0].startswith(f"{MODELS}/"):  # noqa: PLR2004 - link and target
                models[words[0].split("/")[-2]] = words[1].rstrip("/").rpartition("/")[2]
        return {"uptime_s": uptime, "models": models}
