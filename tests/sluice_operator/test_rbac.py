"""The operator's role: the one source that chart, demo and tests share gives what is used and nothing beside it."""

import pytest
import yaml

from operators import RULES
from sluice_operator.lease import LEASE_NAME
from sluice_operator.profiles import CONFIG_MAP_NAME
from sluice_operator.resources import RESOURCES

DOCUMENT = yaml.safe_load(RULES.read_text(encoding="utf-8"))
ALL = [rule for part in DOCUMENT.values() for rule in part]


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: " ".join(rule["resources"])[:60])
def test_no_rule_is_wider_than_its_use(rule):
    words = {word for field in ("apiGroups", "resources", "verbs") for word in rule[field]}
    assert not [word for word in words if "*" in word]
    assert not words & {"secrets", "escalate", "bind", "impersonate", "deletecollection", "serviceaccounts", "roles"}
    known = {(resource.group, resource.plural) for resource in RESOURCES.values()}
    for group in rule["apiGroups"]:
        for name in rule["resources"]:
            assert (group, name.partition("/")[0]) in known


def test_the_users_own_objects_are_never_deleted():
    for rule in ALL:
        if "delete" in rule["verbs"]:
            assert set(rule["resources"]) <= {"jobs", "rayjobs"}


def test_the_operators_own_namespace_holds_two_named_objects():
    assert set(DOCUMENT) == {"workload", "system"}
    named = {tuple(rule["resourceNames"]) for rule in DOCUMENT["system"] if rule["verbs"] != ["create"]}
    assert named == {(CONFIG_MAP_NAME,), (LEASE_NAME,)}
