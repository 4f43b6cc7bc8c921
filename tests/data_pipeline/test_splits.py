"""Google's rule, clip for clip, and splits by speaker."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from data_pipeline.splits import SPLITS, read_split_list, speaker_of, split_speakers, which_split

# Of the published testing_list.txt, validation_list.txt, and of files in neither, of Speech Commands v0.02.
PUBLISHED = {
    "test": """
        right/bb05582b_nohash_3 right/97f4c236_nohash_2 right/f2e59fea_nohash_3 right/fdb5155e_nohash_2
        right/dc75148d_nohash_0 right/3f170018_nohash_0 right/18f8afd5_nohash_3 right/e1469561_nohash_1
        right/5c8af87a_nohash_0 right/aa48c94a_nohash_0 right/837a0f64_nohash_1 right/c7124b73_nohash_0
        right/7257420c_nohash_0 right/f428ca69_nohash_0 right/62ff07ef_nohash_0 right/8fe52b97_nohash_1
        right/881583a6_nohash_0 right/1f653d27_nohash_0 right/0bac8a71_nohash_0 right/893705bb_nohash_8
        right/d5b963aa_nohash_2 right/8769c34c_nohash_3 right/1acc97de_nohash_1 right/0d53e045_nohash_0
        eight/24ad3ebe_nohash_0 eight/9ba34294_nohash_0 eight/27e6f0f0_nohash_0 eight/893705bb_nohash_12
    """,
    "validation": """
        right/a69b9b3e_nohash_0 right/439c84f4_nohash_1 right/409c962a_nohash_1 right/dbaf8fc6_nohash_2
        right/591d32f3_nohash_0 right/52bfbce8_nohash_0 right/56eb74ae_nohash_0 right/44c201dd_nohash_0
        right/a6d586b7_nohash_1 right/0e17f595_nohash_1 right/ff2b842e_nohash_3 right/7fd25f7c_nohash_2
        right/3cc595de_nohash_4 right/060cd039_nohash_0 right/099d52ad_nohash_0 right/10f2bb12_nohash_0
        right/d3831f6a_nohash_1 right/c6389ab0_nohash_0 right/171edea9_nohash_2 right/1aed7c6d_nohash_2
        eight/5b32733e_nohash_0 eight/b0f24c9b_nohash_0 eight/3ca784ec_nohash_0 eight/826268f8_nohash_0
    """,
    "train": """
        right/00b01445_nohash_0 right/01bb6a2a_nohash_3 right/05b2db80_nohash_0 right/0819edb0_nohash_0
        right/0d2bcf9d_nohash_2 right/10ace7eb_nohash_4 right/12c206ea_nohash_0 right/179a61b7_nohash_2
        right/1aeef15e_nohash_0 right/1ecfb537_nohash_0 right/21832144_nohash_4 right/24694eb6_nohash_1
        right/26e9ae6b_nohash_0 right/2903efb3_nohash_0 right/2bfe70ef_nohash_0 right/2f813234_nohash_1
        right/33246bc2_nohash_0 right/34263ab3_nohash_0 right/36050ef3_nohash_3 right/38d78313_nohash_3
    """,
}
PUBLISHED_CLIPS = [(f"{stem}.wav", split) for split, stems in PUBLISHED.items() for stem in stems.split()]
shares = st.floats(0, 0.49)
speakers = st.sets(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5), max_size=30)


@pytest.mark.parametrize(("name", "split"), PUBLISHED_CLIPS)
def test_googles_rule_gives_the_published_splits(name, split):
    assert which_split(name, 0.1, 0.1) == split


def test_only_the_speaker_counts():
    # From the docstring of Google's `which_set`: takes of a speaker are always in the same set.
    assert which_split("/some/folder/bobby_nohash_0.wav", 0.1, 0.1) == which_split("bobby_nohash_1.flac", 0.1, 0.1)
    assert speaker_of("right/bb05582b_nohash_3.wav") == speaker_of("eight/bb05582b_nohash_0.opus") == "bb05582b"
    assert speaker_of("right/recording 1.wav") == "recording 1.wav"


def test_shares():
    splits = [which_split(f"speaker{number}_nohash_0.wav", 0.2, 0.3) for number in range(5000)]
    assert splits.count("validation") / 5000 == pytest.approx(0.2, abs=0.03)
    assert splits.count("test") / 5000 == pytest.approx(0.3, abs=0.03)
    assert {which_split(f"{number}", 0, 0) for number in range(100)} == {"train"}


@given(speakers, shares, shares)
@settings(max_examples=100)
def test_every_speaker_gets_a_split_and_none_is_empty(names, validation_share, test_share):
    splits = split_speakers(names, validation_share, test_share)
    assert splits.keys() == names
    wanted = {"train"} | ({"validation"} if validation_share else set()) | ({"test"} if test_share else set())
    assert set(splits.values()) == (wanted if len(names) >= 3 else {"train"} if names else set())


def test_speakers_keep_their_split_when_others_come():
    few, many = (split_speakers([f"speaker {number}" for number in range(count)], 0.2, 0.2) for count in (100, 300))
    assert set(few.values()) == set(SPLITS)
    assert all(many[speaker] == split for speaker, split in few.items())


def test_split_lists(tmp_path):
    path = tmp_path / "testing_list.txt"
    path.write_bytes("\ufeffyes/a_nohash_0.wav\r\n\r\nno\\b_nohash_1.wav\r\nsi\u0301/ä.wav".encode())
    assert read_split_list(path) == {"yes/a_nohash_0.wav", "no/b_nohash_1.wav", "sí/ä.wav"}
    assert read_split_list(tmp_path / "validation_list.txt") == set()


def test_a_split_list_in_utf_16(tmp_path):
    (tmp_path / "testing_list.txt").write_text("yes/ä.wav", encoding="utf-16")
    with pytest.raises(UserError, match=r"testing_list.txt: expected a list of clips in UTF-8"):
        read_split_list(tmp_path / "testing_list.txt")
