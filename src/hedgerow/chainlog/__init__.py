"""A log of JSON lines in which each line holds the SHA-256 of the line before: what was changed or cut out shows.

A line is an entry's own fields and two more: ``entry`` counts from 1, ``previous`` is the SHA-256 (hex) of the line
before, without its line end; 64 zeros in the first. Invariants:

- An entry is on the disk when ``append`` returns. What could not be written whole is cut off again, and the caller
  must not do what it announced.
- Nothing is ever rewritten. A line that a power cut tore stays where it is, ended: the next entry says how many such
  lines are before it (``torn``), and its ``previous`` covers them, from the last entry's line on. What a torn line
  announced was never done.
- Beside the log lies its anchor, ``<name>.head``: number and hash of the last entry, written after it. A log that ends
  before its anchor, or lost it, was tampered with or badly copied; nothing is appended to it any more.
- Hashes are not keyed. Who can write log *and* anchor can write both anew; only a head that was published elsewhere
  (``Head``, as text ``NUMBER:SHA256``) shows that.
- A log that is older than its chain (``adopt``) may begin with lines that are no entries; the first entry's
  ``previous`` covers them all.
"""

from __future__ import annotations

from hedgerow.chainlog.lines import FIRST, Head
from hedgerow.chainlog.log import ChainError, ChainLog, Entry
from hedgerow.chainlog.verdict import Problem, Verdict

__all__ = ["FIRST", "ChainError", "ChainLog", "Entry", "Head", "Problem", "Verdict"]
