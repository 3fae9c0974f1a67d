"""``deploy/`` is imported as pyinfra does it: from the checkout's root."""

import sys

from hedgerow import paths

if str(paths.repository_root()) not in sys.path:
    sys.path.append(str(paths.repository_root()))
