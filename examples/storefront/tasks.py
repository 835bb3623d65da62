"""Tasks of the shop, each a pure function of its seed, and suites of them as evaluation files."""

import argparse
import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from sluice_api.contracts.evaluation import Criterion, EvalTask
from storefront.pages import Theme

ORDINALS = ("first", "second", "third", "fourth")
"""Labels of the listings on a results page."""
COLOURS = ("red", "blue", "green", "black", "white", "silver", "golden", "brown")
"""First word of a title."""
NOUNS = ("lamp", "chair", "table", "clock", "radio", "bike", "camera", "guitar", "mirror", "sofa", "desk", "watch")
"""Second word of a title."""
PRICES = tuple(range(21, 100, 6))
"""Prices of listings in dollars."""
SHIPPING = tuple(range(4, 20, 2))
"""Shipping fees in dollars; never equal to a price."""

EVALUATION_SEEDS = 2_000_000_000
"""First seed of evaluation suites: traffic and demonstrations stay below it, so no suite task is ever trained on."""
URL_SCHEME = "storefront"


class TaskKind(StrEnum):
    """What a task asks for."""

    OPEN = "open"
    PRICE = "price"
    MESSAGE = "message"
    GALLERY = "gallery"
    SEARCH = "search"
    ENLARGE = "enlarge"


KIND_WEIGHTS = {
    TaskKind.OPEN: 0.28,
    TaskKind.PRICE: 0.22,
    TaskKind.MESSAGE: 0.12,
    TaskKind.GALLERY: 0.16,
    TaskKind.SEARCH: 0.10,
    TaskKind.ENLARGE: 0.12,
}
"""Share of each kind in the traffic."""
SPONSORED_SHARE = 0.55
"""Share of results pages that carry an advertisement."""
SHIPPING_SHARE = 0.5
"""Share of price tasks whose page names a shipping fee too."""
HIDDEN_SHARE = 0.4
"""Share of price tasks whose price is below the fold."""
LOADING_SHARE = 0.15
"""Share of tasks that start on a page that is still loading."""

_PHRASES = {
    TaskKind.OPEN: ("open the {ordinal} listing", "show me the {ordinal} listing"),
    TaskKind.PRICE: ("extract the price", "tell me the price"),
    TaskKind.MESSAGE: ("send the seller a message", "ask the seller about the {noun}"),
    TaskKind.GALLERY: ("leave the photo gallery", "close the photo gallery"),
    TaskKind.SEARCH: ("search for a used {noun}", "find a used {noun}"),
    TaskKind.ENLARGE: ("enlarge the photo", "show the photo in full size"),
}


@dataclass(frozen=True, kw_only=True)
class ShopTask:
    """One task with everything that decides what its pages show."""

    seed: int
    kind: TaskKind
    text: str
    """What the user asks for."""
    titles: tuple[str, ...]
    """Titles of the four listings, in order."""
    prices: tuple[int, ...]
    """Prices of the four listings in dollars."""
    wanted: int
    """Index of the listing that the task is about."""
    theme: Theme
    """How the visitor's pages are laid out."""
    shipping: int | None = None
    """Shipping fee shown beside the price, if any."""
    sponsored: bool = False
    """Whether the results page carries an advertisement."""
    price_hidden: bool = False
    """Whether one must scroll to see the price."""
    loading: bool = False
    """Whether the first page is still loading."""

    @property
    def task_id(self) -> str:
        """Identity, e.g. `open-1000004`."""
        return f"{self.kind}-{self.seed}"

    @property
    def url(self) -> str:
        """Where the run starts; names the seed."""
        return f"{URL_SCHEME}://shop/{self.seed}"

    @property
    def title(self) -> str:
        """Title of the listing that the task is about."""
        return self.titles[self.wanted]

    @property
    def noun(self) -> str:
        """What kind of thing that listing is."""
        return self.title.split()[-1]

    @property
    def price(self) -> str:
        """Price of that listing, e.g. `$42`."""
        return f"${self.prices[self.wanted]}"


def make_task(seed: int) -> ShopTask:
    """The task of a seed: always the same one."""
    rng = Random(f"storefront-task-{seed}")
    kind = rng.choices(list(KIND_WEIGHTS), weights=list(KIND_WEIGHTS.values()))[0]
    titles = tuple(
        f"{colour} {noun}" for colour, noun in zip(rng.sample(COLOURS, 4), rng.sample(NOUNS, 4), strict=True)
    )
    wanted = rng.randrange(4)
    prices = tuple(rng.sample(PRICES, 4))
    phrase = rng.choice(_PHRASES[kind])
    sponsored, hidden, shipped, loading = (rng.random() for _ in range(4))
    return ShopTask(
        seed=seed,
        kind=kind,
        text=phrase.format(ordinal=ORDINALS[wanted], noun=titles[wanted].split()[-1]),
        titles=titles,
        prices=prices,
        wanted=wanted,
        theme=rng.choice(list(Theme)),
        shipping=rng.choice(SHIPPING) if kind is TaskKind.PRICE and shipped < SHIPPING_SHARE else None,
        sponsored=kind in (TaskKind.OPEN, TaskKind.SEARCH) and sponsored < SPONSORED_SHARE,
        price_hidden=kind is TaskKind.PRICE and hidden < HIDDEN_SHARE,
        loading=loading < LOADING_SHARE,
    )


def task_of_url(url: str) -> ShopTask:
    """The task that a URL names.

    Raises:
        ValueError: the URL is not one of the shop's.
    """
    parts = urlsplit(url)
    seed = parts.path.strip("/").split("/")[0]
    if parts.scheme != URL_SCHEME or not seed.isdigit():
        raise ValueError(f"url {url!r} is not a shop's; expected {URL_SCHEME}://shop/<seed>")
    return make_task(int(seed))


def evaluation_task(task: ShopTask) -> EvalTask:
    """The task as an evaluation task, with the criteria that show that the right thing was done."""
    criteria = [Criterion(type="task_success")]
    if task.kind is TaskKind.PRICE:
        criteria.append(Criterion(type="output_contains", value=task.price))
    if task.kind is TaskKind.OPEN:
        criteria.append(Criterion(type="url_contains", value=f"/listing/{task.wanted + 1}"))
    return EvalTask(
        task_id=task.task_id, task_text=task.text, url=task.url, criteria=criteria, max_cost=1.0, max_steps=12
    )


def suite(count: int, first_seed: int = EVALUATION_SEEDS) -> list[EvalTask]:
    """`count` evaluation tasks from consecutive seeds."""
    return [evaluation_task(make_task(seed)) for seed in range(first_seed, first_seed + count)]


def write_suite(path: Path, count: int, first_seed: int = EVALUATION_SEEDS) -> None:
    """Writes a suite as the JSON list that `sluice eval run --tasks` reads."""
    tasks = [task.model_dump(mode="json", exclude_none=True) for task in suite(count, first_seed)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tasks, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """`python -m storefront.tasks --output suite.json --count 200`."""
    parser = argparse.ArgumentParser(prog="storefront.tasks", description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=EVALUATION_SEEDS)
    arguments = parser.parse_args(argv)
    write_suite(arguments.output, arguments.count, arguments.first_seed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
