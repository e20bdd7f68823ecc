"""Models of texts: a bag of words, or a recurrent network over them.

Dimensions: B batch, T words of the longest text of a batch, E numbers of a word, H hidden units, O outputs.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from objectives.config import TrainingConfig
from objectives.errors import ConfigError, DataError
from objectives.imports import locate

KINDS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
NAMES = ("bag", *KINDS)


class TextModel(nn.Module):
    """Words [B, T] (whole numbers, 0 behind the end) -> [B, O].

    bag: the mean of the words, a hidden layer. rnn, lstm, gru: `depth` layers; the state after the last word
    counts, so that what fills up a batch changes nothing.
    """

    def __init__(self, config: TrainingConfig, words: tuple[str, ...], outputs: int) -> None:
        super().__init__()
        vectors = known_vectors(config, words)
        width = config.embedding if vectors is None else vectors.shape[1]
        self.embedding = nn.Embedding(len(words), width, padding_idx=0)
        if vectors is not None:
            told = ~vectors.isnan().any(1)
            with torch.no_grad():
                self.embedding.weight[told] = vectors[told]
            self.embedding.weight.requires_grad_(not config.freeze_embedding)
        drop = nn.Dropout(config.dropout)
        self.recurrent: nn.Module | None = None
        if config.model == "bag":
            self.head = nn.Sequential(
                drop, nn.Linear(width, config.hidden), nn.ReLU(), drop, nn.Linear(config.hidden, outputs)
            )
        else:
            between = config.dropout if config.depth > 1 else 0.0
            self.recurrent = KINDS[config.model](
                width, config.hidden, config.depth, batch_first=True, dropout=between
            )
            self.head = nn.Sequential(drop, nn.Linear(config.hidden, outputs))

    def forward(self, tokens: Tensor) -> Tensor:
        there = tokens != 0
        lengths = there.sum(1, keepdim=True).clamp_min(1)  # [B, 1]
        words = self.embedding(tokens)  # [B, T, E]
        if self.recurrent is None:
            text = (words * there[:, :, None]).sum(1) / lengths
        else:
            states, _ = self.recurrent(words)  # [B, T, H]
            last = (lengths - 1)[:, :, None].expand(-1, 1, states.shape[2])
            text = states.gather(1, last)[:, 0]
        result: Tensor = self.head(text)
        return result


def known_vectors(config: TrainingConfig, words: tuple[str, ...]) -> Tensor | None:
    """The vectors [V, E] of `words` in the file `word_vectors`, NaN where it has none; None without a file.

    Raises:
        DataError: the file is missing, is no text of words and numbers, or knows none of the words.
    """
    if config.word_vectors is None:
        if config.freeze_embedding:
            raise ConfigError("freeze_embedding: random vectors would stay so; name word_vectors, a file")
        return None
    return _read_vectors(locate(config.word_vectors), words)


@functools.lru_cache(maxsize=2)
def _read_vectors(path: Path, words: tuple[str, ...]) -> Tensor:
    places = {word: i for i, word in enumerate(words)}
    found: dict[int, list[float]] = {}
    width = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                word, *values = line.rstrip().split(" ")
                if number == 1 and len(values) == 1:
                    continue  # word2vec's first line: how many words, how many numbers
                width = width or len(values)
                if len(values) != width:
                    raise DataError(
                        f"word_vectors: {path}, line {number}: {len(values)} numbers, not {width}"
                    )
                if word in places:
                    found[places[word]] = [float(value) for value in values]
    except FileNotFoundError:
        raise DataError(f"word_vectors: there is no file {str(path)!r}") from None
    except (ValueError, OSError) as error:
        raise DataError(
            f"word_vectors: {str(path)!r} is no text file of GloVe's or word2vec's form (a word and its "
            f"numbers on each line): {error}"
        ) from error
    if not found:
        raise DataError(f"word_vectors: {str(path)!r} knows none of the {len(words) - 2} words of the data")
    result = torch.full((len(words), width), float("nan"))
    for place, vector in found.items():
        result[place] = torch.tensor(vector)
    return result


def nearest(
    vectors: Tensor, words: tuple[str, ...], asked: tuple[str, ...], count: int = 5
) -> list[dict[str, Any]]:
    """The words whose vectors have the largest cosine with each one asked for.

    `asked` are words or sums of words: "king - man + woman". Without any, the ten most frequent of four or
    more letters (`words` come in the order of their frequency).
    """
    place = {word: i for i, word in enumerate(words)}
    unit = nn.functional.normalize(vectors.detach().cpu().float(), dim=1)
    result: list[dict[str, Any]] = []
    for question in asked or [word for word in words[2:] if len(word) > 3 and word.isalpha()][:10]:
        parts = question.replace("+", " + ").replace("-", " - ").split()
        signed = [
            (part, -1.0 if i and parts[i - 1] == "-" else 1.0)
            for i, part in enumerate(parts)
            if part not in "+-"
        ]
        unknown = [part for part, _ in signed if part not in place]
        if unknown:
            result.append({"of": question, "unknown": unknown})
            continue
        wanted = sum((sign * unit[place[part]] for part, sign in signed), torch.zeros(unit.shape[1]))
        likeness = unit @ nn.functional.normalize(wanted, dim=0)
        likeness[[0, 1, *(place[part] for part, _ in signed)]] = -2.0
        values, places = likeness.topk(min(count, max(len(words) - 2 - len(signed), 0)))
        close = [
            [words[i], round(value, 4)] for i, value in zip(places.tolist(), values.tolist(), strict=True)
        ]
        result.append({"of": question, "nearest": close})
    return result
