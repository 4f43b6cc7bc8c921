"""A folder of words or a CSV -> clips: nothing is lost, nobody leaks from one split into another, nothing escapes."""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.corpus import SILENCE, UNKNOWN, Corpus, read_corpus
from data_pipeline.errors import UserError
from data_pipeline.labels import PHRASE
from data_pipeline.settings import CorpusSettings
from data_pipeline.splits import SPLITS, which_split

in_one_folder = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def read(path: Path, *, for_test: bool = False, **values) -> Corpus:
    return read_corpus(CorpusSettings(path=path, shards="shards", **values), for_test=for_test)


def by_path(corpus: Corpus, what: str) -> dict[str, str]:
    return {clip.path: getattr(clip, what) for clip in corpus.clips}


def touch(root: Path, *names: str) -> Path:
    """Empty files: no audio is read here."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def label_counts(corpus: Corpus) -> dict[str, Counter]:
    counts = defaultdict(Counter)
    for clip in corpus.clips:
        counts[clip.split][clip.label] += 1
    return counts


class TestFolder:
    def test_a_clip(self, tmp_path):
        corpus = read(touch(tmp_path, "yes/anna_nohash_0.wav"))
        [clip] = corpus.clips
        assert (clip.path, clip.word, clip.speaker) == ("yes/anna_nohash_0.wav", "yes", "anna")
        assert (clip.text, clip.label, clip.start, clip.gain) == ("yes", "yes", 0, 1)
        assert (corpus.labels, corpus.rejected) == (("yes",), [])

    @pytest.mark.parametrize("suffix", ["wav", "WAV", "wave", "flac", "ogg", "oga", "opus", "mp3"])
    def test_suffixes(self, tmp_path, suffix):
        assert len(read(touch(tmp_path, f"yes/a.{suffix}")).clips) == 1

    def test_folders_in_words_folders(self, tmp_path):
        assert by_path(read(touch(tmp_path, "yes/anna/take 1/0.wav")), "word") == {"yes/anna/take 1/0.wav": "yes"}

    def test_googles_rule_without_lists(self, tmp_path):
        # Of the published lists of Speech Commands v0.02; the last two are in neither.
        published = {
            "right/bb05582b_nohash_3.wav": "test",
            "eight/893705bb_nohash_12.wav": "test",
            "right/a69b9b3e_nohash_0.wav": "validation",
            "eight/5b32733e_nohash_0.wav": "validation",
            "right/00b01445_nohash_0.wav": "train",
            "right/0d2bcf9d_nohash_2.wav": "train",
        }
        assert by_path(read(touch(tmp_path, *published)), "split") == published

    def test_lists_go_before_the_rule(self, tmp_path):
        touch(tmp_path, "yes/a_nohash_0.flac", "yes/a_nohash_1.flac", "yes/b_nohash_0.flac", "yes/c_nohash_0.flac")
        (tmp_path / "validation_list.txt").write_text("yes/a_nohash_0.wav\nyes/a_nohash_1.wav\n")
        (tmp_path / "testing_list.txt").write_text("yes\\b_nohash_0.flac\r\n")
        corpus = read(tmp_path)
        assert [clip.split for clip in corpus.clips] == ["validation", "validation", "test", "train"]
        assert corpus.notes == [note for note in corpus.notes if SILENCE in note]

    def test_lists_that_name_what_is_not_there(self, tmp_path):
        touch(tmp_path, "yes/a_nohash_0.wav")
        (tmp_path / "validation_list.txt").write_text("yes/a_nohash_0.wav\nyes/gone_nohash_0.wav\n")
        (tmp_path / "testing_list.txt").write_text("yes/a_nohash_0.wav\n")
        corpus = read(tmp_path)
        assert corpus.clips[0].split == "test"
        assert any(note.startswith("1 names of") for note in corpus.notes)
        assert any(note.startswith("1 clips are in both split lists") for note in corpus.notes)

    def test_clips_without_a_speaker_get_a_note(self, tmp_path):
        note = "2 clips name no speaker"
        touch(tmp_path, "yes/1.wav", "yes/2.wav", "yes/anna_nohash_0.wav")
        assert any(note in line for line in read(tmp_path).notes)
        assert not any(note in line for line in read(tmp_path, for_test=True).notes)
        (tmp_path / "testing_list.txt").write_text("yes/1.wav\n")
        assert not any(note in line for line in read(tmp_path).notes)

    def test_non_ascii_words(self, tmp_path):
        # macOS writes folders decomposed; two spellings of a word are one word, and files keep their names.
        composed, decomposed = "sí/ä_nohash_0.wav", unicodedata.normalize("NFD", "sí/ö_nohash_0.wav")
        corpus = read(touch(tmp_path, composed, decomposed, "да/я.wav"), words=["si\u0301", "да"])
        assert by_path(corpus, "label") == {composed: "sí", decomposed: "sí", "да/я.wav": "да"}
        assert corpus.labels == ("sí", "да")
        assert all((tmp_path / clip.path).is_file() for clip in corpus.clips)

    def test_names_that_are_not_utf_8(self, tmp_path):
        name = os.fsdecode(b"yes/caf\xe9.wav")
        corpus = read(touch(tmp_path, name, "yes/a.wav", "yes/new\nline.wav"))
        assert [clip.path for clip in corpus.clips] == ["yes/a.wav"]
        assert [path for path, _ in corpus.rejected] == [r"yes/caf\udce9.wav", r"yes/new\nline.wav"]

    def test_links(self, tmp_path):
        touch(tmp_path, "outside/secret.wav", "corpus/yes/a.wav", "outside/words/b.wav")
        root = tmp_path / "corpus"
        (root / "yes" / "inside.wav").symlink_to(root / "yes" / "a.wav")
        (root / "yes" / "outside.wav").symlink_to(tmp_path / "outside" / "secret.wav")
        (root / "no").symlink_to(tmp_path / "outside" / "words")
        corpus = read(root)
        assert [clip.path for clip in corpus.clips] == ["yes/a.wav", "yes/inside.wav"]
        assert [path for path, _ in corpus.rejected] == ["no", "yes/outside.wav"]

    def test_what_is_no_clip(self, tmp_path):
        touch(
            tmp_path,
            "yes/a.wav",
            "loose.wav",
            "README.md",
            "yes/notes.txt",
            "yes/.DS_Store",
            ".git/x.wav",
            "_old/b.wav",
        )
        corpus = read(tmp_path)
        assert [clip.path for clip in corpus.clips] == ["yes/a.wav"]
        assert [path for path, _ in corpus.rejected] == ["loose.wav", "yes/notes.txt"]
        assert "4 files are no clips of a word: README.md, .git/x.wav, _old/b.wav, ..." in corpus.notes

    @in_one_folder
    @given(
        st.sets(
            st.tuples(
                st.sampled_from(["", "yes/", "no/inner/", "_old/", ".git/", "_background_noise_/", "_unknown_/"]),
                st.sampled_from(["a", "b_nohash_1", ".hidden", "ä", "line\nbreak"]),
                st.sampled_from([".wav", ".FLAC", ".txt", ""]),
            )
        )
    )
    def test_every_file_is_accounted_for(self, tmp_path_factory, parts):
        root = touch(tmp_path_factory.mktemp("corpus"), "yes/first.wav", *map("".join, parts))
        files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        corpus = read(root)
        others = sum(int(note.split()[0]) for note in corpus.notes if "are no clips of a word" in note)
        clips = [clip.path for clip in corpus.clips]
        noise = [note for note in corpus.notes if re.match("noise: .* left out", note)]  # it is empty
        assert len(clips) + len(corpus.rejected) + others + len(noise) == len(files)
        assert len(set(clips)) == len(clips)
        assert set(clips) <= files

    def test_nothing_there(self, tmp_path):
        with pytest.raises(UserError, match=r"nowhere is neither a folder of words nor a CSV"):
            read(tmp_path / "nowhere")
        with pytest.raises(UserError, match=r"no clip found in .*; expected a folder a word"):
            read(tmp_path)
        (tmp_path / "yes").mkdir()
        with pytest.raises(UserError, match="no clip found"):
            read(tmp_path)
        with pytest.raises(UserError, match=r"first of 1 files set aside: yes.txt.wav: lies beside"):
            read(touch(tmp_path, "yes.txt.wav"))


class TestSpeakersOfASplit:
    NAMES = tuple(f"ja/{speaker}_nohash_{take}.wav" for speaker in ("anna", "bert", "cle\u0301o") for take in (0, 1))

    def test_all_their_clips_whatever_the_lists_say(self, tmp_path):
        touch(tmp_path, *self.NAMES)
        (tmp_path / "testing_list.txt").write_text("ja/anna_nohash_0.wav\nja/bert_nohash_1.wav")
        corpus = read(tmp_path, validation_speakers=["anna"], test_speakers=["cl\u00e9o"])
        assert by_path(corpus, "split") == {
            **{name: "validation" for name in self.NAMES if "anna" in name},
            "ja/bert_nohash_0.wav": "train",
            "ja/bert_nohash_1.wav": "test",
            **{name: "test" for name in self.NAMES if "cle" in name},
        }

    def test_those_without_a_clip(self, tmp_path):
        touch(tmp_path, *self.NAMES)
        speakers = {"validation_speakers": ["zoe", "anna"], "test_speakers": ["yve"]}
        with pytest.raises(UserError, match=r"validation_speakers, test_speakers: .* no clip of yve, zoe$"):
            read(tmp_path, **speakers)
        assert {clip.split for clip in read(tmp_path, for_test=True, **speakers).clips} == {"test"}


class TestPhrases:
    def test_texts(self, manifest):
        corpus = read(manifest("path,label,text,speaker\na.wav,an,licht  an,x\nb.wav,aus,,x\n"), tokens="words")
        assert by_path(corpus, "text") == {"a.wav": "licht an", "b.wav": "aus"}
        assert (corpus.labels, set(by_path(corpus, "label").values())) == ((PHRASE,), {PHRASE})

    def test_silence_has_no_text_and_other_speech_is_left_out(self, manifest):
        rows = (
            "a.wav,_silence_,,x",
            "b.wav,,_silence_,x",
            "c.wav,_unknown_,,x",
            "d.wav,_unknown_,doch,x",
            "e.wav,an,,x",
        )
        corpus = read(manifest("\n".join(("path,label,text,speaker", *rows))), tokens="words")
        assert by_path(corpus, "label") == {"a.wav": SILENCE, "b.wav": SILENCE, "d.wav": PHRASE, "e.wav": PHRASE}
        assert by_path(corpus, "text") == {"a.wav": "", "b.wav": "", "d.wav": "doch", "e.wav": "an"}
        assert "1 clips of _unknown_ left out: nothing says what is spoken there" in corpus.notes


class TestLabels:
    def test_words_in_the_order_of_the_settings(self, tmp_path):
        touch(tmp_path, "no/a.wav", "yes/a.wav", "maybe/a.wav")
        corpus = read(tmp_path, words=["yes", "no"])
        assert corpus.labels == ("yes", "no", UNKNOWN)
        assert by_path(corpus, "label") == {"yes/a.wav": "yes", "no/a.wav": "no", "maybe/a.wav": UNKNOWN}
        assert read(tmp_path).labels == ("maybe", "no", "yes")

    def test_a_word_that_is_not_there(self, tmp_path):
        touch(tmp_path, "yes/a.wav", "Stop/a.wav")
        with pytest.raises(UserError, match="no clip of 'stop'; the nearest is 'Stop'"):
            read(tmp_path, words=["yes", "stop"])
        with pytest.raises(UserError, match="no clip of 'xxxx'; it has: Stop, yes"):
            read(tmp_path, words=["xxxx"])
        assert read(tmp_path, words=["yes", "xxxx"], for_test=True).labels == ("yes", "xxxx", UNKNOWN)

    def test_words_that_differ_only_in_case(self, tmp_path):
        touch(tmp_path, "yes/a.wav", "Yes/a.wav", "Yes/b.wav", "no/a.wav")
        with pytest.raises(UserError, match=r"differ only in case.*'Yes' \(2 clips\), 'yes' \(1 clips\); rename them"):
            read(tmp_path)
        with pytest.raises(UserError, match="differ only in case"):
            read(tmp_path, words=["yes", "no"])
        assert read(tmp_path, words=["no"]).labels == ("no", UNKNOWN)  # all of them are unknown words

    def test_a_test_corpus_that_spells_a_word_differently(self, tmp_path):
        with pytest.raises(UserError, match=r"'Yes' \(1 clips\), 'yes' \(0 clips\)"):
            read(touch(tmp_path, "Yes/a.wav"), words=["yes"], for_test=True)

    def test_words_that_differ_in_more_than_case(self, tmp_path):
        assert read(touch(tmp_path, "Masse/a.wav", "Maße/a.wav")).labels == ("Masse", "Maße")

    @pytest.mark.parametrize("share", [0, 0.1, 0.25, 0.5, 0.9])
    def test_share_of_unknown_words(self, tmp_path, share):
        touch(tmp_path, *(f"{word}/s{n}_nohash_0.wav" for word in ("yes", "a", "b", "c") for n in range(60)))
        corpus = read(tmp_path, words=["yes"], unknown_share=share, validation_share=0.2, test_share=0.2)
        everything = label_counts(read(tmp_path, words=["yes"], validation_share=0.2, test_share=0.2))
        for split, counts in label_counts(corpus).items():
            assert counts["yes"] == everything[split]["yes"]
            wanted = round(counts["yes"] * share / (1 - share))
            assert counts[UNKNOWN] == min(wanted, everything[split][UNKNOWN])
            left_out = everything[split][UNKNOWN] - counts[UNKNOWN]
            assert left_out == 0 or any(note.startswith(f"{split}: {left_out} of") for note in corpus.notes)
        assert corpus.labels == (("yes", UNKNOWN) if share else ("yes",))

    def test_which_unknown_clips_stay_does_not_hang_on_the_others(self, tmp_path):
        def unknown() -> list[str]:
            corpus = read(tmp_path, words=["yes"], unknown_share=0.2, validation_share=0, test_share=0)
            return sorted(clip.path for clip in corpus.clips if clip.label == UNKNOWN)

        touch(tmp_path, *(f"{word}/s{n:02}_nohash_0.wav" for word in ("yes", "a") for n in range(40)))
        before = unknown()
        touch(tmp_path, *(f"b/s{n:02}_nohash_0.wav" for n in range(5)))
        assert len(before) == len(unknown()) == 10
        assert len(set(before) - set(unknown())) <= 5
        assert before != [f"a/s{n:02}_nohash_0.wav" for n in range(10)]  # nor are they the first

    def test_unknown_and_silence_of_the_corpus_itself(self, tmp_path):
        # As in Google's speech_commands_test_set_v0.02.tar.gz.
        touch(tmp_path, "yes/a.wav", "_unknown_/a.wav", "_silence_/a.wav")
        corpus = read(tmp_path, for_test=True)
        assert by_path(corpus, "label") == {"yes/a.wav": "yes", "_unknown_/a.wav": UNKNOWN, "_silence_/a.wav": SILENCE}
        assert corpus.labels == ("yes", UNKNOWN, SILENCE)


class TestSilence:
    @pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
    def test_share(self, tmp_path, write_clips, share):
        root = write_clips("_background_noise_/a.wav", "_background_noise_/b.wav", seconds=12)
        touch(root, *(f"{word}/s{n}_nohash_0.wav" for word in ("yes", "no", "other") for n in range(200)))
        corpus = read(root, words=["yes", "no"], silence_share=share)
        for counts in label_counts(corpus).values():
            speech = counts.total() - counts[SILENCE]
            assert counts[SILENCE] == round(speech * share / (1 - share))
        assert corpus.labels == ("yes", "no", UNKNOWN, SILENCE)
        assert len({(clip.path, clip.start, clip.gain) for clip in corpus.clips}) == len(corpus.clips)

    def test_clips_of_the_corpus_count(self, write_clips):
        root = write_clips("_background_noise_/a.wav", seconds=12)
        touch(root, *(f"yes/{n}.wav" for n in range(90)), *(f"_silence_/{n}.wav" for n in range(4)))
        corpus = read(root, for_test=True)
        cut = [clip for clip in corpus.clips if clip.label == SILENCE and clip.path.startswith("_background_noise_")]
        assert len(cut) == 6

    def test_none_wanted(self, write_clips):
        root = touch(write_clips("_background_noise_/a.wav", seconds=12), "yes/a.wav")
        corpus = read(root, silence_share=0)
        assert corpus.labels == ("yes",)
        assert corpus.notes == [note for note in corpus.notes if "name no speaker" in note]

    def test_no_noise(self, tmp_path):
        corpus = read(touch(tmp_path, *(f"yes/{n}.wav" for n in range(100))))
        assert corpus.labels == ("yes",)
        assert sum(f"no {SILENCE}" in note for note in corpus.notes) == 3

    def test_noise_beside_a_manifest(self, tmp_path, write_clips):
        root = write_clips("_background_noise_/a.wav", seconds=12)
        touch(root, *(f"{n}.wav" for n in range(90)))
        (root / "clips.csv").write_text("path,label\n" + "".join(f"{n}.wav,yes\n" for n in range(90)))
        assert read(root / "clips.csv").labels == ("yes", SILENCE)


@pytest.fixture
def manifest(tmp_path):
    """A function that writes a manifest, and files a.wav to f.wav beside it; gives its path."""

    def write(text: str, encoding: str = "utf-8") -> Path:
        touch(tmp_path / "corpus", *(f"{letter}.wav" for letter in "abcdef"))
        (tmp_path / "corpus" / "clips.csv").write_bytes(text.encode(encoding))
        return tmp_path / "corpus" / "clips.csv"

    return write


class TestManifest:
    def test_all_columns(self, manifest):
        corpus = read(manifest("split,path,speaker,label,text,remark\nvalid,a.wav,anna,yes,Yes please!,x\n"))
        [clip] = corpus.clips
        assert (clip.path, clip.word, clip.label) == ("a.wav", "yes", "yes")
        assert (clip.text, clip.speaker, clip.split) == ("Yes please!", "anna", "validation")
        assert corpus.rejected == []

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
    def test_encodings_and_lines(self, manifest, encoding, newline):
        lines = [" PATH , Text", '"a.wav","sí, ""por favor"""', "", "  b.wav ,no", "c.wav,turn  off"]
        corpus = read(manifest(newline.join(lines), encoding))
        assert by_path(corpus, "text") == {"a.wav": 'sí, "por favor"', "b.wav": "no", "c.wav": "turn off"}

    @pytest.mark.parametrize(
        ("text", "encoding"),
        [("path,label\na.wav,ä\n", "utf-16"), ("path,label\na.wav,ä\n", "latin-1"), ("path,label\n", "utf-16-le")],
    )
    def test_other_encodings(self, manifest, text, encoding):
        with pytest.raises(UserError, match=r"clips.csv: expected") as caught:
            read(manifest(text, encoding))
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("header", ["", "file,label", "path;label", "path,speaker"])
    def test_columns_that_are_missing(self, manifest, header):
        with pytest.raises(UserError, match=r"expected the columns path and label \(or text\).*has: "):
            read(manifest(f"{header}\na.wav,yes\n"))

    def test_a_sound_instead_of_a_manifest(self, write_clips):
        with pytest.raises(UserError, match="expected a CSV file in UTF-8"):
            read(write_clips("a.wav") / "a.wav")

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            (",yes,,", "no path"),
            ("a.wav,,,", "neither label nor text"),
            ("a.wav", "neither label nor text"),
            ("a.wav,yes,,dev2", "split is 'dev2'; expected train, validation or test"),
            ("a.wav,yes, please,anna,test", "more fields than columns"),
            ("missing.wav,yes,,", "file is missing"),
            ("..,yes,,", "outside"),
            (".,yes,,", "outside"),
            ("../secret.wav,yes,,", "outside"),
            ("inner/../../secret.wav,yes,,", "outside"),
            ("..\\secret.wav,yes,,", "outside"),
            ("{outside},yes,,", "outside"),
            ("/etc/passwd,yes,,", "outside"),
            ("link.wav,yes,,", "outside"),
            ("linked/secret.wav,yes,,", "outside"),
            ("inner,yes,,", "file is missing"),
            ("loop,yes,,", "file is missing"),
            ("a\x00.wav,yes,,", "control characters"),
            ("x" * 300 + ".wav,yes,,", "file is missing"),
            ("b.wav,no,,", "the file of line 2 again"),
            ("./inner/../b.wav,yes,,", "the file of line 2 again"),
            ("same.wav,yes,,", "the file of line 2 again"),
        ],
    )
    def test_rows_that_are_set_aside(self, manifest, tmp_path, row, reason):
        touch(tmp_path, "secret.wav", "corpus/inner/x.wav")
        root = tmp_path / "corpus"
        (root / "link.wav").symlink_to(tmp_path / "secret.wav")
        (root / "linked").symlink_to(tmp_path)
        (root / "loop").symlink_to(root / "loop")
        (root / "same.wav").symlink_to("b.wav")
        row = row.replace("{outside}", str(tmp_path / "secret.wav"))
        path = manifest(f"path,label,speaker,split\nb.wav,no,,\n{row}\nc.wav,no,,\n")
        if "\x00" in row and "csv" in _nul_refusal(path):
            pytest.skip("Python 3.10's csv refuses the whole file")
        corpus = read(path)
        assert [clip.path for clip in corpus.clips] == ["b.wav", "c.wav"]
        [(name, why)] = corpus.rejected
        assert name
        assert why.startswith("line 3: ")
        assert reason in why

    def test_paths_that_mean_a_file_inside(self, manifest, tmp_path):
        touch(tmp_path / "corpus", "in/ä.wav", "in/" + unicodedata.normalize("NFD", "ö.wav"), "in/x.wav", "in/y.wav")
        rows = ["in\\ä.wav", unicodedata.normalize("NFC", "in/ö.wav"), str(tmp_path / "corpus/in/x.wav"), "./in//y.wav"]
        corpus = read(manifest("path,label\n" + "".join(f"{row},yes\n" for row in rows)))
        assert corpus.rejected == []
        assert all((tmp_path / "corpus" / clip.path).is_file() for clip in corpus.clips)
        paths = [unicodedata.normalize("NFC", clip.path) for clip in corpus.clips]
        assert paths == ["in/ä.wav", "in/ö.wav", "in/x.wav", "in/y.wav"]

    @pytest.mark.parametrize(
        ("given", "split"), [("train", "train"), ("TRAINING", "train"), ("dev", "validation"), ("Testing", "test")]
    )
    def test_given_splits(self, manifest, given, split):
        assert read(manifest(f"path,label,split\na.wav,yes,{given}\n")).clips[0].split == split

    def test_speakers_from_names(self, manifest, tmp_path):
        touch(tmp_path / "corpus", "x/bb05582b_nohash_3.wav")
        corpus = read(manifest("path,label,speaker\nx/bb05582b_nohash_3.wav,yes,\na.wav,yes,anna\nb.wav,yes,\n"))
        assert [clip.speaker for clip in corpus.clips] == ["bb05582b", "anna", "b.wav"]
        assert any(note.startswith("1 clips name no speaker") for note in corpus.notes)

    def test_two_spellings_of_a_speaker(self, manifest):
        text = "path,label,speaker\na.wav,yes,Zoë\nb.wav,yes,Zoe\u0308\nc.wav,yes, Zoë \n"
        assert len({clip.speaker for clip in read(manifest(text)).clips}) == 1

    @in_one_folder
    @given(
        st.lists(
            st.tuples(st.integers(0, 9), st.sampled_from(["", "", "", "train", "validation", "test"])),
            min_size=1,
            max_size=40,
        )
    )
    def test_nobody_leaks(self, tmp_path, rows):
        touch(tmp_path, *(f"{number}.wav" for number in range(len(rows))))
        lines = [f"{number}.wav,yes,{who},{split}\n" for number, (who, split) in enumerate(rows)]
        (tmp_path / "clips.csv").write_text("path,label,speaker,split\n" + "".join(lines))
        clips = read(tmp_path / "clips.csv", validation_share=0.3, test_share=0.3).clips
        splits, given_splits = defaultdict(set), defaultdict(set)
        for clip, (who, split) in zip(clips, rows, strict=True):
            assert clip.split in SPLITS
            assert split in ("", clip.split)
            splits[who].add(clip.split)
            given_splits[who] |= {split} - {""}
        for who in splits:
            assert len(splits[who]) == max(1, len(given_splits[who]))

    def test_for_test(self, manifest):
        corpus = read(manifest("path,label,split\na.wav,yes,train\nb.wav,no,\n"), words=["yes"], for_test=True)
        assert by_path(corpus, "split") == {"a.wav": "test", "b.wav": "test"}
        assert by_path(corpus, "label") == {"a.wav": "yes", "b.wav": UNKNOWN}


def _nul_refusal(path: Path) -> str:
    try:
        read(path)
    except UserError as error:
        return str(error).lower()
    return ""


def test_the_shared_corpus(shared_data):
    root = shared_data / "speech_commands"
    listed = {
        split: set((root / name).read_text().split())
        for split, name in (("validation", "validation_list.txt"), ("test", "testing_list.txt"))
    }
    corpus = read(root, silence_share=0)
    paths = defaultdict(set)
    for clip in corpus.clips:
        paths[clip.split].add(clip.path)
    assert paths["validation"] == listed["validation"]
    assert paths["test"] == listed["test"]
    files = {path.relative_to(root).as_posix() for path in root.glob("[!_]*/*.opus")}
    assert paths["train"] == files - listed["validation"] - listed["test"]
    assert (len(corpus.labels), corpus.rejected, corpus.notes) == (35, [], [])


class TestTrainAlso:
    @pytest.fixture
    def corpus(self, tmp_path) -> Path:
        names = [f"{word}/{speaker}_nohash_0.wav" for word in ("yes", "no", "tree") for speaker in "abc"]
        root = touch(tmp_path / "corpus", *names)
        (root / "validation_list.txt").write_text("yes/a_nohash_0.wav\nno/a_nohash_0.wav\n")
        (root / "testing_list.txt").write_text("yes/b_nohash_0.wav\nno/b_nohash_0.wav\n")
        return root

    def test_all_its_clips_train_whatever_its_lists_say(self, corpus, tmp_path):
        more = touch(tmp_path / "more", "yes/x_nohash_0.wav", "_unknown_/y_nohash_0.wav", "house/z_nohash_0.wav")
        (more / "testing_list.txt").write_text("yes/x_nohash_0.wav\n")
        alone, both = (read(corpus, words=["yes", "no"], **also) for also in ({}, {"train_also": [more]}))
        assert both.labels == alone.labels == ("yes", "no", "_unknown_")
        assert by_path(both, "split") == by_path(alone, "split") | {
            "../more/yes/x_nohash_0.wav": "train",
            "../more/_unknown_/y_nohash_0.wav": "train",
            "../more/house/z_nohash_0.wav": "train",
        }
        assert by_path(both, "label")["../more/house/z_nohash_0.wav"] == "_unknown_"
        assert both.root == corpus
        assert (both.root / "../more/yes/x_nohash_0.wav").is_file()

    def test_a_manifest_and_a_folder(self, corpus, tmp_path):
        one = touch(tmp_path / "one", "yes/x_nohash_0.wav")
        touch(tmp_path / "two", "x.wav")
        (tmp_path / "two" / "clips.csv").write_text("path,label,speaker,split\nx.wav,no,d,test\n")
        splits = by_path(read(corpus, train_also=[one, tmp_path / "two" / "clips.csv"]), "split")
        assert splits["../one/yes/x_nohash_0.wav"] == splits["../two/x.wav"] == "train"
        assert len(splits) == 11

    @pytest.mark.parametrize("spelling", ["more", "../{parent}/more", "link"])
    def test_the_same_clips_twice_are_taken_once(self, corpus, tmp_path, spelling):
        more = touch(tmp_path / "more", "yes/x_nohash_0.wav")
        (tmp_path / "link").symlink_to(more)
        made = read(corpus, train_also=[more, tmp_path / spelling.format(parent=tmp_path.name)])
        assert len(made.clips) == 10
        assert any("1 clips left out: they are there already" in note for note in made.notes)

    def test_no_clip_of_the_corpus_itself_changes_its_split(self, corpus):
        assert by_path(read(corpus, train_also=[corpus]), "split") == by_path(read(corpus), "split")

    def test_speakers_to_be_measured_on_are_not_heard(self, corpus, tmp_path):
        more = touch(tmp_path / "more", "yes/b_nohash_7.wav", "yes/x_nohash_0.wav")
        splits = by_path(read(corpus, train_also=[more], test_speakers=["b"]), "split")
        assert splits["../more/yes/x_nohash_0.wav"] == "train"
        assert "../more/yes/b_nohash_7.wav" not in splits

    def test_its_noise_is_not_taken_and_what_is_wrong_in_it_is_said(self, corpus, tmp_path):
        more = touch(tmp_path / "more", "yes/x.wav", "yes/notes.doc", "_background_noise_/hum.wav", "_odd_/a.wav")
        made = read(corpus, train_also=[more])
        assert not made.noise
        assert [path for path, _ in made.rejected] == ["../more/yes/notes.doc"]
        assert f"train_also: {more}: 1 files are no clips of a word: _odd_/a.wav" in made.notes

    def test_measuring_reads_none(self, corpus, tmp_path):
        assert len(read(corpus, train_also=[tmp_path / "absent"], for_test=True).clips) == 9

    def test_its_words_are_no_new_ones_unless_they_are_asked_for(self, corpus, tmp_path):
        more = touch(tmp_path / "more", "stop/x_nohash_0.wav")
        assert read(corpus, train_also=[more]).labels == ("no", "tree", "yes", "_unknown_")
        assert read(corpus, words=["yes", "stop"], train_also=[more]).labels == ("yes", "stop", "_unknown_")

    @pytest.mark.parametrize(("what", "why"), [("absent", "doesn't exist"), ("empty", "no clip"), ("a\nb", "rename")])
    def test_what_can_not_be_used(self, corpus, tmp_path, what, why):
        (tmp_path / "empty").mkdir()
        touch(tmp_path / "a\nb", "yes/x_nohash_0.wav")
        with pytest.raises(UserError, match=rf"corpus\.train_also: .*{why}"):
            read(corpus, train_also=[tmp_path / what])


def test_few_speakers_in_a_folder_leave_no_split_empty(tmp_path):
    # By Google's rule alone, all three are in the training split.
    for speaker in ("bea", "berta", "cleo"):
        assert which_split(speaker, 0.1, 0.1) == "train"
        for word in ("yes", "no"):
            for take in range(2):
                path = tmp_path / word / f"{speaker}_nohash_{take}.wav"
                path.parent.mkdir(exist_ok=True)
                soundfile.write(path, np.full(8000, 0.1), 16000)
    clips = read_corpus(CorpusSettings(path=tmp_path, shards=tmp_path / "shards")).clips
    splits = {(clip.speaker, clip.split) for clip in clips}
    assert sorted(split for _, split in splits) == ["test", "train", "validation"]
