"""A whole model on packed rows beside transformers' own: layers, attention, positions and head together."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import workload
from contenders import _adapted
from findings import GRADIENT, RESULT, Draw, Finding, Scale, difference
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from sluice_trainer.dpo import answer_log_probabilities
from sluice_trainer.model import LoraSettings, add_adapter, trained_parameters
from sluice_trainer.recipes import SftRecipe


def models(scale: Scale) -> Iterator[Finding]:
    """A whole model's losses and gradients over a packed row, against transformers' own in fp32, one text at a time."""
    ours = _adapted(workload.Toy(size=256, layers=2, head=64, device=str(scale.device), bf16=True))
    theirs = _plain(ours, scale.device)
    documents = workload.chats(4)
    recipe = SftRecipe(ours, documents, trained_parameters(ours), scale.device)
    scored = sum(each.scored_count for each in documents)
    loss = recipe.backward(range(len(documents)), scored) / scored
    losses = [_losses(theirs, each.ids, np.flatnonzero(each.scored), scale.device) for each in documents]
    wanted = torch.cat(losses).sum() / scored
    wanted.backward()
    yield Finding(name="model, loss of a packed row", value=difference(loss, wanted.detach()), bound=RESULT)
    yield Finding(name="model, gradients of a packed row", value=_gap(ours, theirs), bound=2 * GRADIENT)
    pairs = workload.pairs(4)
    ours.zero_grad()
    theirs.zero_grad()
    found = answer_log_probabilities(ours, pairs, scale.device)
    texts = [(each.prompt, answer) for each in pairs for answer in (each.chosen, each.rejected)]
    answers = [
        -_losses(theirs, np.concatenate(text), np.arange(text[0].size, sum(map(len, text))), scale.device).sum()
        for text in texts
    ]
    expected = torch.stack(answers).view(-1, 2)
    # The margin, which is what is learnt from; a sum would hide answers given to each other.
    for each in (found, expected):
        (each[:, 0] - each[:, 1]).sum().backward()
    gap = difference(found.detach(), expected.detach())
    yield Finding(name="model, log-probabilities of packed pairs", value=gap, bound=RESULT)
    yield Finding(name="model, gradients of packed pairs", value=_gap(ours, theirs), bound=2 * GRADIENT)


def _plain(adapted: Any, device: torch.device) -> Any:
    """The same model and adapter in fp32, with transformers' own layers; the update is given values that count."""
    draw = Draw(device)
    with torch.no_grad():
        for parameter in trained_parameters(adapted).values():
            parameter.add_(draw(*parameter.shape, dtype=torch.float32, by=0.02))
    base = workload.toy_model(workload.Toy(size=256, layers=2, head=64, device=str(device))).requires_grad_(False)
    made = add_adapter(base, LoraSettings(rank=workload.RANK, alpha=workload.ALPHA), seed=0)
    made.load_state_dict({name: value.float() for name, value in adapted.state_dict().items()})
    return made


def _losses(model: Any, ids: NDArray[np.int64], places: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    """Losses of the tokens at some places of one text."""
    tokens, at = torch.from_numpy(ids).to(device), torch.from_numpy(places).to(device)
    logits = model(input_ids=tokens[None], use_cache=False).logits[0]
    return cross_entropy(logits[at - 1], tokens[at], reduction="none")


def _gap(ours: Any, theirs: Any) -> float:
    """Difference of all gradients of the adapter together."""
    wanted = trained_parameters(theirs)
    found = [(each.grad, wanted[name].grad) for name, each in trained_parameters(ours).items()]
    left, right = (torch.cat([gradient.flatten() for gradient in side]) for side in zip(*found, strict=True))
    return difference(left, right)
