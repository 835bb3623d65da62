"""`sluice rollout get | status | promote | abort | retry | lint`; installed as `kubectl sluice rollout` too.

Acts through annotations alone, as Git and `kubectl annotate` would, and waits until the status acknowledges them.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sluice_cli.kube import KubeApi

EXIT_CODES = """\
exit codes: 0 completed (get: shown; promote, abort, retry: acknowledged; lint: clean), 1 rolled back, superseded,
stalled or refused (a command that does not apply; a manifest with problems), 2 could not be judged (no such rollout, no
cluster, bad usage), 3 held for a person (paused, awaiting approval, inconclusive), 4 still on its way when the time was
over
"""
ACKNOWLEDGED_S = 30.0
"""Default time in which a running operator acknowledges a command, in seconds."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_parser(subparsers: Any) -> None:
    """Add `sluice rollout`."""
    rollout = subparsers.add_parser(
        "rollout",
        help="look at a rollout, wait for it, approve, abort or retry it",
        description="Looks at ShadowRollouts and takes them by the hand, through the Kubernetes API alone.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = rollout.add_subparsers(metavar="COMMAND", title="commands", required=True)
    get = _add(commands, "get", _get, "show a rollout and what stands behind it")
    get.add_argument("-w", "--watch", action="store_true", help="show it again whenever it changes")
    get.add_argument("--json", action="store_true", help="the objects of its lineage as JSON")
    status = _add(commands, "status", _status, "wait until a rollout ends, or needs a person")
    _add_timeout(status, None, "how long to wait, like 30m; 0s looks once (default: no limit)")
    promote = _add(commands, "promote", _promote, "approve the present step; evidence is never skipped")
    promote.add_argument(
        "--full", action="store_true", help="approve every step as it asks for it, and wait until the rollout ends"
    )
    _add_timeout(
        promote, None, "how long to wait for the acknowledgement, with --full for the end (default: 30s, none)"
    )
    abort = _add(commands, "abort", _abort, "take the candidate out: all traffic returns to stable")
    _add_timeout(abort, ACKNOWLEDGED_S, "how long to wait for the acknowledgement; 0s does not wait (default: 30s)")
    retry = _add(commands, "retry", _retry, "start a rolled back rollout again from its first step")
    _add_timeout(retry, ACKNOWLEDGED_S, "how long to wait for the acknowledgement; 0s does not wait (default: 30s)")
    lint = commands.add_parser("lint", help="check manifests before they are applied", epilog=EXIT_CODES)
    lint.add_argument("files", nargs="+", type=Path, metavar="FILE", help="YAML files")
    lint.add_argument("--server", action="store_true", help="let the API server validate them too (dry run)")
    _add_connection(lint)
    lint.set_defaults(handler=_lint)


def _add(commands: Any, name: str, handler: Callable[[argparse.Namespace], int], text: str) -> Any:
    parser = commands.add_parser(
        name, help=text, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME", help="name of the ShadowRollout")
    _add_connection(parser)
    parser.add_argument("--no-color", action="store_true", help="no colours (also: NO_COLOR)")
    parser.set_defaults(handler=handler)
    return parser


def _add_connection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--namespace", help="namespace (default: the kubeconfig's)")
    parser.add_argument("--kubeconfig", type=Path, help="kubeconfig (default: KUBECONFIG, else ~/.kube/config)")
    parser.add_argument("--context", help="context of the kubeconfig")
    parser.add_argument("--as", dest="as_user", metavar="USER", help="act as this user, as kubectl --as does")


def _add_timeout(parser: argparse.ArgumentParser, default: float | None, text: str) -> None:
    parser.add_argument("--timeout", type=seconds, default=default, metavar="TIME", help=text)


def seconds(text: str) -> float:
    """Return a time like `90s`, `30m` or `1h30m` in seconds. Raises argparse.ArgumentTypeError."""
    if not re.fullmatch(r"([0-9]+[smhd])+", text):
        raise argparse.ArgumentTypeError(f"not a time like 90s, 30m or 1h30m: {text!r}")
    return float(sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)([smhd])", text)))


def _connected(arguments: argparse.Namespace, act: Callable[["KubeApi", str], int]) -> int:
    """Run `act` with a connection and a namespace; an error becomes one line and exit code 2."""
    from sluice_cli.kube import KubeApi, KubeError
    from sluice_cli.rollout.waiting import Exit

    try:
        api = KubeApi(kubeconfig=arguments.kubeconfig, context=arguments.context, user=arguments.as_user)
        try:
            return act(api, arguments.namespace or api.namespace)
        finally:
            api.close()
    except KubeError as error:
        print(f"sluice rollout: {error}", file=sys.stderr)
        return Exit.UNJUDGED


def _get(arguments: argparse.Namespace) -> int:
    from sluice_cli.rollout.showing import show

    return _connected(
        arguments,
        lambda api, namespace: show(
            api,
            namespace,
            arguments.name,
            watch=arguments.watch,
            as_json=arguments.json,
            no_color=arguments.no_color,
        ),
    )


def _status(arguments: argparse.Namespace) -> int:
    from sluice_cli.rollout.acting import wait_for_end

    return _connected(
        arguments, lambda api, namespace: wait_for_end(api, namespace, arguments.name, timeout_s=arguments.timeout)
    )


def _promote(arguments: argparse.Namespace) -> int:
    from sluice_cli.rollout.acting import promote, promote_fully

    given: float | None = arguments.timeout
    if arguments.full:
        return _connected(arguments, lambda api, namespace: promote_fully(api, namespace, arguments.name, given))
    limit = ACKNOWLEDGED_S if given is None else given
    return _connected(arguments, lambda api, namespace: promote(api, namespace, arguments.name, limit))


def _abort(arguments: argparse.Namespace) -> int:
    from sluice_cli.rollout.acting import abort

    return _connected(arguments, lambda api, namespace: abort(api, namespace, arguments.name, arguments.timeout))


def _retry(arguments: argparse.Namespace) -> int:
    from sluice_cli.rollout.acting import retry

    return _connected(arguments, lambda api, namespace: retry(api, namespace, arguments.name, arguments.timeout))


def _lint(arguments: argparse.Namespace) -> int:
    from sluice_cli.rollout.lint import UnreadableError, documents, lint
    from sluice_cli.rollout.waiting import Exit

    count, errors = 0, 0
    try:
        for path in arguments.files:
            found, findings = lint(path)
            count += found
            for finding in findings:
                print(finding)
                errors += not finding.advice
        if arguments.server:
            manifests = [(path, line, raw) for path in arguments.files for line, raw in documents(path)]
            code = _connected(arguments, lambda api, namespace: _try_all(api, namespace, manifests))
            if code == Exit.UNJUDGED:
                return code
            errors += code
    except UnreadableError as error:
        print(f"sluice rollout lint: {error}", file=sys.stderr)
        return Exit.UNJUDGED
    if count == 0:
        print("sluice rollout lint: no ShadowRollout in these files", file=sys.stderr)
        return Exit.UNJUDGED
    print(f"{count} ShadowRollout{'s' if count != 1 else ''}: {errors or 'no'} error{'s' if errors != 1 else ''}")
    return Exit.FAILED if errors else Exit.DONE


def _try_all(api: "KubeApi", namespace: str, manifests: list[Any]) -> int:
    """Return 1 where the API server refuses a manifest, else 0."""
    from sluice_cli.kube import KubeError

    refused = 0
    for path, line, raw in manifests:
        if raw.get("kind") != "ShadowRollout":
            continue
        try:
            api.try_create(raw, str((raw.get("metadata") or {}).get("namespace") or namespace))
        except KubeError as error:
            if error.status not in (400, 422):
                raise
            print(f"{path}:{line}: error: {error}")
            refused = 1
    return refused
