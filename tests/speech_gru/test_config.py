"""One YAML file = one experiment: what is read, what is refused and what the message says."""

import re
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from data_pipeline.settings import ComposeSettings, normalize_text
from speech_gru.config import (
    SHIPPED,
    AccuracyLoss,
    Config,
    ExportSettings,
    SweepRange,
    SweepSettings,
    TensorBoardSettings,
    differences,
    dump_config,
    load_config,
)

BASE = "corpus: {path: clips, shards: shards}\n"


@pytest.fixture
def load(tmp_path):
    """A function (YAML lines beside the corpus section, *overrides) -> Config."""

    def load(text: str = "", *overrides: str) -> Config:
        (tmp_path / "mine.yaml").write_text(BASE + text, encoding="utf-8")
        return load_config(tmp_path / "mine.yaml", overrides)

    return load


@pytest.fixture
def complaint(load):
    """A function as `load` that returns the UserError's message, less the folder."""

    def complaint(text: str = "", *overrides: str) -> str:
        with pytest.raises(UserError) as caught:
            load(text, *overrides)
        return re.sub(r"\S*/mine\.yaml", "mine.yaml", str(caught.value))

    return complaint


class TestValues:
    def test_values_arrive_and_the_rest_keeps_its_defaults(self, load):
        config = load("seed: 7\nmodel: {units: 5, pooling: last}\naugment: {gain_db: null, snr_db: [3, 9]}\n")
        assert (config.seed, config.model.units, config.model.pooling) == (7, 5, "last")
        assert (config.augment.gain_db, config.augment.snr_db) == (None, (3, 9))
        assert config.training == Config(name="x", corpus={"path": "a", "shards": "b"}).training

    def test_the_name_is_the_files_unless_given(self, load):
        assert load().name == "mine"
        assert load("name: yours\n").name == "yours"

    def test_words_that_look_like_something_else_stay_words(self, load):
        words = "yes no on off y n Yes NO On null0 truelove falsetto nano 3d 3=4 1:30 2024-01-01 0x10 = <<"
        assert load("", f"corpus.words=[{words.replace(' ', ', ')}]").corpus.words == tuple(words.split())

    @pytest.mark.parametrize(
        ("text", "value"), [("1e-3", 1e-3), ("1E-3", 1e-3), (".5", 0.5), ("2.", 2.0), ("+4e0", 4.0), ("3", 3.0)]
    )
    def test_numbers_are_read_as_people_write_them(self, load, text, value):
        assert load(f"training: {{learning_rate: {text}}}\n").training.learning_rate == value

    @pytest.mark.parametrize(("text", "value"), [("010", 10), ("08", 8), ("-0", 0), ("1e3", 1000)])
    def test_a_leading_zero_is_no_octal(self, load, text, value):
        assert load(f"seed: {text}\n").seed == value

    def test_a_section_whose_lines_are_all_comments_is_empty(self, load):
        assert load("model:\n  # units: 3\ntraining:\n").model == load().model
        assert load("model:\n", "model.units=3").model.units == 3


class TestComplaints:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("model: {unit: 3}", "mine.yaml: model.unit: no such setting; the nearest valid name is units"),
            ("modle: {units: 3}", "mine.yaml: modle: no such setting; the nearest valid name is model"),
            ("units: 3", "mine.yaml: units: no such setting; the nearest valid name is model.units"),
            (
                "model: {epochs: 3}",
                "mine.yaml: model.epochs: no such setting; the nearest valid name is training.epochs",
            ),
            ("1: 2", "mine.yaml: 1: Keys should be strings, got 1"),
            (
                "model: {units: many}",
                "model.units: expected a valid integer, unable to parse string as an integer, got 'many'",
            ),
            (
                "model: {units: 2.5}",
                "model.units: expected a valid integer, got a number with a fractional part, got 2.5",
            ),
            ("model: {units: 0}", "model.units: expected greater than or equal to 1, got 0"),
            ("model: {dropout: 1}", "model.dropout: expected less than 1, got 1"),
            ("model: {bidirectional: maybe}", "model.bidirectional: expected a valid boolean"),
            ("model: 3", "model: expected a section (lines of KEY: VALUE below it), got 3"),
            ("training: {learning_rate: -0.1}", "training.learning_rate: expected greater than 0, got -0.1"),
            ("training: {learning_rate: .nan}", "training.learning_rate: expected a finite number, got nan"),
            ("training: {learning_rate: 1e400}", "training.learning_rate: expected a finite number, got inf"),
            (
                "training: {optimizer: adamm}",
                "training.optimizer: expected 'adamw', 'adam' or 'sgd', got 'adamm'; the nearest valid name is adam",
            ),
            ("training: {epochs: 2, warmup_epochs: 2}", "training: warmup_epochs (2) must be below epochs (2)"),
            ("augment: {gain_db: [5, 1]}", "augment: gain_db: the first value (5) must not exceed the second (1)"),
            ("augment: {gain_db: [5]}", "augment.gain_db.1: expected, but missing"),
            ("seed: -1", "seed: expected greater than or equal to 0, got -1"),
            ("seed: " + "9" * 5000, "seed: expected"),
            ("name: ../../etc", "name: expected a folder's name, without / or \\, got '../../etc'"),
            ("name: ''", "name: expected a folder's name"),
        ],
    )
    def test_file_key_expectation_and_what_came_are_named(self, complaint, text, expected):
        assert expected in complaint(text)
        assert complaint(text).startswith("mine.yaml: ")

    def test_without_a_near_name_all_are_listed(self, complaint):
        assert "expected one of: head, units, layers, bidirectional," in complaint("model: {zzz: 3}")

    def test_a_missing_corpus_is_named(self, tmp_path):
        (tmp_path / "x.yaml").write_text("corpus:\n")
        with pytest.raises(UserError, match=r"x\.yaml: corpus: expected, but missing"):
            load_config(tmp_path / "x.yaml")

    def test_a_word_that_is_a_number_is_told_to_be_quoted(self, complaint, load):
        assert "corpus.words.0: expected a valid string, got 1; put it in quotes" in complaint(
            "", "corpus.words=[1, b]"
        )
        assert load("", "corpus.words=['1', b]").corpus.words == ("1", "b")

    def test_all_faults_are_told_at_once(self, complaint):
        assert len(complaint("seed: x\nmodel: {units: 0}\n").splitlines()) == 2

    def test_a_huge_value_is_cut_short(self, complaint):
        assert len(complaint(f"model: {{units: [{'1, ' * 10000}1]}}")) < 250


class TestTensorBoard:
    def test_what_costs_time_is_off(self, load):
        shown = load().tensorboard
        assert (shown.graph, shown.embeddings, shown.profile_steps) == (False, 0, None)

    def test_values_arrive(self, load):
        text = "{scalar_steps: 1, image_epochs: 0, augmented_clips: 0, worst_clips: 3, pr_curves: false, graph: true, "
        found = load(f"tensorboard: {text}embeddings: 500, profile_steps: [2, 2]}}\n").tensorboard
        assert found == TensorBoardSettings(
            scalar_steps=1,
            image_epochs=0,
            augmented_clips=0,
            worst_clips=3,
            pr_curves=False,
            graph=True,
            embeddings=500,
            profile_steps=(2, 2),
        )

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("scalar_steps: 0", "tensorboard.scalar_steps: expected greater than or equal to 1, got 0"),
            ("image_epochs: -1", "tensorboard.image_epochs: expected greater than or equal to 0, got -1"),
            ("worst_clips: many", "tensorboard.worst_clips: expected a valid integer"),
            ("profile_steps: [0, 2]", "tensorboard.profile_steps.0: expected greater than or equal to 1, got 0"),
            ("profile_steps: [2]", "tensorboard.profile_steps.1: expected, but missing"),
            ("profile_steps: 2", "tensorboard.profile_steps: expected a list, got 2"),
            (
                "profile_steps: [3, 2]",
                "tensorboard: profile_steps: expected the first step, then the last, got [3, 2]",
            ),
            ("graphs: true", "tensorboard.graphs: no such setting; the nearest valid name is graph"),
        ],
    )
    def test_what_is_not_valid_is_told(self, complaint, text, expected):
        assert f"mine.yaml: {expected}" in complaint(f"tensorboard: {{{text}}}\n")


class TestExport:
    def test_values_arrive(self, load):
        found = load(
            "export: {logits_tolerance: 1e-2, accuracy_loss: {int8: 1.5, float16: 0}, threshold: 0.4, data: Wörter,"
            " data_licence: CC BY 4.0}\n"
        ).export
        assert found == ExportSettings(
            logits_tolerance=0.01,
            accuracy_loss=AccuracyLoss(int8=1.5, float16=0),
            threshold=0.4,
            data="Wörter",
            data_licence="CC BY 4.0",
        )
        assert found.accuracy_loss.int16x8 == load().export.accuracy_loss.int16x8

    def test_without_the_section_words_have_no_threshold(self, load):
        assert load().export == load("export:\n").export == ExportSettings()
        assert load().export.threshold == 0

    def test_one_by_an_option(self, load):
        assert load("", "export.thresholds={no: 0.5, zero: 0.9}").export.thresholds == {"no": 0.5, "zero": 0.9}
        assert load("export: {thresholds: {no: 0.5}}\n", "export.thresholds={}").export.thresholds == {}
        assert load("", "export.accuracy_loss.int8=2").export.accuracy_loss == AccuracyLoss(int8=2)

    def test_it_survives_the_dump(self, load, tmp_path):
        more = "thresholds: {yes: 0.5, 'on': 0.7}, data: 'yes', data_licence: '1e5'"
        config = load(f"export: {{accuracy_loss: {{dynamic_range: 0.7}}, threshold: 1, {more}}}\n")
        assert config.export.thresholds == {"yes": 0.5, "on": 0.7}
        (tmp_path / "mine.yaml").write_text(dump_config(config), encoding="utf-8")
        assert load_config(tmp_path / "mine.yaml") == config

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("logits_tolerance: 0", "export.logits_tolerance: expected greater than 0, got 0"),
            ("threshold: 1.1", "export.threshold: expected less than or equal to 1, got 1.1"),
            ("thresholds: {zero: 2}", "export.thresholds.zero: expected less than or equal to 1, got 2"),
            ("threshold: -0.1", "export.threshold: expected greater than or equal to 0, got -0.1"),
            ("accuracy_loss: 3", "export.accuracy_loss: expected a section (lines of KEY: VALUE below it), got 3"),
            (
                "accuracy_loss: {int8: -1}",
                "export.accuracy_loss.int8: expected greater than or equal to 0, got -1",
            ),
            (
                "accuracy_loss: {int16: 1}",
                "export.accuracy_loss.int16: no such setting; the nearest valid name is int16x8",
            ),
            ("accuracy_loss: {int8: .inf}", "export.accuracy_loss.int8: expected a finite number, got inf"),
            ("data: 3", "export.data: expected a valid string"),
            ("license: x", "export.license: no such setting; "),
        ],
    )
    def test_what_is_not_valid_is_told(self, complaint, text, expected):
        assert f"mine.yaml: {expected}" in complaint(f"export: {{{text}}}\n")


class TestConvolution:
    TEXT = "model: {bidirectional: false, convolution_filters: 4, convolution_kernel: 3, subsampling: 4}\n"

    @pytest.mark.parametrize("bidirectional", ["false", "true"])
    def test_it_looks_at_every_frame(self, complaint, bidirectional):
        override = f"model.bidirectional={bidirectional}"
        assert complaint(self.TEXT, override).endswith(
            "model: convolution_kernel (3) must be at least subsampling (4), or frames are never looked at"
        )
        assert "must be at least subsampling (6)" in complaint(self.TEXT, override, "model.subsampling=6")

    @pytest.mark.parametrize("override", ["convolution_filters=0", "convolution_kernel=4"])
    def test_others_need_not(self, load, override):
        assert load(self.TEXT, f"model.{override}").model.subsampling == 4


class TestPhrases:
    NEEDED = "model.head: ctc and phrases (corpus.tokens, or a section compose) need each other"

    def test_they_need_a_ctc_head_and_it_needs_them(self, load, complaint):
        for text in ("model: {head: ctc}\n", "compose: {words: [1, 3]}\n"):
            assert complaint(text) == f"mine.yaml: {self.NEEDED}"
        assert complaint("", "corpus.tokens=characters").endswith(self.NEEDED)
        assert load("compose: {words: [1, 3]}\n", "model.head=ctc").compose.words == (1, 3)
        for tokens in ("words", "characters", "phonemes"):
            assert load("", "model.head=ctc", f"corpus.tokens={tokens}").corpus.tokens == tokens

    def test_they_are_recorded_or_composed(self, complaint):
        message = complaint("compose: {words: [1, 3]}\n", "model.head=ctc", "corpus.tokens=words")
        assert message == "mine.yaml: compose makes phrases of a corpus of words; it can't be had with corpus.tokens"

    @pytest.mark.parametrize(
        "setting",
        [
            *(
                "augment.mixup=0.2",
                "augment.stream_clips=4",
                "augment.fresh_unknown=true",
                "training.teachers=[runs/a]",
            ),
            *("training.class_balance=0.5", "training.xla=true", "front_end.deltas=1"),
        ],
    )
    def test_what_they_cant_be_had_with_is_named(self, complaint, load, setting):
        phrases = ("corpus.tokens=words", "model.head=ctc", "model.bidirectional=false")
        key = setting.partition("=")[0]
        assert complaint("", *phrases, setting) == f"mine.yaml: {key}: not for phrases (model.head: ctc); leave it out"
        assert load("", "model.bidirectional=false", setting)

    def test_consistency_is_theirs_alone(self, complaint, load):
        said = complaint("", "training.consistency=0.2")
        assert said == "mine.yaml: training.consistency is for phrases; it needs model.head: ctc"
        phrases = ("corpus.tokens=words", "model.head=ctc")
        assert load("", *phrases, "training.consistency=0.2").training.consistency == 0.2

    def test_pauses_are_for_recorded_ones(self, complaint, load):
        said = (
            "mine.yaml: augment.pause_ms is for recorded phrases (corpus.tokens); compose.gap_ms is for composed ones"
        )
        pauses = "augment: {pause_ms: [0, 500]}\n"
        assert complaint(pauses) == said
        assert complaint("compose: {words: [1, 3]}\n" + pauses, "model.head=ctc") == said
        recorded = ("corpus.tokens=words", "model.head=ctc")
        assert load(pauses, *recorded).augment.pause_ms == (0, 500)
        message = "mine.yaml: augment: pause_ms: expected times from 0, got -1"
        assert complaint("augment: {pause_ms: [-1, 500]}\n", *recorded) == message
        message = "mine.yaml: augment: pause_ms: the first value (500) must not exceed the second (0)"
        assert complaint("augment: {pause_ms: [500, 0]}\n", *recorded) == message

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ("words: [3, 1]", "words: the first value (3) must not exceed the second (1)"),
            ("gap_ms: [-1, 4]", "gap_ms: expected times from 0, got -1"),
            ("level_db: [4, 2]", "level_db: the first value (4) must not exceed the second (2)"),
        ],
    )
    def test_impossible_compositions(self, complaint, values, message):
        assert message in complaint(f"compose: {{{values}}}\n", "model.head=ctc")


def test_teachers_and_xla_exclude_each_other(load, complaint):
    said = complaint("", "training.teachers=[runs/a]", "training.xla=true")
    assert said == "mine.yaml: training.xla compiles the model alone; it can't be had with training.teachers"
    assert [path.name for path in load("", "training.teachers=[runs/a, runs/b]").training.teachers] == ["a", "b"]


class TestOtherSpeech:
    def test_is_for_fresh_unknown_words(self, load, complaint):
        expected = (
            "mine.yaml: corpus.other_speech is what augment.fresh_unknown cuts; set that to true, or leave it out"
        )
        assert complaint("", "corpus.other_speech=[talk]") == expected
        loaded = load("augment: {fresh_unknown: true}\n", "corpus.other_speech=[talk]")
        assert [path.name for path in loaded.corpus.other_speech] == ["talk"]


class TestStem:
    LOG_MEL = ("front_end.kind=log_mel", "model.convolution_filters=8", "model.stem_filters=[4, 8]")

    def test_looks_along_frequency(self, load, complaint):
        assert load("", *self.LOG_MEL).model.stem_filters == (4, 8)
        said = "mine.yaml: model.stem_filters look along frequency; they need front_end.kind: log_mel and no "
        for other in ("front_end.kind=mfcc", "front_end.deltas=1"):
            assert complaint("", *self.LOG_MEL, other) == f"{said}front_end.deltas"
        said = complaint("", *self.LOG_MEL, "front_end.mel_bins=7", "front_end.coefficients=7")
        assert said == "mine.yaml: model.stem_filters need front_end.mel_bins of 8 or more, got 7"
        assert load("", *self.LOG_MEL, "front_end.mel_bins=8", "front_end.coefficients=8")

    def test_goes_before_convolutions_over_time(self, load, complaint):
        said = complaint("model: {stem_filters: [4]}", "front_end.kind=log_mel")
        assert said == "mine.yaml: model: stem_filters needs convolution_filters, the channels that its bands become"
        # The stem and the convolution that takes it in have kernels of their own.
        assert load("", *self.LOG_MEL, "model.subsampling=8", "model.convolution_kernel=3").model.subsampling == 8


class TestStreams:
    def test_are_for_models_that_look_back_alone(self, load, complaint):
        values = "augment: {stream_clips: 4}"
        assert complaint(values) == "mine.yaml: augment.stream_clips: streams need model.bidirectional: false"
        assert load(values, "model.bidirectional=false").augment.stream_clips == 4
        assert load(values, "augment.stream_clips=1").model.bidirectional
        with pytest.raises(UserError, match=r"training\.xla needs steps of one length"):
            load(values, "model.bidirectional=false", "training.xla=true")

    def test_are_whole_in_a_batch(self, complaint):
        assert complaint("augment: {stream_clips: 3}", "model.bidirectional=false", "training.batch_size=64") == (
            "mine.yaml: training.batch_size (64) must be a multiple of augment.stream_clips (3)"
        )

    def test_are_single_clips_unless_asked_for(self, load, complaint):
        assert load().augment.stream_clips == 1
        text = "model: {bidirectional: false}\naugment: {stream_clips: 0}\n"
        assert complaint(text) == "mine.yaml: augment.stream_clips: expected greater than or equal to 1, got 0"


class TestDifferences:
    def test_of_what_changes_a_training(self, load):
        now = load("", "model.units=3", "augment.gain_db=[1, 2]", "seed=8", "training.precision=float32")
        assert differences(load(), now) == {
            "seed": (0, 8),
            "augment.gain_db": ([*load().augment.gain_db], [1, 2]),
            "model.units": (load().model.units, 3),
            "training.precision": ("auto", "float32"),
        }
        assert differences(load(), load()) == {}

    @pytest.mark.parametrize(
        "override",
        [
            *("export.threshold=0.5", "export.accuracy_loss.int8=3", "export.data=mine", "export.logits_tolerance=1"),
            *("name=x", "corpus.path=x", "corpus.shards=x", "tensorboard.graph=true", "training.checkpoint_steps=7"),
            *("training.validation_batch_size=7", "sweep={settings: {seed: [1]}}"),
        ],
    )
    def test_not_of_what_has_no_effect_on_it(self, load, override):
        assert load("", override) != load()
        assert differences(load(), load("", override)) == {}


class TestSweep:
    def test_without_the_section_there_is_none(self, load):
        assert load().sweep is None
        assert load("sweep:\n").sweep is None

    def test_a_grid(self, load):
        sweep = load("sweep: {settings: {model.units: [64, 128], augment.speed: [null, [0.8, 1.2]]}}\n").sweep
        assert sweep == SweepSettings(settings={"model.units": [64, 128], "augment.speed": [None, [0.8, 1.2]]})
        assert sweep.trials is None

    def test_ranges_to_draw_from_beside_lists(self, load):
        sweep = load(
            "sweep:\n"
            "  trials: 20\n"
            "  settings:\n"
            "    model.units: {low: 32, high: 256, integer: true}\n"
            "    training.learning_rate: {low: 1e-4, high: 1e-2, log: true}\n"
            "    model.pooling: [mean, attention]\n"
        ).sweep
        assert sweep.trials == 20
        assert sweep.settings == {
            "model.units": SweepRange(low=32, high=256, integer=True),
            "training.learning_rate": SweepRange(low=1e-4, high=1e-2, log=True),
            "model.pooling": ["mean", "attention"],
        }

    def test_it_survives_the_dump(self, load, tmp_path):
        config = load("sweep: {trials: 2, settings: {model.units: {low: 1, high: 2}, model.layers: [1, 2]}}\n")
        (tmp_path / "mine.yaml").write_text(dump_config(config), encoding="utf-8")
        assert load_config(tmp_path / "mine.yaml") == config

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("sweep: 3", "sweep: expected a section (lines of KEY: VALUE below it), got 3"),
            ("sweep: {trials: 2}", "sweep.settings: expected, but missing"),
            ("sweep: {trials: 0, settings: {a: [1]}}", "sweep.trials: expected greater than or equal to 1, got 0"),
            (
                "sweep: {trails: 3, settings: {a: [1]}}",
                "sweep.trails: no such setting; the nearest valid name is trials",
            ),
            ("trials: 3", "trials: no such setting; the nearest valid name is sweep.trials"),
            ("sweep: {settings: {}}", "sweep: expected settings with one value or more"),
            (
                "sweep: {settings: {model.units: [], model.layers: [1]}}",
                "sweep: expected settings with one value or more, got none for model.units",
            ),
            ("sweep: {settings: {model.units: 3}}", "sweep.settings.model.units.list: expected a valid list, got 3"),
            (
                "sweep: {settings: {model.units: {low: 1, high: 2}, model.layers: [1]}}",
                "sweep: a grid needs lists of values; model.units has a range. Set trials to draw from it",
            ),
            (
                "sweep: {trials: 2, settings: {model.units: {low: 2, high: 2}}}",
                "sweep.settings.model.units.range: low (2) must be below high (2)",
            ),
            (
                "sweep: {trials: 2, settings: {model.units: {low: 2}}}",
                "sweep.settings.model.units.range.high: expected, but missing",
            ),
            (
                "sweep: {trials: 2, settings: {model.units: {low: 1, high: 2, whole: true}}}",
                "sweep.settings.model.units.range.whole: no such setting; expected one of: low, high, log, integer",
            ),
            (
                "sweep: {trials: 2, settings: {model.units: {low: 0, high: 2, log: true}}}",
                "sweep.settings.model.units.range: log: expected low above 0, and no integer",
            ),
            (
                "sweep: {trials: 2, settings: {model.units: {low: 1, high: 2, log: true, integer: true}}}",
                "sweep.settings.model.units.range: log: expected low above 0, and no integer",
            ),
        ],
    )
    def test_what_is_not_valid_is_told(self, complaint, text, expected):
        assert complaint(text).splitlines() == [f"mine.yaml: {expected}"]


class TestYaml:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("model:\n\tunits: 3\n", "line 3: not readable as YAML"),
            ("model:\n\tunits: 3\n", "indent with spaces, not tabs"),
            ("seed: 1\nmodel: {}\nseed: 2\n", "line 4: not readable as YAML: the key 'seed' is given twice"),
            ("model: {units: 1, units: 2}", "the key 'units' is given twice"),
            ("model: [1\n", "not readable as YAML"),
            ("seed: 1\n---\nseed: 2\n", "not readable as YAML"),
            ("{[1]: 2}", "not readable as YAML"),
            ("a: \0", "unacceptable character"),
            ("a: " + "[" * 5000, "nested too deeply"),
        ],
    )
    def test_what_is_no_yaml_is_refused_with_its_line(self, complaint, text, expected):
        assert expected in complaint(text)

    @pytest.mark.parametrize("text", ["", "- a\n", "just words\n", "3"])
    def test_a_file_without_sections_is_refused(self, tmp_path, text):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(UserError, match=r"x\.yaml: expected sections such as corpus: and model:"):
            load_config(tmp_path / "x.yaml")

    @pytest.mark.parametrize("as_override", [False, True])
    def test_a_tag_executes_nothing(self, complaint, tmp_path, as_override):
        value = f"!!python/object/apply:os.mkdir [{tmp_path / 'made'}]"
        message = complaint("", f"seed={value}") if as_override else complaint(f"seed: {value}\n")
        assert "YAML" in message
        assert not (tmp_path / "made").exists()

    @pytest.mark.parametrize("value", ["!!int abc", "!!map abc", "!!binary x", "!!timestamp 1", "!mine 1", "! 1"])
    def test_other_tags_are_refused_too(self, complaint, value):
        assert "tags (!...)" in complaint(f"seed: {value}\n")

    def test_a_few_lines_of_anchors_cannot_multiply(self, complaint):
        laughs = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
        laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
        assert "anchors (&...) and aliases (*...) are not accepted" in complaint("\n".join(laughs))

    def test_bytes_that_are_no_text_are_refused(self, tmp_path):
        (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00seed")
        with pytest.raises(UserError, match=r"x\.yaml: can't be read"):
            load_config(tmp_path / "x.yaml")

    def test_an_unreadable_file_is_refused(self, tmp_path, monkeypatch):
        file = tmp_path / "x.yaml"
        file.write_text(BASE)

        def refuse(*args, **kwargs):
            raise PermissionError(13, "Permission denied", str(file))

        monkeypatch.setattr(Path, "read_text", refuse)  # chmod doesn't stop root
        with pytest.raises(UserError, match=r"x\.yaml: can't be read: .*Permission denied"):
            load_config(file)

    @pytest.mark.parametrize("name", ["nowhere.yaml", "a" * 5000, "", ".", "../demo", "a\0b"])
    def test_what_is_no_file_names_the_shipped_experiments(self, name):
        with pytest.raises(UserError, match=r"expected a YAML file or the name of a shipped experiment \(.*demo"):
            load_config(name)

    @settings(max_examples=200, deadline=None)
    @given(st.text(alphabet="abc:-[]{}#&*!|>'\"%@`,?\n \t01.e~\\=<", max_size=60))
    def test_no_text_leads_to_anything_but_a_config_or_a_user_error(self, tmp_path_factory, text):
        file = tmp_path_factory.getbasetemp() / "random.yaml"
        file.write_text(BASE + text, encoding="utf-8")
        with suppress(UserError):
            assert isinstance(load_config(file), Config)


class TestOverrides:
    def test_each_kind_of_value(self, load):
        config = load(
            "model: {units: 9}\n",
            "model.units=96",
            " model.pooling = mean ",
            "model.bidirectional=false",
            "training.learning_rate=1e-4",
            "training.clip_norm=null",
            "corpus.words=[no, off]",
            "seed=3",
            "corpus.path=a=b",
        )
        assert (config.model.units, config.model.pooling, config.model.bidirectional) == (96, "mean", False)
        assert (config.training.learning_rate, config.training.clip_norm) == (1e-4, None)
        assert (config.corpus.words, config.seed, config.corpus.path) == (("no", "off"), 3, Path("a=b"))

    def test_the_last_of_several_wins(self, load):
        assert load("", "model.units=1", "model.units=2").model.units == 2

    def test_a_whole_section(self, load):
        assert load("model: {units: 3}\n", "model={layers: 1}").model.units == load().model.units

    @pytest.mark.parametrize("override", ["model.units", "=3", "", ".", "model.=3", ".units=3", "model..units=3"])
    def test_without_key_and_value_the_form_is_shown(self, complaint, override):
        assert complaint("", override) == f"--set {override}: expected SECTION.KEY=VALUE, such as model.units=96"

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("model.units=0", "--set model.units=0: model.units: expected greater than or equal to 1, got 0"),
            ("model.units=", "--set model.units=: model.units: expected a valid integer, got None"),
            ("model.unit=3", "--set model.unit=3: model.unit: no such setting; the nearest valid name is units"),
            ("modle.units=3", "--set modle.units=3: modle: no such setting; the nearest valid name is model"),
            ("model.units.x=3", "--set model.units.x=3: model.units: expected a valid integer, got {'x': 3}"),
            ("seed.x.y=3", "--set seed.x.y=3: seed: expected a valid integer"),
            ("name.x=3", "--set name.x=3: name: expected a valid string"),
            ("model=3", "--set model=3: model: expected a section"),
            ("model.units=[", "--set model.units=[: the value isn't readable as YAML"),
            ("model.units=*a", "--set model.units=*a: the value isn't readable as YAML"),
        ],
    )
    def test_the_option_is_named_rather_than_the_file(self, complaint, override, expected):
        assert expected in complaint("", override)

    def test_a_value_is_no_section(self, complaint):
        assert "--set seed.x=3: seed is a value, not a section" in complaint("seed: 1\n", "seed.x=3")

    def test_a_fault_of_the_file_is_still_the_files(self, complaint):
        assert complaint("model: {layers: 0}\n", "model.units=3").startswith("mine.yaml: model.layers")


class TestRoundTrip:
    words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=8)
    words = words.map(normalize_text).filter(bool)
    odd_words = ("yes", "1e5", "010", "08", "1:30", "null", "~", "true", "=", "<<", "3.", "0x10", "2024-01-01", "a b")

    @settings(max_examples=40, deadline=None)
    @given(
        words=st.lists(words | st.sampled_from(odd_words), unique=True),
        rate=st.floats(1e-300, 1e300),
        gain=st.none() | st.tuples(st.floats(-1e9, 0), st.floats(0, 1e9)),
    )
    def test_what_is_dumped_is_read_back(self, tmp_path_factory, words, rate, gain):
        config = Config(
            name="1e5",
            corpus={"path": "yes", "shards": "höher/~", "words": tuple(words)},
            training={"learning_rate": rate},
            augment={"gain_db": gain},
        )
        text = dump_config(config)
        file = tmp_path_factory.getbasetemp() / "other.yaml"
        file.write_text(text, encoding="utf-8")
        assert load_config(file) == config
        # ... and by any other reader of YAML 1.1 with the same words.
        assert yaml.safe_load(text)["corpus"]["words"] == words

    def test_every_value_is_spelled_out(self):
        config = Config(name="x", corpus={"path": "a", "shards": "b"})
        assert yaml.safe_load(dump_config(config)) == config.model_dump(mode="json")


SHIPPED_FILES = sorted(SHIPPED.glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED_FILES, ids=lambda file: file.stem)
class TestShipped:
    def test_it_loads_by_path_and_by_name(self, file, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / file.stem).mkdir()  # `make demo` makes a folder demo
        assert load_config(file) == load_config(file.stem)
        assert load_config(file).name == file.stem

    def test_its_header_tells_command_time_and_result(self, file):
        header = file.read_text(encoding="utf-8").partition("\ncorpus:")[0]
        header = "\n".join(line for line in header.splitlines() if line.startswith("#"))
        assert re.search(rf"speech-gru train (configs/)?{file.stem}|make {file.stem}", header), "its command"
        assert re.search(r"\d\s*(min|s\b|h\b)", header), "the time it takes"
        assert re.search(r"\d\s*%", header), "the result to expect"


def test_there_are_shipped_experiments():
    assert {"demo", "speech_commands_subset"} <= {file.stem for file in SHIPPED_FILES}


def test_no_setting_is_dead():
    """Each is read somewhere outside of the class that declares it."""
    root = SHIPPED.parent
    sources = [path for folder in ("data_pipeline", "speech_gru", "export") for path in (root / folder).rglob("*.py")]
    code = "\n".join(
        path.read_text(encoding="utf-8") for path in sources if path.name not in ("settings.py", "config.py")
    )
    config = Config(name="x", corpus={"path": "a", "shards": "b"})
    sections = ("corpus", "front_end", "augment", "model", "training", "tensorboard", "export")
    names = [name for section in sections for name in getattr(config, section).model_dump()]
    for name in {*names, *ComposeSettings.model_fields} - {"clip_seconds"}:
        assert re.search(rf"(settings|config\.\w+|corpus|augment|training|model|compose)\.{name}\b|\"{name}\"", code), (
            name
        )
