"""`sluice`: every command is found, and none imports more than it needs."""

import json
import subprocess
import sys

import pytest

from sluice_api.contracts.base import RunRef
from sluice_api.contracts.jobs import Result
from sluice_cli.main import COMMANDS, main


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert command.name in text


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command.name, "--help"])
    assert stopped.value.code == 0
    assert command.name in capsys.readouterr().out


def test_no_command_is_a_usage_error(capsys):
    assert main([]) == 2
    assert "commands" in capsys.readouterr().err


def test_unknown_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["promote"])
    assert stopped.value.code == 2


@pytest.mark.parametrize("command", ["trace", "operator", "scorecard", "cluster", "worker"])
def test_light_commands_do_not_load_torch(command):
    script = f"""
import sys
from sluice_cli.main import build_parser
build_parser(["{command}"])
sys.exit("torch" in sys.modules or "ray" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-P", "-c", script], check=False).returncode == 0


def test_cluster_up_offers_the_bare_control_plane(capsys):
    with pytest.raises(SystemExit):
        main(["cluster", "up", "--help"])
    assert "--bare" in capsys.readouterr().out


class TestWorker:
    def test_missing_input_is_named(self, capsys, monkeypatch):
        monkeypatch.delenv("SLUICE_JOB_INPUT", raising=False)
        assert main(["worker", "label"]) == 2
        assert "SLUICE_JOB_INPUT" in capsys.readouterr().err

    def test_bad_field_is_named(self, capsys, tmp_path):
        path = tmp_path / "input.json"
        path.write_text(json.dumps({"worker": "label", "attempt": "first"}))
        assert main(["worker", "label", "--input", str(path)]) == 2
        assert "attempt" in capsys.readouterr().err

    def test_input_for_another_worker_is_refused(self, capsys, tmp_path):
        path = tmp_path / "input.json"
        path.write_text(json.dumps(label_input(tmp_path)))
        assert main(["worker", "train", "--input", str(path)]) == 2
        assert "'label', not 'train'" in capsys.readouterr().err

    def test_failure_is_a_result_too(self, tmp_path):
        path = tmp_path / "input.json"
        path.write_text(json.dumps(label_input(tmp_path)))
        assert main(["worker", "label", "--input", str(path)]) == 0
        result = Result.model_validate_json((tmp_path / "out" / "result.json").read_text())
        assert result.output is None
        assert result.failure is not None
        assert result.failure.failure_class == "Data"
        assert result.run.uid == "u1"


def label_input(folder):
    """Return the input of a label job whose source does not exist."""
    run = RunRef(kind="TraceDataset", namespace="default", name="d", uid="u1")
    return {
        "worker": "label",
        "run": run.model_dump(),
        "attempt": 1,
        "output_uri": f"file://{folder}/out/",
        "source_uri": f"file://{folder}/nowhere/",
        "dataset_uri": f"file://{folder}/datasets/",
    }
