"""Draws on disk: a Zarr folder that grows while the chains run, and from which a killed run goes on.

    run.zarr/zarr.json                          the groups of ArviZ, as any reader of Zarr 3 finds them
    run.zarr/posterior/output/zarr.json         (chain, draw, sample), cut along draws into blocks of one chain
    run.zarr/posterior/output/c.3.7.0           block 7 of chain 3, followed by its CRC-32C
    run.zarr/checkpoint/run.json                settings of the run
    run.zarr/checkpoint/chain-3                 the state of chain 3 after some number of draws

Every file is written beside its name and moved onto it. A chain writes a block when it is full, and from
time to time what there is of the last block and then its state: the state never promises a draw that is not
there. Draws beyond it are made again, and are the same. HDF5 (NetCDF) keeps its own index in the file and can
lose all of it when its writer is killed; here nothing written before is touched again but the last block.

The description is written by Zarr's own library and the blocks by this module, in the plainest encoding that
Zarr has (little-endian bytes and a checksum): it is quick, atomic, and needs no memory beyond one block.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldtheory.errors import BadInput, CannotWrite, CorruptFile
from fieldtheory.files import replacing, write_atomically
from fieldtheory.sampling import checkpoint
from fieldtheory.sampling.diagnostics import STATISTIC_TYPES, from_groups

Array = NDArray[Any]

# A block should be about this large: large enough that writing it costs little, small beside memory.
_BLOCK_BYTES = 4 << 20
# A short run that is extended later should not consist of tiny blocks.
_LEAST_BLOCK = 1000
_RUN, _CHAIN, _LOCK = "checkpoint/run.json", "checkpoint/chain-{}", "checkpoint/lock"


@dataclass(frozen=True)
class Layout:
    """What a row of draws means, and what goes with it.

    columns: name of an observable -> (its dimensions after chain and draw, where it stands in a row).
    observed: name -> (dimensions, values). attributes: of the posterior. identity: what determines the target
    density, as a flat mapping to text and numbers; a run is resumed only with the same.
    """

    columns: Mapping[str, tuple[tuple[str, ...], int | slice]]
    observed: Mapping[str, tuple[tuple[str, ...], ArrayLike]] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Variable:
    """One array on disk: its folder, dimensions, shape of one draw, type, and column(s) of a row."""

    folder: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    fill: Any
    statistic: bool
    where: int | slice

    def chunk(self, chain: int, block: int) -> str:
        return f"{self.folder}/c." + ".".join(map(str, (chain, block, *(0 for _ in self.shape))))


class Store:
    """A run on disk. `Store(...)` looks and refuses; `begin` makes or continues the folder.

    Errors: BadInput for a path that does not end in .zarr, that exists when it is neither to be resumed nor
        overwritten, or that would overwrite something other than a run; CannotWrite for whatever the
        operating system refuses.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        layout: Layout,
        *,
        resume: bool = False,
        overwrite: bool = False,
        every: float = 30.0,
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise BadInput("out", repr(path), "a path that ends in .zarr")
        self.path, self.layout, self.every = Path(os.path.abspath(path)), layout, every
        if isinstance(every, bool) or not isinstance(every, int | float) or not 0 <= every < math.inf:
            raise BadInput("checkpoint_every", repr(every), "a number of seconds >= 0")
        if self.path.suffix != ".zarr":
            raise BadInput("out", repr(str(path)), "a path that ends in .zarr")
        if not self.path.parent.is_dir():
            raise BadInput("out", repr(str(path)), "a folder that exists, and in it a name ending in .zarr")
        if resume and overwrite:
            raise BadInput("resume", "True with overwrite", "one of them")
        exists = os.path.lexists(self.path)
        ours = (self.path / _RUN).is_file()
        if exists and not ours:
            raise BadInput("out", repr(str(path)), "a name that is free: there is something that is not a run")
        if exists and not (resume or overwrite):
            raise BadInput(
                "out", f"{str(path)!r}, which exists", "resume=True to go on with it, overwrite=True, or another name"
            )
        self.resuming = exists and resume
        self.recorded: dict[str, Any] = {}
        if self.resuming:
            self.recorded = checkpoint.read_settings(self.path / _RUN, "start the run anew with overwrite=True")

    def warmup(self, default: int) -> int:
        """The warm-up of a run whose caller names none: what it was when it began."""
        return self.recorded["settings"].get("warmup", default) if self.resuming else default

    # ------------------------------------------------------------------------------------------------ the folder

    @contextlib.contextmanager
    def running(
        self, settings: Mapping[str, Any], row_size: int, dtype: np.dtype, statistics: tuple[str, ...]
    ) -> Iterator[None]:
        """Make the folder, or check that the one there is of a run with these settings and extend it; and hold it.

        `settings` are those of the sampler, "chains" and "draws" among them.
        """
        self.settings = checkpoint.plain({**settings, **self.layout.identity})
        self.chains, self.draws = int(settings["chains"]), int(settings["draws"])
        self.row_size, self.dtype, self.statistics = row_size, dtype, statistics
        self.key = checkpoint.key_of(self.settings)
        self.variables = self._describe()
        with contextlib.ExitStack() as held:
            if os.path.lexists(self.path):
                held.enter_context(self._lock())
            if self.resuming:
                recorded = self.recorded["settings"]
                checkpoint.check_same(self.settings, recorded, self.path)
                if self.draws < recorded["draws"]:
                    raise BadInput(
                        "draws", self.draws, f"at least the {recorded['draws']} that {self.path} was started with"
                    )
                checkpoint.warn_of_changes(self.recorded["environment"], self.path)
                self.block = int(self.recorded["block"])
                with self.refusals():
                    self._repair()
            else:
                draw_bytes = sum(v.dtype.itemsize * int(np.prod(v.shape)) for v in self.variables)
                self.block = max(1, min(_BLOCK_BYTES // draw_bytes, max(self.draws, _LEAST_BLOCK)))
                with self.refusals():
                    self._create()
                held.enter_context(self._lock())
            yield

    def _describe(self) -> list[_Variable]:
        index = np.arange(self.row_size)
        found = []
        for name, (dims, where) in self.layout.columns.items():
            shape = index[where].shape
            home, axes = f"posterior/{name}", ("chain", "draw", *dims)
            found.append(_Variable(home, axes, shape, self.dtype, np.nan, False, where))
        for k, name in enumerate(self.statistics):
            dtype = np.dtype(STATISTIC_TYPES.get(name, float))
            fill = np.nan if dtype.kind == "f" else dtype.type(0)
            found.append(_Variable(f"sample_stats/{name}", ("chain", "draw"), (), dtype, fill, True, k))
        return found

    def _repair(self) -> None:
        """What a killed process left behind; and the arrays' new length, if there are more draws to be."""
        if self.draws != self.recorded["settings"]["draws"]:
            self._write_settings(self.path)  # before the arrays: if this is cut short the next resumption ends it
        for stale in self.path.rglob(".*"):  # what was being written
            if stale.is_file():
                stale.unlink()
        self._write_description(self.path)

    def _create(self) -> None:
        # In a folder of another name, moved into place when it is whole.
        temporary = self.path.with_name(f".{self.path.stem[:80]}.{secrets.token_hex(6)}.zarr")
        try:
            temporary.mkdir()
            (temporary / "checkpoint").mkdir()
            self._write_description(temporary)
            self._write_settings(temporary)
            old = self.path.with_name(f".{self.path.stem[:80]}.overwritten.zarr")
            if (old / _RUN).is_file():  # killed while it was removed
                shutil.rmtree(old)
            if self.path.exists():  # Store() made sure that it is a run, to be overwritten
                self.path.rename(old)
            temporary.rename(self.path)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _write_settings(self, root: Path) -> None:
        checkpoint.write_settings(root / _RUN, self.settings, {"block": self.block})

    def _write_description(self, root: Path) -> None:
        """The metadata of Zarr, arrays that do not grow, and folders for those that do."""
        import zarr
        from zarr.codecs import BytesCodec, Crc32cCodec

        files: dict[str, Any] = {}
        top = zarr.create_group(zarr.storage.MemoryStore(files), zarr_format=3)

        def array(folder: str, shape: Any, chunks: Any, dtype: Any, fill: Any, dims: Any) -> Any:
            return top.create_array(
                folder,
                shape=shape,
                chunks=chunks,
                dtype=dtype,
                fill_value=fill,
                dimension_names=dims,
                serializer=BytesCodec(endian="little"),
                compressors=[Crc32cCodec()],
                filters=None,
                chunk_key_encoding={"name": "default", "separator": "."},
            )

        sizes: dict[str, dict[str, int]] = {"posterior": {}, "sample_stats": {}, "observed_data": {}}
        for group in sizes:
            attributes = checkpoint.plain(self.layout.attributes) if group == "posterior" else {}
            top.create_group(group, attributes=attributes)
        for v in self.variables:
            shape = (self.chains, self.draws, *v.shape)
            array(v.folder, shape, (1, self.block, *v.shape), v.dtype, v.fill, v.dims)
            sizes[v.folder.partition("/")[0]] |= dict(zip(v.dims, shape))
        for name, (dims, values) in self.layout.observed.items():
            constant = np.asarray(values)
            array(f"observed_data/{name}", constant.shape, constant.shape, constant.dtype, 0, dims)[...] = constant
            sizes["observed_data"] |= dict(zip(dims, constant.shape))
        for group, lengths in sizes.items():
            for dim, length in lengths.items():
                if dim != "draw":  # numbered by position: a coordinate would be read into memory whole
                    array(f"{group}/{dim}", (length,), (length,), np.int64, 0, (dim,))[:] = np.arange(length)
        with warnings.catch_warnings():
            # That Zarr's specification does not know it yet; xarray and Zarr write and read it all the same.
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(top.store)
        for name in sorted(files, key=lambda name: (name == "zarr.json", name)):  # the root last: it says what there is
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(root / name, files[name].to_bytes())

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Refuse a second process; the lock dies with its process, however that dies."""
        try:
            import fcntl
        except ImportError:  # pragma: no cover  (Windows has no such locks)
            yield
            return
        with self.refusals():
            handle = open(self.path / _LOCK, "a")  # noqa: SIM115  (closed below)
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BadInput("out", f"{self.path}, which another process is writing", "another name") from None
            yield

    @contextlib.contextmanager
    def refusals(self) -> Iterator[None]:
        """Whatever the operating system refuses, under our own name and with what to do."""
        try:
            yield
        except CannotWrite:
            raise
        except OSError as error:
            what = f"out: cannot write {self.path} ({error.strerror or error})"
            if (self.path / _RUN).is_file():
                what += "; nothing that was saved is lost: make room there, and go on with resume=True"
            else:
                what += "; nothing was begun: give a folder that can be written to"
            raise CannotWrite(what) from error

    def open(self) -> Any:
        """The samples, as ArviZ has them, read from the folder when they are asked for."""
        return open_samples(self.path)

    # ------------------------------------------------------------------------------------------------- one chain

    def kept(self, chain: int) -> Stored:
        """What keeps the draws of one chain: as far as they are on disk, if the run is resumed."""
        return Stored(self, chain)

    def read_block(self, variable: _Variable, chain: int, block: int) -> Array:
        """One block from the disk. CorruptFile if it is not there, not whole, or not what was written."""
        import google_crc32c

        path = self.path / variable.chunk(chain, block)
        shape = (self.block, *variable.shape)
        remedy = f"delete {self.path / _CHAIN.format(chain)} and resume: the draws of chain {chain} are made again"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise CorruptFile(f"{path} is missing; {remedy}") from None
        size = variable.dtype.itemsize * int(np.prod(shape))
        if len(content) != size + 4 or google_crc32c.value(content[:-4]).to_bytes(4, "little") != content[-4:]:
            raise CorruptFile(f"{path} is not what was written: its checksum does not hold; {remedy}")
        return np.frombuffer(content[:-4], variable.dtype.newbyteorder("<")).reshape(shape)

    def write_block(self, variable: _Variable, chain: int, block: int, values: Array) -> Path:
        """Write the first draws of a block, or all of them."""
        import google_crc32c

        padded = values
        if len(values) < self.block:
            padded = np.full((self.block, *variable.shape), variable.fill, variable.dtype.newbyteorder("<"))
            padded[: len(values)] = values
        content = np.ascontiguousarray(padded, variable.dtype.newbyteorder("<")).tobytes()
        path = self.path / variable.chunk(chain, block)
        with replacing(path) as temporary, open(temporary, "xb") as stream:
            stream.write(content)
            stream.write(google_crc32c.value(content).to_bytes(4, "little"))
        return path


class Kept:
    """The draws of one chain, in memory: the `room` for the next ones, and a tally of those that are made."""

    snapshot: Mapping[str, Array] | None = None  # of the chain, where it is to go on

    def __init__(self, rows: Array, stats: Array, names: tuple[str, ...]) -> None:
        self.rows, self.stats = rows, stats
        self._names = names
        self.drawn, self.accepted, self.divergences = 0, 0.0, 0
        self.lowest, self.highest = math.inf, -math.inf  # ln density of the draws

    @property
    def acceptance(self) -> float:
        """The mean acceptance of the draws so far."""
        return self.accepted / max(self.drawn, 1)

    def room(self) -> tuple[Array, Array]:
        """Rows and statistics for the next draws."""
        return self.rows[self.drawn :], self.stats[self.drawn :]

    def filled(self, stats: Array) -> None:
        """These statistics, and the rows beside them, are those of the next draws."""
        self.drawn += len(stats)
        self.accepted += float(stats[:, self._names.index("acceptance_rate")].sum())
        self.divergences += int(stats[:, self._names.index("diverging")].sum())
        densities = stats[:, self._names.index("lp")]
        self.lowest = float(densities.min(initial=self.lowest))
        self.highest = float(densities.max(initial=self.highest))

    def due(self) -> bool:
        """Whether it is time to save."""
        return False

    def save(self, snapshot: Mapping[str, Array]) -> None:
        """Save the draws so far and the state of the chain."""


class Stored(Kept):
    """The draws of one chain, in a store: one block in memory, the others on disk."""

    def __init__(self, store: Store, chain: int) -> None:
        super().__init__(np.empty((0, 0)), np.empty((0, 0)), store.statistics)
        self._store, self._chain = store, chain
        self._path = store.path / _CHAIN.format(chain)
        self._unsynced: list[Path] = []
        self._saved_at = time.monotonic()
        if store.resuming and self._path.exists():
            self._load()

    def _load(self) -> None:
        """Go on where the checkpoint says, after a look at every draw that it promises."""
        store = self._store
        remedy = f"delete it and resume: the draws of chain {self._chain} are made again"
        arrays = checkpoint.load_arrays(self._path, remedy)
        if bytes(arrays.pop("run", np.empty(0, np.uint8))) != store.key:
            raise CorruptFile(f"{self._path} is of another run; {remedy}")
        self.drawn, self.divergences = (int(n) for n in arrays.pop("tally"))
        self.accepted, self.lowest, self.highest = (float(x) for x in arrays.pop("measured"))
        self.snapshot = {name.removeprefix("chain."): array for name, array in arrays.items()}
        last, part = divmod(self.drawn, store.block)
        if part:
            self._allocate()
        for v in store.variables:
            for block in range(last):
                store.read_block(v, self._chain, block)
            if part:
                target = self.stats if v.statistic else self.rows
                target[:part, v.where] = store.read_block(v, self._chain, last)[:part]

    def _allocate(self) -> None:
        if not len(self.rows):
            self.rows = np.empty((self._store.block, self._store.row_size), self._store.dtype)
            self.stats = np.empty((self._store.block, len(self._store.statistics)))

    def room(self) -> tuple[Array, Array]:
        self._allocate()
        begin = self.drawn % self._store.block
        end = min(self._store.block, begin + self._store.draws - self.drawn)
        return self.rows[begin:end], self.stats[begin:end]

    def filled(self, stats: Array) -> None:
        super().filled(stats)
        if len(stats) and self.drawn % self._store.block == 0:
            self._write(self.drawn // self._store.block - 1, self._store.block)

    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self._store.every

    def save(self, snapshot: Mapping[str, Array]) -> None:
        """Write the last block as far as it goes, and then the state of the chain."""
        last, part = divmod(self.drawn, self._store.block)
        if part:
            self._write(last, part)
        arrays = {f"chain.{name}": array for name, array in snapshot.items()}
        arrays["run"] = np.frombuffer(self._store.key, np.uint8)
        arrays["tally"] = np.array([self.drawn, self.divergences])
        arrays["measured"] = np.array([self.accepted, self.lowest, self.highest])
        with self._store.refusals():
            checkpoint.sync(self._unsynced)
            self._unsynced.clear()
            checkpoint.save_arrays(self._path, arrays)
        self._saved_at = time.monotonic()

    def _write(self, block: int, length: int) -> None:
        with self._store.refusals():
            for v in self._store.variables:
                values = (self.stats if v.statistic else self.rows)[:length, v.where]
                self._unsynced.append(self._store.write_block(v, self._chain, block, values))


def open_samples(path: str | os.PathLike[str]) -> Any:
    """The samples in a folder that `sample(..., out=path)` wrote, read from it when they are asked for.

    Returns an ArviZ InferenceData, from ArviZ 1 on an xarray DataTree. Draws that are not made yet are NaN.
    Errors: BadInput for a path without samples.
    """
    import xarray as xr

    root = Path(path)
    if not (root / "zarr.json").is_file():
        raise BadInput("path", repr(str(path)), "a folder that a sampling run wrote, such as run.zarr")
    groups = ("posterior", "sample_stats", "observed_data")
    # Without a cache: what was computed from it is kept, not the draws.
    opened = {name: xr.open_dataset(root, group=name, engine="zarr", chunks=None, cache=False) for name in groups}
    return from_groups(opened)
