"""The suites that come with the evaluator, by name and digest, so that the operator can pin one without making it.

An evaluator that makes other tasks under a name is another version than this table; its result is refused.
"""

BUILTIN_PREFIX = "builtin:"
"""Scheme of a built-in suite, as in `builtin:smoke-8`."""

ALIASES: dict[str, str] = {"humaneval": "humaneval-format", "mbpp": "mbpp-format"}
"""Other names of suites: made tasks in the benchmark's format, never the benchmark."""

_DIGESTS: dict[str, str] = {
    "smoke-8": "sha256:883cc80e5d956a7856e246759759280c397f4ea0496bf2e890a0b678de20c067",
    "python-stubs": "sha256:49252b91ff548010306e8dbf5be118fa6aba1aed398aeee95d7b62fec1879abc",
    "humaneval-format": "sha256:35ecb59a6d49c7623f5fddea35d2c9d5e89255abee932c22c34cb4dd9314aa49",
    "mbpp-format": "sha256:ef59c9facfff0fc04cfc1abdeb18282d6cef6406b121591bb34f6d89cad7043b",
    "json-calls": "sha256:da26fac80c45026c7604bbfb5c3a4917cc30789d6c8dbc474bd544ef1b0fc05d",
    "unified-diff": "sha256:e495f6bbee3843e5c5e711c6880ab526198c1c9aa6b8e87ad38aae045983d679",
    "shell": "sha256:2ac4174ba077cdb5c22847ae8a895ca31124bb86bbde6e0b16a0a4166ef4f3bb",
    "chat-format": "sha256:0cd7a73c7598d06ff9e9e2e26b6264f2ca880816d5675783e1c3e4ac6f2d8244",
    "safety": "sha256:f3e15dc58ca24e6922d0857f3d0a2ce99f631b41a7d5a88052f93541f520ba20",
}

BUILTIN_SUITES: dict[str, str] = {**_DIGESTS, **{alias: _DIGESTS[name] for alias, name in ALIASES.items()}}
"""Digest of the tasks by the suite's name, other names included."""


def is_builtin(uri: str) -> bool:
    """Tell whether a suite is named rather than read."""
    return uri.startswith(BUILTIN_PREFIX)


def builtin_digest(uri: str) -> str | None:
    """Give the digest of a built-in suite; None where no suite has the name."""
    return BUILTIN_SUITES.get(uri.removeprefix(BUILTIN_PREFIX)) if is_builtin(uri) else None
