"""What is generated from the catalogue of metrics: fresh, valid, and about metrics that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from debian_tools import program
from sluice_operator.monitoring.__main__ import (
    DASHBOARD_FILE,
    DOCUMENT,
    RULE_FILE,
    RUNBOOKS,
    main,
    with_tables,
    wrong_names,
)
from sluice_operator.monitoring.dashboard import dashboard, expressions
from sluice_operator.monitoring.queries import problems, series_of
from sluice_operator.monitoring.rules import RuleConfig, alerts, seconds

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path):
    """The generated files and the runbooks, to be damaged."""
    for path in (RULE_FILE, DASHBOARD_FILE, DOCUMENT):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    shutil.copytree(ROOT / RUNBOOKS, tmp_path / RUNBOOKS)
    return tmp_path


class TestGenerator:
    def test_committed_files_are_what_the_catalogue_says(self):
        assert main(["--root", str(ROOT), "--check"]) == 0

    @pytest.mark.parametrize("path", [RULE_FILE, DASHBOARD_FILE, DOCUMENT], ids=str)
    def test_a_file_that_differs_is_named_and_repaired(self, path, copy, capsys):
        text = (copy / path).read_text()
        (copy / path).write_text(text.replace("sluice_rollout_weight_percent", "sluice_rollout_weight"))
        assert main(["--root", str(copy), "--check"]) == 1
        assert f"{path}: differs" in capsys.readouterr().err
        assert main(["--root", str(copy)]) == 0
        assert (copy / path).read_text() == text

    def test_an_alert_without_a_runbook_and_a_runbook_without_an_alert_are_errors(self, copy, capsys):
        (copy / RUNBOOKS / "SluiceNoData.md").rename(copy / RUNBOOKS / "SluiceGone.md")
        assert main(["--root", str(copy), "--check"]) == 1
        error = capsys.readouterr().err
        assert "SluiceNoData.md: missing" in error
        assert "SluiceGone.md: no alert" in error

    def test_parameters_reach_the_rules(self, capsys):
        arguments = ["--print", "groups", "--set", "ratio=2.5", "--set", "min_runs=7", "--set", "no_data=2h"]
        assert main([*arguments, "--runbooks", "https://wiki.example/"]) == 0
        text = capsys.readouterr().out
        rules = {rule.get("alert"): rule for rule in yaml.safe_load(text)["groups"][0]["rules"]}
        assert "> 2.5" in rules["SluiceEscalationHigh"]["expr"]
        assert ">= 7" in rules["SluiceEscalationHigh"]["expr"]
        assert "< 7200" in rules["SluiceNoData"]["expr"]
        assert rules["SluiceNoData"]["annotations"]["runbook_url"] == "https://wiki.example/SluiceNoData.md"

    @pytest.mark.parametrize(
        ("setting", "word"),
        [
            ("ratio=1", "ratio"),
            ("window=6", "duration"),
            ("no_data_for=30s", "two scrapes"),
            ("floor=0", "floor"),
            ("min_runs=0", "counts"),
            ("nonsense=1", "one of"),
            ("ratio=high", "could not convert"),
        ],
    )
    def test_a_parameter_that_makes_no_sense_is_refused(self, setting, word, capsys):
        assert main(["--print", "rule", "--set", setting]) == 2
        assert word in capsys.readouterr().err

    def test_a_page_without_a_marker_is_refused(self):
        with pytest.raises(ValueError, match="marker"):
            with_tables("# Monitoring\n", {"metrics": "| |\n"})


class TestRules:
    def test_promtool_accepts_them_with_their_texts(self, tmp_path):
        groups = yaml.safe_load((ROOT / RULE_FILE).read_text())["spec"]
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups))
        command = [program("promtool"), "check", "rules", "rules.yaml"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "11 rules found" in result.stdout

    def test_every_alert_says_what_it_must(self):
        config = RuleConfig()
        rules = yaml.safe_load((ROOT / RULE_FILE).read_text())["spec"]["groups"][0]["rules"]
        found = [rule for rule in rules if "alert" in rule]
        assert [rule["alert"] for rule in found] == [alert.name for alert in alerts(config)]
        for rule in found:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
            assert rule["annotations"]["runbook_url"].endswith(f"/{rule['alert']}.md")
            assert seconds(rule["for"]) >= 2 * seconds(config.interval)

    def test_runbooks_begin_with_what_it_means_and_link_to_pages_that_exist(self):
        for page in (ROOT / RUNBOOKS).glob("*.md"):
            text = page.read_text()
            assert text.startswith(f"# {page.stem}\n")
            assert "**Meaning.**" in text
            for link in re.findall(r"\]\(([A-Za-z]+\.md)\)", text):
                assert (page.parent / link).is_file(), link


class TestDashboard:
    def test_every_query_is_valid_for_prometheus(self, tmp_path):
        queries = [
            (title, text.replace("$__rate_interval", "5m")) for title, text in expressions(dashboard(RuleConfig()))
        ]
        rules = [{"record": f"check:{place}", "expr": text} for place, (_, text) in enumerate(queries)]
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
        command = [program("promtool"), "check", "rules", "rules.yaml"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        assert f"{len(queries)} rules found" in result.stdout

    def test_panels_do_not_overlap_and_fit_the_grid(self):
        taken = set()
        board = json.loads((ROOT / DASHBOARD_FILE).read_text())
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert place["x"] + place["w"] <= 24
            assert not cells & taken, panel["title"]
            taken |= cells
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])

    def test_every_metric_of_a_rollout_is_shown_somewhere(self):
        shown = {name for _, text in expressions(dashboard(RuleConfig())) for name in series_of(text)}
        for name in (
            "weight_percent",
            "step",
            "phase",
            "verdict",
            "e_value",
            "decisions_total",
            "paused_seconds_total",
        ):
            assert f"sluice_rollout_{name}" in shown


class TestQueries:
    def test_all_queries_name_what_exists(self):
        assert wrong_names(RuleConfig()) == []

    @pytest.mark.parametrize(
        ("expression", "word"),
        [
            ("sluice_rollout_wieght_percent > 0", "no metric 'sluice_rollout_wieght_percent'"),
            ("rate(sluice_rollout_matured_runs[5m])", "no metric 'sluice_rollout_matured_runs'"),
            ('sluice_rollout_step{arm="candidate"}', "sluice_rollout_step has no label 'arm'"),
            ("sum by (tenant) (sluice_rollout_step)", "label 'tenant'"),
            ("up == 0", "no metric 'up'"),
            ("1 + 1", "reads no metric"),
        ],
    )
    def test_what_does_not_exist_is_named(self, expression, word):
        assert any(word in problem for problem in problems(expression))

    @pytest.mark.parametrize(
        "expression",
        [
            'max by (namespace, name) (sluice_rollout_weight_percent{type="actual"}) > 0 unless on (job) sluice_leader',
            "histogram_quantile(0.9, sum by (le) (rate(sluice_reconcile_duration_seconds_bucket[5m])))",
            'sluice:rollout_escalation_rate:ratio{arm="sluice_no_metric"}',
            "time() - sluice_rollout_last_sample_timestamp_seconds offset 5m",
        ],
    )
    def test_what_exists_is_no_problem(self, expression):
        assert problems(expression) == []


class TestDebianTools:
    SCRIPT = ROOT / ".ci" / "debian-tools"

    def run(self, path):
        command = ["/bin/bash", str(self.SCRIPT)]
        return subprocess.run(command, env={"PATH": str(path)}, capture_output=True, text=True, timeout=60, check=False)

    def test_without_root_it_says_what_to_install_and_lets_the_tests_go_on(self, tmp_path):
        (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
        (tmp_path / "id").chmod(0o755)
        result = self.run(tmp_path)
        assert result.returncode == 0
        assert "apt-get install --no-install-recommends prometheus chromium" in result.stderr

    def test_with_everything_there_it_does_nothing(self, tmp_path):
        for name in ("promtool", "prometheus", "chromium"):
            (tmp_path / name).touch(0o755)
        result = self.run(tmp_path)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")

    def test_a_test_without_its_program_fails_and_names_the_package(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(pytest.fail.Exception, match="apt-get install prometheus"):
            program("promtool")
