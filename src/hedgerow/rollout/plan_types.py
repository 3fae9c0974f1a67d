"""What a plan is made of, and the plan itself, as journals and ``plan.json`` hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from hedgerow.paths import DEFAULT_STAGE
from hedgerow.registry.manifest import GoldenTensors, GoldenText, Slo
from hedgerow.rollout import variants
from hedgerow.rollout.batches import SiteBudget
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.strata import UNKNOWN, Stratum
from hedgerow.rollout.variants import Traits, Variant

HOLD_LABEL = "hold"
"""A host whose ``labels`` carry this key is left out; the value says why."""

Kind = Literal["model", "adapter", "runtime", "application", "configuration"]
"""What is released. OS images are to come under the same policy."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A host as far as a plan needs it. None: nobody said."""

    name: str
    site: str | None = None
    hat: str | None = None
    cooling: str | None = None
    storage: str | None = None
    board: str | None = None
    """The board's revision."""
    machine: str | None = None
    """As ``uname -m`` says it."""
    memory_mb: int | None = None
    labels: dict[str, str] = {}
    applications: tuple[str, ...] = ()
    """Names of those that it runs beside its server."""
    serves_mb: int | None = None
    """Memory that what it serves needs; 0 if it serves nothing."""
    hold: str | None = None
    """Why it is held; None if it is not."""
    hold_until: str | None = None
    quarantine: str | None = None
    """Why it is in quarantine; None if it is not."""
    quarantined_until: str | None = None
    quarantined_by: str | None = None
    """The rollout that put it there."""
    went_wrong: str | None = None
    """What became of it in the stuck rollout that this one supersedes; None: nothing wrong, or there is none."""
    went_wrong_in: str | None = None
    """That rollout."""
    limited: bool = False
    """Outside of the operator's ``--limit``."""

    @property
    def traits(self) -> Traits:
        """What a variant is chosen by."""
        return Traits(hat=self.hat, memory_mb=self.memory_mb, board=self.board, machine=self.machine)

    def stratum(self, keys: Sequence[str]) -> Stratum:
        """Its values of ``keys`` (the policy's ``stratify``)."""
        return tuple(self._value(key) or UNKNOWN for key in keys)

    def _value(self, key: str) -> str | None:
        match key:
            case "memory":
                return None if self.memory_mb is None else f"{self.memory_mb} MB"
            case "board" | "hat" | "cooling" | "storage" | "site":
                value: str | None = getattr(self, key)
                return value
        return self.labels.get(key.removeprefix("label:"))


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is rolled out, as the registry vouches for it."""

    bundle: str
    """``name@version`` of a model; ``runtime:VERSION``, ``configuration:VERSION``, ``application:NAME@VERSION``."""
    sha256: str
    """Hash of the bundle's manifest: what hosts must end up serving. Of other kinds: of what makes their version."""
    size_bytes: int
    """Bytes that a host fetches at most."""
    probe: GoldenText | GoldenTensors
    """What the gate asks each host, and what must come back."""
    tensor_types: dict[str, str] = {}
    """Input tensor → data type (Open Inference Protocol v2), for a probe of tensors."""
    probes: list[GoldenText | GoldenTensors] = []
    """The bundle's golden inputs, which the gate puts in turn; empty in plans of older controllers."""
    slo: Slo | None = None
    """What the publisher expects on a board."""
    stage: str = DEFAULT_STAGE
    """Of the registry: whose builder and approver vouch for it."""

    kind: Kind = "model"
    model: str | None = None
    """Of what is no model: ``name@version`` that hosts serve before and after; the questions are its."""
    model_sha256: str | None = None
    versions: dict[str, str] = {}
    """Host → its own version, where each has one; without an entry it is the bundle's."""
    variants: list[Variant] = []
    """Builds of it, of which every host gets the best-fitting one; empty in plans of older controllers."""
    builds: list[str] = []
    """Of a model with several variants: the hash of each one's own manifest, one of which a host then serves."""

    @property
    def questions(self) -> list[GoldenText | GoldenTensors]:
        """What the gate asks, one after the other."""
        return self.probes or [self.probe]

    @property
    def comparable(self) -> list[int]:
        """Which of them hosts without the release can be asked, too: they need not have its adapters."""
        asked = enumerate(self.questions)
        return [number for number, each in asked if isinstance(each, GoldenTensors) or each.adapter is None]

    @property
    def serves(self) -> str:
        """``name@version`` of the model that a host serves once it has the release."""
        return self.model or self.bundle

    @property
    def serves_sha256(self) -> str:
        """Hash of that model's manifest."""
        return self.model_sha256 or self.sha256

    @property
    def serves_hashes(self) -> frozenset[str]:
        """Hashes of manifests that are this model's: its own, and those that its variants are taken out with."""
        return frozenset({self.serves_sha256, *self.builds})

    @property
    def name(self) -> str:
        """The model's name on the server."""
        return self.serves.partition("@")[0]


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """A host that a plan leaves alone, and why. ``origin``: the rollout that wants it so."""

    host: str
    reason: str
    until: str | None = None
    origin: str | None = None


class Placement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a planned host gets. ``stratum`` is an index of the plan's ``strata``.

    ``outage_s``: declared, since old and new do not fit into its memory together; ``memory_unknown`` says what is not
    known where that cannot be told.
    """

    variant: str = variants.ONLY
    stratum: int = 0
    site: str | None = None
    outage_s: int | None = None
    memory_unknown: str | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A finished plan; ``plan.json`` holds exactly this."""

    release: Release
    policy: Policy
    waves: list[list[str]]
    """Hosts in the order in which they start. A wave is empty where everybody in it has left the plan since."""
    entries: list[str] = []
    """What of the policy made each wave, in a word."""
    batches: list[list[int]] = []
    """Sizes of the parts of each wave that have their turn at one time; empty: each wave is one."""
    strata: list[Stratum] = []
    placements: dict[str, Placement] = {}
    sites: dict[str, SiteBudget] = {}
    held: list[Held] = []
    quarantined: list[Held] = []
    incompatible: list[Held] = []
    outside_limit: list[str] = []
    late: list[str] = []
    """Came after the rollout had begun; they are in the last wave."""
    gone: list[str] = []
    """Were in a wave and have left the inventory since."""
    tzdata: str | None = None
    """Edition of the time zone database by which its windows and freezes were read; None: it does not say."""
    carried: list[Held] = []
    """Went wrong in the stuck rollout that this one supersedes, and are in the last wave."""

    @property
    def hosts(self) -> list[str]:
        """Hosts in the order in which they start."""
        return [host for wave in self.waves for host in wave]

    @property
    def serial(self) -> list[int]:
        """Sizes of what has its turn at one time, for the play's ``serial``."""
        sizes = self.batches or [[len(wave)] for wave in self.waves]
        return [size for wave in sizes for size in wave if size]

    @property
    def outages(self) -> dict[str, int]:
        """Host → seconds for which it serves nothing, declared."""
        return {host: place.outage_s for host, place in self.placements.items() if place.outage_s is not None}

    def counts(self) -> dict[str, int]:
        """Counts, which are printed beside percentages."""
        return {
            "hosts": len(self.hosts),
            "waves": len(self.waves),
            "batches": len(self.serial),
            "strata": len(self.strata),
            "held": len(self.held),
            "quarantined": len(self.quarantined),
            "incompatible": len(self.incompatible),
            "outside_limit": len(self.outside_limit),
            "late": len(self.late),
            "gone": len(self.gone),
            "carried": len(self.carried),
            "outages": len(self.outages),
        }
