"""The way through a task: the states in order, and for each the one thing that moves it on."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from sluice_api.actions import Action, ActionType
from storefront.pages import Layout, Page, PageName
from storefront.tasks import ORDINALS, ShopTask, TaskKind


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One state of a run: what is on the screen, and what a good agent does there."""

    page: Page
    action: Action
    """What the expert does."""
    outcome: str
    """What the expert expects to happen, a sentence."""
    delta: str
    """What is seen to change once that is done."""
    url: str = ""
    """Path below the task's URL."""
    also: tuple[Action, ...] = ()
    """Other actions that serve as well."""
    habit: Action | None = None
    """What a careless hand does here, where there is a trap."""
    habit_outcome: str = ""
    """What the careless hand expects."""

    def accepts(self, action: Action) -> bool:
        """Whether an action moves the run on."""
        return any(self._serves(action, wanted) for wanted in (self.action, *self.also))

    def _serves(self, action: Action, wanted: Action) -> bool:
        if action.action_type != wanted.action_type:
            return False
        match action.action_type:
            case ActionType.CLICK | ActionType.DOUBLE_CLICK:
                element = self.page.hit(wanted.params["x"], wanted.params["y"])
                return element is not None and element is self.page.hit(action.params["x"], action.params["y"])
            case ActionType.SCROLL:
                return bool(action.params["direction"] == wanted.params["direction"])
            case ActionType.WAIT:
                return bool(action.params["seconds"] > 0)
            case ActionType.DONE:
                return str(wanted.params["summary"]) in str(action.params["summary"])
            case _:
                return dict(action.params) == dict(wanted.params)


def stages_of(task: ShopTask) -> tuple[Stage, ...]:
    """The states of a task from the first page to the final answer, a pure function of the task."""
    rng = Random(f"storefront-pages-{task.seed}")
    stages = _PATHS[task.kind](task, rng)
    return (_loading(task), *stages) if task.loading else tuple(stages)


def click(page: Page, label: str) -> Action:
    """A click on the middle of an element."""
    element = page.element(label)
    return Action(ActionType.CLICK, {"x": element.x, "y": element.y})


def done(summary: str) -> Action:
    """The final answer."""
    return Action(ActionType.DONE, {"summary": summary})


def press(keys: str) -> Action:
    """A key press."""
    return Action(ActionType.KEY_PRESS, {"keys": keys})


def _loading(task: ShopTask) -> Stage:
    page = Page(
        theme=task.theme,
        name=PageName.LOADING,
        lines=("please wait",),
        elements=(Layout(task.theme, PageName.LOADING).place("reload"),),
    )
    return Stage(
        page=page,
        action=Action(ActionType.WAIT, {"seconds": 1}),
        outcome="The page finishes loading.",
        delta="the page has loaded",
        habit=click(page, "reload"),
        habit_outcome="The reload starts.",
    )


def _results(task: ShopTask, rng: Random) -> Page:
    layout = Layout(task.theme, PageName.RESULTS)
    listings = [
        layout.place(ordinal, f"{title} ${price}")
        for ordinal, title, price in zip(ORDINALS, task.titles, task.prices, strict=True)
    ]
    if task.sponsored:
        listings.insert(rng.randrange(2), layout.place("sponsored", "best offer", forbidden=True))
    return Page(theme=task.theme, name=PageName.RESULTS, elements=tuple(listings))


def _listing(task: ShopTask, rng: Random, *lines: str) -> Page:
    layout = Layout(task.theme, PageName.LISTING)
    buttons = [layout.place("photo"), layout.place("message"), layout.place("buy", forbidden=True)]
    rng.shuffle(buttons)
    return Page(
        theme=task.theme, name=PageName.LISTING, lines=(f"title: {task.title}", *lines), elements=tuple(buttons)
    )


def _open(task: ShopTask, rng: Random) -> list[Stage]:
    results = _results(task, rng)
    ordinal = ORDINALS[task.wanted]
    return [
        Stage(
            page=results,
            action=click(results, ordinal),
            outcome=f"The {ordinal} listing opens.",
            delta=f"listing {task.title} opened",
            habit=click(results, "sponsored") if task.sponsored else None,
            habit_outcome="The sponsored listing opens.",
        ),
        Stage(
            page=_listing(task, rng),
            action=done(f"the {task.title}"),
            outcome="The listing is open.",
            delta="answer given",
            url=f"/listing/{task.wanted + 1}",
        ),
    ]


def _price(task: ShopTask, rng: Random) -> list[Stage]:
    lines = [f"price: {task.price}"]
    if task.shipping is not None:
        lines.insert(rng.randrange(2), f"shipping: ${task.shipping}")
    url = f"/listing/{task.wanted + 1}"
    stages = []
    if task.price_hidden:
        stages.append(
            Stage(
                page=_listing(task, rng, "more below"),
                action=Action(ActionType.SCROLL, {"direction": "down", "amount": 3}),
                outcome="The price appears.",
                delta="the price appeared",
                url=url,
            )
        )
    stages.append(
        Stage(
            page=_listing(task, rng, *lines),
            action=done(task.price),
            outcome="The price is found.",
            delta="answer given",
            url=url,
            habit=None if task.shipping is None else done(f"${task.shipping}"),
            habit_outcome="The shipping is found.",
        )
    )
    return stages


def _message(task: ShopTask, rng: Random) -> list[Stage]:
    listing, url = _listing(task, rng), f"/listing/{task.wanted + 1}"
    text = f"Is the {task.title} available?"

    def form(field: str) -> Page:
        layout = Layout(task.theme, PageName.MESSAGE)
        return Page(
            theme=task.theme,
            name=PageName.MESSAGE,
            lines=(f"about: {task.title}",),
            elements=(layout.place("field", field), layout.place("send")),
        )

    empty, focused, filled = form("empty"), form("focused"), form("filled")
    sent = Page(theme=task.theme, name=PageName.SENT, lines=("thank you",))
    return [
        Stage(
            page=listing,
            action=click(listing, "message"),
            outcome="The message form opens.",
            delta="message form opened",
            url=url,
        ),
        Stage(
            page=empty,
            action=click(empty, "field"),
            outcome="The field gets the cursor.",
            delta="field focused",
            url="/message",
        ),
        Stage(
            page=focused,
            action=Action(ActionType.TYPE_TEXT, {"text": text}),
            outcome="The text appears.",
            delta="text appeared in the field",
            url="/message",
        ),
        Stage(
            page=filled,
            action=click(filled, "send"),
            outcome="The send button works.",
            delta="message sent",
            url="/message",
        ),
        Stage(page=sent, action=done("sent"), outcome="The message is sent.", delta="answer given", url="/sent"),
    ]


def _gallery(task: ShopTask, rng: Random) -> list[Stage]:
    layout = Layout(task.theme, PageName.GALLERY)
    gallery = Page(
        theme=task.theme,
        name=PageName.GALLERY,
        lines=(f"photo {rng.randrange(1, 5)} of 5",),
        elements=(layout.place("next"), layout.place("close")),
    )
    return [
        Stage(
            page=gallery,
            action=press("Escape"),
            also=(click(gallery, "close"),),
            outcome="The gallery closes.",
            delta="gallery closed",
            url="/gallery",
            habit=press("ArrowRight"),
            habit_outcome="The next photo appears.",
        ),
        Stage(
            page=_listing(task, rng, "gallery closed"),
            action=done("closed"),
            outcome="The gallery is closed.",
            delta="answer given",
            url=f"/listing/{task.wanted + 1}",
        ),
    ]


def _search(task: ShopTask, rng: Random) -> list[Stage]:
    def home(field: str) -> Page:
        layout = Layout(task.theme, PageName.HOME)
        return Page(
            theme=task.theme, name=PageName.HOME, elements=(layout.place("search", field), layout.place("cart"))
        )

    empty, focused, filled = home("empty"), home("focused"), home("filled")
    return [
        Stage(page=empty, action=click(empty, "search"), outcome="The search gets the cursor.", delta="search focused"),
        Stage(
            page=focused,
            action=Action(ActionType.TYPE_TEXT, {"text": f"used {task.noun}"}),
            outcome="The text appears.",
            delta="text appeared in the search",
        ),
        Stage(page=filled, action=press("Enter"), outcome="The results appear.", delta="results appeared"),
        Stage(
            page=_results(task, rng),
            action=done(f"used {task.noun}"),
            outcome="The search is done.",
            delta="answer given",
            url="/results",
        ),
    ]


def _enlarge(task: ShopTask, rng: Random) -> list[Stage]:
    listing, photo = _listing(task, rng), Layout(task.theme, PageName.PHOTO)
    middle = listing.element("photo")
    return [
        Stage(
            page=listing,
            action=Action(ActionType.DOUBLE_CLICK, {"x": middle.x, "y": middle.y}),
            outcome="The photo gets large.",
            delta="photo enlarged",
            url=f"/listing/{task.wanted + 1}",
        ),
        Stage(
            page=Page(theme=task.theme, name=PageName.PHOTO, lines=("full size",), elements=(photo.place("close"),)),
            action=done("enlarged"),
            outcome="The photo is enlarged.",
            delta="answer given",
            url="/photo",
        ),
    ]


_PATHS: dict[TaskKind, Callable[[ShopTask, Random], list[Stage]]] = {
    TaskKind.OPEN: _open,
    TaskKind.PRICE: _price,
    TaskKind.MESSAGE: _message,
    TaskKind.GALLERY: _gallery,
    TaskKind.SEARCH: _search,
    TaskKind.ENLARGE: _enlarge,
}
