"""Compute profiles: what an admin allows, in the ConfigMap `sluice-profiles` of the operator's namespace.

Each key is a profile's name, each value its YAML, for example:

    a100: |
      backend: kuberay
      image: registry.example/sluice-trainer@sha256:…
      accelerator: nvidia.com/gpu
      nodeSelector: {cloud.google.com/gke-accelerator: nvidia-tesla-a100}
      maxWorkers: 16

A wrong profile is refused alone and by name and field; the others stay usable. The ConfigMap is read for every
decision, so that a corrected profile counts at once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from sluice_api.contracts.jobs import may_be_sent
from sluice_operator.cluster import Cluster
from sluice_operator.decisions.base import Backend, Platform, Profile, TokenSecret
from sluice_operator.errors import ProfileError
from sluice_operator.resources import CONFIG_MAP

CONFIG_MAP_NAME = "sluice-profiles"
"""Name of the ConfigMap."""


def _as_text(value: Any) -> Any:
    """Return a number as Kubernetes writes it, e.g. `cpu: 2` as `"2"`; anything else as it is."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return format(Decimal(str(value)), "f")
    return value


Quantity = Annotated[
    str, BeforeValidator(_as_text), StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")
]
"""A Kubernetes resource quantity; a plain number is one too."""


PLATFORMS: Mapping[str, Platform] = {"nvidia.com/gpu": "cuda", "amd.com/gpu": "rocm"}
"""What the accelerators of the two device plugins compute with."""


class TokenSecretDocument(BaseModel):
    """One entry of a profile's `tokenSecrets`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", max_length=253)]
    keys: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]{1,253}$")], ...], Field(min_length=1)
    ]

    @model_validator(mode="after")
    def _no_credentials(self) -> "TokenSecretDocument":
        for key in self.keys:
            if not may_be_sent(key):
                raise ValueError(f"key {key} is a credential of the worker itself, which no run may have sent anywhere")
        return self


class ProfileDocument(BaseModel):
    """One entry of the ConfigMap, camelCase; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True, frozen=True)

    backend: Backend
    address: Annotated[str, StringConstraints(pattern=r"^(https?://.+)?$")] = ""
    image: str = ""
    entrypoint: Annotated[str, StringConstraints(min_length=1)] = "sluice"
    service_account: str = ""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()
    accelerator: Annotated[str, StringConstraints(pattern=r"^([a-z0-9.-]+/[A-Za-z0-9._-]+)?$")] = ""
    platform: Platform = ""
    device: Annotated[str, StringConstraints(max_length=128)] = ""
    accelerator_memory: Annotated[str, StringConstraints(pattern=r"^([0-9]+(\.[0-9]+)?(M|Mi|G|Gi|T|Ti))?$")] = ""
    resources: dict[str, Quantity] = Field(default_factory=dict)
    head_resources: dict[str, Quantity] = Field(default_factory=dict)
    requests: dict[str, Quantity] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    env_from: tuple[str, ...] = ()
    token_secrets: tuple[TokenSecretDocument, ...] = ()
    queue: str = ""
    max_workers: int = Field(default=1, ge=1, le=4096)
    num_cpus: float = Field(default=1.0, ge=0.0, le=4096.0)
    ray_version: str = "2.60.0"

    @model_validator(mode="after")
    def _complete(self) -> "ProfileDocument":
        if self.backend is Backend.RAY and not self.address:
            raise ValueError("address: the backend ray needs the URL of the Ray dashboard")
        if self.backend is not Backend.RAY and not self.image:
            raise ValueError(f"image: the backend {self.backend.value} needs a container image")
        if self.device and not self.accelerator:
            raise ValueError("device: there is no accelerator whose name could be checked")
        if self.accelerator and self.platform == "cpu":
            raise ValueError(f"platform: cpu has no accelerator, the profile asks for {self.accelerator}")
        known = PLATFORMS.get(self.accelerator)
        if known is not None and self.platform not in ("", known):
            raise ValueError(f"platform: {self.accelerator} is {known}, not {self.platform}")
        if self.accelerator_memory and not self.accelerator:
            raise ValueError("acceleratorMemory: there is no accelerator; a worker's own memory is resources.memory")
        return self


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """All profiles as last read."""

    profiles: Mapping[str, Profile] = field(default_factory=dict)
    """Valid ones, by name."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with the others, by name."""

    def get(self, name: str) -> Profile:
        """Return a profile; ProfileError names what is wrong or what there is."""
        profile = self.profiles.get(name)
        if profile is not None:
            return profile
        if name in self.problems:
            raise ProfileError(f"profile {name} in ConfigMap {CONFIG_MAP_NAME}: {self.problems[name]}")
        known = ", ".join(sorted(self.profiles)) or "none"
        raise ProfileError(
            f"ConfigMap {CONFIG_MAP_NAME} has no profile {name} (known: {known}); correct spec.profile or add the entry"
        )


def parse_profiles(data: Mapping[str, str]) -> Profiles:
    """Return the profiles of a ConfigMap's data, the wrong ones with their problem."""
    profiles: dict[str, Profile] = {}
    problems: dict[str, str] = {}
    for name, text in data.items():
        try:
            document = ProfileDocument.model_validate(yaml.safe_load(text))
        except yaml.YAMLError as error:
            problems[name] = f"no YAML: {' '.join(str(error).split())}"
        except ValidationError as error:
            problems[name] = describe(error)
        else:
            fields = {key: getattr(document, key) for key in ProfileDocument.model_fields}
            fields["token_secrets"] = tuple(TokenSecret(name=t.name, keys=t.keys) for t in document.token_secrets)
            fields["platform"] = document.platform or PLATFORMS.get(document.accelerator, "")
            profiles[name] = Profile(name=name, **fields)
    return Profiles(profiles=profiles, problems=problems)


def describe(error: ValidationError) -> str:
    """Return pydantic's complaints in one line, each with its field."""
    complaints = []
    for entry in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in entry["loc"])
        complaints.append(f"{place}: {entry['msg']}" if place else entry["msg"].removeprefix("Value error, "))
    return "; ".join(complaints)[:1000]


class ProfileSource:
    """Reads the ConfigMap; parses it when it changed."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        """Read from the operator's own `namespace`."""
        self._cluster = cluster
        self._namespace = namespace
        self._version: str | None = None
        self._profiles = Profiles()

    async def get(self, name: str) -> Profile:
        """Return a profile as it is now.

        Raises ProfileError when it is missing or wrong, ClusterError when the ConfigMap cannot be read at all.
        """
        await self.reload()
        return self._profiles.get(name)

    async def reload(self) -> bool:
        """Read the ConfigMap again; True when it changed since the last time."""
        raw = await self._cluster.get(CONFIG_MAP, self._namespace, CONFIG_MAP_NAME)
        version = str(raw["metadata"]["resourceVersion"]) if raw is not None else ""
        if version == self._version:
            return False
        first, self._version = self._version is None, version
        self._profiles = parse_profiles((raw or {}).get("data") or {})
        return not first
