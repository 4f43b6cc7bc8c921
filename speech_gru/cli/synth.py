"""`speech-gru synth`: a corpus of your own words from a speech synthesiser."""

from pathlib import Path
from typing import Annotated

import typer


def synth(
    words: Annotated[list[str], typer.Argument(help="The words to tell apart, such as: lamp music louder quieter.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder for the corpus.", show_default=False)],
    voices: Annotated[int, typer.Option(help="Speakers; split into train, validation and test by voice.")] = 48,
    takes: Annotated[int, typer.Option(help="Clips of each word from each speaker.")] = 4,
    language: Annotated[str, typer.Option(help="Language (en, de ...) for all its accents, or one accent.")] = "en",
    seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of everything random: the same seed makes the same files.")] = 0,
    unknown_words: Annotated[
        str | None,
        typer.Option(
            help='Words for _unknown_, separated by commas; "" for none. The default ones are English.',
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a corpus of your words with espeak-ng, to try them out before anyone has recorded them.

    Synthetic voices don't stand for people: record real speakers before you rely on the recogniser.
    """
    from data_pipeline.synth import synthesize
    from speech_gru.cli.console import progress_bar

    given = None if unknown_words is None else [word.strip() for word in unknown_words.split(",") if word.strip()]
    with progress_bar("speaking") as progress:
        made = synthesize(
            words,
            out,
            unknown_words=given,
            voices=voices,
            takes=takes,
            language=language,
            seed=seed,
            seconds=seconds,
            progress=progress,
        )
    _summarize(made, out)


def _summarize(made, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("split", "speakers", "clips")
    for split, clips in made.clips.items():
        table.add_row(split, str(made.speakers[split]), str(clips))
    table.add_section()
    table.add_row("all", str(sum(made.speakers.values())), str(sum(made.clips.values())))
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(table)
    console.print(
        f"{len(made.words)} words, {len(made.unknown_words)} more for _unknown_, {made.seconds:.0f} s in {out}"
    )
    console.print(f"Next: in a config, corpus.path: {out}, corpus.words: [{', '.join(made.words)}]; then")
    console.print("  speech-gru prepare CONFIG")
