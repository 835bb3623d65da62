"""How a rollout's runs get their arm, and how its weight reaches the agent."""

from typing import Literal

from pydantic import Field

from sluice_api.v1alpha1.common import ApiModel, HeaderName, ObjectName, ShortText, rule, validations


class Assignment(ApiModel):
    """How a run gets its arm: sticky and repeatable."""

    key: Literal["tenant", "run"] = "run"
    """What sticks: a tenant, or a single run."""
    salt: ShortText = ""
    """Salt of the bucket hash; empty takes the rollout's UID."""


class Backend(ApiModel):
    """A Service behind the route."""

    service: ObjectName
    """Name of the Service."""
    port: int = Field(ge=1, le=65535)
    """Port."""


class ParentRef(ApiModel):
    """A Gateway in the same namespace."""

    name: ObjectName
    """Gateway."""
    section_name: ShortText | None = None
    """Listener."""


class Traffic(ApiModel):
    """How the weight reaches the agent."""

    router: Literal["configMap", "httpRoute"] = "configMap"
    """`configMap`: the agent's in-process ShadowRouter follows it; `httpRoute`: weights on a Gateway API route."""
    config_map: ObjectName | None = None
    """Name of the ConfigMap; defaults to `<rollout>-router`. Router `configMap` only."""
    parent_refs: list[ParentRef] = Field(default_factory=list, max_length=8)
    """Gateways. Router `httpRoute` only."""
    hostnames: list[ShortText] = Field(default_factory=list, max_length=16)
    """Host names of the route. Router `httpRoute` only."""
    adopt: ObjectName | None = None
    """HTTPRoute of yours to patch the weights of, instead of a route of the operator's own. Its rules name both
    Services with weights that add up to 100; nothing else of it is touched. Router `httpRoute` only."""
    stable: Backend | None = None
    """Service that serves the stable weights. Router `httpRoute` only."""
    candidate: Backend | None = None
    """Service that serves the candidate. Router `httpRoute` only."""

    cohort_header: HeaderName | None = None
    """Request header by which keys stick at the gateway: its sender puts there the cohort of its tenant or run, 0 to
    99 (`sluice_api.cohorts`), and the candidate gets as many cohorts as the weight says. Requests without it are spread
    one by one. Router `httpRoute` with a route of the operator's own only."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": validations(
            rule(
                "self.router != 'httpRoute' || (has(self.stable) && has(self.candidate) && "
                "(has(self.adopt) || (has(self.parentRefs) && size(self.parentRefs) > 0)))",
                "spec.traffic needs stable, candidate and parentRefs (or adopt) where router is httpRoute",
            ),
            rule(
                "!has(self.adopt) || ((!has(self.parentRefs) || size(self.parentRefs) == 0) && "
                "(!has(self.hostnames) || size(self.hostnames) == 0))",
                "spec.traffic.adopt takes gateways and host names from the route that it names: leave out parentRefs "
                "and hostnames",
            ),
            rule(
                "!has(self.cohortHeader) || (self.router == 'httpRoute' && !has(self.adopt))",
                "spec.traffic.cohortHeader needs router httpRoute with a route of the operator's own: with router "
                "configMap keys stick by themselves, and an adopted route keeps its own rules",
            ),
            rule(
                "!has(self.stable) || !has(self.candidate) || self.stable.service != self.candidate.service || "
                "self.stable.port != self.candidate.port",
                "spec.traffic: stable and candidate are the same Service and port",
            ),
        )
    }
