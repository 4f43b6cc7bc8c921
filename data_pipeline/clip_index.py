"""Prepared clips by number: any one is read from its shard without those before it."""

import os
from pathlib import Path

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.manifest import Row, read_rows
from data_pipeline.shards import decode_pcm, record_offsets, shard_files


class ClipIndex:
    """The clips of a split, in the shards' order. Holds no audio; may be used from several threads.

    Raises:
        UserError: nothing prepared, no such clips, or a damaged shard.
    """

    def __init__(self, shards: Path, split: str):
        if not (shards / "manifest.csv").is_file():
            raise UserError(f"{shards} holds no prepared clips (no manifest.csv); run `speech-gru prepare` first")
        self.rows: list[Row] = []
        """What the manifest says of each."""
        self._places: list[tuple[str, int, int]] = []
        for shard in shard_files(shards, split):
            rows = [row for row in read_rows(Path(shard).with_suffix(".csv")) if not row.reason]
            places = record_offsets(shard)
            if len(rows) != len(places):
                raise UserError(f"{shard} doesn't fit the table beside it; run `speech-gru prepare` again")
            self.rows += rows
            self._places += [(shard, start, length) for start, length in places]
        if not self.rows:
            raise UserError(
                f"{shards} holds no {split} clips; `speech-gru prepare` says which splits there are, and why"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, number: int) -> np.ndarray:
        """A clip's audio, (samples,) int16. Raises UserError if the shard has been changed since."""
        path, start, length = self._places[number]
        try:
            with open(path, "rb") as file:
                return decode_pcm(os.pread(file.fileno(), length, start))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} can't be read any more: {error}; run `speech-gru prepare` again") from error
