"""What ``/etc/hedgerow/renewal.yml`` may say: the controller's word on who may renew. Unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Struct

from hedgerow import configfile
from hedgerow.errors import UsageError
from hedgerow.identity.profiles import MAXIMUM_DAYS, DeviceNames, Profile
from hedgerow.identity.tls import CRL
from hedgerow.server.config import Tls

DEFAULT_PATH: Final = Path("/etc/hedgerow/renewal.yml")
PORT: Final = 8445
STATE: Final = Path("/var/lib/hedgerow/renewal")
ISSUING: Final = Path("/var/lib/hedgerow/issuing")

_Days = Annotated[int, msgspec.Meta(ge=1, le=MAXIMUM_DAYS)]


class Board(Struct, frozen=True, forbid_unknown_fields=True):
    """A machine of the site as the inventory has it.

    ``anchor`` (PEM) is the public key that must vouch for its requests, where its board has one. ``cleared`` (RFC 3339,
    UTC): what was seen of it before, a cloned serial included, counts no more; set when its key was replaced.
    """

    host: str
    serial: str
    profile: Literal["device", "gateway"] = "device"
    anchor: str | None = None
    cleared: str | None = None


class RenewalConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The renewal service of one gateway.

    ``tls`` is its own port and certificate; ``issuing`` the folder of the site's issuing CA (``ca.crt``, ``ca.key``,
    ``anchors.crt``), a relative one lies in ``$CREDENTIALS_DIRECTORY``. ``days`` is the life of what it issues,
    ``grace_days`` how long after its end a certificate still opens a renewal, ``per_hour`` how often one board may ask.
    """

    fleet: str
    site: str
    boards: tuple[Board, ...]
    tls: Tls = Tls(port=PORT, client_ca="anchors.crt", crl=CRL)
    issuing: str = "."
    state_dir: Path = STATE
    days: _Days = 30
    grace_days: Annotated[int, msgspec.Meta(ge=0, le=MAXIMUM_DAYS)] = 30
    per_hour: Annotated[int, msgspec.Meta(ge=1)] = 12

    def __post_init__(self) -> None:
        serials = [board.serial for board in self.boards]
        twice = sorted({serial for serial in serials if serials.count(serial) > 1})
        if twice:
            raise ValueError(f"serial {twice[0]} is listed twice")

    def names(self, board: Board) -> DeviceNames:
        """What a board is called: from this list, never from a request."""
        return DeviceNames(fleet=self.fleet, site=self.site, host=board.host, serial=board.serial)

    def board(self, serial: str) -> Board | None:
        return next((board for board in self.boards if board.serial == serial), None)


def profile_of(board: Board) -> Profile:
    return Profile(board.profile)


def load(path: Path) -> RenewalConfig:
    """Read the file.

    Raises:
        UsageError: there is none, or a key or value is not allowed.
    """
    try:
        found = configfile.decode(path.read_bytes(), RenewalConfig)
        for board in found.boards:
            found.names(board)
    except OSError as error:
        raise UsageError(f"the configuration cannot be read: {error.strerror}", where=str(path)) from error
    except msgspec.DecodeError as error:
        raise UsageError(
            f"the configuration is not valid: {error}",
            where=str(path),
            next_step="compare it with the keys in hedgerow.gateway.renewal.config.RenewalConfig",
        ) from error
    return found
