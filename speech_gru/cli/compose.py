"""`speech-gru compose`: phrases of prepared words' clips as WAV files, to evaluate a phrase recogniser with."""

from pathlib import Path
from typing import Annotated

import typer

from speech_gru.cli.options import CONFIG, SET, Split


def compose(
    config: CONFIG,
    out: Annotated[Path, typer.Option(help="A new or empty folder for the phrases.", show_default=False)],
    split: Annotated[Split, typer.Option(help="Whose clips the phrases are made of.")] = Split.test,
    count: Annotated[int, typer.Option(help="So many phrases.")] = 1000,
    snr: Annotated[
        float | None,
        typer.Option(
            help="Add noise at so many decibels of signal-to-noise ratio; if not given, none.", show_default=False
        ),
    ] = None,
    noise: Annotated[
        Path | None,
        typer.Option(help="A folder of noise recordings for --snr, instead of the split's stretches of the corpus's."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random: the same seed makes the same files.")] = 0,
    settings: SET = (),
) -> None:
    """Make phrases of the prepared clips of single words, as WAV files with a manifest.csv of their texts.

    The experiment's section `compose` says which; without one, one to four words in any order.

    [bold]Example:[/bold]  speech-gru compose demo --out demo_phrases --count 200 --snr 10
    """
    import shlex

    from data_pipeline.errors import UserError
    from speech_gru.cli.console import progress_bar
    from speech_gru.config import load_config
    from speech_gru.quiet import start_tensorflow

    if count < 1 or seed < 0:
        raise UserError(f"expected a --count of at least 1 and a --seed of at least 0, got {count} and {seed}")
    if snr is not None and not abs(snr) <= 100:
        raise UserError(f"expected a --snr between -100 and 100 dB, got {snr:g}")
    if snr is None and noise is not None:
        raise UserError("--noise needs a signal-to-noise ratio too; add --snr, such as --snr 10")
    experiment = load_config(config, settings)
    start_tensorflow()
    from data_pipeline.clip_index import ClipIndex
    from data_pipeline.compose import ComposedPhrases, write_phrases
    from data_pipeline.settings import ComposeSettings

    corpus, manner = experiment.corpus, experiment.compose or ComposeSettings()
    phrases = ComposedPhrases(ClipIndex(corpus.shards, split.value), manner, corpus.sample_rate, seed, count)
    recordings = [] if snr is None else _noise(noise, corpus, split.value)
    with progress_bar("Composing") as progress:
        write_phrases(
            phrases,
            out,
            split.value,
            corpus.sample_rate,
            seed=seed,
            noise=recordings,
            snr_db=snr or 0.0,
            progress=progress,
        )
    print(f"{out}: {count} phrases and manifest.csv")
    print(f"Next: speech-gru evaluate MODEL --corpus {shlex.quote(str(out / 'manifest.csv'))}")


def _noise(folder: Path | None, corpus, split: str) -> list:
    """The recordings, (samples,) each: those of a folder, or the split's stretches of the corpus's own."""
    from data_pipeline.compose import split_noise
    from speech_gru.robustness import load_noise

    return load_noise(folder, corpus.sample_rate) if folder else split_noise(corpus, split)
