"""Batches from data in memory, in an order that is a function of (seed, epoch, index); and from any iterable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import cast

import torch
from torch import Tensor

from reinforge.core import batch as batches
from reinforge.core.batch import Batch, Leaf
from reinforge.core.contracts import END, Clock, Experience, Signal, State
from reinforge.core.ragged import Ragged
from reinforge.core.seeds import generator, seed_everything, undisturbed
from reinforge.data.augmentation.augment import Augment
from reinforge.errors import ComponentError, DataError
from reinforge.schema.signature import Signature
from reinforge.sources.options import IterableOptions, LoaderOptions
from reinforge.sources.ordered import Ordered, check_same

# Gathered at once: enough to make the gather's fixed cost small, and little enough to stay in a processor's cache.
_CHUNK_BYTES = 1 << 20


class LoaderSource(Ordered):
    """Batches of `batch` rows from `data` (all rows as one batch: in memory, mapped from a file, or on a device).

    Without end. Each epoch is a permutation drawn from (seed, epoch) alone, or a balanced draw (`balanced_order`). Rows
    are gathered for many batches at once and handed out as views, which costs far less than a gather per batch; nothing
    may write into them. `signature` says what augmentations find, and which targets are classes.
    """

    sharded = False
    exact = True

    def __init__(
        self, options: LoaderOptions, data: Batch, *, batch: int, seed: int = 0, signature: Signature | None = None
    ) -> None:
        batches.check(data)
        self.options, self.data, self.seed = options, data, seed
        self.rows = batches.rows(data)
        if self.rows == 0:
            raise DataError("there is no row to learn from")
        self.batch = min(batch, self.rows)
        # Without its last short batch, an epoch is only as long as the whole batches in it.
        self.length = self.rows - self.rows % self.batch if options.drop_last else self.rows
        self.epoch = 0
        self.cursor = 0
        row_bytes = sum(_bytes(leaf) for leaf in batches.leaves(data)) / self.rows
        self._chunk = max(1, min(256, int(_CHUNK_BYTES / max(row_bytes * self.batch, 1))))
        signature = signature or Signature(inputs={}, outputs={})
        self._augment = Augment(options.augment, signature) if options.augment else None
        self._classes = classes_of(data, signature, options.by) if options.sample == "balanced" else None
        self._lengths = lengths_of(data) if options.alike is not None else None
        # Which rows, and (where rows come more than once) what names each draw, for augmentation.
        self._order: Tensor | None = None
        self._names: Tensor | None = None
        self._ready: Iterator[Batch] = iter(())

    def next(self, clock: Clock) -> Experience:
        """The next batch; `epochs` is the position after it, whole at an epoch's end."""
        batch = next(self._ready, None)
        if batch is None:
            self._ready = iter(self._gather())
            batch = next(self._ready)
        taken = min(self.batch, self.length - self.cursor)
        if self._augment is not None:
            assert self._names is not None
            names = self._names[self.cursor : self.cursor + taken]
            batch = self._augment.apply(batch, names, self.seed, self.epoch)
        self.cursor += taken
        epochs = self.epoch + self.cursor / self.length
        if self.cursor == self.length:
            self.epoch, self.cursor, self._order = self.epoch + 1, 0, None
        return Experience(batch, samples=taken, epochs=epochs)

    def _gather(self) -> list[Batch]:
        """The next batches from the cursor on: as many as are gathered at once."""
        start, stop = self.cursor, min(self.length, self.cursor + self.batch * self._chunk)
        if self._order is None:
            self._order, self._names = self._drawn()
        if not self.options.shuffle:
            return _cut(batches.part(self.data, start, stop), self.batch)
        return _cut(batches.select(self.data, self._order[start:stop]), self.batch)

    def _drawn(self) -> tuple[Tensor, Tensor]:
        """The epoch's rows, and what names each draw."""
        order, names = self._shuffled()
        if self._lengths is None or self.options.alike is None:
            return order, names
        draw = generator(self.seed, "alike", self.epoch)
        places = alike_order(self._lengths[order], self.batch, self.options.alike, draw)
        return order[places], names[places]

    def _shuffled(self) -> tuple[Tensor, Tensor]:
        if not self.options.shuffle:
            order = torch.arange(self.rows)
        elif self._classes is None:
            order = torch.randperm(self.rows, generator=generator(self.seed, "order", self.epoch))
        else:
            order, passes = balanced_order(self._classes, self.seed, self.epoch)
            return order, order + self.rows * passes
        return order, order

    def state_dict(self) -> State:
        """Epoch and row, and how many rows there are."""
        return {"epoch": self.epoch, "cursor": self.cursor, "rows": self.rows, "batch": self.batch}

    def load_state_dict(self, state: State) -> None:
        """Go on there. Raises CheckpointError where the data or the batch have another size."""
        check_same(state, rows=self.rows, batch=self.batch)
        self.epoch, self.cursor = state["epoch"], state["cursor"]
        self._order, self._ready = None, iter(())


def lengths_of(data: Batch) -> Tensor:
    """(n,) int64, the length of each row's longest input. Raises ComponentError where all rows are of one length."""
    found = [leaf.lengths for leaf in batches.leaves(batches.section(data, "inputs")) if isinstance(leaf, Ragged)]
    if not found:
        raise ComponentError(
            "no input has rows of different lengths", where="source.alike", remedy="Leave it out: it is for texts."
        )
    return torch.stack(found).amax(0)


def alike_order(lengths: Tensor, batch: int, group: int, draw: torch.Generator) -> Tensor:
    """(n,) places: of each `group` batches in a row, rows by their length; then the whole batches in a random order.

    A short batch at the end keeps its rows and its place. `lengths`: (n,), as the rows come now.
    """
    whole = len(lengths) - len(lengths) % batch
    places = torch.arange(len(lengths))
    for start in range(0, whole, batch * group):
        part = slice(start, min(whole, start + batch * group))
        places[part] = start + lengths[part].argsort(stable=True)
    order = torch.randperm(whole // batch, generator=draw)
    return torch.cat([places[:whole].view(-1, batch)[order].flatten(), places[whole:]])


def classes_of(data: Batch, signature: Signature, name: str | None) -> Tensor:
    """(n,) int64, the class of each row; -1 where it is missing. Raises ComponentError where there are no classes."""
    known = [each for each, output in signature.outputs.items() if output.form in ("category", "ordinal")]
    chosen = name or next(iter(known), None)
    if chosen not in known:
        raise ComponentError(
            "there are no classes to balance" if chosen is None else f"target {chosen!r} is no category of the data",
            where="source.sample",
            remedy=f"Targets with classes: {', '.join(known) or 'none'}.",
        )
    classes, valid = batches.section(data, "targets")[chosen].cpu(), batches.section(data, "valid").get(chosen)
    return classes if valid is None else classes.masked_fill(~valid.cpu(), -1)


def balanced_order(classes: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """An epoch of n rows in which the classes that there are come equally often, to within one row: a function of
    (seed, epoch). Rows whose class is missing (-1) are left out.

    Each class goes through its rows in an order of its own, which is new in each pass; which classes have one row more
    goes round with the epoch. Returns the rows, and in which pass of its class each came: (n,) int64 both.
    """
    present = torch.unique(classes[classes >= 0]).tolist()
    if not present:
        raise DataError("no row has a class to balance")
    share, more = divmod(len(classes), len(present))
    rows, passes = [], []
    for place, label in enumerate(present):
        wanted = share + ((place + epoch * more) % len(present) < more)
        members = (classes == label).nonzero().flatten()
        draw = generator(seed, "balance", epoch, label)
        count = -(-wanted // len(members))
        rows.append(torch.cat([members[torch.randperm(len(members), generator=draw)] for _ in range(count)])[:wanted])
        passes.append((torch.arange(count).repeat_interleave(len(members)))[:wanted])
    mixed = torch.randperm(len(classes), generator=generator(seed, "order", epoch))
    return torch.cat(rows)[mixed], torch.cat(passes)[mixed]


def _cut(chunk: Batch, size: int) -> list[Batch]:
    """Consecutive views of `size` rows, the last maybe shorter; one pass per leaf, since `split` is one call."""
    columns = {
        key: _cut(value, size) if isinstance(value, Mapping) else _split(value, size) for key, value in chunk.items()
    }
    if not columns:
        return []
    # An empty dictionary (no "valid") has no rows to cut, and stays as it is.
    count = max(len(parts) for parts in columns.values())
    filled: dict[str, Sequence[Leaf | Batch]] = {key: parts or [{}] * count for key, parts in columns.items()}
    return [dict(zip(filled, parts)) for parts in zip(*filled.values())]


def _bytes(leaf: Leaf) -> int:
    return leaf.values.nbytes if isinstance(leaf, Ragged) else leaf.nbytes


def _split(leaf: Leaf, size: int) -> Sequence[Leaf]:
    if isinstance(leaf, Ragged):
        return [leaf.slice(start, min(start + size, len(leaf))) for start in range(0, len(leaf), size)]
    parts: tuple[Tensor, ...] = torch.split(leaf, size)
    return parts


class IterableSource(Ordered):
    """Batches from any iterable: mappings with "inputs" and "targets", or pairs (input, target) of tensors.

    What can be iterated again (a list, a DataLoader) gives epoch after epoch, and resuming skips what was taken; this
    is exact for a sequence, or where `repeatable` says that each pass gives the same batches. What a pass draws as it
    begins (a DataLoader's order) follows from (seed, epoch), so all ranks see the same. An iterator is a live stream:
    it ends when it is used up, and resuming goes on with whatever it gives next.
    """

    sharded = False

    def __init__(
        self, options: IterableOptions, items: Iterable[object], signature: Signature, *, seed: int = 0
    ) -> None:
        self.items, self.signature, self.seed = items, signature, seed
        self.again = not isinstance(items, Iterator)
        repeatable = isinstance(items, Sequence) if options.repeatable is None else options.repeatable
        self.exact = self.again and repeatable
        self.length = len(items) if isinstance(items, Sized) else None
        self.epoch = 0
        self.taken = 0
        self._stream: Iterator[object] | None = None
        self._upcoming: object = None

    def next(self, clock: Clock) -> Experience | Signal:
        """The next batch; END once an iterator is used up. Raises DataError for an empty pass or a strange batch."""
        if not self.again:
            item = next(cast("Iterator[object]", self.items), END)
            return END if item is END else self._experience(item, None)
        if self._stream is None:
            self._open()
        assert self._stream is not None
        # One batch ahead, to know which is an epoch's last.
        item, self._upcoming = self._upcoming, next(self._stream, END)
        self.taken += 1
        epochs = self.epoch + (min(self.taken / self.length, 1.0) if self.length else 0.0)
        if self._upcoming is END:
            self.epoch, self.taken, self._stream = self.epoch + 1, 0, None
            epochs = float(self.epoch)
        return self._experience(item, epochs)

    def _open(self) -> None:
        """A new pass, less what was taken from it before."""
        with undisturbed():
            seed_everything(self.seed, "iterable", self.epoch)
            self._stream = iter(self.items)
            self._upcoming = next(islice(self._stream, self.taken, None), END)
        if self._upcoming is END:
            raise DataError(
                f"the iterable ended after at most {self.taken} batches"
                if self.taken
                else "the iterable gave no batch",
                where="source",
            )

    def _experience(self, item: object, epochs: float | None) -> Experience:
        batch = self._batch(item)
        return Experience(batch, samples=batches.rows(batch), epochs=epochs)

    def _batch(self, item: object) -> Batch:
        if isinstance(item, Mapping) and isinstance(item.get("inputs"), Mapping):
            return item
        blocks, outputs = list(self.signature.inputs), list(self.signature.outputs)
        if isinstance(item, tuple | list) and len(item) == 2 and len(blocks) == len(outputs) == 1:
            return {"inputs": {blocks[0]: item[0]}, "targets": {outputs[0]: item[1]}}
        raise DataError(
            f"a batch must be a mapping with 'inputs' and 'targets', not {type(item).__name__}",
            where="source",
            remedy="A pair (input, target) does where there is one input block and one output.",
        )

    def state_dict(self) -> State:
        """Epoch, and batches taken from it."""
        return {"epoch": self.epoch, "taken": self.taken}

    def load_state_dict(self, state: State) -> None:
        """Go on there: what was taken from the epoch is skipped at the next `next`."""
        self.epoch, self.taken, self._stream = state["epoch"], state["taken"], None
