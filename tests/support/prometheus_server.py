"""A real Prometheus (Debian's) on loopback that scrapes one target by given rules."""

import json
import subprocess
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import yaml

from debian_tools import program
from operators import until
from sluice_devcluster.ports import free_port

READY_S = 30.0


class PrometheusServer:
    """Prometheus with its data below `folder`; use as a context manager."""

    def __init__(self, folder: Path, target: str, rules: dict, *, interval: str = "1s") -> None:
        self._folder = folder
        self._log = folder / "prometheus.log"
        self._port = free_port()
        config = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": "sluice-operator", "honor_labels": True, "static_configs": [{"targets": [target]}]}
            ],
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> "PrometheusServer":
        command = [
            str(program("prometheus")),
            "--config.file=prometheus.yaml",
            "--storage.tsdb.path=data",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        until(self._ready, timeout_s=READY_S, what="Prometheus is ready")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def query(self, expression: str) -> list[dict]:
        """Return the samples of an instant query: `metric` and `value`."""
        return self._get("/api/v1/query?" + urlencode({"query": expression}))["data"]["result"]

    def value(self, expression: str) -> float | None:
        """Return the value of an expression with one sample; None while it has none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None

    def firing(self, alert: str) -> list[dict]:
        """Return the alerts of a name that fire."""
        alerts = self._get("/api/v1/alerts")["data"]["alerts"]
        return [each for each in alerts if each["labels"]["alertname"] == alert and each["state"] == "firing"]

    def _ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text(errors="replace")[-2000:]
        try:
            with self._open("/-/ready"):
                return True
        except OSError:
            return False

    def _get(self, path: str) -> dict:
        with self._open(path) as response:
            return json.load(response)

    def _open(self, path: str):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(f"http://127.0.0.1:{self._port}{path}", timeout=5)
