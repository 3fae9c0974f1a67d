"""Files of nginx's cache, as 1.22 and 1.26 write their heads: a struct, the key's line, the origin's answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedgerow.rollout import cache_host

PACK = "/targets/packs/ab/" + "ab" * 32
KEYS = {
    "f0/1": f"{PACK}bytes=0-1048575",
    "f0/2": f"{PACK}bytes=1048576-2097151",
    "a1/3": f"/targets/packs/ac/{'ac' * 32}bytes=0-1048575",
    "a1/4": "https://models.example.org:443/meadow /metadata/timestamp.json",
    "a1/5": "https://models.example.org:443 /targets/models/assistant/1.0.0/manifest.json",
}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    for name, key in KEYS.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        head = b"\5\0\0\0" + bytes(300) + b'"6789"\0' + bytes(20) + f"\nKEY: {key}\n".encode()
        file.write_bytes(
            head + b"HTTP/1.1 206 Partial Content\r\n\r\n" + b"\nKEY: /metadata/1.root.json\n" + b"x" * 5000
        )
    (tmp_path / "a1/6.0000000001").write_bytes(b"HTTP/1.1 206")  # a temporary file: it has no key yet
    return tmp_path


def left(cache: Path) -> set[str]:
    return {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()} - {"a1/6.0000000001"}


@pytest.mark.parametrize(
    "path,gone",
    [
        (PACK, {"f0/1", "f0/2"}),
        (PACK.lstrip("/"), {"f0/1", "f0/2"}),
        (PACK[:-1], set()),
        ("targets/packs/", {"f0/1", "f0/2", "a1/3"}),
        ("metadata/timestamp.json", {"a1/4"}),
        ("metadata/1.root.json", set()),
        ("targets/models/assistant/", {"a1/5"}),
        ("/", set(KEYS)),
    ],
)
def test_what_is_named_goes_and_nothing_else(cache: Path, path: str, gone: set[str]) -> None:
    done = cache_host.purge(str(cache), path)
    assert left(cache) == set(KEYS) - gone
    assert (done["changed"], done["files"]) == (bool(gone), len(gone))
    assert cache_host.purge(str(cache), path)["changed"] is False
    assert (cache / "a1/6.0000000001").exists()


def test_it_says_which_paths_and_how_much_that_was(cache: Path) -> None:
    size = sum((cache / name).stat().st_size for name in ("f0/1", "f0/2"))
    assert cache_host.purge(str(cache), PACK) == {"changed": True, "files": 2, "bytes": size, "paths": [PACK]}


def test_a_gateway_without_a_cache_says_so(tmp_path: Path) -> None:
    with pytest.raises(cache_host.PurgeError, match="caches no origin"):
        cache_host.purge(str(tmp_path / "none"), "/")
