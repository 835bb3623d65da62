"""A real S3 server over a temporary folder, for tests and the demo."""

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


class S3Server:
    """versitygw on a free loopback port, with keys of its own; stopped and its data removed when the block ends.

    The process ends with the thread that entered the block, whatever happens to it.

    Args:
        folder: where the data goes and stays; by default a temporary folder. It must not be on a file system without
            extended attributes.
        program: the built server; by default :func:`~sluice_devcluster.gotools.versitygw`, built when needed.
        region: what clients must sign for.
        reporter: where the progress of a build is told.
    """

    def __init__(
        self,
        *,
        folder: Path | None = None,
        program: Path | None = None,
        region: str = "us-east-1",
        reporter: Reporter | None = None,
    ) -> None:
        self._given, self._program, self._reporter = folder, program, reporter
        self.region = region
        self.access_key = f"sluice{secrets.token_hex(7)}"
        self.secret_key = secrets.token_urlsafe(30)
        self._process: ProcessId | None = None
        self._scratch: Path | None = None
        self._port = 0

    @property
    def endpoint_url(self) -> str:
        """Base URL, path-style. Known once the block has been entered.

        Raises:
            ComponentError: the server was not started.
        """
        if self._process is None:
            raise ComponentError("the S3 server is not running: use it as a context manager")
        return f"http://127.0.0.1:{self._port}"

    def env(self) -> dict[str, str]:
        """Variables by which every AWS client finds the server and its keys."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            # Without this, botocore asks the cloud's metadata service for what is not set.
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> "S3Server":
        program = self._program or gotools.versitygw(self._reporter)
        self._scratch = Path(tempfile.mkdtemp(prefix="sluice-s3-"))
        try:
            data = self._given or self._scratch / "data"
            data.mkdir(parents=True, exist_ok=True)
            for attempt in range(1, _PORT_ATTEMPTS + 1):
                try:
                    self._start(program, data)
                    break
                except PortTakenError:
                    if attempt == _PORT_ATTEMPTS:
                        raise
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _start(self, program: Path, data: Path) -> None:
        assert self._scratch is not None
        log = self._scratch / "versitygw.log"
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
            owner=str(self._scratch),
            tethered=True,
            # By the environment: what is on the command line, every local user can read.
            env={"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key, "TMPDIR": str(self._scratch)},
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
