from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# A helper beside the tests; pytest's importlib mode puts nothing on sys.path.
_SPEC = importlib.util.spec_from_file_location("transfer_formats", Path(__file__).with_name("formats.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _MODULE
_SPEC.loader.exec_module(_MODULE)
