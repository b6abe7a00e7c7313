"""The in-memory loader against plain indexing; iterables of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import END, Clock, Experience
from reinforge.core.ragged import Ragged
from reinforge.core.seeds import generator
from reinforge.data.augmentation.options import NoiseOptions, ShiftOptions
from reinforge.data.images import decode_all
from reinforge.errors import CheckpointError, ComponentError, DataError
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources import loader
from reinforge.sources.loader import IterableSource, LoaderSource, alike_order, balanced_order
from reinforge.sources.options import IterableOptions, LoaderOptions

CLOCK = Clock()
SIGNATURE = Signature(inputs={"x": Input(form="numbers", shape=(2,))}, outputs={"y": Output(form="number", size=1)})


def table(n: int) -> Batch:
    """Rows that bear their own number, in tensors and in ragged values."""
    number = torch.arange(n)
    ragged = Ragged.from_rows([torch.full((1 + i % 3,), i) for i in range(n)])
    return {
        "inputs": {"x": number[:, None].float().expand(-1, 2).clone(), "r": ragged},
        "targets": {"y": number},
        "valid": {},
    }


def seen(experience: Experience) -> list[int]:
    """The numbers of the rows of a batch, checked against all its leaves."""
    batch = cast(dict[str, Any], experience.batch)
    y: list[int] = batch["targets"]["y"].tolist()
    assert batch["inputs"]["x"][:, 1].tolist() == y
    assert [int(batch["inputs"]["r"].row(i)[0]) for i in range(len(y))] == y
    assert batch["inputs"]["r"].lengths.tolist() == [1 + i % 3 for i in y]
    assert experience.samples == len(y)
    assert batch["valid"] == {}
    return y


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 23), batch=st.integers(1, 25), shuffle=st.booleans(), drop_last=st.booleans(),
    chunk=st.sampled_from([1, 200, 1 << 20]), taken=st.integers(0, 30),
)  # fmt: skip
def test_order_epochs_and_resuming(n: int, batch: int, shuffle: bool, drop_last: bool, chunk: int, taken: int) -> None:
    options = LoaderOptions(shuffle=shuffle, drop_last=drop_last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "_CHUNK_BYTES", chunk)
        source = LoaderSource(options, table(n), batch=batch, seed=3)
        size = min(batch, n)
        steps = n // size if drop_last else -(-n // size)
        order: list[list[int]] = []
        for epoch in range(3):
            whole = torch.randperm(n, generator=generator(3, "order", epoch)).tolist() if shuffle else list(range(n))
            order += [whole[i * size : (i + 1) * size] for i in range(steps)]
        experiences = [source.next(CLOCK) for _ in range(3 * steps)]
        assert [seen(e) for e in experiences] == order
        assert [e.epochs for e in experiences][steps - 1 :: steps] == [1.0, 2.0, 3.0]
        assert sorted(cast(float, e.epochs) for e in experiences) == [e.epochs for e in experiences]

        stopped = LoaderSource(options, table(n), batch=batch, seed=3)
        taken = min(taken, 3 * steps - 1)
        for _ in range(taken):
            stopped.next(CLOCK)
        resumed = LoaderSource(options, table(n), batch=batch, seed=3)
        resumed.load_state_dict(stopped.state_dict())
        assert seen(resumed.next(CLOCK)) == order[taken]


def test_seeds_and_epochs_differ() -> None:
    orders = []
    for seed in (0, 1):
        source = LoaderSource(LoaderOptions(), table(50), batch=50, seed=seed)
        orders += [tuple(seen(source.next(CLOCK))) for _ in range(2)]
    assert len(set(orders)) == 4


def test_unshuffled_batches_are_views() -> None:
    data = table(10)
    batch = LoaderSource(LoaderOptions(shuffle=False), data, batch=4).next(CLOCK).batch
    assert cast(Any, batch)["targets"]["y"].data_ptr() == cast(Any, data)["targets"]["y"].data_ptr()


def test_other_data_cannot_be_resumed() -> None:
    state = LoaderSource(LoaderOptions(), table(10), batch=4).state_dict()
    with pytest.raises(CheckpointError, match="rows 10, this one 11"):
        LoaderSource(LoaderOptions(), table(11), batch=4).load_state_dict(state)
    with pytest.raises(CheckpointError, match="batch 4, this one 5"):
        LoaderSource(LoaderOptions(), table(10), batch=5).load_state_dict(state)


def test_no_rows_and_uneven_rows() -> None:
    with pytest.raises(DataError, match="no row"):
        LoaderSource(LoaderOptions(), {"targets": {"y": torch.empty(0)}}, batch=4)
    with pytest.raises(ValueError, match="different numbers of rows"):
        LoaderSource(LoaderOptions(), {"targets": {"y": torch.zeros(3), "z": torch.zeros(2)}}, batch=4)


def pairs(n: int = 3) -> list[tuple[Tensor, Tensor]]:
    return [(torch.full((2, 2), float(i)), torch.full((2,), float(i))) for i in range(n)]


def values(source: IterableSource, count: int) -> list[float]:
    found = []
    for _ in range(count):
        answer = source.next(CLOCK)
        if not isinstance(answer, Experience):
            break
        batch = cast(Any, answer.batch)
        assert answer.samples == 2
        assert torch.equal(batch["inputs"]["x"][:, 0], batch["targets"]["y"])
        found.append(float(batch["targets"]["y"][0]))
    return found


class Again:
    """Iterable again and again, of unknown length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(pairs())


def test_a_list_goes_epoch_after_epoch_and_resumes() -> None:
    source = IterableSource(IterableOptions(), pairs(), SIGNATURE)
    assert source.exact
    assert values(source, 4) == [0, 1, 2, 0]
    resumed = IterableSource(IterableOptions(), pairs(), SIGNATURE)
    resumed.load_state_dict(source.state_dict())
    assert values(resumed, 3) == values(source, 3) == [1, 2, 0]


@pytest.mark.parametrize("items", [pairs(), Again()])
def test_epochs_are_whole_at_the_end_of_a_pass(items: Any) -> None:
    source = IterableSource(IterableOptions(), items, SIGNATURE)
    epochs = [cast(Experience, source.next(CLOCK)).epochs for _ in range(6)]
    assert (epochs[2], epochs[5]) == (1.0, 2.0)
    assert all(cast(float, e) < 1 for e in epochs[:2])


def test_what_is_exact() -> None:
    assert not IterableSource(IterableOptions(), Again(), SIGNATURE).exact
    assert IterableSource(IterableOptions(repeatable=True), Again(), SIGNATURE).exact
    assert not IterableSource(IterableOptions(), iter(pairs()), SIGNATURE).exact
    assert not IterableSource(IterableOptions(repeatable=False), pairs(), SIGNATURE).exact


def test_an_iterator_ends_and_is_never_asked_ahead() -> None:
    asked = []

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for i, pair in enumerate(pairs()):
            asked.append(i)
            yield pair

    source = IterableSource(IterableOptions(), stream(), SIGNATURE)
    assert values(source, 1) == [0]
    assert asked == [0]
    assert values(source, 5) == [1, 2]
    assert source.next(CLOCK) is END
    assert source.next(CLOCK) is END


def test_a_data_loader_is_a_source() -> None:
    data = torch.utils.data.TensorDataset(torch.arange(6.0)[:, None].expand(-1, 2), torch.arange(6.0))
    source = IterableSource(IterableOptions(), torch.utils.data.DataLoader(data, batch_size=2), SIGNATURE)
    assert values(source, 4) == [0, 2, 4, 0]


def test_strange_iterables_are_refused() -> None:
    with pytest.raises(DataError, match="gave no batch"):
        IterableSource(IterableOptions(), [], SIGNATURE).next(CLOCK)
    with pytest.raises(DataError, match="not int"):
        IterableSource(IterableOptions(), [1], SIGNATURE).next(CLOCK)
    shrunk = IterableSource(IterableOptions(), pairs(1), SIGNATURE)
    shrunk.load_state_dict({"epoch": 0, "taken": 2})
    with pytest.raises(DataError, match="ended after at most 2"):
        shrunk.next(CLOCK)


def test_a_shuffling_data_loader_gives_every_rank_the_same_and_goes_on_the_same() -> None:
    """Ranks differ in torch's generator; each takes its part of a batch, which must be the same batch."""
    data = torch.utils.data.TensorDataset(torch.arange(12.0)[:, None], torch.zeros(12))

    def source(seed: int) -> IterableSource:
        torch.manual_seed(seed)
        loader = torch.utils.data.DataLoader(data, batch_size=3, shuffle=True)
        return IterableSource(IterableOptions(), loader, SIGNATURE, seed=5)

    def rows_of(one: IterableSource, count: int) -> list[list[float]]:
        taken = []
        for _ in range(count):
            torch.rand(3)
            experience = one.next(CLOCK)
            assert isinstance(experience, Experience)
            taken.append(batches.section(experience.batch, "inputs")["x"].flatten().tolist())
        return taken

    one, other = source(1), source(2)
    whole = rows_of(one, 8)
    assert rows_of(other, 6) == whole[:6]
    assert sorted(value for batch in whole[:4] for value in batch) == list(range(12))
    assert whole[:4] != whole[4:], "each epoch has an order of its own"
    resumed = source(3)
    resumed.load_state_dict(other.state_dict())
    assert rows_of(resumed, 2) == whole[6:]
    fresh = source(1)
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    fresh.next(CLOCK)
    assert torch.equal(torch.rand(2), expected), "training draws as if it had not been shuffled"


IMAGES = Signature(
    inputs={"image": Input(form="image", shape=(1, 4, 4))}, outputs={"y": Output(form="category", size=3)}
)


def images(n: int) -> Batch:
    """Images of one colour, which is their number; two of ten are of class 1, one is of class 2."""
    number = torch.arange(n, dtype=torch.uint8)
    classes = torch.tensor([0, 0, 1, 0, 0, 2, 0, 1, 0, 0]).repeat(-(-n // 10))[:n]
    return {"inputs": {"image": number[:, None, None, None].expand(-1, 1, 4, 4).clone()}, "targets": {"y": classes}}


def taken(source: LoaderSource, count: int) -> tuple[Tensor, Tensor]:
    """Images and classes of the next batches, end to end."""
    found = batches.concatenate([source.next(CLOCK).batch for _ in range(count)])
    return cast(Any, found)["inputs"]["image"], cast(Any, found)["targets"]["y"]


@settings(max_examples=60, deadline=None)
@given(classes=st.lists(st.integers(-1, 4), min_size=1, max_size=60), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_balanced_order(classes: list[int], seed: int, epoch: int) -> None:
    known = torch.tensor(classes)
    if max(classes) < 0:
        with pytest.raises(DataError, match="no row has a class"):
            balanced_order(known, seed, epoch)
        return
    rows, passes = balanced_order(known, seed, epoch)
    assert len(rows) == len(classes)
    drawn = known[rows]
    assert int(drawn.min()) >= 0
    counts = [int((drawn == label).sum()) for label in set(classes) - {-1}]
    assert max(counts) - min(counts) <= 1
    assert len(set(zip(rows.tolist(), passes.tolist()))) == len(rows)
    for label in set(classes) - {-1}:
        # Nobody comes a second time before everybody came.
        own = torch.bincount(rows[drawn == label], minlength=len(classes))[known == label]
        assert int(own.max()) - int(own.min()) <= 1
        assert int(passes[drawn == label].max()) == int(own.max()) - 1
    again = balanced_order(known, seed, epoch)
    assert torch.equal(rows, again[0])
    totals = torch.zeros(5)
    for each in range(5 * len(counts)):
        totals += torch.bincount(known[balanced_order(known, seed, each)[0]], minlength=5)
    present = totals[totals > 0]
    assert float(present.max() - present.min()) <= len(counts)


def test_balanced_epochs_resume() -> None:
    options = LoaderOptions(sample="balanced")
    source = LoaderSource(options, images(40), batch=7, signature=IMAGES)
    first, classes = taken(source, 6)
    assert sorted(torch.bincount(classes).tolist()) == [13, 13, 14]
    state = source.state_dict()
    ahead = taken(source, 9)
    assert not torch.equal(first, ahead[0][:40])
    resumed = LoaderSource(options, images(40), batch=7, signature=IMAGES)
    resumed.load_state_dict(state)
    for one, other in zip(ahead, taken(resumed, 9)):
        assert torch.equal(one, other)


def test_what_is_balanced() -> None:
    more = IMAGES.model_copy(update={"outputs": {"value": Output(form="number", size=1), **IMAGES.outputs}})
    options = LoaderOptions(sample="balanced", by="value")
    with pytest.raises(ComponentError, match="'value' is no category"):
        LoaderSource(options, images(10), batch=4, signature=more)
    with pytest.raises(ComponentError, match="no classes to balance"):
        LoaderSource(LoaderOptions(sample="balanced"), table(4), batch=4, signature=SIGNATURE)
    with pytest.raises(ValueError, match="needs shuffle"):
        LoaderOptions(sample="balanced", shuffle=False)
    with pytest.raises(ValueError, match="goes with"):
        LoaderOptions(by="y")
    data = {**images(10), "valid": {"y": torch.tensor([True] * 5 + [False] * 5)}}
    _, classes = taken(LoaderSource(LoaderOptions(sample="balanced"), data, batch=10, signature=more), 1)
    assert sorted(torch.bincount(classes).tolist()) == [5, 5]


@pytest.mark.parametrize("shuffle", [True, False])
def test_augmented_rows_do_not_depend_on_their_batch(shuffle: bool) -> None:
    options = LoaderOptions(augment=(NoiseOptions(), ShiftOptions(by=0.5)), shuffle=shuffle)
    data = images(30)
    wholes = [LoaderSource(options, data, batch=30, seed=1, signature=IMAGES) for _ in range(2)]
    expected = [taken(whole, 2)[0] for whole in wholes]
    assert torch.equal(*expected)
    small = LoaderSource(options, data, batch=7, seed=1, signature=IMAGES)
    assert torch.equal(taken(small, 10)[0], expected[0])
    plain = taken(LoaderSource(LoaderOptions(shuffle=shuffle), data, batch=30, seed=1), 2)[0]
    assert not torch.equal(plain, expected[0])
    assert not torch.equal(expected[0][:30].sort(0)[0], expected[0][30:].sort(0)[0])
    assert torch.equal(cast(Any, data)["inputs"]["image"], cast(Any, images(30))["inputs"]["image"])

    resumed = LoaderSource(options, data, batch=7, seed=1, signature=IMAGES)
    for _ in range(6):
        resumed.next(CLOCK)
    state = resumed.state_dict()
    rest = taken(resumed, 4)[0]
    again = LoaderSource(options, data, batch=7, seed=1, signature=IMAGES)
    again.load_state_dict(state)
    assert torch.equal(taken(again, 4)[0], rest)


def test_a_row_that_comes_again_in_an_epoch_is_changed_anew() -> None:
    options = LoaderOptions(augment=(NoiseOptions(),), sample="balanced")
    found, classes = taken(LoaderSource(options, images(10), batch=10, signature=IMAGES), 1)
    alone = found[classes == 2]
    assert 3 <= len(alone) == len({tuple(image.flatten().tolist()) for image in alone})


def test_augmentation_needs_to_know_what_it_finds() -> None:
    with pytest.raises(ComponentError, match="no input of the form 'image'"):
        LoaderSource(LoaderOptions(augment=(NoiseOptions(),)), images(10), batch=4)


def test_rows_of_a_mapped_file() -> None:
    """The same batches, and only the rows that are asked for are read."""
    data = images(30)
    array = cast(Any, data)["inputs"]["image"].numpy()
    mapped = decode_all([array[i, 0] for i in range(30)], (4, 4), 1, mapped_bytes=1)
    options = LoaderOptions(augment=(ShiftOptions(),))
    on_disk = LoaderSource(options, {**data, "inputs": {"image": mapped}}, batch=8, signature=IMAGES)
    in_memory = LoaderSource(options, data, batch=8, signature=IMAGES)
    assert torch.equal(taken(on_disk, 6)[0], taken(in_memory, 6)[0])


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), max_size=40), batch=st.integers(1, 7), group=st.integers(1, 5))
def test_alike_order(lengths: list[int], batch: int, group: int) -> None:
    """Against sorting by hand: each group's rows, cut into batches by length; a short batch at the end as it was."""
    known = torch.tensor(lengths, dtype=torch.int64)
    places = alike_order(known, batch, group, torch.Generator().manual_seed(0)).tolist()
    assert sorted(places) == list(range(len(lengths)))
    whole = len(lengths) // batch * batch
    assert places[whole:] == list(range(whole, len(lengths)))
    expected = []
    for start in range(0, whole, batch * group):
        rows = sorted(range(start, min(whole, start + batch * group)), key=lengths.__getitem__)
        expected += [rows[i : i + batch] for i in range(0, len(rows), batch)]
    found = [places[i : i + batch] for i in range(0, whole, batch)]
    assert sorted(found) == sorted(expected)


def test_alike_batches_resume_and_come_at_random() -> None:
    options = LoaderOptions(alike=4)
    source = LoaderSource(options, table(50), batch=3, seed=1)
    first = [seen(source.next(CLOCK)) for _ in range(17)]
    assert sorted(row for batch in first for row in batch) == list(range(50))
    widths = [len({1 + row % 3 for row in batch}) for batch in first[:16]]
    assert widths.count(1) >= 8
    state, rest = source.state_dict(), [seen(source.next(CLOCK)) for _ in range(20)]
    assert rest[:17] != first
    again = LoaderSource(options, table(50), batch=3, seed=1)
    again.load_state_dict(state)
    assert [seen(again.next(CLOCK)) for _ in range(20)] == rest


def test_what_is_alike() -> None:
    same = {"inputs": {"x": torch.zeros(4, 2)}, "targets": {}, "valid": {}}
    with pytest.raises(ComponentError, match="different lengths"):
        LoaderSource(LoaderOptions(alike=4), same, batch=2)
    with pytest.raises(ValueError, match="shuffle"):
        LoaderOptions(alike=4, shuffle=False)
