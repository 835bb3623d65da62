"""Snapshots are put back where the parameters are."""

import torch

from sluice_trainer.snapshot import Snapshot, put_back


def test_all_state_goes_to_the_parameters_device() -> None:
    """On the device without data, since where it goes is what counts: a fused AdamW refuses a step count elsewhere."""
    parameter = torch.nn.Parameter(torch.zeros(2, 3, device="meta"))
    adamw = torch.optim.AdamW([parameter])
    saved = {"w/step": torch.tensor(4.0), "w/exp_avg": torch.ones(2, 3), "w/exp_avg_sq": torch.ones(2, 3)}
    random = {"cpu": torch.get_rng_state()}
    snapshot = Snapshot(step=4, parameters={"w": torch.ones(2, 3)}, optimizer=saved, random=random, recent=())
    put_back({"w": parameter}, adamw, snapshot)
    assert {key: value.device.type for key, value in adamw.state[parameter].items()} == dict.fromkeys(
        ("step", "exp_avg", "exp_avg_sq"), "meta"
    )
