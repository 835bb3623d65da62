"""`sluice dashboard` on a real API server: over HTTP, and in a real browser."""

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from browser import Browser
from dashboard_world import GATES, HOSTILE, furnish_lineage
from operators import until

PROGRAM = Path(sys.executable).with_name("sluice")


@pytest.fixture(scope="module")
def shop(site):
    """A place with a lineage that has everything."""
    furnish_lineage(site)
    return site


@pytest.fixture(scope="module")
def url(shop, cluster, tmp_path_factory):
    """Address of a dashboard of the place, a process of its own."""
    folder = tmp_path_factory.mktemp("dashboard")
    port, log = folder / "port", folder / "log"
    command = [str(PROGRAM), "dashboard", "-n", shop.namespace, "--port", "0", "--port-file", str(port)]
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        until(lambda: port.exists() or process.poll() is not None, timeout_s=60, what="the page is served")
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{int(port.read_text())}"
    finally:
        process.terminate()
        assert process.wait(20) == 0, log.read_text()


def ask(address, *, method="GET", host=None):
    """Return status, headers and text of a request."""
    request = urllib.request.Request(address, method=method, headers={"Host": host} if host else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


class TestOverHttp:
    def test_the_page_is_one_document_that_fetches_nothing(self, url):
        status, headers, text = ask(url)
        assert status == 200
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
        assert "innerHTML" not in text

    @pytest.mark.parametrize("path", ["/", "/api/state", "/nothing"])
    def test_every_answer_is_guarded(self, path, url):
        _, headers, _ = ask(url + path)
        for name, value in (
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ):
            assert headers[name] == value

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    def test_it_can_only_be_read(self, method, url):
        assert ask(url + "/api/state", method=method)[0] == 405

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "10.0.0.1", "localhost.evil.example"])
    def test_a_name_that_was_rebound_to_this_machine_reads_nothing(self, host, url):
        status, _, text = ask(url + "/api/state", host=host)
        assert (status, "lineages" in text) == (403, False)

    @pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:1"])
    def test_this_machine_by_any_of_its_names_does(self, host, url):
        assert ask(url + "/api/state", host=host)[0] == 200

    def test_the_state_has_every_lineage_from_traces_to_weight(self, shop, url):
        state = json.loads(ask(url + "/api/state")[2])
        assert (state["namespace"], state["problem"]) == (shop.namespace, "")
        assert [each["name"] for each in state["lineages"]] == ["agent", "hostile", "checkout-a3"]
        agent = state["lineages"][0]
        assert [(node["name"], node["phase"]) for node in agent["nodes"]] == [
            ("checkout", "Ready"),
            ("checkout-a2", "Succeeded"),
            ("checkout-e2", "Succeeded"),
            ("checkout-offline", "Passed"),
            ("agent", "Soaking"),
        ]
        assert [gate["n"] for gate in agent["gates"]] == [gate[4] for gate in GATES]
        rollout = agent["rollout"]
        assert rollout["waiting"] == "414 of 1468 matured runs"
        assert [(point["step"], point["runs"]) for point in rollout["points"]][4:6] == [(1, 125), (2, 46)]
        assert rollout["thresholds"] == {"harm": 80.0, "nonInferiority": 20.0}
        low, high = rollout["arms"][1]["interval"]
        assert low < rollout["arms"][1]["rate"] < high
        weights = [each["desired"] for each in rollout["weights"]]
        assert weights == sorted(weights)
        assert {weights[0], weights[-1]} == {1.0, 5.0}

    def test_the_stream_tells_a_change_within_seconds(self, shop, url):
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            reader = connection.makefile("rb")
            assert b"200" in reader.readline()
            event_of(reader)
            message = {"status": {"message": "step 740 of 1000, and going on"}}
            shop.patch("finetunerun", "checkout-a3", message, "--subresource=status")
            state = event_of(reader)
        assert state["lineages"][2]["message"] == "step 740 of 1000, and going on"


def event_of(reader):
    """Return the next event of a stream."""
    for line in reader:
        if line.startswith(b"data: "):
            return json.loads(line[6:])
    raise AssertionError("the stream ended")


class TestInABrowser:
    async def test_what_people_see(self, shop, url, tmp_path):
        async with Browser(tmp_path / "profile") as browser:
            await browser.open(url)
            await browser.until("document.body && document.body.dataset.ready")
            text = await browser.value("document.querySelector('main').innerText")
            for words in (
                "414 of 1468 matured runs",
                "Share of the traffic",
                "Evidence over time",
                "Escalations by arm",
                "grounding accuracy",
                "the interval holds the threshold",
                "5 % desired, 5 % actual",
                "step 1 by alice@example.com",
            ):
                assert words in text, words
            # A hostile message is a text like any other.
            assert HOSTILE in text
            assert await browser.value("document.querySelectorAll('main img, main script').length") == 0
            assert "owned" not in await browser.value("document.title")

            charts = await browser.value(
                "[...document.querySelectorAll('svg.chart')].map(c => c.getAttribute('aria-label'))"
            )
            assert len(charts) == 3
            assert any("Harm 0.576 of 80" in label for label in charts)
            lines = "document.querySelectorAll('#lineage-{} svg.chart path.line.{}').length"
            agent = f"{shop.namespace}-ShadowRollout-agent"
            assert await browser.value(lines.format(agent, "harm:not(.limit)")) == 2, "a piece of line for each step"
            assert await browser.value(lines.format(agent, "harm.limit")) == 2, "each step has its own threshold"
            assert await browser.value(lines.format(agent, "desired")) == 1
            # Everything that is drawn is also told: a table behind each chart, a name for each picture.
            assert await browser.value("document.querySelectorAll('svg[role=img]:not([aria-label])').length") == 0
            assert await browser.value("document.querySelectorAll('.plots details table tbody tr').length") > 20
            headings = await browser.value("[...document.querySelectorAll('h1,h2')].map(h => h.innerText)")
            assert headings == ["Sluice", "agent", "hostile", "checkout-a3"]

            change = {"status": {"phase": "AwaitingApproval", "message": "step 2 of 4 at 5 %: everything is in"}}
            shop.patch("shadowrollout", "agent", change, "--subresource=status")
            await browser.until("document.querySelector('main').innerText.includes('everything is in')")
            assert await browser.value("document.getElementById('live').innerText") == "live"
            assert browser.complaints == []

    @pytest.mark.parametrize(("width", "dark"), [(1400, True), (420, False)], ids=["dark", "narrow"])
    async def test_it_fits_and_can_be_read(self, width, dark, shop, url, tmp_path):
        async with Browser(tmp_path / "profile") as browser:
            await browser.open(url, width=width, dark=dark)
            await browser.until("document.body && document.body.dataset.ready")
            assert await browser.value("document.documentElement.scrollWidth") <= width
            low = await browser.value(CONTRAST)
            assert low == [], "texts that stand out too little from their ground"


CONTRAST = """
(() => {
  const parts = text => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = node => {
    for (let each = node; each; each = each.parentElement) {
      const colour = parts(getComputedStyle(each).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const node of document.querySelectorAll('h1, h2, h3, p, dt, dd, th, td, li, .pill, summary, a')) {
    if (!node.innerText || !node.checkVisibility()) continue;
    const pair = [light(parts(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) low.push([node.tagName, node.className, node.innerText.slice(0, 30), ratio]);
  }
  return low;
})()
"""
"""Texts whose contrast is below 4.5 to 1 (WCAG 2, AA)."""


def test_an_address_that_is_taken_is_told(cluster):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [str(PROGRAM), "dashboard", "--kubeconfig", str(cluster.kubeconfig), "--port"]
        result = subprocess.run(
            [*command, str(taken.getsockname()[1])], capture_output=True, text=True, timeout=60, check=False
        )
    assert result.returncode == 2
    assert "cannot listen on" in result.stderr
