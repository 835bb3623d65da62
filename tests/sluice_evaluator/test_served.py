"""The eval worker on the real model server: base and adapter served by digest, asked by chat."""

import json
from pathlib import Path

import pytest

from sluice_api.contracts.base import ArtifactRef, ModelRef, RunRef
from sluice_api.contracts.evaluation import EvalReport
from sluice_api.contracts.jobs import EvalJob, EvalTarget
from sluice_api.contracts.models import AdapterManifest
from sluice_artifacts import digest_tree, publish, read_document
from sluice_artifacts.reporting import Reporter
from sluice_evaluator.workers import eval as eval_worker
from tiny_models import save_base, tiny_model, tiny_tokenizer


def publish_adapter(root: Path, base: ModelRef) -> ArtifactRef:
    """An untrained LoRA adapter, saved as PEFT does: it answers like its base."""
    from peft import LoraConfig, get_peft_model

    folder = root / "adapter"
    get_peft_model(tiny_model(tiny_tokenizer()), LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(folder)
    files = {name: folder / name for name in ("adapter_config.json", "adapter_model.safetensors")}
    dataset = ArtifactRef(uri="file:///none", digest="sha256:" + "0" * 64)
    return publish(
        (root / "adapters").as_uri(),
        files,
        lambda entries: AdapterManifest(
            files=entries,
            base_model=base,
            rank=4,
            alpha=8,
            target_modules=["q_proj"],
            dataset=dataset,
            data_plan=dataset.digest,
        ),
    )


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT asks transformers by it
def test_base_and_adapter_are_evaluated_on_a_server_of_the_worker_s_own(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base")
    base = ModelRef(uri=folder.as_uri(), digest=digest_tree(folder))
    adapter = publish_adapter(tmp_path, base)
    suite = tmp_path / "suite.json"
    suite.write_text(
        json.dumps([{"task_id": f"t{i}", "task_text": f"open lamp {i}", "max_tokens": 24} for i in range(3)])
    )
    job = EvalJob(
        run=RunRef(kind="EvalRun", namespace="ns", name="e", uid="u"),
        attempt=1,
        output_uri=(tmp_path / "out").as_uri() + "/",
        candidate=EvalTarget(name="candidate", base_model=base, adapter=adapter),
        baseline=EvalTarget(name="stable", base_model=base),
        suite_uri=suite.as_uri(),
        task_timeout_s=240.0,
    )
    output = eval_worker.run(job, Reporter(job))
    candidate = read_document(output.report, EvalReport)
    baseline = read_document(output.baseline_report, EvalReport)
    assert (candidate.model_digest, baseline.model_digest) == (adapter.digest, base.digest)
    assert (candidate.error_count, baseline.error_count) == (0, 0)
    # an adapter whose B is zero changes nothing, whatever the model says
    assert [r.outcome.output for r in candidate.results] == [r.outcome.output for r in baseline.results]
    assert all((r.outcome.raw or {})["finish_reason"] in ("stop", "length") for r in candidate.results)
    assert (output.comparison.wins, output.comparison.losses, output.comparison.common) == (0, 0, 3)
