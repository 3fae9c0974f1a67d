"""The compatibility solver and the rings of an upgrade: pure decisions about the version lock.

``check`` holds a ``Combination`` (lock, boards, archives, bundle) to ``rules.RULES``; what no rule allows and no table
of known combinations names is refused. ``rings`` says who is upgraded when.
"""

from hedgerow.release.model import Bundle, Combination, Finding, Rule, Source, Status
from hedgerow.release.solver import check, refuse

__all__ = ["Bundle", "Combination", "Finding", "Rule", "Source", "Status", "check", "refuse"]
