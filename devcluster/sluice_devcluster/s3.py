"""A real S3 server of this machine: over a temporary folder for tests, over a folder that stays for an installation."""

import http.client
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType

from sluice_devcluster import gotools
from sluice_devcluster.errors import ComponentError, PortTakenError
from sluice_devcluster.files import tail
from sluice_devcluster.ports import free_port
from sluice_devcluster.processes import ProcessId, alive, start, stop
from sluice_devcluster.reporting import Reporter

_PORT_ATTEMPTS = 5
_READY_S = 30.0
_HEALTH = "/healthz"


def client_environment(endpoint_url: str, access_key: str, secret_key: str, region: str) -> dict[str, str]:
    """Variables by which every AWS client finds a server and its keys."""
    return {
        "AWS_ENDPOINT_URL_S3": endpoint_url,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_DEFAULT_REGION": region,
        "AWS_REGION": region,
        # Without this, botocore asks the cloud's metadata service for what is not set.
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class S3Server:
    """versitygw on a free loopback port.

    As a context manager it is stopped, and its data removed, when the block ends; the process ends with the thread that
    entered the block, whatever happens to it. Started by :meth:`start`, it stays.

    Args:
        folder: where the data goes and stays; by default a temporary folder. It must not be on a file system without
            extended attributes.
        program: the built server; by default :func:`~sluice_devcluster.gotools.versitygw`, built when needed.
        region: what clients must sign for.
        keys: access key and secret key of its owner, for data that an earlier server left; by default fresh ones.
        reporter: where the progress of a build is told.
    """

    def __init__(
        self,
        *,
        folder: Path | None = None,
        program: Path | None = None,
        region: str = "us-east-1",
        keys: tuple[str, str] | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self._given, self._program, self._reporter = folder, program, reporter
        self.region = region
        self.access_key, self.secret_key = keys or (f"sluice{secrets.token_hex(7)}", secrets.token_urlsafe(30))
        self._process: ProcessId | None = None
        self._scratch: Path | None = None
        self._port = 0

    @property
    def endpoint_url(self) -> str:
        """Base URL, path-style. Known once the server was started.

        Raises:
            ComponentError: the server was not started.
        """
        if self._process is None:
            raise ComponentError("the S3 server is not running: start it, or use it as a context manager")
        return f"http://127.0.0.1:{self._port}"

    def env(self) -> dict[str, str]:
        """Variables by which every AWS client finds the server and its keys."""
        return client_environment(self.endpoint_url, self.access_key, self.secret_key, self.region)

    def start(self, *, owner: str, log: Path) -> None:
        """Start it over the folder that was given, to outlive this process.

        Args:
            owner: marker in its environment, by which it is found and stopped
                (:func:`~sluice_devcluster.processes.find_owned`).
            log: what it writes.

        Raises:
            ValueError: no folder was given.
            ComponentError: it did not come up; the text ends with its log.
        """
        if self._given is None:
            raise ValueError("a server that stays needs a folder that stays")
        self._launch(self._given, log=log, owner=owner, tethered=False)

    def __enter__(self) -> "S3Server":
        self._scratch = Path(tempfile.mkdtemp(prefix="sluice-s3-"))
        try:
            data = self._given or self._scratch / "data"
            self._launch(data, log=self._scratch / "versitygw.log", owner=str(self._scratch), tethered=True)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _launch(self, data: Path, *, log: Path, owner: str, tethered: bool) -> None:
        """Start it on a port that was free; on another one where somebody else was faster."""
        program = self._program or gotools.versitygw(self._reporter)
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            try:
                self._start(program, data, log=log, owner=owner, tethered=tethered)
                return
            except PortTakenError:
                if attempt == _PORT_ATTEMPTS:
                    raise

    def _start(self, program: Path, data: Path, *, log: Path, owner: str, tethered: bool) -> None:
        log.unlink(missing_ok=True)
        self._port = free_port()
        self._process = start(
            [
                program,
                f"--port=127.0.0.1:{self._port}",
                f"--region={self.region}",
                f"--health={_HEALTH}",
                "posix",
                data,
            ],
            log=log,
            owner=owner,
            tethered=tethered,
            # By the environment: what is on the command line, every local user can read.
            env={"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key, "TMPDIR": str(log.parent)},
        )
        deadline = time.monotonic() + _READY_S
        while not self._answers():
            if not alive(self._process):
                said = tail(log)
                kind = PortTakenError if "address already in use" in said else ComponentError
                raise kind(f"versitygw ended while it started:\n{said}")
            if time.monotonic() > deadline:
                raise ComponentError(f"versitygw was not ready after {_READY_S:.0f} s:\n{tail(log)}")
            time.sleep(0.02)
        if not alive(self._process):
            raise PortTakenError(f"another server answers at port {self._port}")

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2)
        try:
            connection.request("GET", _HEALTH)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            stop([process], patience_s=5.0)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
