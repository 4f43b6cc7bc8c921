"""Which clips train, validate and test: by lists, or by speaker, so that no voice is in two splits."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.settings import normalize_text

SPLITS = ("train", "validation", "test")


def which_split(name: str, validation_share: float, test_share: float) -> str:
    """Google's rule for Speech Commands (`which_set`; Warden 2018, arXiv:1804.03209, section 5): by the speaker's hash.

    Args:
        name: a file's name, with or without folders; what follows `_nohash_` doesn't count.
        validation_share, test_share: of the speakers, 0 to 1.
    """
    largest = 2**27 - 1
    digest = int(hashlib.sha1(speaker_of(name).encode()).hexdigest(), 16)
    percentage = (digest % (largest + 1)) * (100.0 / largest)
    if percentage < validation_share * 100:
        return "validation"
    return "test" if percentage < (validation_share + test_share) * 100 else "train"


def speaker_of(name: str) -> str:
    """The speaker in a Speech Commands file name: what stands before `_nohash_`, else the whole name."""
    return re.sub(r"_nohash_.*$", "", name.rsplit("/", 1)[-1])


def read_split_list(path: Path) -> set[str]:
    """The `word/file` names of a validation_list.txt or testing_list.txt; empty if there is no such file.

    Raises:
        UserError: it isn't UTF-8.
    """
    if not path.is_file():
        return set()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected a list of clips in UTF-8: {error}") from error
    return {name for line in lines if (name := normalize_text(line).replace("\\", "/"))}


def split_speakers(speakers: Iterable[str], validation_share: float, test_share: float) -> dict[str, str]:
    """A split for each speaker: by hash, so that a speaker keeps it when others come.

    From three speakers on no split is empty; one or two all train: nothing can be measured on them honestly.
    """
    ordered = sorted(set(speakers))
    if len(ordered) < 3:
        return dict.fromkeys(ordered, "train")
    splits = {speaker: which_split(speaker, validation_share, test_share) for speaker in ordered}
    wanted = {"train": 1.0, "validation": validation_share, "test": test_share}
    for split in (split for split in SPLITS if wanted[split] > 0 and split not in splits.values()):
        counts = Counter(splits.values())
        splits[next(speaker for speaker in ordered if counts[splits[speaker]] > 1)] = split
    return splits
