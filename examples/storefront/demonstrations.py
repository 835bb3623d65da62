"""Demonstrations: rows of a prompt and an answer, by an expert or by a careless hand."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from sluice_api.chat import prompt_turns, to_messages
from sluice_api.contracts.dataset import Turn
from storefront.expert import expert_answer, habit_answer
from storefront.pages import SCREEN_HEIGHT, SCREEN_WIDTH
from storefront.stages import stages_of
from storefront.tasks import make_task


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """One example: what was shown and what was answered."""

    intent: str
    answer: str

    def messages(self) -> list[dict[str, str]]:
        """The example as chat messages, answer included."""
        answer = Turn.model_validate({"from": "gpt", "value": self.answer})
        return to_messages([*prompt_turns(self.intent, SCREEN_WIDTH, SCREEN_HEIGHT), answer])


def demonstrations(first_seed: int, tasks: int, *, carelessness: float) -> Iterator[Demonstration]:
    """Every state of `tasks` consecutive tasks with an answer; in traps, the careless one with this probability.

    A careless hand falls for advertisements, leafs through galleries instead of leaving them, answers with the wrong
    figure and reloads pages that only need time. Everywhere else it does the right thing, so a model trained on it
    knows the trade and the bad habits.
    """
    for seed in range(first_seed, first_seed + tasks):
        rng = Random(f"storefront-demonstration-{seed}")
        task = make_task(seed)
        for stage in stages_of(task):
            habit = habit_answer(stage)
            careless = habit is not None and rng.random() < carelessness
            answer = habit if careless and habit is not None else expert_answer(stage)
            yield Demonstration(intent=f"{task.text}\n{stage.page.render()}", answer=answer)
