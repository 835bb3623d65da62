"""Rows with screenshots: image tokens, packed pictures, positions in time, height and width.

For base models of Qwen's vision-language families (Qwen2-VL, Qwen2.5-VL, Qwen3-VL). A picture is cut into patches; the
vision tower merges `merge²` of them into one token of the language model. In a packed row each document has positions
of its own, which the base model itself computes (M-RoPE: Wang et al., "Qwen2-VL: enhancing vision-language model's
perception of the world at any resolution", 2024, section 2.1): text counts up in all three dimensions, a picture's
tokens have its time, row and column. Pictures attend to themselves inside the tower, documents inside the language
model; a row holds documents with and without pictures. The tower is frozen, unless `targetModules` names its modules.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoImageProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from sluice_api.chat import IMAGE_PLACEHOLDER, to_messages
from sluice_api.contracts.dataset import PreferenceRow, SftRow, Turn
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.bases import read_config, readable
from sluice_trainer.screens import ScreenError, Screens
from sluice_trainer.tokenise import Document, Picture, document_of, message_segments, stop_tokens

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
"""Model types that are trained on pictures."""
_LINE = IMAGE_PLACEHOLDER + "\n"


@dataclass(frozen=True, kw_only=True)
class Eyes:
    """What turns screenshots into a base model's inputs."""

    screens: Screens
    """Where pictures come from."""
    processor: Any
    """The base model's image processor."""
    token: int
    """Token that stands for one merged patch."""
    mark: str
    """The same as text."""

    @classmethod
    def of(cls, folder: Path, uri: str, tokenizer: Any, screens: Screens) -> "Eyes | None":
        """Those of a base model, whose tokenizer is given; None where it reads text only.

        Raises:
            WorkerError: `UserError`, naming `uri`, for a base that nobody knows, or that sees in a way not known here.
        """
        config = read_config(folder, uri)
        if getattr(config, "vision_config", None) is None:
            return None
        if config.model_type not in FAMILIES:
            message = (
                f"{uri}: model type {config.model_type} is not trained on pictures here: use {', '.join(FAMILIES)}"
            )
            raise WorkerError(FailureClass.USER_ERROR, message)
        with readable(uri, "no image processor that transformers can load: add preprocessor_config.json"):
            processor = AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, backend="pil"
            )
        token = config.image_token_id
        return cls(screens=screens, processor=processor, token=token, mark=str(tokenizer.convert_ids_to_tokens(token)))

    def measure(self, name: str) -> Picture:
        """A screenshot with its patches, as the image processor will cut it.

        Raises:
            ScreenError: it cannot be used.
        """
        width, height = self.screens.size(name)
        patch, merge, size = self.processor.patch_size, self.processor.merge_size, self.processor.size
        try:
            tall, wide = smart_resize(
                height, width, factor=patch * merge, min_pixels=size.shortest_edge, max_pixels=size.longest_edge
            )
        except ValueError as error:
            raise ScreenError(f"screenshot {name} of {width}x{height} pixels: {error}") from error
        return Picture(name, (1, tall // patch, wide // patch))

    def tokens(self, picture: Picture) -> int:
        """Tokens of the language model that a picture takes."""
        return int(np.prod(picture.grid)) // int(self.processor.merge_size) ** 2

    def objection(self, row: SftRow | PreferenceRow) -> str:
        """What is wrong with a row's screenshot; empty where nothing is."""
        turns = row.conversations if isinstance(row, SftRow) else row.prompt
        said = [turn.value for turn in turns] + ([] if isinstance(row, SftRow) else [row.chosen, row.rejected])
        if any(self.mark in text for text in said):
            return f"a turn holds {self.mark}, which stands for a picture: take it out"
        places = sum(turn.role == "human" and turn.value.startswith(_LINE) for turn in turns)
        if row.image is None:
            return f"image: a turn asks for one (`{IMAGE_PLACEHOLDER}`) and the row names none" if places else ""
        if places != 1:
            return f"image: {places} human turns begin with a line `{IMAGE_PLACEHOLDER}`, it must be one"
        try:
            self.measure(row.image)
        except ScreenError as error:
            return f"image: {error}"
        return ""

    def pixels(self, pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches of pictures one after the other, `[patches, values]`, and their grids, int64 `[pictures, 3]`.

        Raises:
            WorkerError: `Data` when a screenshot can no longer be read, or is cut otherwise than it was measured.
        """
        try:
            images = [self.screens.picture(picture.name) for picture in pictures]
        except ScreenError as error:
            raise WorkerError(FailureClass.DATA, str(error)) from error
        found = self.processor(images=images, return_tensors="pt")
        grids = torch.tensor([picture.grid for picture in pictures])
        if not torch.equal(found["image_grid_thw"], grids):
            names = ", ".join(picture.name for picture in pictures)
            message = f"{names}: the image processor cuts {found['image_grid_thw'].tolist()}, not {grids.tolist()}"
            raise WorkerError(FailureClass.DATA, message)
        return found["pixel_values"], grids


def with_parts(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Chat messages in which a human turn's first line `<image>` is a part of its own, as servers take pictures."""
    messages: list[dict[str, Any]] = list(to_messages(turns))
    for message in messages:
        text = message["content"]
        if message["role"] == "user" and text.startswith(_LINE):
            message["content"] = [{"type": "image"}, {"type": "text", "text": text.removeprefix(_LINE)}]
    return messages


class SeeingTokeniser:
    """Turns conversations with screenshots into documents."""

    def __init__(self, tokenizer: Any, eyes: Eyes) -> None:
        """Use a base model's tokenizer and eyes."""
        self._tokenizer = tokenizer
        self._eyes = eyes
        self._stops = stop_tokens(tokenizer)

    def document(self, turns: Sequence[Turn], image: str | None) -> Document:
        """The document of one conversation that `Eyes.objection` has nothing against; raises what `segments` does."""
        segments, pictures = self.segments(turns, image)
        pieces = [(self._tokenizer(text, add_special_tokens=False)["input_ids"], scored) for text, scored in segments]
        document = document_of(pieces, self._stops)
        return Document(ids=document.ids, scored=document.scored, pictures=pictures)

    def segments(self, turns: Sequence[Turn], image: str | None) -> tuple[list[tuple[str, bool]], tuple[Picture, ...]]:
        """A conversation as pieces of text, as `render_segments` gives them, with every image token; its pictures.

        Raises:
            WorkerError: `UserError` where the chat template does not place the picture.
        """
        mark = self._eyes.mark
        pictures = (self._eyes.measure(image),) if image is not None else ()
        segments = message_segments(with_parts(turns) if pictures else to_messages(turns), self._tokenizer)
        if sum(text.count(mark) for text, _ in segments) != len(pictures):
            message = (
                f"the base model's chat template does not write {mark} once for a picture: use the template of a "
                "vision-language model, the one that serving uses"
            )
            raise WorkerError(FailureClass.USER_ERROR, message)
        marks = mark * self._eyes.tokens(pictures[0]) if pictures else ""
        return [(text.replace(mark, marks), scored) for text, scored in segments], pictures


class Sight:
    """A base model with its eyes: what rows with pictures are packed by.

    Where the order of the rows is known, the next row's pictures are decoded beside the present row's passes.
    """

    def __init__(self, *, causal: Any, eyes: Eyes) -> None:
        """Use a base model of one of the `FAMILIES` with its eyes."""
        self.causal = causal
        self.eyes = eyes
        self._order: list[tuple[Picture, ...]] = []
        self._at = 0
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: tuple[tuple[Picture, ...], Future[tuple[torch.Tensor, torch.Tensor]]] | None = None

    def follow(self, order: Iterable[Sequence[Picture]]) -> None:
        """Expect rows with these pictures, one row after the other; rows without pictures may be among them."""
        self._order = [tuple(pictures) for pictures in order if pictures]
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="pictures")

    def pixels(self, pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
        """`Eyes.pixels`, from what was decoded ahead where these were expected; raises what that raises."""
        wanted, ahead = tuple(pictures), self._ahead
        found = ahead[1].result() if ahead is not None and ahead[0] == wanted else self.eyes.pixels(wanted)
        self._look_ahead(wanted)
        return found

    def _look_ahead(self, present: tuple[Picture, ...]) -> None:
        if self._pool is None:
            return
        places = chain(range(self._at, len(self._order)), range(self._at))
        place = next((each for each in places if self._order[each] == present), None)
        if place is None:
            return
        self._at = place + 1
        if self._at < len(self._order):
            coming = self._order[self._at]
            self._ahead = coming, self._pool.submit(self.eyes.pixels, coming)

    def positions(self, ids: NDArray[np.int64], pictures: Sequence[Picture]) -> torch.Tensor:
        """Positions of one document in time, height and width, as the base model counts them.

        Args:
            ids: the document's tokens.
            pictures: what its image tokens stand for.

        Returns:
            int64, shape `[3, tokens]`, on the CPU.
        """
        if not pictures:
            return torch.arange(ids.size).expand(3, -1)
        tokens = torch.from_numpy(ids)[None]
        grids = torch.tensor([picture.grid for picture in pictures])
        types = (tokens == self.eyes.token).int()
        found, _ = self.causal.base_model.get_rope_index(tokens, types, image_grid_thw=grids)
        result: torch.Tensor = found[:, 0]
        return result

    def added(
        self,
        inputs: dict[str, Any],
        positions: Iterable[torch.Tensor],
        pictures: Sequence[Picture],
        device: torch.device,
    ) -> dict[str, Any]:
        """A row's inputs with its documents' positions in three dimensions, and its pictures."""
        if not pictures:
            return inputs
        pixels, grids = self.pixels(pictures)
        return {
            **inputs,
            "position_ids": torch.cat(list(positions), dim=1).unsqueeze(1).to(device),
            "pixel_values": pixels.to(device),
            "image_grid_thw": grids.to(device),
        }


def see(causal: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs in which pixels are replaced by what the vision tower makes of them.

    Done outside of the language model's `forward`, so that the tower never hears of the row's documents; without a
    gradient where nothing of the tower is trained.
    """
    pixels, grids = inputs.pop("pixel_values"), inputs.pop("image_grid_thw")
    trained = any(parameter.requires_grad for parameter in causal.base_model.visual.parameters())
    with nullcontext() if trained else torch.no_grad():
        features = causal.get_image_features(pixels, grids, return_dict=True)
    return {**inputs, "mm_encoder_outputs": {"image": features}}


def language_targets(base: Any, targets: str | Sequence[str], everything: str) -> list[str]:
    """Full names of the linear layers that get an adapter: those of the language model, unless a name says `visual`.

    Args:
        base: a base model of one of the `FAMILIES`.
        targets: names, or parts of names from the end, as peft takes them; or `everything`.
        everything: word for every linear layer of the language model but its head.
    """
    head = base.get_output_embeddings()
    linear = [
        name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    ]
    wanted = [targets] if isinstance(targets, str) else list(targets)

    def is_wanted(name: str) -> bool:
        inside = ".visual." in f".{name}."
        named = [each for each in wanted if name == each or name.endswith("." + each)]
        if inside:
            return any("visual" in each.split(".") for each in named)
        return bool(named) or everything in wanted

    return [name for name in linear if is_wanted(name)]
