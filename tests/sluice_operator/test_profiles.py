"""Profiles: what is wrong is named with profile and field, and the others stay usable."""

import pytest

from sluice_operator.decisions.base import Backend, TokenSecret
from sluice_operator.errors import ProfileError
from sluice_operator.profiles import ProfileSource, parse_profiles

GOOD = "backend: ray\naddress: http://ray:8265\n"


def test_a_whole_profile_is_read():
    text = """
backend: kuberay
image: registry.example/sluice@sha256:abc
entrypoint: python -m sluice_cli
serviceAccount: trainer
nodeSelector: {pool: a100}
tolerations: [{key: gpu, operator: Exists}]
accelerator: nvidia.com/gpu
resources: {cpu: "8", memory: 64Gi}
env: {HF_HUB_OFFLINE: "1"}
envFrom: [s3-credentials]
tokenSecrets: [{name: agent, keys: [token]}]
queue: team-a
maxWorkers: 16
numCpus: 4
"""
    profile = parse_profiles({"a100": text}).get("a100")
    assert profile.name == "a100"
    assert profile.backend is Backend.KUBERAY
    assert profile.accelerator == "nvidia.com/gpu"
    assert profile.tolerations == ({"key": "gpu", "operator": "Exists"},)
    assert profile.env_from == ("s3-credentials",)
    assert profile.token_secrets == (TokenSecret(name="agent", keys=("token",)),)
    assert (profile.max_workers, profile.num_cpus, profile.queue) == (16, 4.0, "team-a")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("backend: slurm\n", "backend: Input should be 'ray', 'kuberay' or 'job'", id="unknown backend"),
        pytest.param("address: http://x\n", "backend: Field required", id="no backend"),
        pytest.param("backend: ray\n", "address: the backend ray needs the URL", id="ray without an address"),
        pytest.param("backend: job\n", "image: the backend job needs a container image", id="job without an image"),
        pytest.param(GOOD + "maxWorkers: 0\n", "maxWorkers: Input should be greater than or equal to 1", id="ceiling"),
        pytest.param(GOOD + "podTemplate: {}\n", "podTemplate: Extra inputs are not permitted", id="a free template"),
        pytest.param(GOOD + "resources: {memory: lots}\n", "resources.memory: String should match", id="quantity"),
        pytest.param(
            GOOD + "acceleratorMemory: 80Gi\n", "acceleratorMemory: there is no accelerator", id="memory of none"
        ),
        pytest.param(GOOD + "device: A100\n", "device: there is no accelerator", id="name of none"),
        pytest.param(
            GOOD + "accelerator: amd.com/gpu\nplatform: cuda\n", "platform: amd.com/gpu is rocm, not cuda", id="vendor"
        ),
        pytest.param(
            GOOD + "accelerator: example.com/gpu\nplatform: cpu\n", "platform: cpu has no accelerator", id="cpu"
        ),
        pytest.param(GOOD + "accelerator: GPU\n", "accelerator: String should match", id="accelerator"),
        *(
            pytest.param(
                GOOD + f"tokenSecrets: [{{name: worker, keys: [{key}]}}]\n",
                f"tokenSecrets.0: Value error, key {key} is a credential of the worker itself",
                id=key,
            )
            for key in (
                "AWS_SECRET_ACCESS_KEY",
                "aws_session_token",
                "RAY_AUTH_TOKEN",
                "GOOGLE_APPLICATION_CREDENTIALS",
            )
        ),
        pytest.param(GOOD + "tokenSecrets: [{name: t, keys: []}]\n", "tokenSecrets.0.keys: Tuple should", id="no key"),
        pytest.param("backend: [\n", "no YAML:", id="broken YAML"),
        pytest.param("just a text\n", "Input should be", id="no mapping"),
        pytest.param("backend: ray\naddress: ray:8265\n", "address: String should match", id="no URL"),
    ],
)
def test_what_is_wrong_is_named(text, says):
    profiles = parse_profiles({"bad": text, "good": GOOD})
    assert profiles.get("good").address == "http://ray:8265"
    with pytest.raises(ProfileError) as caught:
        profiles.get("bad")
    assert "profile bad in ConfigMap sluice-profiles: " in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("written", "read"),
    [("2", "2"), ("0.5", "0.5"), ("250m", "250m"), ("4Gi", "4Gi"), ("2147483648", "2147483648"), ("2.0", "2.0")],
)
def test_a_quantity_may_be_a_number(written, read):
    text = f"resources: {{cpu: {written}}}\nheadResources: {{cpu: {written}}}\nrequests: {{cpu: {written}}}\n"
    profile = parse_profiles({"p": GOOD + text}).get("p")
    assert profile.resources == profile.head_resources == profile.requests == {"cpu": read}


@pytest.mark.parametrize("written", ["-1", "true", ".inf", "[]", "1e-3x"])
def test_what_is_no_quantity_is_named(written):
    with pytest.raises(ProfileError, match=r"resources\.cpu"):
        parse_profiles({"p": GOOD + f"resources: {{cpu: {written}}}\n"}).get("p")


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("accelerator: nvidia.com/gpu\n", "cuda"),
        ("accelerator: amd.com/gpu\n", "rocm"),
        ("accelerator: example.com/gpu\nplatform: rocm\n", "rocm"),
        ("accelerator: example.com/gpu\n", ""),
        ("platform: cpu\n", "cpu"),
        ("", ""),
    ],
)
def test_the_platform_follows_from_the_accelerator(text, platform):
    assert parse_profiles({"p": GOOD + text}).get("p").platform == platform


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(ProfileError, match=r"no profile gpu \(known: a, b\); correct spec.profile"):
        parse_profiles({"a": GOOD, "b": GOOD}).get("gpu")


class OneConfigMap:
    """A cluster that holds one ConfigMap, or none."""

    def __init__(self):
        self.raw = None
        self.reads = 0

    async def get(self, resource, namespace, name):
        assert (resource.kind, namespace, name) == ("ConfigMap", "system", "sluice-profiles")
        self.reads += 1
        return self.raw

    def write(self, version, **data):
        self.raw = {"metadata": {"resourceVersion": version}, "data": data}


async def test_a_corrected_profile_counts_at_once():
    cluster = OneConfigMap()
    source = ProfileSource(cluster, "system")
    with pytest.raises(ProfileError, match="known: none"):
        await source.get("cpu")
    cluster.write("1", cpu="backend: ray")
    with pytest.raises(ProfileError, match="address"):
        await source.get("cpu")
    cluster.write("2", cpu=GOOD)
    assert (await source.get("cpu")).name == "cpu"
    assert await source.reload() is False
    cluster.write("3")
    assert await source.reload() is True
    with pytest.raises(ProfileError):
        await source.get("cpu")


async def test_the_first_reading_is_no_change():
    cluster = OneConfigMap()
    cluster.write("1", cpu=GOOD)
    assert await ProfileSource(cluster, "system").reload() is False
