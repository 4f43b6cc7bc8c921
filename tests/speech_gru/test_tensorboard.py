"""What TensorBoard reads back of a training, compared with what the training returned and with the kept weights."""

import io
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf
from sklearn.metrics import precision_score, recall_score
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, parse_session_start_info_plugin_data
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from tensorboard.util.tensor_util import make_ndarray

from data_pipeline.dataset import evaluation_batches
from speech_gru.config import TensorBoardSettings
from speech_gru.evaluation import Predictions, confusion_figure, picture
from speech_gru.loop import Monitor
from speech_gru.report import predictor, report_run
from speech_gru.run import load_run
from speech_gru.tensorboard import TensorBoard, features_figure, recall_figure
from speech_gru.training import adapted_front_end, plan_training, train, training_data

EVERYTHING = {
    "scalar_steps": 1,
    "image_epochs": 1,
    "augmented_clips": 3,
    "worst_clips": 4,
    "graph": True,
    "embeddings": 20,
    "profile_steps": (2, 3),
}


class Recorder(Monitor):
    """Keeps all that the training loop tells."""

    def __init__(self):
        self.steps, self.epochs, self.predictions = {}, [], []

    def step(self, step, told):
        self.steps[step] = told

    def epoch(self, epoch, figures, predictions):
        self.epochs.append(figures)
        self.predictions.append(predictions)


def swap_labels(folder) -> None:
    """Swaps `tief` and `_silence_`: the recogniser confuses them throughout."""
    swapped, file = {"tief": "_silence_", "_silence_": "tief"}, folder / "labels.txt"
    labels = file.read_text(encoding="utf-8").splitlines()
    file.write_text("".join(f"{swapped.get(label, label)}\n" for label in labels), encoding="utf-8")


@pytest.fixture(scope="module")
def shown(tiny_config, tmp_path_factory):
    """A run of two epochs that shows everything; two labels are swapped before its report, so that it makes errors."""
    values = tiny_config.model_dump()
    values["training"] |= {"epochs": 2, "warmup_epochs": 0.5}
    values["tensorboard"] |= EVERYTHING
    config = type(tiny_config).model_validate(values)
    folder, recorder = tmp_path_factory.mktemp("shown") / "run", Recorder()
    history = train(config, plan_training(config), folder, monitors=[recorder], report=lambda line: None)
    swap_labels(folder)
    metrics = report_run(folder)
    return SimpleNamespace(folder=folder, config=config, history=history, told=recorder, metrics=metrics)


@pytest.fixture(scope="module")
def reported_twice(tiny_run, tmp_path_factory):
    """A run with the default settings, reported twice; the first time with two labels swapped."""
    folder = shutil.copytree(tiny_run, tmp_path_factory.mktemp("reported") / "run")
    swap_labels(folder)
    report_run(folder)
    before = {part: read(folder, part) for part in ("kept", "kept_validation", "kept_test")}
    swap_labels(folder)
    return folder, before, report_run(folder)


def read(folder, part: str) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard" / part), size_guidance={"tensors": 0}).Reload()


def tags(events: EventAccumulator, start: str = "") -> list[str]:
    return sorted(tag for tag in events.Tags()["tensors"] if tag.startswith(start))


def curve(events: EventAccumulator, tag: str) -> dict[int, float]:
    """Step -> value."""
    return {event.step: float(make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}


def image(events: EventAccumulator, tag: str, index: int = 0) -> np.ndarray:
    """The pixels of a PNG, (height, width, 4)."""
    width, height, png = events.Tensors(tag)[index].tensor_proto.string_val
    pixels = tf.io.decode_png(png, channels=4).numpy()
    assert pixels.shape[:2] == (int(height), int(width))
    return pixels


def predictions_of(folder, split: str) -> tuple[Predictions, np.ndarray]:
    """What the kept weights say to a split's clips, computed here; and the clips."""
    run = load_run(folder)
    clips = next(evaluation_batches(run.config.corpus.shards, split, 4000, 64).as_numpy_iterator())
    truth = np.array([run.labels.index(label.decode()) for label in clips["label"]])
    paths = tuple(path.decode() for path in clips["path"])
    return Predictions(run.labels, paths, truth, predictor(run)(clips["audio"])), clips["audio"]


class TestCurves:
    @pytest.mark.parametrize("name", ["loss", "gradient_norm", "learning_rate", "loss_scale"])
    def test_each_step_is_what_training_told(self, shown, name):
        expected = {step: told[name] for step, told in shown.told.steps.items()}
        assert list(expected) == list(range(1, 17))
        assert curve(read(shown.folder, "train"), f"steps/{name}") == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize(
        ("part", "tag", "figure"),
        [
            ("train", "epochs/loss", "loss"),
            ("train", "epochs/accuracy", "accuracy"),
            ("validation", "epochs/loss", "validation_loss"),
            ("validation", "epochs/accuracy", "validation_accuracy"),
            ("train", "optimiser/gradient_norm", "gradient_norm"),
            ("train", "optimiser/learning_rate", "learning_rate"),
            ("train", "optimiser/loss_scale", "loss_scale"),
        ],
    )
    def test_each_epoch_is_what_training_returned(self, shown, part, tag, figure):
        expected = {8: shown.history[0][figure], 16: shown.history[1][figure]}
        assert curve(read(shown.folder, part), tag) == pytest.approx(expected, rel=1e-6)

    def test_the_epochs_curves_are_those_of_the_steps(self, shown):
        events = read(shown.folder, "train")
        losses, rates = curve(events, "steps/loss"), curve(events, "steps/learning_rate")
        for epoch in (1, 2):
            mean = np.mean([losses[step] for step in range(8 * epoch - 7, 8 * epoch + 1)])
            assert curve(events, "epochs/loss")[8 * epoch] == pytest.approx(mean, rel=1e-5)
            assert curve(events, "optimiser/learning_rate")[8 * epoch] == pytest.approx(rates[8 * epoch])
        assert rates[5] == pytest.approx(0.02)  # the peak, after half an epoch

    @pytest.mark.parametrize("name", ["clips_per_second", "data_wait_share"])
    def test_speed_is_what_training_told(self, shown, name):
        expected = {8: shown.told.epochs[0][name], 16: shown.told.epochs[1][name]}
        assert curve(read(shown.folder, "train"), f"speed/{name}") == pytest.approx(expected, rel=1e-6)
        assert expected[8] > 0

    def test_memory_is_the_processs_in_megabytes(self, shown):
        first, second = curve(read(shown.folder, "train"), "memory/host_peak_megabytes").values()
        assert 100 < first <= second < 100_000
        if Path("/proc/self/statm").exists():
            in_use = curve(read(shown.folder, "train"), "memory/host_megabytes")
            assert in_use.keys() == {8, 16}
            assert 100 < max(in_use.values()) <= second

    def test_the_kept_weights_accuracy_is_that_of_the_report(self, shown):
        for split in ("validation", "test"):
            expected = {0: shown.metrics[split]["accuracy"]}
            assert curve(read(shown.folder, "kept"), f"final/{split}_accuracy") == pytest.approx(expected)


class TestPictures:
    @pytest.mark.parametrize(("name", "draw"), [("confusion", confusion_figure), ("recall", recall_figure)])
    def test_each_epochs_results_are_drawn(self, shown, name, draw):
        events = read(shown.folder, "validation")
        assert [event.step for event in events.Tensors(f"results/{name}")] == [8, 16]
        for index, made in enumerate(shown.told.predictions):
            expected = picture(draw(made.labels, made.confusions))
            np.testing.assert_array_equal(image(events, f"results/{name}", index), expected)

    @pytest.mark.parametrize(("name", "draw"), [("confusion", confusion_figure), ("recall", recall_figure)])
    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_the_kept_weights_results_are_drawn(self, shown, split, name, draw):
        made, _ = predictions_of(shown.folder, split)
        drawn = image(read(shown.folder, f"kept_{split}"), f"results/{name}")
        np.testing.assert_array_equal(drawn, picture(draw(made.labels, made.confusions)))

    def test_augmentation_is_drawn_from_the_first_steps_features(self, shown):
        data = training_data(shown.config, plan_training(shown.config), adapted_front_end(shown.config))
        clips = {}
        for batch in evaluation_batches(data.shards, "train", 4000, 256).as_numpy_iterator():
            clips |= dict(zip((path.decode() for path in batch["path"]), batch["audio"], strict=True))
        before = data.front_end(np.stack([clips[path] for path in data.clips_of_step(0)[:3]])).numpy()
        after = next(data.batches().as_numpy_iterator())[0][:3]
        drawn = image(read(shown.folder, "train"), "features/before_and_after_augmentation")
        np.testing.assert_array_equal(drawn, picture(features_figure(before, after)))

    def test_recall_is_a_bar_a_label(self):
        axes = recall_figure(("ja", "nein", "nie"), np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])).axes[0]
        assert [bar.get_width() for bar in axes.patches] == [0.75, 4 / 6, 0]
        assert [text.get_text() for text in axes.texts] == ["75.0% of 4", "66.7% of 6", "0.0% of 0"]
        assert [tick.get_text() for tick in axes.get_yticklabels()] == ["ja", "nein", "nie"]

    def test_features_are_drawn_side_by_side_on_one_scale(self):
        before, after = np.random.default_rng(0).normal(0, 1, (2, 3, 5, 4))
        panels = features_figure(before, 2 * after).axes
        assert [axes.get_title() for axes in panels] == ["before augmentation", "after", "", "", "", ""]
        for clip in range(3):
            left, right = (axes.images[0] for axes in panels[2 * clip : 2 * clip + 2])
            np.testing.assert_array_equal(left.get_array(), before[clip].T)
            np.testing.assert_array_equal(right.get_array(), 2 * after[clip].T)
            low, high = min(before[clip].min(), 2 * after[clip].min()), max(before[clip].max(), 2 * after[clip].max())
            assert left.get_clim() == right.get_clim() == (low, high)


class TestErrors:
    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_the_worst_can_be_heard_with_truth_and_guess(self, shown, split):
        """Silence's clips share their recording's path, so that the sounds themselves are compared."""
        made, audio = predictions_of(shown.folder, split)
        wrong = [index for index in range(27) if made.truth[index] != made.probabilities[index].argmax()]
        wrong = sorted(wrong, key=lambda index: -made.probabilities[index].max())[:4]
        assert len(wrong) == 4
        events = read(shown.folder, f"kept_{split}")
        said = [(made.labels[made.truth[index]], made.labels[made.probabilities[index].argmax()]) for index in wrong]
        expected = [
            f"worst/{rank}: said {truth}, recognised {guess}: {made.paths[index]}"
            for rank, (index, (truth, guess)) in enumerate(zip(wrong, said, strict=True), 1)
        ]
        assert tags(events, "worst/") == sorted(expected)
        for index, tag in zip(wrong, expected, strict=True):
            samples, rate = soundfile.read(io.BytesIO(events.Tensors(tag)[0].tensor_proto.string_val[0]))
            assert rate == 8000
            np.testing.assert_allclose(samples, audio[index], atol=2 / 32768)

    def test_precision_over_recall_is_sklearns(self, shown):
        made, _ = predictions_of(shown.folder, "test")
        events = read(shown.folder, "kept_test")
        assert tags(events, "pr_curve/") == sorted(f"pr_curve/{label}/pr_curves" for label in made.labels)
        for index, label in enumerate(made.labels):
            curves = make_ndarray(events.Tensors(f"pr_curve/{label}/pr_curves")[0].tensor_proto)
            for threshold in (20, 60, 100, 140):  # of 0 to 200
                guessed = made.probabilities[:, index] >= threshold / 200
                found = dict(zip(("precision", "recall"), curves[4:, threshold], strict=True))
                truth = made.truth == index
                assert found["precision"] == pytest.approx(precision_score(truth, guessed, zero_division=0))
                assert found["recall"] == pytest.approx(recall_score(truth, guessed))


def test_the_settings_can_be_compared_with_other_runs(shown):
    events = read(shown.folder, "kept")
    content = events.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    settings = parse_session_start_info_plugin_data(content).hparams
    assert settings["seed"].number_value == 1
    assert settings["training.learning_rate"].number_value == 0.02
    assert settings["model.units"].number_value == 8
    assert settings["model.bidirectional"].bool_value is True
    assert settings["model.pooling"].string_value == "attention"
    assert settings["augment.speed"].string_value == "None"
    assert settings["augment.snr_db"].string_value == "[0.0, 25.0]"
    sections = ("front_end", "augment", "model", "training")
    expected = {f"{section}.{name}" for section in sections for name in getattr(shown.config, section).model_dump()}
    assert set(settings) == {"seed", *expected}
    assert tags(events) == [SESSION_START_INFO_TAG, "final/test_accuracy", "final/validation_accuracy"]


class TestProjector:
    @pytest.fixture(params=["run", "runs"])
    def files(self, request, shown):
        """The folder of the projector's files as TensorBoard finds it: started on a run's folder, or above it."""
        logdir = str({"run": shown.folder / "tensorboard", "runs": shown.folder.parent}[request.param])
        events = EventMultiplexer()
        events.AddRunsFromDirectory(logdir)
        events.Reload()
        context = TBContext(logdir=logdir, data_provider=MultiplexerDataProvider(events, logdir))
        plugin = ProjectorPlugin(context)
        plugin._update_configs()
        (run,) = plugin._configs
        (embedding,) = plugin._configs[run].embeddings
        folder = shown.folder.parent / plugin.config_fpaths[run]
        return folder.parent / embedding.tensor_path, folder.parent / embedding.metadata_path

    def test_a_row_is_a_clips_encoder_output_with_word_and_speaker(self, files, shown):
        run = load_run(shown.folder)
        clips = next(evaluation_batches(shown.config.corpus.shards, "validation", 4000, 20).as_numpy_iterator())
        states = run.front_end(clips["audio"]).numpy()[:, :18].reshape(20, 9, 20)  # pairs of frames
        for name in ("bigru_0", "bigru_1", "pooling"):
            states = run.recognizer.get_layer("encoder_and_head").get_layer(name)(states)
        vectors = np.loadtxt(files[0], delimiter="\t")
        assert vectors.shape == (20, 16)
        np.testing.assert_allclose(vectors, states, rtol=1e-3, atol=1e-5)
        names = [line.split("\t") for line in files[1].read_text(encoding="utf-8").splitlines()]
        said = zip(clips["label"], clips["speaker"], strict=True)
        assert names == [["word", "speaker"], *([word.decode(), speaker.decode()] for word, speaker in said)]


def test_the_graph_is_the_models(shown):
    graph = read(shown.folder, "train").Graph()
    scopes = {scope for node in graph.node for scope in node.name.split("/")}
    for layer in ("features", "stack_frames", "bigru_0", "forward_gru_0", "bigru_1", "pooling", "head"):
        assert any(scope.startswith(layer) for scope in scopes), layer
    assert not any("adam" in scope or "gradient" in scope for scope in scopes)


def test_the_trace_is_of_the_two_steps(shown):
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (file,) = (shown.folder / "tensorboard" / "train" / "plugins" / "profile").rglob("*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(file.read_bytes())
    names = [
        plane.event_metadata[event.metadata_id].name
        for plane in space.planes
        for line in plane.lines
        for event in line.events
    ]
    assert sum(name.startswith("EagerLocalExecute: __inference_step") for name in names) == 2


class TestDefaults:
    def test_what_costs_time_is_absent(self, reported_twice):
        folder, _, _ = reported_twice
        assert not read(folder, "train").Tags()["graph"]
        files = {path.name for path in (folder / "tensorboard").rglob("*") if path.is_file()}
        assert all(name.startswith("events.out.tfevents.") for name in files)

    def test_steps_are_told_every_fifty_and_pictures_are_drawn_after_the_last_epoch(self, tiny_run):
        train, validation = read(tiny_run, "train"), read(tiny_run, "validation")
        assert list(curve(train, "steps/loss")) == [50]
        assert list(curve(train, "epochs/loss")) == list(range(8, 65, 8))
        assert [event.step for event in validation.Tensors("results/confusion")] == [64]

    def test_the_curves_tell_of_learning(self, tiny_run):
        for part in ("train", "validation"):
            loss, accuracy = (
                list(curve(read(tiny_run, part), f"epochs/{name}").values()) for name in ("loss", "accuracy")
            )
            assert loss[-1] < loss[0]
            assert 0.8 < accuracy[-1] <= 1
            assert accuracy[-1] > accuracy[0]

    def test_a_second_report_takes_the_place_of_the_first(self, reported_twice):
        folder, before, metrics = reported_twice
        for part in before:
            assert len(list((folder / "tensorboard" / part).glob("events.*"))) == 1
        for split in ("validation", "test"):
            assert len(tags(before[f"kept_{split}"], "worst/")) == 8
            wrong = 27 - metrics[split]["correct"]
            assert len(tags(read(folder, f"kept_{split}"), "worst/")) == min(8, wrong) < 8
            assert curve(read(folder, "kept"), f"final/{split}_accuracy") == pytest.approx(
                {0: metrics[split]["accuracy"]}
            )


class TestMonitor:
    """Told by hand."""

    @pytest.fixture
    def tell(self, tmp_path):
        """A function (settings, epochs, first step) -> a TensorBoard that has been told of all seven epochs' ends."""

        def tell(first: int = 0, **settings) -> EventAccumulator:
            folder = tmp_path / "tensorboard"
            graph = tf.function(keras.ops.square).get_concrete_function(tf.TensorSpec((), tf.float32)).graph
            data = SimpleNamespace(steps_per_epoch=10, batch_size=2, before_and_after=self.features)
            board = TensorBoard(folder, TensorBoardSettings(**settings), data, 7, lambda: graph)
            board.begin(first)
            for step in range(first + 1, 71):
                board.before_step(step)
                board.step(step, self.told(step))
                if step % 10 == 0:
                    board.epoch(step // 10, self.figures(), self.predictions())
            board.end()
            return read(tmp_path, "train"), read(tmp_path, "validation")

        return tell

    @staticmethod
    def features(clips: int) -> tuple[tf.Tensor, tf.Tensor]:
        assert clips == 2  # no more than a batch has
        return tf.ones((2, 5, 4)), tf.zeros((2, 5, 4))

    @staticmethod
    def told(step: int) -> dict[str, float]:
        norm = math.inf if step == 20 else 2.0
        return {"loss": step / 2, "gradient_norm": norm, "learning_rate": 0.1, "loss_scale": 1.0}

    @staticmethod
    def figures() -> dict[str, float]:
        names = ("loss", "accuracy", "gradient_norm", "learning_rate", "loss_scale", "clips_per_second")
        return dict.fromkeys((*names, "data_wait_share", "validation_loss", "validation_accuracy"), 0.5)

    @staticmethod
    def predictions() -> Predictions:
        return Predictions(("a", "b"), (), np.array([0, 1]), np.eye(2, dtype=np.float32))

    @pytest.mark.parametrize(
        ("every", "steps"), [(0, None), (1, range(10, 71, 10)), (3, [30, 60, 70]), (7, [70]), (9, [70])]
    )
    def test_pictures_are_drawn_every_so_many_epochs_and_after_the_last(self, tell, every, steps):
        _, validation = tell(image_epochs=every)
        assert list(curve(validation, "epochs/loss")) == list(range(10, 71, 10))
        if steps is None:
            assert tags(validation) == ["epochs/accuracy", "epochs/loss"]
            return
        for name in ("confusion", "recall"):
            assert [event.step for event in validation.Tensors(f"results/{name}")] == list(steps)

    def test_scalars_are_told_every_so_many_steps_if_they_are_numbers(self, tell):
        events, _ = tell(scalar_steps=20)
        assert curve(events, "steps/loss") == {20: 10, 40: 20, 60: 30}
        assert list(curve(events, "steps/gradient_norm")) == [40, 60]

    @pytest.mark.parametrize(("first", "drawn"), [(0, True), (33, False)])
    def test_a_run_that_goes_on_draws_augmentation_and_graph_no_second_time(self, tell, first, drawn):
        events, _ = tell(first, graph=True)
        assert events.Tags()["graph"] == drawn
        assert bool(tags(events, "features/")) == drawn
        assert next(iter(curve(events, "epochs/loss"))) == (10 if drawn else 40)

    def test_no_augmented_clips_no_picture(self, tell):
        assert not tags(tell(augmented_clips=0)[0], "features/")

    @pytest.mark.parametrize(
        ("asked", "first", "expected"),
        [
            ((2, 3), 0, [("start", 2), ("stop", 4)]),
            ((1, 1), 0, [("start", 1), ("stop", 2)]),
            ((69, 99), 0, [("start", 69), ("stop", 70)]),  # ended by the end
            ((10, 50), 33, [("start", 34), ("stop", 51)]),  # what is left of it
            ((10, 20), 33, []),
            ((80, 90), 0, []),
            (None, 0, []),
        ],
    )
    def test_the_trace_begins_before_its_first_step_and_ends_before_the_one_after(
        self, tell, monkeypatch, asked, first, expected
    ):
        done, told, before_step = [], [], TensorBoard.before_step
        monkeypatch.setattr(TensorBoard, "before_step", lambda self, n: (told.append(n), before_step(self, n)))
        monkeypatch.setattr(tf.profiler.experimental, "start", lambda folder: done.append(("start", told[-1])))
        monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: done.append(("stop", told[-1])))
        tell(first, profile_steps=asked)
        assert done == expected
